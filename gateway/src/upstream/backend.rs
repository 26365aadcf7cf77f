//! One request to a backend and its answer, over HTTP/1.1 or HTTP/2, behind one interface.

use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::v2::client::Http2Session as Http2;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, OrErr as _};

use super::connection::BackendConnection;
use super::http1::Http1;
use super::outbound::{Framing, Outbound};

/// A backend at the other end of a connection.
pub enum Backend {
    /// A connection of its own.
    Http1(Box<Http1>),
    /// A stream of a shared connection, and whose connection that is.
    Http2(Box<Http2>, Box<HttpPeer>),
}

/// Bytes of an answer's body.
pub enum Piece<'b> {
    /// In the backend's buffer.
    Lent(&'b [u8]),
    /// Ours.
    Owned(Bytes),
}

impl Piece<'_> {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Piece::Lent(bytes) => bytes,
            Piece::Owned(bytes) => bytes,
        }
    }

    /// The bytes, to keep.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Piece::Lent(bytes) => Bytes::copy_from_slice(bytes),
            Piece::Owned(bytes) => bytes,
        }
    }
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
    /// Begins a request on a connection that speaks HTTP/1.1.
    pub fn http1(connection: BackendConnection) -> Self {
        Backend::Http1(Box::new(Http1::new(connection)))
    }

    /// Longest silence while an answer is waited for.
    pub fn set_patience(&mut self, silence: Duration) {
        match self {
            Backend::Http1(session) => session.silence = silence,
            Backend::Http2(session, _) => session.read_timeout = Some(silence),
        }
    }

    /// Sends a head; gives what takes the body. `patience` is the longest time without progress.
    pub async fn send_head(
        &mut self,
        head: RequestHeader,
        framing: Framing,
        (is_tls, patience): (bool, Duration),
    ) -> pingora::Result<Outbound> {
        match self {
            Backend::Http1(session) => {
                session.send_head(&head, patience).await?;
                Ok(Outbound::http1(session.connection().clone(), framing, patience))
            }
            Backend::Http2(session, _) => {
                let is_whole = matches!(framing, Framing::None | Framing::Length(0));
                session.write_request_header(Box::new(over_http2(head, is_tls)?), is_whole)?;
                match session.take_request_body_writer().filter(|_| !is_whole) {
                    Some(stream) => Ok(Outbound::http2(stream, patience)),
                    None => Ok(Outbound::none()),
                }
            }
        }
    }

    /// Waits for a head: an informational one, or the final one.
    pub async fn read_head(&mut self) -> pingora::Result<()> {
        match self {
            Backend::Http1(session) => session.read_head().await,
            Backend::Http2(session, _) => session.read_response_header().await,
        }
    }

    /// The head that came last.
    pub fn head(&self) -> Option<&ResponseHeader> {
        match self {
            Backend::Http1(session) => session.head(),
            Backend::Http2(session, _) => session.response_header(),
        }
    }

    /// Whether another head follows the one that came last.
    pub fn is_informational(&self) -> bool {
        self.head().is_some_and(|head| head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS)
    }

    /// The next bytes of the body; `None` at its end.
    pub async fn read_body(&mut self) -> pingora::Result<Option<Piece<'_>>> {
        match self {
            Backend::Http1(session) => Ok(session.read_body().await?.map(Piece::Lent)),
            Backend::Http2(session, _) => Ok(session.read_response_body().await?.map(Piece::Owned)),
        }
    }

    /// Whether the answer is over: `false` while there are trailers to read.
    pub fn is_done(&mut self) -> pingora::Result<bool> {
        match self {
            Backend::Http1(session) => Ok(session.is_done()),
            Backend::Http2(session, _) => session.check_response_end_or_error(),
        }
    }

    /// The trailers, after the body.
    pub async fn read_trailers(&mut self) -> pingora::Result<Option<HeaderMap>> {
        match self {
            Backend::Http1(session) => Ok(session.trailers()),
            Backend::Http2(session, _) => session.read_trailers().await,
        }
    }

    /// Whether a request that failed so may be tried again.
    pub fn again(&self, error: &Error) -> Again {
        let is_closed =
            matches!(error.etype(), ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError);
        match self {
            Backend::Http1(session) if is_closed && session.connection().received() == 0 => Again::IfIdempotent,
            Backend::Http1(..) => Again::No,
            Backend::Http2(session, _) if session.response_header().is_some() => Again::No,
            Backend::Http2(..) => {
                let Some(cause) = error.root_cause().downcast_ref::<h2::Error>() else { return Again::No };
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

    /// The connection, if its backend keeps it, and for how long at most.
    pub(super) fn release(session: Box<Http1>) -> Option<(BackendConnection, Option<Duration>)> {
        let most = session.head().and_then(|head| keep_alive_timeout(&head.headers));
        session.into_kept().map(|connection| (connection, most))
    }
}

/// The parameter `timeout` of `Keep-Alive` (RFC 2068 section 19.7.1), which many backends send.
fn keep_alive_timeout(fields: &HeaderMap) -> Option<Duration> {
    let values = fields.get_all("keep-alive").into_iter().filter_map(|value| value.to_str().ok());
    let timeout = values.flat_map(|value| value.split(',')).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("timeout").then(|| value.trim().trim_matches('"').parse().ok())?
    });
    timeout.map(Duration::from_secs)
}

/// Turns a head for HTTP/1.1 into one for HTTP/2: the host becomes the authority (RFC 9113 section
/// 8.3.1).
fn over_http2(mut head: RequestHeader, is_tls: bool) -> pingora::Result<RequestHeader> {
    let host = head.remove_header(&HOST);
    let host = host.ok_or_else(|| Error::explain(ErrorType::InternalError, "a request without a host"))?;
    let target = std::str::from_utf8(head.raw_path()).or_err(ErrorType::InternalError, "a target is text")?;
    let scheme = if is_tls { "https" } else { "http" };
    let uri = http::Uri::builder().scheme(scheme).authority(host.as_bytes()).path_and_query(target).build();
    head.set_uri(uri.or_err(ErrorType::InternalError, "a host and a target make an address")?);
    head.set_version(Version::HTTP_2);
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_says_how_long_it_keeps_a_connection() {
        let timeout = |value: &str| {
            let mut fields = HeaderMap::new();
            fields.insert("keep-alive", value.parse().unwrap());
            keep_alive_timeout(&fields).map(|timeout| timeout.as_secs())
        };
        assert_eq!(timeout("timeout=5"), Some(5));
        assert_eq!(timeout("max=100, Timeout = 0"), Some(0));
        assert_eq!(timeout("timeout=\"7\""), Some(7));
        assert_eq!(timeout("max=1"), None);
        assert_eq!(timeout("timeout=x"), None);
    }
}
