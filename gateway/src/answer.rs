//! Answers that Tollgate writes itself, and the fields it adds to those of an upstream.

use std::fmt::Write as _;

use bytes::Bytes;
use http::header;
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use policy::cors::Cors;
use policy::file::LimitHeadersFile as LimitHeaders;
use policy::route::Api;

use crate::deny::Denial;
use crate::limit::Standing;

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
    /// Now, Unix milliseconds.
    pub now_ms: u64,
}

/// Fields of an upstream that ours replace.
const REPLACED: [&str; 12] = [
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "x-ratelimit-used",
    "ratelimit",
    "ratelimit-policy",
    "access-control-allow-origin",
    "access-control-allow-credentials",
    "access-control-allow-methods",
    "access-control-allow-headers",
    "access-control-expose-headers",
    "access-control-max-age",
];

/// Takes the upstream's copies of our fields out of its answer.
pub fn undress(response: &mut ResponseHeader) {
    for name in REPLACED {
        response.remove_header(name);
    }
}

/// Adds the request id, limit fields and cross-origin fields.
pub fn dress(response: &mut ResponseHeader, dressing: &Dressing<'_>) -> pingora::Result<()> {
    response.insert_header("X-Request-Id", dressing.request_id)?;
    let Some(api) = dressing.api else { return Ok(()) };
    if let Some((name, standing)) = dressing.standing {
        limit_fields(response, api.limit_headers, name, &standing, dressing.now_ms)?;
    }
    if let Some(cors) = &api.cors {
        cross_origin_fields(response, cors, dressing.origin)?;
    }
    Ok(())
}

fn limit_fields(
    response: &mut ResponseHeader,
    which: LimitHeaders,
    name: &str,
    standing: &Standing,
    now_ms: u64,
) -> pingora::Result<()> {
    if which != LimitHeaders::Ietf {
        response.insert_header("X-RateLimit-Limit", u64::from(standing.limit))?;
        response.insert_header("X-RateLimit-Remaining", u64::from(standing.remaining))?;
        response.insert_header("X-RateLimit-Reset", standing.window.reset())?;
    }
    if which != LimitHeaders::X {
        let mut text = String::with_capacity(48);
        let _ = write!(text, "\"{name}\";q={};w={}", standing.limit, standing.window.seconds());
        response.insert_header("RateLimit-Policy", text.as_str())?;
        text.clear();
        let left = standing.window.seconds_left(now_ms);
        let _ = write!(text, "\"{name}\";r={};t={left}", standing.remaining);
        response.insert_header("RateLimit", text)?;
    }
    Ok(())
}

fn cross_origin_fields(response: &mut ResponseHeader, cors: &Cors, origin: Option<&str>) -> pingora::Result<()> {
    // Also without Origin: a cache must not give one origin's answer to another.
    response.append_header(header::VARY, "Origin")?;
    if let Some(allowed) = origin.and_then(|origin| cors.allow_origin(origin)) {
        response.insert_header(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed)?;
        response.insert_header(header::ACCESS_CONTROL_EXPOSE_HEADERS, &*cors.expose_headers)?;
    }
    Ok(())
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
    let realm = dressing.api.map_or("Tollgate", |api| &api.realm);
    let mut response = ResponseHeader::build(if is_grpc { 200 } else { denial.status() }, Some(16))?;
    response.insert_header(header::CACHE_CONTROL, "no-store")?;
    if let Some(challenge) = denial.challenge(realm) {
        response.insert_header(header::WWW_AUTHENTICATE, challenge)?;
    }
    if let Some(seconds) = denial.retry_after_s() {
        response.insert_header(header::RETRY_AFTER, seconds)?;
    }
    dress(&mut response, dressing)?;
    if is_grpc {
        response.insert_header(header::CONTENT_TYPE, "application/grpc")?;
        response.insert_header("grpc-status", u64::from(denial.grpc_status()))?;
        response.insert_header("grpc-message", denial.code())?;
        return send(session, response, Bytes::new()).await;
    }
    response.insert_header(header::CONTENT_TYPE, "application/problem+json")?;
    let body = Bytes::from(denial.problem(dressing.request_id).to_string());
    response.insert_header(header::CONTENT_LENGTH, body.len() as u64)?;
    send(session, response, body).await
}

/// Answers a preflight from the policy (the Fetch standard, CORS-preflight).
pub async fn preflight(session: &mut Session, cors: Option<&Cors>, dressing: &Dressing<'_>) -> pingora::Result<()> {
    let mut response = ResponseHeader::build(204, Some(8))?;
    dress(&mut response, dressing)?;
    if let Some(cors) = cors.filter(|cors| dressing.origin.is_some_and(|o| cors.allow_origin(o).is_some())) {
        response.insert_header(header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST, PUT, PATCH, DELETE")?;
        response.insert_header(header::ACCESS_CONTROL_ALLOW_HEADERS, &*cors.allow_headers)?;
        response.insert_header(header::ACCESS_CONTROL_MAX_AGE, cors.max_age.as_secs())?;
    }
    send(session, response, Bytes::new()).await
}

/// Writes an answer of ours. Keep-alive survives it, unless the request has a body that nobody
/// read: then a little of it is read, so that the client gets to see the answer, and the
/// connection is closed. What was left of the body can never be taken for a request.
async fn send(session: &mut Session, response: ResponseHeader, body: Bytes) -> pingora::Result<()> {
    let has_body = !session.as_downstream_mut().is_body_done() && !session.as_downstream_mut().is_body_empty();
    let expects = session.req_header().headers.contains_key(header::EXPECT);
    if has_body {
        session.set_keepalive(None);
    }
    let is_bodyless = body.is_empty() || session.req_header().method == http::Method::HEAD;
    session.write_response_header(Box::new(response), is_bodyless).await?;
    if !is_bodyless {
        session.write_response_body(Some(body), true).await?;
    }
    if has_body && !expects {
        let drain = async {
            let mut read = 0usize;
            while let Ok(Some(chunk)) = session.as_downstream_mut().read_request_body().await {
                read += chunk.len();
                if read > DRAIN_BYTES_MAX {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(DRAIN_TIME, drain).await;
    }
    Ok(())
}
