//! Answers on their way to a client: the one writer of our own, and an upstream's answer made anew.

mod links;

use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, StatusCode};
use pingora::http::ResponseHeader;
use pingora::protocols::http::{HttpTask, ServerSession as Session};
use pingora::{Error, ErrorType};

pub use self::links::OwnHosts;
use crate::admit::answers::AnswerContext;
use crate::base::answer::Answer;
use crate::base::clock::within;
use crate::base::field_names::REQUEST_ID;
use crate::base::header_values::{BadValue, Values, never_indexed};
use crate::exchange::request_fields::Nominations;

impl From<BadValue> for Box<Error> {
    fn from(bad: BadValue) -> Self {
        Error::because(ErrorType::InternalError, "writing a field", bad)
    }
}

/// Longest wait for a client to take what we send it.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client that is cut off has to take its leave.
const LEAVE: Duration = Duration::from_secs(1);

/// Fields of an upstream that ours replace; sorted.
const REPLACED: [&str; 12] = [
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-expose-headers",
    "access-control-max-age",
    "ratelimit",
    "ratelimit-policy",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "x-ratelimit-used",
];

/// Most fields that are added to those of an upstream.
const OURS_MAX: usize = 10;

/// Whether a field of an upstream is one that ours replace.
fn is_replaced(name: &str) -> bool {
    matches!(name.as_bytes().first(), Some(b'a' | b'r' | b'x')) && REPLACED.binary_search(&name).is_ok()
}

/// What follows the head of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follows {
    /// Nothing: the answer has no body, or it is an informational one.
    Nothing,
    /// A body, to a client that understands chunks.
    Body,
    /// A body, to a client over HTTP/1.0, which does not (RFC 9112 section 7).
    BodyWithoutChunks,
    /// The bytes of a WebSocket.
    Tunnel,
}

/// An upstream's answer made anew for the client: its fields without those of its connection, in
/// our framing, and ours.
pub fn pass_on(
    upstream: &ResponseHeader,
    follows: Follows,
    own: &OwnHosts<'_>,
    context: &AnswerContext<'_>,
) -> pingora::Result<ResponseHeader> {
    let theirs = &upstream.headers;
    let nominations = Nominations::of(theirs);
    let mut fields = HeaderMap::with_capacity(theirs.len() + OURS_MAX);
    for (name, value) in theirs {
        let mut link = None;
        let stays = match name.as_str() {
            "connection" | "keep-alive" | "proxy-connection" | "te" | "trailer" => false,
            // RFC 9110 section 15.5.22 wants it there.
            "upgrade" => upstream.status == http::StatusCode::UPGRADE_REQUIRED,
            "transfer-encoding" => follows == Follows::Body,
            name if is_replaced(name) || nominations.contain(name) => false,
            "location" | "link" | "content-location" | "refresh" => {
                link = own.over_https(value);
                true
            }
            _ => true,
        };
        if stays {
            fields.append(name.clone(), link.unwrap_or_else(|| value.clone()));
        }
    }
    let is_framed = |fields: &HeaderMap| {
        fields.contains_key(header::CONTENT_LENGTH) || fields.contains_key(header::TRANSFER_ENCODING)
    };
    match follows {
        Follows::Body if !is_framed(&fields) => {
            fields.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        // It has no body, whatever its backend says (RFC 9110 section 15.3.6).
        Follows::Nothing if upstream.status == http::StatusCode::RESET_CONTENT => {
            fields.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        Follows::Tunnel => {
            fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        }
        Follows::Nothing | Follows::Body | Follows::BodyWithoutChunks => {}
    }
    context.add_fields(&mut fields)?;
    let mut response = head(upstream.status.as_u16(), fields)?;
    response.set_reason_phrase(upstream.get_reason_phrase())?;
    Ok(response)
}

/// A head from a status and fields.
fn head(status: u16, fields: HeaderMap) -> pingora::Result<ResponseHeader> {
    let mut parts = http::response::Parts::from(ResponseHeader::build_no_case(status, None)?);
    parts.headers = fields;
    Ok(ResponseHeader::from(parts))
}

/// Most bytes read of a refused request's body before its connection is closed.
const DRAIN_BYTES_MAX: usize = 64 * 1024;
/// Longest time spent on that.
const DRAIN_TIME: std::time::Duration = std::time::Duration::from_millis(500);

/// Writes to a client, which has [`WRITE_TIMEOUT`] to take it.
pub async fn in_time<T>(write: Pin<&mut impl Future<Output = pingora::Result<T>>>) -> pingora::Result<T> {
    let written = within(WRITE_TIMEOUT, write).await;
    written.unwrap_or_else(|| Error::e_explain(ErrorType::WriteTimedout, "the client takes no more"))
}

/// Whether a client waits for a 100 before it sends its body. Of HTTP/1.0 that means nothing (RFC 9110
/// section 10.1.1).
pub fn expects(session: &Session) -> bool {
    let head = session.req_header();
    head.version >= http::Version::HTTP_11 && head.headers.contains_key(header::EXPECT)
}

/// Cuts a client off, which may take no leave: what it has not taken is not waited for. One whose
/// answer ends where the connection ends (HTTP/1.0 without a length) gets no goodbye of TLS either: it
/// could not tell the two ends apart.
pub async fn cut(session: &mut Session) {
    let is_delimited = |head: &ResponseHeader| {
        [header::CONTENT_LENGTH, header::TRANSFER_ENCODING].iter().any(|name| head.headers.contains_key(name))
    };
    if session.as_http1().is_some() && session.response_written().is_some_and(|head| !is_delimited(head)) {
        return;
    }
    // What it does not do in time is done when the connection is dropped.
    let _ = tokio::time::timeout(LEAVE, session.shutdown()).await;
}

/// The head of an answer of ours, and its body. A status without content has no length either (RFC
/// 9110 section 8.6).
fn message(answer: Answer, request_id: &str) -> pingora::Result<(ResponseHeader, Bytes)> {
    let Answer { status, mut fields, body, outcome: _, is_trailers_only } = answer;
    if !fields.contains_key(REQUEST_ID) {
        fields.insert(REQUEST_ID, never_indexed(Values::with_capacity(request_id.len()).text(request_id)?));
    }
    if is_trailers_only {
        return Ok((head(200, fields)?, Bytes::new()));
    }
    if !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        fields.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    Ok((head(status.as_u16(), fields)?, body))
}

async fn write_whole(session: &mut Session, head: ResponseHeader, body: Bytes) -> pingora::Result<()> {
    session.write_response_header(Box::new(head)).await?;
    session.write_response_body(body, true).await
}

/// Answers a client whose head could not be read: of a session without a head little more can be asked
/// than to write. The connection is not used again.
pub async fn write_unread(session: &mut Session, answer: Answer, request_id: &str) -> pingora::Result<()> {
    session.set_keepalive(None);
    let (head, body) = message(answer, request_id)?;
    in_time(pin!(write_whole(session, head, body))).await
}

/// Writes an answer of ours. Keep-alive survives it, unless the request has a body that nobody
/// read: then a little of it is read, so that the client gets to see the answer, and the
/// connection is closed. What was left of the body can never be taken for a request.
pub async fn write(session: &mut Session, answer: Answer, request_id: &str) -> pingora::Result<()> {
    let (head, body) = message(answer, request_id)?;
    let has_body = !session.is_body_done() && !session.is_body_empty();
    // One that was told to go on sends its body, whatever we answer.
    let expects = expects(session) && session.response_written().is_none();
    if has_body {
        session.set_keepalive(None);
    }
    if body.is_empty() || session.req_header().method == http::Method::HEAD {
        // Over HTTP/2 the head itself ends the stream.
        let head = vec![HttpTask::Header(Box::new(head), true)];
        in_time(pin!(session.response_duplex_vec(head))).await.map_err(|error| error.into_down())?;
    } else {
        in_time(pin!(write_whole(session, head, body))).await.map_err(|error| error.into_down())?;
    }
    if has_body && !expects {
        drain(session).await;
    }
    Ok(())
}

/// Reads a little of a request's body that nobody wants, so that its client gets to see the answer:
/// a connection that is closed with bytes unread is reset.
pub async fn drain(session: &mut Session) {
    let drain = async {
        let mut read = 0usize;
        while let Ok(Some(chunk)) = session.read_request_body().await {
            read += chunk.len();
            if read > DRAIN_BYTES_MAX {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(DRAIN_TIME, drain).await;
}
