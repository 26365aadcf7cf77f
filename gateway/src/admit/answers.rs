//! What the gateway answers itself, as values: refusals, preflights, what a caller may know of itself,
//! what an API says of itself. And the fields that every answer carries, whoever wrote its body.

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use policy::cors::Cors;
use policy::file::LimitHeadersFile as LimitHeaders;
use policy::limit::Charges;
use policy::route::Api;

use super::inspect::Inspection;
use crate::base::answer::Answer;
use crate::base::field_names::REQUEST_ID;
use crate::base::field_sink::{BadValue, FieldMap, FieldSink, FieldSource, Indexing, value};
use crate::limit::Standing;

/// How long others may remember what an API says of itself, seconds.
const METADATA_MAX_AGE_S: u64 = 3_600;

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

impl FieldSource for AnswerContext<'_> {
    /// Puts in the request id, limit fields and cross-origin fields.
    fn put_into(&self, sink: &mut impl FieldSink) {
        sink.write(&REQUEST_ID, Indexing::Never, |value| value.extend_from_slice(self.request_id.as_bytes()));
        let Some(api) = self.api else { return };
        if let Some((name, standing)) = self.standing {
            limit_fields(sink, api.limit_headers, (name, &standing), self);
        }
        if let Some(cors) = &api.cors {
            cross_origin_fields(sink, cors, self.origin);
        }
    }
}

/// The fields of limits. The shown limit is the documented one, or the one that was violated; the
/// policies are all there are (draft-ietf-httpapi-ratelimit-headers, section 3).
fn limit_fields(
    sink: &mut impl FieldSink,
    which: LimitHeaders,
    (name, standing): (&str, &Standing),
    context: &AnswerContext<'_>,
) {
    if which != LimitHeaders::Ietf {
        sink.number(&X_LIMIT, Indexing::Usual, standing.limit.into());
        sink.number(&X_REMAINING, Indexing::Never, standing.remaining.into());
        sink.number(&X_RESET, Indexing::Usual, standing.window.reset());
    }
    if which != LimitHeaders::X {
        sink.write(&LIMIT_POLICY, Indexing::Usual, |value| match &context.charges {
            None => limit_policy(value, name, standing.limit, standing.window.seconds()),
            Some(charges) => {
                for (i, charge) in charges.iter().enumerate() {
                    let quota = if **charge.name == *name { standing.limit } else { charge.count };
                    let window = charge.period.window(standing.now_ms, charge.period.phase_ms(charge.bucket));
                    value.extend_from_slice(if i > 0 { b", " } else { b"" });
                    limit_policy(value, charge.name, quota, window.seconds());
                }
            }
        });
        let left = standing.window.seconds_left(standing.now_ms + context.since_ms);
        sink.write(&LIMIT, Indexing::Never, |value| {
            let mut digits = itoa::Buffer::new();
            for part in ["\"", name, "\";r=", digits.format(standing.remaining)] {
                value.extend_from_slice(part.as_bytes());
            }
            value.extend_from_slice(b";t=");
            value.extend_from_slice(itoa::Buffer::new().format(left).as_bytes());
        });
    }
}

/// One policy: `"name";q=quota;w=seconds`.
fn limit_policy(value: &mut Vec<u8>, name: &str, quota: u32, seconds: u64) {
    let mut digits = itoa::Buffer::new();
    for part in ["\"", name, "\";q=", digits.format(quota), ";w="] {
        value.extend_from_slice(part.as_bytes());
    }
    value.extend_from_slice(itoa::Buffer::new().format(seconds).as_bytes());
}

fn cross_origin_fields(sink: &mut impl FieldSink, cors: &Cors, origin: Option<&str>) {
    // Also without Origin: a cache must not give one origin's answer to another.
    sink.put(&header::VARY, b"Origin");
    if let Some(allowed) = origin.and_then(|origin| cors.allow_origin(origin)) {
        sink.put(&header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed.as_bytes());
        sink.put(&header::ACCESS_CONTROL_EXPOSE_HEADERS, cors.expose_headers.as_bytes());
    }
}

/// The fields of an answer as a map.
fn fields_of(context: &AnswerContext<'_>, fields: HeaderMap) -> Result<HeaderMap, BadValue> {
    let mut map = FieldMap::of(fields);
    context.put_into(&mut map);
    map.end()
}

/// What a caller may know of itself.
pub(super) fn inspection(seen: &Inspection, context: &AnswerContext<'_>) -> Answer {
    let body = serde_json::to_vec(seen).unwrap_or_default();
    let mut answer = Answer::json_bytes(StatusCode::OK, "inspection", body);
    match fields_of(context, std::mem::take(&mut answer.fields)) {
        Ok(fields) => Answer { fields, ..answer },
        Err(BadValue) => Answer::internal_error(),
    }
}

/// Who the authorization servers of an API are (RFC 9728); everybody may keep it for a while.
pub(super) fn metadata(api: &Api, if_none_match: Option<&[u8]>) -> Answer {
    let described = resource_metadata(api).unwrap_or_default().to_string();
    Answer::public("application/json", described, METADATA_MAX_AGE_S, if_none_match)
}

/// A preflight, answered from the policy (the Fetch standard, CORS-preflight).
pub(super) fn preflight(cors: Option<&Cors>, context: &AnswerContext<'_>) -> Answer {
    try_preflight(cors, context).unwrap_or_else(|BadValue| Answer::internal_error())
}

fn try_preflight(cors: Option<&Cors>, context: &AnswerContext<'_>) -> Result<Answer, BadValue> {
    let mut fields = fields_of(context, HeaderMap::with_capacity(8))?;
    if let Some(cors) = cors.filter(|cors| context.origin.is_some_and(|o| cors.allow_origin(o).is_some())) {
        fields.insert(header::ACCESS_CONTROL_ALLOW_METHODS, value(&cors.allow_methods)?);
        fields.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, value(&cors.allow_headers)?);
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
        let mut map = FieldMap::default();
        context.put_into(&mut map);
        limit_fields(&mut map, LimitHeaders::Both, ("per_key", &standing), &context);
        let fields = map.end().unwrap();
        let mut sensitive: Vec<&str> =
            fields.iter().filter(|(_, value)| value.is_sensitive()).map(|(name, _)| name.as_str()).collect();
        sensitive.sort_unstable();
        assert_eq!(sensitive, ["ratelimit", "x-ratelimit-remaining", "x-request-id"]);
        assert!(fields.contains_key(X_LIMIT) && fields.contains_key(LIMIT_POLICY));
    }
}
