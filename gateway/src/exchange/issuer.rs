//! A request for the authorization server: its body is read whole, within bounds, and answered.

use std::pin::pin;
use std::time::Duration;

use bytes::BytesMut;
use http::header;
use pingora::protocols::http::ServerSession as Session;

use super::{Ctx, Outcome};
use crate::admit::Gate;
use crate::admit::denial::Denial;
use crate::base::answer::Answer;
use crate::exchange::answer;
use crate::oauth::http::{BODY_BYTES_MAX, Request};
use crate::oauth::resource_metadata;

/// How long others may remember what an API says of itself, seconds.
const METADATA_MAX_AGE_S: u64 = 3_600;
/// Longest time for a body.
const BODY_TIME: Duration = Duration::from_secs(10);

impl Gate {
    /// Says who the authorization servers of an API are (RFC 9728).
    pub(super) async fn describe(&self, session: &mut Session, ctx: &mut Ctx) -> pingora::Result<()> {
        let dressing = self.dressing(ctx);
        let described = dressing.api.and_then(resource_metadata).unwrap_or_default();
        let if_none_match = session.req_header().headers.get(header::IF_NONE_MATCH).cloned();
        let body = described.to_string();
        let reply = Answer::public("application/json", body, METADATA_MAX_AGE_S, if_none_match.as_ref());
        let (outcome, status) = (reply.outcome, reply.status.as_u16());
        answer::reply(session, reply, &dressing).await?;
        (ctx.outcome, ctx.status) = (Outcome::Answered(outcome), status);
        Ok(())
    }

    /// Answers a request at the host of an API's authorization server.
    pub(super) async fn authorize(&self, session: &mut Session, ctx: &mut Ctx) -> pingora::Result<()> {
        if answer::expects(session) {
            answer::in_time(pin!(session.write_continue_response())).await?;
        }
        let body = match read_body(session).await {
            Ok(body) => body,
            Err(denial) => return self.answer_denial(session, ctx, denial).await,
        };
        let snapshot = ctx.snapshot.clone();
        let api = ctx.known.api.and_then(|index| snapshot.policy.apis.get(index as usize));
        let Some((api, oauth)) = api.and_then(|api| Some((api, api.oauth.as_ref()?))) else {
            return self.answer_denial(session, ctx, Denial::NoSuchRoute).await;
        };
        let address = ctx.known.address.unwrap_or(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
        let head = session.req_header();
        let request = Request {
            api,
            oauth,
            method: head.method.as_str(),
            path: ctx.known.path(),
            query: ctx.known.query(),
            headers: &head.headers,
            body: &body,
            address,
            now_ms: ctx.started.wall_ms,
        };
        let reply = self.shared.authorization.answer(request).await;
        let endpoint = endpoint(ctx.known.path());
        self.shared.metrics.oauth.answers.with_label_values(&[endpoint, reply.outcome]).inc();
        (ctx.outcome, ctx.status) = (Outcome::Answered(reply.outcome), reply.status.as_u16());
        answer::reply(session, reply, &self.dressing(ctx)).await
    }
}

/// The path as a label: a closed list.
fn endpoint(path: &str) -> &'static str {
    match path {
        "/oauth/authorize" => "authorize",
        "/oauth/token" => "token",
        "/oauth/revoke" => "revoke",
        "/oauth/introspect" => "introspect",
        "/oauth/jwks" => "jwks",
        "/oauth/login" | "/oauth/continue" => "login",
        "/oauth/consent" => "consent",
        "/account/applications" | "/account/applications/revoke" | "/account/login" | "/account/logout" => "account",
        "/.well-known/oauth-authorization-server" | "/.well-known/openid-configuration" => "metadata",
        _ => "other",
    }
}

async fn read_body(session: &mut Session) -> Result<BytesMut, Denial> {
    let mut body = BytesMut::new();
    let read = async {
        while let Some(chunk) = session.read_request_body().await.map_err(|_| Denial::BrokenBody)? {
            if body.len() + chunk.len() > BODY_BYTES_MAX {
                return Err(Denial::BodyTooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(())
    };
    tokio::time::timeout(BODY_TIME, read).await.map_err(|_| Denial::BrokenBody)??;
    Ok(body)
}
