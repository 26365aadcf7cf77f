//! What becomes of a request: it is judged, and answered here or passed on.

use std::time::Duration;

use pingora::protocols::http::ServerSession as Session;
use policy::limit::Payer;
use policy::route::RouteClass;

use super::connection::{peer_address, set_phase};
use super::relay::End;
use super::{Ctx, Outcome};
use crate::admit::denial::Denial;
use crate::admit::head::{Head, caller_address, raw_head, request_id};
use crate::admit::{Admission, Gate, is_browser_exposure};
use crate::edge::deadlines::Phase;
use crate::exchange::answer::{self, Dressing};
use crate::identify::Caller;
use crate::store::Exposure;
use crate::upstream::backend::Backend;

/// Longest wait for the rest of a request body after the answer.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// How a connection goes on.
pub(crate) enum Next {
    /// The request was answered.
    Answered,
    /// The connection is a WebSocket to this backend.
    Tunnel(Backend),
}

impl Gate {
    pub(super) fn dressing<'a>(&self, ctx: &'a Ctx) -> Dressing<'a> {
        let api = ctx.known.api.and_then(|index| ctx.snapshot.policy.apis.get(index as usize));
        let route = api.zip(ctx.known.route).and_then(|(api, index)| api.routes.get(index as usize));
        let identity = ctx.known.identity();
        let charges = api.zip(identity.organization()).and_then(|(api, organization)| {
            let (plan, own) = (api.plan(organization), route.map_or(&[][..], |route| &route.limits));
            let payer = Payer::of(identity, route.map_or(RouteClass::Read, |route| route.class))?;
            (plan.limits() + own.len() > 1).then(|| plan.charges(own, 1, payer, organization))
        });
        Dressing {
            charges,
            request_id: &ctx.request_id,
            api,
            origin: ctx.known.origin.as_deref(),
            standing: ctx.known.standing.as_ref().map(|(name, standing)| (&**name, *standing)),
            since_ms: ctx.since_decision_ms(),
        }
    }

    pub(super) async fn answer_denial(
        &self,
        session: &mut Session,
        ctx: &mut Ctx,
        denial: Denial,
    ) -> pingora::Result<()> {
        if is_browser_exposure(&denial, &ctx.known)
            && let Some((Caller::Key(key), _)) = &ctx.known.caller
        {
            self.note_exposed(key, Exposure::Browser);
        }
        ctx.outcome = Outcome::Answered(denial.code());
        ctx.status = denial.status();
        answer::deny(session, &denial, &self.dressing(ctx)).await
    }

    /// Puts our bounds on a session whose head was read.
    pub(super) fn bound(&self, session: &mut Session) {
        let has_body = !session.is_body_empty();
        set_phase(session, if has_body { Phase::Body } else { Phase::Quiet });
        // The engine has switched keep-alive off where it must: HTTP/1.0, a client's `close`, a stop.
        if session.get_keepalive().is_some() {
            session.set_keepalive(Some(self.shared.idle_s));
        }
        session.set_pipelining_enabled(true);
        session.set_write_timeout(Some(answer::WRITE_TIMEOUT));
        session.set_total_drain_timeout(Some(DRAIN_TIMEOUT));
    }

    /// Judges a request; answers or forwards it.
    pub(crate) async fn decide(&self, session: &mut Session, ctx: &mut Ctx) -> pingora::Result<Next> {
        self.bound(session);
        let headers = &session.req_header().headers;
        ctx.request_id = request_id(headers).map_or_else(|| self.shared.request_ids.next(), str::to_owned);
        let address = caller_address(peer_address(session), headers, &self.shared.trusted_proxies);
        ctx.known.address = Some(address);
        ctx.known.now = ctx.started;

        ctx.changes = self.shared.identities.live.changes();
        let raw = raw_head(session);
        let decision = match Head::check(session, raw.as_ref(), self.shared.bounds) {
            Ok(head) => {
                ctx.known.origin = head.origin().map(Into::into);
                self.admit(&head, address, &ctx.snapshot, &mut ctx.known).await
            }
            Err(denial) => {
                // A head that has two readings may have two ends: nothing after it is a request.
                session.set_keepalive(None);
                Err(denial)
            }
        };
        ctx.decided = Some(self.shared.clock.since(ctx.started));
        match decision {
            Ok(Admission::Forward(permit)) => {
                ctx.permit = Some(permit);
                if let End::Upgraded(backend) = self.relay(session, ctx).await? {
                    return Ok(Next::Tunnel(backend));
                }
            }
            Ok(admission) => self.answer(session, ctx, admission).await?,
            Err(denial) => self.answer_denial(session, ctx, denial).await?,
        }
        Ok(Next::Answered)
    }

    /// Answers what is our own business.
    async fn answer(&self, session: &mut Session, ctx: &mut Ctx, admission: Admission) -> pingora::Result<()> {
        match admission {
            Admission::Forward(_) => return self.answer_denial(session, ctx, Denial::NotPermitted).await,
            Admission::Authorize => return self.authorize(session, ctx).await,
            Admission::Describe => return self.describe(session, ctx).await,
            Admission::Preflight => {
                let dressing = self.dressing(ctx);
                let cors = dressing.api.and_then(|api| api.cors.as_ref());
                answer::preflight(session, cors, &dressing).await?;
                (ctx.outcome, ctx.status) = (Outcome::Answered("preflight"), 204);
            }
            Admission::Inspect(seen) => {
                let body = serde_json::to_vec(&seen).unwrap_or_default();
                answer::json(session, body, &self.dressing(ctx)).await?;
                (ctx.outcome, ctx.status) = (Outcome::Answered("inspection"), 200);
            }
        }
        Ok(())
    }
}
