//! What the gateway answers itself, as values: refusals, preflights, what a caller may know of itself,
//! what an API says of itself. And the fields that every answer carries, whoever wrote its body.

use std::fmt::Write as _;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use policy::cors::Cors;
use policy::file::LimitHeadersFile as LimitHeaders;
use policy::limit::Charges;
use policy::route::Api;

use super::denial::Denial;
use super::inspect::Inspection;
use crate::base::answer::Answer;
use crate::base::field_names::REQUEST_ID;
use crate::base::header_values::{BadValue, Values, never_indexed};
use crate::limit::Standing;

/// How long others may remember what an API says of itself, seconds.
const METADATA_MAX_AGE_S: u64 = 3_600;
/// Room for the values of our fields, in bytes: common ones fit.
const VALUES_BYTES: usize = 192;

const X_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const X_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const X_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
const LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// What every answer says of its request, whoever wrote its body.
#[derive(Clone, Copy, Debug)]
pub struct AnswerContext<'a> {
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

impl AnswerContext<'_> {
    /// Adds the request id, limit fields and cross-origin fields.
    pub fn add_fields(&self, fields: &mut HeaderMap) -> Result<(), BadValue> {
        let mut values = Values::with_capacity(VALUES_BYTES);
        fields.insert(REQUEST_ID, never_indexed(values.text(self.request_id)?));
        let Some(api) = self.api else { return Ok(()) };
        if let Some((name, standing)) = self.standing {
            limit_fields(fields, &mut values, api.limit_headers, (name, &standing), self)?;
        }
        if let Some(cors) = &api.cors {
            cross_origin_fields(fields, &mut values, cors, self.origin)?;
        }
        Ok(())
    }
}

/// The fields of limits. The shown limit is the documented one, or the one that was violated; the
/// policies are all there are (draft-ietf-httpapi-ratelimit-headers, section 3).
fn limit_fields(
    fields: &mut HeaderMap,
    values: &mut Values,
    which: LimitHeaders,
    (name, standing): (&str, &Standing),
    context: &AnswerContext<'_>,
) -> Result<(), BadValue> {
    if which != LimitHeaders::Ietf {
        fields.insert(X_LIMIT, values.number(standing.limit.into())?);
        fields.insert(X_REMAINING, never_indexed(values.number(standing.remaining.into())?));
        fields.insert(X_RESET, values.number(standing.window.reset())?);
    }
    if which != LimitHeaders::X {
        let limits = match &context.charges {
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
        let left = standing.window.seconds_left(standing.now_ms + context.since_ms);
        let standing = values.write(format_args!("\"{name}\";r={};t={left}", standing.remaining))?;
        fields.insert(LIMIT, never_indexed(standing));
    }
    Ok(())
}

fn cross_origin_fields(
    fields: &mut HeaderMap,
    values: &mut Values,
    cors: &Cors,
    origin: Option<&str>,
) -> Result<(), BadValue> {
    // Also without Origin: a cache must not give one origin's answer to another.
    fields.append(header::VARY, HeaderValue::from_static("Origin"));
    if let Some(allowed) = origin.and_then(|origin| cors.allow_origin(origin)) {
        fields.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, values.text(allowed)?);
        fields.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, values.text(&cors.expose_headers)?);
    }
    Ok(())
}

/// A single value; text that cannot be one is a bug of ours.
fn text(value: &str) -> Result<HeaderValue, BadValue> {
    Values::with_capacity(value.len()).text(value)
}

impl Denial {
    /// The refusal as an answer. A gRPC client gets its own form.
    pub fn answer(&self, context: &AnswerContext<'_>, is_grpc: bool) -> Answer {
        self.try_answer(context, is_grpc).unwrap_or_else(|BadValue| Answer::internal_error())
    }

    fn try_answer(&self, context: &AnswerContext<'_>, is_grpc: bool) -> Result<Answer, BadValue> {
        let mut fields = HeaderMap::with_capacity(16);
        fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(challenge) = self.challenge(context.api) {
            fields.insert(header::WWW_AUTHENTICATE, text(&challenge)?);
        }
        if let Denial::MethodNotAllowed { allow } = self {
            fields.insert(header::ALLOW, text(allow)?);
        }
        if let Some(seconds) = self.retry_after_s() {
            fields.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        context.add_fields(&mut fields)?;
        let status = StatusCode::from_u16(self.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let (outcome, is_trailers_only) = (self.code(), is_grpc);
        if is_grpc {
            fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            fields.insert(HeaderName::from_static("grpc-status"), HeaderValue::from(u16::from(self.grpc_status())));
            fields.insert(HeaderName::from_static("grpc-message"), HeaderValue::from_static(outcome));
            return Ok(Answer { status, fields, body: Bytes::new(), outcome, is_trailers_only });
        }
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        let body = Bytes::from(self.problem(context.request_id));
        Ok(Answer { status, fields, body, outcome, is_trailers_only })
    }
}

/// What a caller may know of itself.
pub(super) fn inspection(seen: &Inspection, context: &AnswerContext<'_>) -> Answer {
    let body = serde_json::to_vec(seen).unwrap_or_default();
    let mut answer = Answer::json_bytes(StatusCode::OK, "inspection", body);
    match context.add_fields(&mut answer.fields) {
        Ok(()) => answer,
        Err(BadValue) => Answer::internal_error(),
    }
}

/// Who the authorization servers of an API are (RFC 9728); everybody may keep it for a while.
pub(super) fn metadata(api: &Api, if_none_match: Option<&HeaderValue>) -> Answer {
    let described = resource_metadata(api).unwrap_or_default().to_string();
    Answer::public("application/json", described, METADATA_MAX_AGE_S, if_none_match)
}

/// A preflight, answered from the policy (the Fetch standard, CORS-preflight).
pub(super) fn preflight(cors: Option<&Cors>, context: &AnswerContext<'_>) -> Answer {
    try_preflight(cors, context).unwrap_or_else(|BadValue| Answer::internal_error())
}

fn try_preflight(cors: Option<&Cors>, context: &AnswerContext<'_>) -> Result<Answer, BadValue> {
    let mut fields = HeaderMap::with_capacity(8);
    context.add_fields(&mut fields)?;
    if let Some(cors) = cors.filter(|cors| context.origin.is_some_and(|o| cors.allow_origin(o).is_some())) {
        fields.insert(header::ACCESS_CONTROL_ALLOW_METHODS, text(&cors.allow_methods)?);
        fields.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, text(&cors.allow_headers)?);
        fields.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(cors.max_age.as_secs()));
    }
    Ok(Answer { fields, ..Answer::empty(StatusCode::NO_CONTENT, "preflight") })
}

/// What the API says of itself as a resource (RFC 9728 section 2).
fn resource_metadata(api: &Api) -> Option<serde_json::Value> {
    let oauth = api.oauth.as_ref()?;
    let scopes: Vec<&str> = api.scopes.iter().map(|(scope, _)| scope.as_str()).collect();
    let others = api.issuers.iter().map(|issuer| &*issuer.issuer);
    let servers: Vec<&str> = std::iter::once(&*oauth.issuer).chain(others).collect();
    Some(serde_json::json!({
        "resource": &*oauth.audience,
        "resource_name": &*oauth.name,
        "authorization_servers": servers,
        "scopes_supported": scopes,
        "bearer_methods_supported": ["header"],
    }))
}

#[cfg(test)]
mod tests {
    use policy::window::Period;

    use super::*;

    #[test]
    fn what_never_comes_again_is_never_indexed() {
        let standing = Standing {
            limit: 1_000,
            remaining: 7,
            window: Period::Minute.window(1_790_000_000_000, 0),
            now_ms: 1_790_000_000_000,
        };
        let context =
            AnswerContext { request_id: "req_1", api: None, origin: None, standing: None, charges: None, since_ms: 0 };
        let (mut fields, mut values) = (HeaderMap::new(), Values::with_capacity(64));
        context.add_fields(&mut fields).unwrap();
        limit_fields(&mut fields, &mut values, LimitHeaders::Both, ("per_key", &standing), &context).unwrap();
        let mut sensitive: Vec<&str> =
            fields.iter().filter(|(_, value)| value.is_sensitive()).map(|(name, _)| name.as_str()).collect();
        sensitive.sort_unstable();
        assert_eq!(sensitive, ["ratelimit", "x-ratelimit-remaining", "x-request-id"]);
        assert!(fields.contains_key(X_LIMIT) && fields.contains_key(LIMIT_POLICY));
    }
}
