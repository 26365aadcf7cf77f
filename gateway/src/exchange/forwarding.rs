//! Where a permitted request goes, what is sent there, and what its answer is made of.

use std::sync::Arc;

use policy::Route;
use policy::route::Api;

use super::Exchanges;
use super::failure::Failure;
use super::state::{Exchange, Outcome};
use super::stream_guard::outlasts;
use crate::base::message::{RequestHead, ResponseHead};
use crate::config::ListenKind;
use crate::downstream::Session;
use crate::exchange::request_fields::{ClientInfo, ForwardedFields};
use crate::upstream::Pool;
use crate::upstream::outbound::Framing;
use crate::upstream::request::{BackendRequest, Upgrade};

impl Exchange {
    /// Where the permit leads; a request without one is a bug, and goes nowhere.
    pub(super) fn place(&self) -> Result<(&Api, &Route), Failure> {
        let place = self.permit.as_ref().and_then(|permit| permit.place(&self.snapshot));
        place.ok_or(Failure::Ours("no permit"))
    }

    /// The name of the permitted API.
    pub(super) fn api_name(&self) -> &str {
        self.place().map_or("", |(api, _)| &*api.name)
    }

    /// The backends of a permitted request.
    pub(super) fn pool(&self) -> Result<Option<&Arc<Pool>>, Failure> {
        Ok(self.snapshot.pool(self.place()?.0, self.known.identity().environment()))
    }
}

impl Exchanges {
    /// What the upstream is told of a request.
    pub(super) fn forwarded_fields<'a>(
        &self,
        head: RequestHead<'a>,
        exchange: &'a Exchange,
        is_http2: bool,
    ) -> Result<ForwardedFields<'a>, Failure> {
        let (Some(permit), (api, _)) = (&exchange.permit, exchange.place()?) else {
            return Err(Failure::Ours("no permit"));
        };
        let client = ClientInfo {
            address: exchange.known.address,
            host: permit.host(api),
            is_https: self.gate.listener != ListenKind::Plain,
            request_id: exchange.known.request_id.as_str(),
        };
        Ok(ForwardedFields { head, identity: exchange.known.identity(), client, is_http2 })
    }

    /// The final head of an answer has come: ties it to its credential if it may outlast it, and
    /// notes the time.
    pub(super) async fn begin_answer(&self, session: &Session, response: &ResponseHead<'_>, exchange: &mut Exchange) {
        if let Some(protocol) = outlasts(response) {
            Box::pin(self.guard(session, protocol, exchange)).await;
        }
        exchange.first_byte = Some(self.gate.shared.clock.since(exchange.known.now));
        exchange.outcome = Outcome::Forwarded;
    }
}

/// A request, made anew for the upstream.
pub(super) fn backend_request<'a>(
    fields: &'a ForwardedFields<'a>,
    exchange: &'a Exchange,
    (framing, upgrade): (Framing, Upgrade<'a>),
) -> Result<BackendRequest<'a, ForwardedFields<'a>>, Failure> {
    let upstream = exchange.place()?.0.upstream(exchange.known.identity().environment());
    let host = match &upstream.host {
        Some(host) => host.as_bytes(),
        // Forwarded as it was named.
        None => fields.head.fields.first("host").or(fields.head.authority).unwrap_or(fields.client.host.as_bytes()),
    };
    let target = exchange.known.path_and_query();
    Ok(BackendRequest { method: fields.head.method, target, host, fields, framing, upgrade })
}
