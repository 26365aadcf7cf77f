//! Chooses the address for a request, makes the head that is sent there, and the head that comes back.

use std::sync::Arc;

use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::ServerSession as Session;
use pingora::{Error, ErrorType};
use policy::Route;
use policy::route::{Api, Upstream};

use super::Exchanges;
use super::state::{Exchange, Outcome};
use crate::config::ListenKind;
use crate::exchange::answer::OwnHosts;
use crate::exchange::request_fields::{self, ClientInfo, Shape};
use crate::upstream::Pool;

impl Exchange {
    /// Where the permit leads; a request without one is a bug, and goes nowhere.
    pub(super) fn place(&self) -> pingora::Result<(&Api, &Route)> {
        let place = self.permit.as_ref().and_then(|permit| permit.place(&self.snapshot));
        place.ok_or_else(|| Error::explain(ErrorType::InternalError, "no permit"))
    }

    /// The name of the permitted API.
    pub(super) fn api_name(&self) -> &str {
        self.place().map_or("", |(api, _)| &*api.name)
    }

    /// The names under which the client reaches the API.
    pub(super) fn own_hosts<'a>(&'a self, head: &'a RequestHeader) -> pingora::Result<OwnHosts<'a>> {
        let authority = head.uri.authority().map(|authority| authority.as_str());
        let host = || head.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
        Ok(OwnHosts { hosts: &self.place()?.0.hosts, named: authority.or_else(host).unwrap_or_default() })
    }

    /// The backends of a permitted request.
    pub(super) fn pool(&self) -> pingora::Result<Option<&Arc<Pool>>> {
        Ok(self.snapshot.pool(self.place()?.0, self.known.identity().environment()))
    }
}

impl Exchanges {
    /// What the upstream is told of a request, and by which description of it.
    fn told<'c>(&self, exchange: &'c Exchange) -> pingora::Result<(&'c Upstream, ClientInfo<'c>)> {
        let (Some(permit), (api, _)) = (&exchange.permit, exchange.place()?) else {
            return Error::e_explain(ErrorType::InternalError, "no permit");
        };
        let origin = ClientInfo {
            address: exchange.known.address,
            host: permit.host(api),
            is_https: self.gate.listener != ListenKind::Plain,
            request_id: &exchange.known.request_id,
        };
        Ok((api.upstream(exchange.known.identity().environment()), origin))
    }

    /// A request, made anew for the upstream.
    pub(super) fn upstream_request(
        &self,
        head: &RequestHeader,
        shape: Shape,
        exchange: &Exchange,
    ) -> pingora::Result<RequestHeader> {
        let (upstream, origin) = self.told(exchange)?;
        request_fields::request(
            head,
            shape,
            exchange.known.path_and_query(),
            upstream,
            exchange.known.identity(),
            &origin,
        )
    }

    /// The final head of an answer has come: ties it to its credential if it may outlast it, and
    /// notes the time.
    pub(super) async fn begin_answer(&self, session: &Session, response: &ResponseHeader, exchange: &mut Exchange) {
        self.guard(session, response, exchange).await;
        exchange.first_byte = Some(self.gate.shared.clock.since(exchange.known.now));
        (exchange.outcome, exchange.status) = (Outcome::Forwarded, response.status.as_u16());
    }
}
