//! A request for the authorization server: its body is read whole, within bounds, and answered.

use std::time::Duration;

use bytes::BytesMut;

use super::Exchanges;
use super::failure::Failure;
use super::relay::End;
use super::state::Exchange;
use crate::admit::denial::Denial;
use crate::base::answer::Answer;
use crate::base::message::RequestHead;
use crate::downstream::Session;
use crate::oauth::http::{BODY_BYTES_MAX, Request};

/// Longest time for a body.
const BODY_TIME: Duration = Duration::from_secs(10);

impl Exchanges {
    /// Answers a request at the host of an API's authorization server.
    pub(super) async fn answer_as_issuer(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
    ) -> Result<End, Failure> {
        if session.expects_continue() {
            session.write_continue().await?;
        }
        let answer = match read_body(session).await {
            Ok(body) => self.ask_issuer(&session.head(), exchange, &body).await,
            Err(denial) => Err(denial),
        };
        match answer {
            Ok(answer) => self.answer(session, exchange, answer).await,
            Err(denial) => self.refuse(session, exchange, &denial).await,
        }
    }

    async fn ask_issuer(&self, head: &RequestHead<'_>, exchange: &Exchange, body: &[u8]) -> Result<Answer, Denial> {
        let known = &exchange.known;
        let api = known.api.and_then(|index| exchange.snapshot.policy.apis.get(index as usize));
        let (api, oauth) = api.and_then(|api| Some((api, api.oauth.as_ref()?))).ok_or(Denial::NoSuchRoute)?;
        let headers = head.fields.to_map();
        let request = Request {
            api,
            oauth,
            method: head.method,
            path: known.path(),
            query: known.query(),
            headers: &headers,
            body,
            address: exchange.known.address,
            now_ms: exchange.known.now.wall_ms,
        };
        let answer = self.shared.authorization.answer(request).await;
        self.gate.shared.metrics.oauth.answers.with_label_values(&[endpoint(known.path()), answer.outcome]).inc();
        Ok(answer)
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
        while let Some(chunk) = session.read_body().await.map_err(|_| Denial::BrokenBody)? {
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
