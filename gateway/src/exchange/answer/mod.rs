//! Answers that Tollgate writes itself, and the fields it adds to those of an upstream.

mod links;

use std::fmt::Write as _;
use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{self, HeaderName, HeaderValue};
use pingora::http::ResponseHeader;
use pingora::protocols::http::{HttpTask, ServerSession as Session};
use pingora::{Error, ErrorType};
use policy::cors::Cors;
use policy::file::LimitHeadersFile as LimitHeaders;
use policy::limit::Charges;
use policy::route::Api;

pub use self::links::OwnHosts;
use crate::admit::denial::Denial;
use crate::base::answer::Answer;
use crate::base::clock::within;
use crate::base::header_values::Values;
use crate::exchange::request_fields::{Nominations, names};
use crate::limit::Standing;

/// Longest wait for a client to take what we send it.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client that is cut off has to take its leave.
const LEAVE: Duration = Duration::from_secs(1);

/// What every answer carries, whoever wrote its body.
#[derive(Clone, Copy, Debug)]
pub struct Dressing<'a> {
    /// The request's id.
    pub request_id: &'a str,
    /// The API, when the host is known.
    pub api: Option<&'a Api>,
    /// `Origin` of the request.
    pub origin: Option<&'a str>,
    /// Name and standing of the limit to show, for a caller we know.
    pub standing: Option<(&'a str, Standing)>,
    /// All limits of the request, where there are several.
    pub charges: Option<Charges<'a>>,
    /// Milliseconds since the decision.
    pub since_ms: u64,
}

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
/// Room for their values, in bytes: common ones fit.
const VALUES_BYTES: usize = 192;

const X_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const X_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const X_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
const LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

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
    dressing: &Dressing<'_>,
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
    dress(&mut fields, dressing)?;
    let mut response = answer(upstream.status.as_u16(), fields)?;
    response.set_reason_phrase(upstream.get_reason_phrase())?;
    Ok(response)
}

/// Adds the request id, limit fields and cross-origin fields.
fn dress(fields: &mut HeaderMap, dressing: &Dressing<'_>) -> pingora::Result<()> {
    let mut values = Values::with_capacity(VALUES_BYTES);
    fields.insert(names::REQUEST_ID, values.text(dressing.request_id)?);
    let Some(api) = dressing.api else { return Ok(()) };
    if let Some((name, standing)) = dressing.standing {
        limit_fields(fields, &mut values, api.limit_headers, (name, &standing), dressing)?;
    }
    if let Some(cors) = &api.cors {
        cross_origin_fields(fields, &mut values, cors, dressing.origin)?;
    }
    Ok(())
}

/// The fields of limits. The shown limit is the documented one, or the one that was violated; the
/// policies are all there are (draft-ietf-httpapi-ratelimit-headers, section 3).
fn limit_fields(
    fields: &mut HeaderMap,
    values: &mut Values,
    which: LimitHeaders,
    (name, standing): (&str, &Standing),
    dressing: &Dressing<'_>,
) -> pingora::Result<()> {
    if which != LimitHeaders::Ietf {
        fields.insert(X_LIMIT, values.number(standing.limit.into())?);
        fields.insert(X_REMAINING, values.number(standing.remaining.into())?);
        fields.insert(X_RESET, values.number(standing.window.reset())?);
    }
    if which != LimitHeaders::X {
        let limits = match &dressing.charges {
            None => values.write(format_args!("\"{name}\";q={};w={}", standing.limit, standing.window.seconds()))?,
            Some(charges) => {
                let mut text = String::with_capacity(96);
                charges.iter().for_each(|charge| {
                    let quota = if **charge.name == *name { standing.limit } else { charge.count };
                    let window = charge.period.window(standing.now_ms, charge.period.phase_ms(charge.bucket));
                    let comma = if text.is_empty() { "" } else { ", " };
                    let _ = write!(text, "{comma}\"{}\";q={quota};w={}", charge.name, window.seconds());
                });
                values.text(&text)?
            }
        };
        fields.insert(LIMIT_POLICY, limits);
        let left = standing.window.seconds_left(standing.now_ms + dressing.since_ms);
        fields.insert(LIMIT, values.write(format_args!("\"{name}\";r={};t={left}", standing.remaining))?);
    }
    Ok(())
}

fn cross_origin_fields(
    fields: &mut HeaderMap,
    values: &mut Values,
    cors: &Cors,
    origin: Option<&str>,
) -> pingora::Result<()> {
    // Also without Origin: a cache must not give one origin's answer to another.
    fields.append(header::VARY, HeaderValue::from_static("Origin"));
    if let Some(allowed) = origin.and_then(|origin| cors.allow_origin(origin)) {
        fields.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, values.text(allowed)?);
        fields.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, values.text(&cors.expose_headers)?);
    }
    Ok(())
}

/// A single value; text that cannot be one is a bug of ours.
fn text(value: &str) -> pingora::Result<HeaderValue> {
    Values::with_capacity(value.len()).text(value)
}

/// An answer of ours, as a status and fields.
fn answer(status: u16, fields: HeaderMap) -> pingora::Result<ResponseHeader> {
    let mut parts = http::response::Parts::from(ResponseHeader::build_no_case(status, None)?);
    parts.headers = fields;
    Ok(ResponseHeader::from(parts))
}

/// Most bytes read of a refused request's body before its connection is closed.
const DRAIN_BYTES_MAX: usize = 64 * 1024;
/// Longest time spent on that.
const DRAIN_TIME: std::time::Duration = std::time::Duration::from_millis(500);

/// Whether a request is a gRPC call.
pub fn is_grpc(session: &Session) -> bool {
    let request = session.req_header();
    let kind = request.headers.get(header::CONTENT_TYPE);
    request.version == http::Version::HTTP_2 && kind.is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"))
}

/// Writes a denial. A gRPC client gets its own form.
pub async fn deny(session: &mut Session, denial: &Denial, dressing: &Dressing<'_>) -> pingora::Result<()> {
    let is_grpc = is_grpc(session);
    let mut fields = HeaderMap::with_capacity(16);
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(challenge) = denial.challenge(dressing.api) {
        fields.insert(header::WWW_AUTHENTICATE, text(&challenge)?);
    }
    if let Denial::MethodNotAllowed { allow } = denial {
        fields.insert(header::ALLOW, text(allow)?);
    }
    if let Some(seconds) = denial.retry_after_s() {
        fields.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    dress(&mut fields, dressing)?;
    if is_grpc {
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        fields.insert(HeaderName::from_static("grpc-status"), HeaderValue::from(u16::from(denial.grpc_status())));
        fields.insert(HeaderName::from_static("grpc-message"), HeaderValue::from_static(denial.code()));
        return send(session, answer(200, fields)?, Bytes::new()).await;
    }
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    let body = Bytes::from(denial.problem(dressing.request_id));
    fields.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    send(session, answer(denial.status(), fields)?, body).await
}

/// Answers a client whose head could not be read, and of which nothing is known: of a session without
/// a head little more can be asked than to write. The connection is not used again.
pub async fn deny_unread(session: &mut Session, denial: &Denial, request_id: &str) -> pingora::Result<()> {
    let mut fields = HeaderMap::with_capacity(8);
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(names::REQUEST_ID, text(request_id)?);
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    let body = Bytes::from(denial.problem(request_id));
    fields.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    session.set_keepalive(None);
    let head = answer(denial.status(), fields)?;
    in_time(pin!(write_whole(session, head, body))).await
}

/// Answers with JSON of our own.
pub async fn json(session: &mut Session, body: Vec<u8>, dressing: &Dressing<'_>) -> pingora::Result<()> {
    let mut fields = HeaderMap::with_capacity(16);
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    dress(&mut fields, dressing)?;
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    send(session, answer(200, fields)?, Bytes::from(body)).await
}

/// Sends an answer of the authorization server, or a public document. What it says of origins stands.
pub async fn reply(session: &mut Session, reply: Answer, dressing: &Dressing<'_>) -> pingora::Result<()> {
    let mut fields = reply.fields;
    fields.insert(names::REQUEST_ID, text(dressing.request_id)?);
    // A status without content has no length either (RFC 9110 section 8.6).
    let has_content = !matches!(reply.status, http::StatusCode::NO_CONTENT | http::StatusCode::NOT_MODIFIED);
    if has_content {
        fields.insert(header::CONTENT_LENGTH, HeaderValue::from(reply.body.len()));
    }
    send(session, answer(reply.status.as_u16(), fields)?, reply.body).await
}

/// Answers a preflight from the policy (the Fetch standard, CORS-preflight).
pub async fn preflight(session: &mut Session, cors: Option<&Cors>, dressing: &Dressing<'_>) -> pingora::Result<()> {
    let mut fields = HeaderMap::with_capacity(8);
    dress(&mut fields, dressing)?;
    if let Some(cors) = cors.filter(|cors| dressing.origin.is_some_and(|o| cors.allow_origin(o).is_some())) {
        fields.insert(header::ACCESS_CONTROL_ALLOW_METHODS, text(&cors.allow_methods)?);
        fields.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, text(&cors.allow_headers)?);
        fields.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(cors.max_age.as_secs()));
    }
    send(session, answer(204, fields)?, Bytes::new()).await
}

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

async fn write_whole(session: &mut Session, head: ResponseHeader, body: Bytes) -> pingora::Result<()> {
    session.write_response_header(Box::new(head)).await?;
    session.write_response_body(body, true).await
}

/// Writes an answer of ours. Keep-alive survives it, unless the request has a body that nobody
/// read: then a little of it is read, so that the client gets to see the answer, and the
/// connection is closed. What was left of the body can never be taken for a request.
async fn send(session: &mut Session, response: ResponseHeader, body: Bytes) -> pingora::Result<()> {
    let has_body = !session.is_body_done() && !session.is_body_empty();
    // One that was told to go on sends its body, whatever we answer.
    let expects = expects(session) && session.response_written().is_none();
    if has_body {
        session.set_keepalive(None);
    }
    if body.is_empty() || session.req_header().method == http::Method::HEAD {
        // Over HTTP/2 the head itself ends the stream.
        let head = vec![HttpTask::Header(Box::new(response), true)];
        in_time(pin!(session.response_duplex_vec(head))).await.map_err(|error| error.into_down())?;
    } else {
        in_time(pin!(write_whole(session, response, body))).await.map_err(|error| error.into_down())?;
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
