//! When forwarding fails: whose fault it is, and whether the request may be tried once more.

use pingora::protocols::http::ServerSession as Session;
use pingora::{Error, ErrorSource, ErrorType};

use super::request_body::RequestBody;
use super::{Ctx, is_answered};
use crate::admit::Gate;
use crate::admit::denial::Denial;
use crate::upstream::Member;
use crate::upstream::backend::Again;

impl Gate {
    /// No connection to an address could be made: it is passed over for a while. Nothing was sent,
    /// so that this costs no retry and any method may go elsewhere.
    pub(super) fn failed_to_connect(&self, ctx: &Ctx, member: &Member, error: &Error) {
        member.eject(self.shared.clock.steady_us());
        let api = ctx.api_name();
        log::warn!(
            target: "tollgate::upstream",
            "{api}: no connection to {} ({}), request {}", member.address, error.etype().as_str(), ctx.request_id
        );
        self.count_retry(ctx);
    }

    fn count_retry(&self, ctx: &Ctx) {
        self.shared.metrics.upstream_retries.with_label_values(&[ctx.api_name()]).inc();
    }

    /// Whether an exchange that failed after it began is tried once more.
    pub(super) fn is_tried_again(
        &self,
        session: &Session,
        ctx: &mut Ctx,
        body: &mut RequestBody,
        error: &Error,
        again: Again,
    ) -> bool {
        let allows = match again {
            Again::No => false,
            Again::IfIdempotent => session.req_header().method.is_idempotent(),
            Again::Yes | Again::OverHttp1 => true,
        };
        let environment = ctx.known.identity().environment();
        let most = ctx.place().map_or(0, |(api, _)| api.upstream(environment).retries);
        let is_again = allows
            && ctx.tries < most
            && *error.esource() == ErrorSource::Upstream
            && !is_answered(session)
            && body.rewind();
        if is_again {
            ctx.tries += 1;
            self.count_retry(ctx);
        }
        is_again
    }
}

/// Whose fault an error is, as a denial; `None` when the client is gone.
pub(super) fn denial_of(error: &Error) -> Option<Denial> {
    match (error.esource(), error.etype()) {
        (
            ErrorSource::Upstream,
            ErrorType::ConnectTimedout
            | ErrorType::ReadTimedout
            | ErrorType::WriteTimedout
            | ErrorType::TLSHandshakeTimedout,
        ) => Some(Denial::UpstreamTimeout),
        (ErrorSource::Upstream, _) => Some(Denial::UpstreamUnreachable),
        (ErrorSource::Downstream, ErrorType::WriteError | ErrorType::WriteTimedout | ErrorType::ConnectionClosed) => {
            None
        }
        (ErrorSource::Downstream, _) => Some(Denial::BrokenBody),
        (ErrorSource::Internal | ErrorSource::Unset, ErrorType::ConnectNoRoute) => Some(Denial::UpstreamUnreachable),
        (ErrorSource::Internal | ErrorSource::Unset, _) => Some(Denial::NotPermitted),
    }
}
