//! One request to a backend and its answer, over HTTP/1.1 or HTTP/2, behind one interface.

use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderMap;

use super::connection::BackendConnection;
use super::fault::BackendFault;
use super::http1::Http1;
use super::http2::Http2;
use super::outbound::{Framing, Outbound};
use super::request::BackendRequest;
use crate::base::field_sink::FieldSource;
use crate::base::message::ResponseHead;

/// A backend at the other end of a connection.
pub enum Backend {
    /// A connection of its own.
    Http1(Box<Http1>),
    /// A stream of a shared connection.
    Http2(Box<Http2>),
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

impl Backend {
    /// Longest silence while an answer is waited for.
    pub fn set_patience(&mut self, silence: Duration) {
        match self {
            Backend::Http1(session) => session.silence = silence,
            Backend::Http2(session) => session.silence = silence,
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
            Backend::Http2(session) => {
                let is_whole = matches!(request.framing, Framing::None | Framing::Length(0));
                let stream = session.send_head(request, (is_tls, is_whole))?;
                if is_whole {
                    return Ok(Outbound::none());
                }
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
            Backend::Http2(session) => session.read_head().await,
        }
    }

    /// The head that came last.
    pub fn head(&self) -> Option<ResponseHead<'_>> {
        match self {
            Backend::Http1(session) => session.head(),
            Backend::Http2(session) => session.head(),
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
            Backend::Http2(session) => {
                let Some(data) = session.read_body().await? else { return Ok(None) };
                let is_last = session.is_done()?;
                Ok(Some(Piece { data: Data::Owned(data), is_last }))
            }
        }
    }

    /// Whether the answer is over: `false` while there are trailers to read.
    pub fn is_done(&mut self) -> Result<bool, BackendFault> {
        match self {
            Backend::Http1(session) => Ok(session.is_done()),
            Backend::Http2(session) => session.is_done(),
        }
    }

    /// The trailers, after the body.
    pub async fn read_trailers(&mut self) -> Result<Option<HeaderMap>, BackendFault> {
        match self {
            Backend::Http1(session) => Ok(session.trailers()),
            Backend::Http2(session) => session.read_trailers().await,
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
            Backend::Http2(session) if session.head().is_some() => Again::No,
            Backend::Http2(_) => {
                let BackendFault::Http2(error) = fault else { return Again::No };
                let reason = error.reason();
                if error.is_remote() && reason == Some(h2::Reason::HTTP_1_1_REQUIRED) {
                    Again::OverHttp1
                } else if error.is_remote() && (error.is_go_away() || reason == Some(h2::Reason::REFUSED_STREAM)) {
                    // The library tells of a GOAWAY only those streams that are above its last one.
                    Again::Yes
                } else if error.is_io() {
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
