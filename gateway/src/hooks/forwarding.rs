//! What both ways to a backend share: where a request goes, what is sent, what comes back.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use http::StatusCode;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::ServerSession as Session;
use pingora::{Error, ErrorType};
use policy::Route;
use policy::route::{Api, Upstream};

use super::{Ctx, Outcome};
use crate::config::ListenKind;
use crate::deny::Denial;
use crate::forward::{self, Origin};
use crate::proxy::Gate;
use crate::upstream::{Member, Pool};

impl Ctx {
    /// Where the permit leads; a request without one is a bug, and goes nowhere.
    pub(super) fn place(&self) -> pingora::Result<(&Api, &Route)> {
        let place = self.permit.as_ref().and_then(|permit| permit.place(&self.snapshot));
        place.ok_or_else(|| Error::explain(ErrorType::InternalError, "no permit"))
    }

    /// The backends of a permitted request.
    pub(super) fn pool(&self) -> pingora::Result<Option<&Arc<Pool>>> {
        Ok(self.snapshot.pool(self.place()?.0, self.known.identity().environment()))
    }
}

impl Gate {
    /// The backend for the next try.
    pub(super) fn choose(&self, ctx: &mut Ctx, pool: &Pool) -> pingora::Result<Arc<Member>> {
        let Some(member) = pool.pick(ctx.now_ms()) else {
            ctx.late_denial = Some(Denial::UpstreamUnreachable);
            return Error::e_explain(ErrorType::ConnectNoRoute, "the upstream has no address");
        };
        // A body that is sent again is counted again.
        ctx.body_bytes = 0;
        ctx.chosen = Some(member.clone());
        Ok(member)
    }

    /// What the upstream is told of a request, and by which description of it.
    fn told<'c>(&self, ctx: &'c Ctx) -> pingora::Result<(&'c Upstream, Origin<'c>)> {
        let (Some(permit), (api, _)) = (&ctx.permit, ctx.place()?) else {
            return Error::e_explain(ErrorType::InternalError, "no permit");
        };
        let origin = Origin {
            address: ctx.known.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            host: permit.host(api),
            is_https: self.listener != ListenKind::Plain,
            request_id: &ctx.request_id,
        };
        Ok((api.upstream(ctx.known.identity().environment()), origin))
    }

    /// Rewrites the engine's copy of a request for the upstream.
    pub(super) fn rewrite(&self, request: &mut RequestHeader, ctx: &Ctx) -> pingora::Result<()> {
        let (upstream, origin) = self.told(ctx)?;
        forward::prepare(request, ctx.known.path_and_query(), upstream, ctx.known.identity(), &origin)
    }

    /// A request without a body, made anew for the upstream.
    pub(super) fn upstream_request(&self, head: &RequestHeader, ctx: &Ctx) -> pingora::Result<RequestHeader> {
        let (upstream, origin) = self.told(ctx)?;
        forward::request(head, ctx.known.path_and_query(), upstream, ctx.known.identity(), &origin)
    }

    /// An answer has come: ties it to its credential if it may outlast it, and notes the time.
    pub(super) async fn begin_answer(
        &self,
        session: &mut Session,
        response: &ResponseHeader,
        ctx: &mut Ctx,
    ) -> pingora::Result<()> {
        self.tie(session, response, ctx).await?;
        if !response.status.is_informational() || response.status == StatusCode::SWITCHING_PROTOCOLS {
            ctx.first_byte = Some(self.shared.clock.since(ctx.started));
            (ctx.outcome, ctx.status) = (Outcome::Forwarded, response.status.as_u16());
        }
        Ok(())
    }
}
