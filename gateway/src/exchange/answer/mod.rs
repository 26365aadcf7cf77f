//! Answers on their way to a client: the one writer of our own, and an upstream's answer made anew.

mod links;

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, StatusCode};

pub use self::links::OwnHosts;
use super::failure::Failure;
use crate::admit::answers::AnswerContext;
use crate::admit::denial::DenialAnswer;
use crate::base::answer::Answer;
use crate::base::field_names::{OF_CONNECTION, REQUEST_ID};
use crate::base::field_sink::{FieldSink, FieldSource, Indexing};
use crate::base::message::{Fields, ResponseHead};
use crate::downstream::{AnswerHead, Delimited, Session};
use crate::exchange::request_fields::Nominations;

/// Fields of an upstream that ours replace; sorted.
const REPLACED: [&[u8]; 13] = [
    b"access-control-allow-credentials",
    b"access-control-allow-headers",
    b"access-control-allow-methods",
    b"access-control-allow-origin",
    b"access-control-expose-headers",
    b"access-control-max-age",
    b"ratelimit",
    b"ratelimit-policy",
    b"x-ratelimit-limit",
    b"x-ratelimit-remaining",
    b"x-ratelimit-reset",
    b"x-ratelimit-used",
    b"x-request-id",
];

/// Whether a field of an upstream is one that ours replace.
fn is_replaced(name: &[u8]) -> bool {
    matches!(name.first(), Some(b'a' | b'r' | b'x')) && REPLACED.binary_search(&name).is_ok()
}

/// Whether a field of an upstream may stand behind its answer: gRPC's calls have metadata of any name there. None of
/// those that are ours, or that only a head can say (RFC 9110 section 6.5.1).
pub fn is_trailer(name: &HeaderName) -> bool {
    let name = name.as_str();
    let is_of_head = matches!(name, "content-length" | "host" | "location" | "set-cookie" | "te" | "trailer");
    !is_replaced(name.as_bytes()) && !is_of_head && !OF_CONNECTION.contains(&name)
}

/// Fields that hold links.
const LINKS: [&str; 4] = ["location", "link", "content-location", "refresh"];

fn is_link(name: &[u8]) -> bool {
    LINKS.iter().any(|link| link.as_bytes() == name)
}

/// Whether any field holds links.
pub fn has_links(fields: Fields<'_>) -> bool {
    LINKS.iter().any(|name| fields.has(name))
}

/// The fields of an upstream's answer made anew for the client: without those of its connection, and with ours.
#[derive(Clone, Copy)]
pub struct PassedOn<'a> {
    /// The upstream's.
    pub theirs: ResponseHead<'a>,
    /// Where links lead that are the API's own.
    pub own: OwnHosts<'a>,
    /// Whether there are any.
    pub has_links: bool,
    /// Whether the handshake of a WebSocket is ours, and not the client's.
    pub is_stream: bool,
    /// What every answer says.
    pub context: AnswerContext<'a>,
}

impl FieldSource for PassedOn<'_> {
    fn put_into(&self, sink: &mut impl FieldSink) {
        let status = self.theirs.status;
        let nominations = Nominations::of(self.theirs.fields);
        for (name, value) in self.theirs.fields.iter() {
            match name {
                b"connection" | b"content-length" | b"keep-alive" | b"proxy-connection" | b"te" | b"trailer"
                | b"transfer-encoding" => {}
                b"sec-websocket-accept" if self.is_stream => {}
                // RFC 9110 section 15.5.22 wants it there.
                b"upgrade" if status != StatusCode::UPGRADE_REQUIRED.as_u16() => {}
                name if is_replaced(name) || nominations.contain(name) => {}
                name if self.has_links && is_link(name) => match self.own.over_https(value) {
                    Some(link) => sink.pass(name, link.as_bytes()),
                    None => sink.pass(name, value),
                },
                name => sink.pass(name, value),
            }
        }
        // One that has one reading, whatever was sent. A 205 has no body, whatever its backend says (RFC 9110
        // section 15.3.6).
        let length = if status == StatusCode::RESET_CONTENT.as_u16() { Some(0) } else { self.theirs.length };
        if let Some(length) = length {
            sink.number(&CONTENT_LENGTH, Indexing::Usual, length);
        }
        self.context.put_into(sink);
    }
}

/// The fields of an answer of ours.
struct OfAnswer<'a> {
    fields: &'a HeaderMap,
    request_id: &'a str,
}

impl FieldSource for OfAnswer<'_> {
    fn put_into(&self, sink: &mut impl FieldSink) {
        self.fields.put_into(sink);
        if !self.fields.contains_key(REQUEST_ID) {
            sink.write(&REQUEST_ID, Indexing::Never, |value| value.extend_from_slice(self.request_id.as_bytes()));
        }
    }
}

/// Most bytes read of a refused request's body before its connection is closed.
const DRAIN_BYTES_MAX: usize = 64 * 1024;
/// Longest time spent on that.
const DRAIN_TIME: Duration = Duration::from_millis(500);

/// Fields, and the length of a body behind them if there is one.
struct WithLength<'a, F> {
    fields: &'a F,
    length: Option<u64>,
}

impl<F: FieldSource> FieldSource for WithLength<'_, F> {
    fn put_into(&self, sink: &mut impl FieldSink) {
        self.fields.put_into(sink);
        if let Some(length) = self.length {
            sink.number(&CONTENT_LENGTH, Indexing::Usual, length);
        }
    }
}

/// Writes an answer of ours.
pub(super) async fn write(
    session: &mut Session,
    answer: Answer,
    (request_id, now_ms): (&str, u64),
) -> Result<(), Failure> {
    // A status without content has no length either (RFC 9110 section 8.6).
    let has_length = !matches!(answer.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let length = has_length.then_some(answer.body.len() as u64);
    let fields = OfAnswer { fields: &answer.fields, request_id };
    let fields = WithLength { fields: &fields, length };
    send(session, (answer.status.as_u16(), &fields), (answer.body, now_ms)).await
}

/// Writes a refusal.
pub(super) async fn refuse(session: &mut Session, refusal: &DenialAnswer<'_>, now_ms: u64) -> Result<(), Failure> {
    let body = refusal.body();
    let length = (!refusal.is_trailers_only()).then_some(body.len() as u64);
    send(session, (refusal.status(), &WithLength { fields: refusal, length }), (body, now_ms)).await
}

/// Sends an answer of ours. Keep-alive survives it, unless the request has a body that nobody
/// read: then a little of it is read, so that the client gets to see the answer, and the
/// connection is closed. What was left of the body can never be taken for a request.
async fn send(
    session: &mut Session,
    (status, fields): (u16, &impl FieldSource),
    (body, now_ms): (Bytes, u64),
) -> Result<(), Failure> {
    let has_body = !session.is_body_read() && !session.is_body_empty();
    // One that was told to go on sends its body, whatever we answer.
    let waits = session.expects_continue();
    if has_body {
        session.close_after();
    }
    let is_whole = body.is_empty() || session.head().method == "HEAD";
    let delimited = if is_whole { Delimited::NoBody } else { Delimited::Length };
    session.write_head(&AnswerHead { status, reason: b"", fields, delimited, now_ms }, is_whole)?;
    session.write_bytes(if is_whole { Bytes::new() } else { body }, true).await?;
    if has_body && !waits {
        drain(session).await;
    }
    Ok(())
}

/// Reads a little of a request's body that nobody wants, so that its client gets to see the answer:
/// a connection that is closed with bytes unread is reset.
pub(super) async fn drain(session: &mut Session) {
    let drain = async {
        let mut read = 0usize;
        while let Ok(Some(chunk)) = session.read_body().await {
            read += chunk.len();
            if read > DRAIN_BYTES_MAX {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(DRAIN_TIME, drain).await;
}
