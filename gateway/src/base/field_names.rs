//! Names of fields that we write or look for, parsed once.

use http::header::HeaderName;

/// Id of the key, told to the upstream.
pub const KEY_ID: HeaderName = HeaderName::from_static("x-tollgate-key-id");
/// Id of the organization.
pub const ORG: HeaderName = HeaderName::from_static("x-tollgate-org");
/// Id of the user who granted a token.
pub const USER: HeaderName = HeaderName::from_static("x-tollgate-user");
/// Scopes in force, with spaces between them.
pub const SCOPES: HeaderName = HeaderName::from_static("x-tollgate-scopes");
/// `live` or `test`.
pub const ENV: HeaderName = HeaderName::from_static("x-tollgate-env");
/// Id of the request, to the upstream and to the client.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The caller's address.
pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `https` or `http`.
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The host as the client named it.
pub const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Fields of a connection, which have no place in a message over HTTP/2 (RFC 9113 section 8.2.2).
pub const OF_CONNECTION: [&str; 5] = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

/// Trailers that are passed on over HTTP/1.1. Others might be taken for fields of the head (RFC 9110 section 6.5.1).
pub const TRAILERS: [&str; 6] =
    ["grpc-status", "grpc-message", "grpc-status-details-bin", "server-timing", "content-digest", "repr-digest"];
