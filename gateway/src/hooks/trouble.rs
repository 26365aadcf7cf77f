//! When forwarding fails: whose fault it is, and whether another backend may be tried.

use pingora::protocols::http::ServerSession as Session;
use pingora::{Error, ErrorSource, ErrorType};

use super::Ctx;
use crate::deny::Denial;
use crate::proxy::Gate;

impl Gate {
    /// A backend refused a connection: it is passed over for a while. Nothing was sent yet, so any
    /// method may be tried again.
    pub(super) fn failed_to_connect(&self, ctx: &mut Ctx, mut error: Box<Error>) -> Box<Error> {
        if let Some(chosen) = &ctx.chosen {
            chosen.eject(self.shared.clock.now_ms());
        }
        self.retry(ctx, &mut error, true);
        error
    }

    /// An exchange failed after it began. It is tried again only where a backend may have closed a
    /// kept connection under it, and doing it twice would do no harm.
    pub(super) fn failed_on_the_way(
        &self,
        session: &Session,
        ctx: &mut Ctx,
        mut error: Box<Error>,
        was_kept: bool,
    ) -> Box<Error> {
        let is_safe = session.req_header().method.is_idempotent()
            && !session.retry_buffer_truncated()
            && session.response_written().is_none()
            && *error.esource() != ErrorSource::Downstream
            && was_kept;
        self.retry(ctx, &mut error, is_safe);
        error
    }

    /// Says whether a request may be tried on another backend.
    fn retry(&self, ctx: &mut Ctx, error: &mut Error, is_safe: bool) {
        let place = ctx.permit.as_ref().and_then(|permit| permit.place(&ctx.snapshot));
        let environment = ctx.known.identity().environment();
        let most = place.map_or(0, |(api, _)| api.upstream(environment).retries);
        let again = is_safe && ctx.tries < most;
        error.set_retry(again);
        if again {
            ctx.tries += 1;
            let api = place.map_or("", |(api, _)| &*api.name);
            self.shared.metrics.upstream_retries.with_label_values(&[api]).inc();
        }
    }
}

/// Whose fault an error of the engine is, as a denial; `None` when the client is gone.
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
