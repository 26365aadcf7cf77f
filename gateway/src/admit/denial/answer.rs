//! A denial on its way to its caller. Its fields are written where they are sent from: no map and no text stands in
//! between.

use bytes::Bytes;
use http::HeaderName;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use policy::Scopes;
use policy::route::Api;

use super::Denial;
use crate::admit::answers::AnswerContext;
use crate::base::field_sink::{FieldSink, FieldSource, Indexing};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// A denial, to one request.
#[derive(Clone, Copy, Debug)]
pub struct DenialAnswer<'a> {
    denial: &'a Denial,
    context: AnswerContext<'a>,
    is_grpc: bool,
}

impl<'a> DenialAnswer<'a> {
    /// Of a request of which this is known. A gRPC client gets its own form.
    pub fn new(denial: &'a Denial, context: AnswerContext<'a>, is_grpc: bool) -> Self {
        DenialAnswer { denial, context, is_grpc }
    }

    /// Whether the fields are all of it: to gRPC clients (gRPC over HTTP/2, Trailers-Only).
    pub fn is_trailers_only(&self) -> bool {
        self.is_grpc
    }

    /// The status on the wire.
    pub fn status(&self) -> u16 {
        if self.is_grpc { 200 } else { self.denial.status() }
    }

    /// The body.
    pub fn body(&self) -> Bytes {
        if self.is_grpc { Bytes::new() } else { self.denial.problem(self.context.request_id).into() }
    }
}

impl FieldSource for DenialAnswer<'_> {
    fn put_into(&self, sink: &mut impl FieldSink) {
        sink.put(&CACHE_CONTROL, b"no-store");
        if let Some(challenge) = self.denial.challenge(self.context.api) {
            sink.write(&WWW_AUTHENTICATE, Indexing::Usual, |value| challenge.put_into(value));
        }
        if let Denial::MethodNotAllowed { allow } = self.denial {
            sink.put(&ALLOW, allow.as_bytes());
        }
        if let Some(seconds) = self.denial.retry_after_s() {
            sink.number(&RETRY_AFTER, Indexing::Usual, seconds);
        }
        self.context.put_into(sink);
        if self.is_grpc {
            sink.put(&CONTENT_TYPE, b"application/grpc");
            sink.number(&GRPC_STATUS, Indexing::Usual, self.denial.grpc_status().into());
            sink.put(&GRPC_MESSAGE, self.denial.code().as_bytes());
        } else {
            sink.put(&CONTENT_TYPE, b"application/problem+json");
        }
    }
}

/// The challenge of `WWW-Authenticate` (RFC 6750 section 3).
#[derive(Clone, Debug)]
pub(super) struct Challenge<'a> {
    realm: &'a str,
    error: Option<&'static str>,
    scope: Option<&'a Scopes>,
    /// Where to learn of the API's authorization server (RFC 9728 section 5.1).
    metadata: Option<&'a str>,
}

impl Challenge<'_> {
    fn put_into(&self, value: &mut Vec<u8>) {
        let mut parameter = |before: &[u8], text: &str| {
            value.extend_from_slice(before);
            value.extend_from_slice(text.as_bytes());
            value.push(b'"');
        };
        parameter(b"Bearer realm=\"", self.realm);
        if let Some(error) = self.error {
            parameter(b", error=\"", error);
        }
        if let Some(scope) = self.scope {
            parameter(b", scope=\"", &scope.to_string());
        }
        if let Some(metadata) = self.metadata {
            parameter(b", resource_metadata=\"", metadata);
        }
    }
}

impl Denial {
    /// The challenge, where there is one. Of an API with an authorization server, it says where to learn of that.
    pub(super) fn challenge<'a>(&'a self, api: Option<&'a Api>) -> Option<Challenge<'a>> {
        let realm = api.map_or("Tollgate", |api| &api.realm);
        let metadata = api.and_then(|api| api.oauth.as_ref()).map(|oauth| &*oauth.resource_metadata);
        let error = match self {
            Denial::MissingCredential => return Some(Challenge { realm, error: None, scope: None, metadata }),
            Denial::InvalidCredential | Denial::DeadCredential(_) => "invalid_token",
            Denial::UnreadableCredential(_) => "invalid_request",
            Denial::InsufficientScope { required } => {
                let error = Some("insufficient_scope");
                return Some(Challenge { realm, error, scope: Some(required), metadata: None });
            }
            Denial::PublicKeyNotAccepted => "insufficient_scope",
            Denial::Head(_)
            | Denial::AliasedField
            | Denial::Target(_)
            | Denial::PathForm
            | Denial::BrokenBody
            | Denial::NotOnRecord
            | Denial::HttpsRequired
            | Denial::AddressNotAllowed
            | Denial::OriginNotAllowed
            | Denial::ServerOnlyKey
            | Denial::NoSuchRoute
            | Denial::MethodNotAllowed { .. }
            | Denial::BodyTooLarge
            | Denial::LimitExceeded { .. }
            | Denial::TooManyFailures { .. }
            | Denial::TemporarilyUnavailable
            | Denial::LimitsUnavailable
            | Denial::UpstreamUnreachable
            | Denial::UpstreamTimeout
            | Denial::NotPermitted => return None,
        };
        Some(Challenge { realm, error: Some(error), scope: None, metadata })
    }

    /// The text of its challenge.
    #[cfg(test)]
    pub(super) fn challenge_text(&self, api: Option<&Api>) -> Option<String> {
        let mut value = Vec::new();
        self.challenge(api)?.put_into(&mut value);
        String::from_utf8(value).ok()
    }
}
