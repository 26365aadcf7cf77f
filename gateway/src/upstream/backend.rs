//! One request to a backend and its answer, over HTTP/1.1 or HTTP/2, behind one interface.

use std::time::Duration;

use bytes::Bytes;
use http::Version;
use http::header::{CONTENT_LENGTH, HeaderMap};
use pingora::protocols::http::v2::client::Http2Session as Http2;
use pingora::upstreams::peer::HttpPeer;
use pingora_http::RequestHeader;

use super::connection::BackendConnection;
use super::fault::BackendFault;
use super::http1::Http1;
use super::outbound::{Framing, Outbound};
use super::request::BackendRequest;
use crate::base::field_sink::{BadValue, FieldMap, FieldSource};
use crate::base::message::{Fields, ResponseHead};

/// A backend at the other end of a connection.
pub enum Backend {
    /// A connection of its own.
    Http1(Box<Http1>),
    /// A stream of a shared connection, and whose connection that is.
    Http2(Box<Http2>, Box<HttpPeer>),
}

/// Bytes of an answer's body.
#[derive(Debug)]
pub struct Piece<'b> {
    /// The bytes.
    pub data: Data<'b>,
    /// Whether the answer ends with them.
    pub is_last: bool,
}

/// Where the bytes of a piece stand.
#[derive(Debug)]
pub enum Data<'b> {
    /// In the backend's buffer.
    Lent(&'b [u8]),
    /// Ours.
    Owned(Bytes),
}

/// Whether a request that failed may be tried on another connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// It may have been executed.
    No,
    /// The connection was closed before any byte of an answer came: it may have been executed, and
    /// doing that twice must do no harm (RFC 9110 section 9.2.2).
    IfIdempotent,
    /// The backend says that it was not processed (RFC 9113 sections 6.8 and 8.7).
    Yes,
    /// The same, and the backend wants HTTP/1.1 for it (RFC 9113 section 7, `HTTP_1_1_REQUIRED`).
    OverHttp1,
}

/// Most fields that are added to those of a client.
const OURS_MAX: usize = 12;

impl Backend {
    /// Longest silence while an answer is waited for.
    pub fn set_patience(&mut self, silence: Duration) {
        match self {
            Backend::Http1(session) => session.silence = silence,
            Backend::Http2(session, _) => session.read_timeout = Some(silence),
        }
    }

    /// Whether HTTP/2 is spoken.
    pub fn is_http2(&self) -> bool {
        matches!(self, Backend::Http2(..))
    }

    /// Sends a head, and with it the whole body if that is here; gives what takes the rest. `patience` is the
    /// longest time without progress.
    pub async fn send_head(
        &mut self,
        request: &BackendRequest<'_, impl FieldSource>,
        body: Option<&Bytes>,
        (is_tls, patience): (bool, Duration),
    ) -> Result<Outbound, BackendFault> {
        match self {
            Backend::Http1(session) => {
                session.send_head(request, body.map_or(&b""[..], |body| body), patience).await?;
                match body {
                    Some(_) => Ok(Outbound::none()),
                    None => Ok(Outbound::http1(session.connection(), request.framing, patience)),
                }
            }
            Backend::Http2(session, _) => {
                let is_whole = matches!(request.framing, Framing::None | Framing::Length(0));
                let head = over_http2(request, is_tls)?;
                session.write_request_header(Box::new(head), is_whole).map_err(BackendFault::Http2)?;
                let Some(stream) = session.take_request_body_writer().filter(|_| !is_whole) else {
                    return Ok(Outbound::none());
                };
                let mut outbound = Outbound::http2(stream, patience);
                if let Some(body) = body {
                    let sent = outbound.push(body.clone()).and_then(|()| outbound.finish());
                    sent.map_err(|_| BackendFault::Nonsense("a body of another length"))?;
                }
                Ok(outbound)
            }
        }
    }

    /// Waits for a head: an informational one, or the final one.
    pub async fn read_head(&mut self) -> Result<(), BackendFault> {
        match self {
            Backend::Http1(session) => session.read_head().await,
            Backend::Http2(session, _) => session.read_response_header().await.map_err(BackendFault::Http2),
        }
    }

    /// The head that came last.
    pub fn head(&self) -> Option<ResponseHead<'_>> {
        match self {
            Backend::Http1(session) => session.head(),
            Backend::Http2(session, _) => session.response_header().map(|head| ResponseHead {
                status: head.status.as_u16(),
                reason: b"",
                length: head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok()),
                fields: Fields::Map(&head.headers),
            }),
        }
    }

    /// Whether another head follows the one that came last.
    pub fn is_informational(&self) -> bool {
        self.head().is_some_and(|head| head.is_informational())
    }

    /// Whether something of the answer is here without waiting.
    pub fn has_more(&self) -> bool {
        match self {
            Backend::Http1(session) => session.has_more(),
            Backend::Http2(..) => false,
        }
    }

    /// The next bytes of the body; `None` at its end.
    pub async fn read_body(&mut self) -> Result<Option<Piece<'_>>, BackendFault> {
        match self {
            Backend::Http1(session) => {
                let piece = session.read_body().await?;
                Ok(piece.map(|(data, is_last)| Piece { data: Data::Lent(data), is_last }))
            }
            Backend::Http2(session, _) => {
                let Some(data) = session.read_response_body().await.map_err(BackendFault::Http2)? else {
                    return Ok(None);
                };
                let is_last = session.check_response_end_or_error().map_err(BackendFault::Http2)?;
                Ok(Some(Piece { data: Data::Owned(data), is_last }))
            }
        }
    }

    /// Whether the answer is over: `false` while there are trailers to read.
    pub fn is_done(&mut self) -> Result<bool, BackendFault> {
        match self {
            Backend::Http1(session) => Ok(session.is_done()),
            Backend::Http2(session, _) => session.check_response_end_or_error().map_err(BackendFault::Http2),
        }
    }

    /// The trailers, after the body.
    pub async fn read_trailers(&mut self) -> Result<Option<HeaderMap>, BackendFault> {
        match self {
            Backend::Http1(session) => Ok(session.trailers()),
            Backend::Http2(session, _) => session.read_trailers().await.map_err(BackendFault::Http2),
        }
    }

    /// Whether a request that failed so may be tried again.
    pub fn again(&self, fault: &BackendFault) -> Again {
        match self {
            Backend::Http1(session) => match fault {
                BackendFault::Closed if session.connection().received() == 0 => Again::IfIdempotent,
                BackendFault::Closed
                | BackendFault::Connect(_)
                | BackendFault::Silent
                | BackendFault::TakesNothing
                | BackendFault::Malformed(_)
                | BackendFault::Nonsense(_)
                | BackendFault::Http2(_)
                | BackendFault::Ours(_) => Again::No,
            },
            Backend::Http2(session, _) if session.response_header().is_some() => Again::No,
            Backend::Http2(..) => {
                let Some(cause) = fault.http2() else { return Again::No };
                let reason = cause.reason();
                if cause.is_remote() && reason == Some(h2::Reason::HTTP_1_1_REQUIRED) {
                    Again::OverHttp1
                } else if cause.is_remote() && (cause.is_go_away() || reason == Some(h2::Reason::REFUSED_STREAM)) {
                    // The library tells of a GOAWAY only those streams that are above its last one.
                    Again::Yes
                } else if cause.is_io() {
                    Again::IfIdempotent
                } else {
                    Again::No
                }
            }
        }
    }

    /// Bytes that a backend sent with its 101, and the connection, which is a tunnel from there on.
    pub fn into_tunnel(self) -> Option<(Vec<u8>, BackendConnection)> {
        match self {
            Backend::Http1(session) => Some(session.into_tunnel()),
            Backend::Http2(..) => None,
        }
    }
}

/// A request as a head of HTTP/2: the host is the authority (RFC 9113 section 8.3.1).
fn over_http2(request: &BackendRequest<'_, impl FieldSource>, is_tls: bool) -> Result<RequestHeader, BackendFault> {
    let mut fields = FieldMap::with_capacity(OURS_MAX);
    request.fields.put_into(&mut fields);
    request.put_framing(&mut fields);
    let scheme = if is_tls { "https" } else { "http" };
    let uri = http::Uri::builder().scheme(scheme).authority(request.host).path_and_query(request.target).build();
    let head = http::Request::builder().method(request.method).uri(uri.map_err(|_| BadValue)?).version(Version::HTTP_2);
    let (mut parts, ()) = head.body(()).map_err(|_| BadValue)?.into_parts();
    parts.headers = fields.end()?;
    Ok(RequestHeader::from(parts))
}
