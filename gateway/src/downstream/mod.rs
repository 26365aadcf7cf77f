//! Clients' messages, over HTTP/1.1 and HTTP/2, behind one interface.
//!
//! A [`Session`] carries one request and its answer at a time. What always holds: an answer begins once; what was
//! read of a request is counted once; each wait for a client has a bound; a connection carries another request only
//! when both messages on it were whole. Nothing here judges a request.

pub mod http1;
pub mod http2;
mod output;
mod rate;

use std::net::{IpAddr, Ipv4Addr};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use pingora::protocols::Stream;

pub use self::http1::Http1;
pub use self::http2::Http2;
use crate::base::field_sink::{BadValue, FieldSource};
use crate::base::message::{RequestHead, Version, is_informational};

/// Longest wait for a client to take what we send it.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client that is cut off has to take its leave.
const LEAVE: Duration = Duration::from_secs(1);

/// Deadlines of a client.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// Longest time for a head, first byte to last.
    pub head: Duration,
    /// Longest time between two requests.
    pub idle: Duration,
    /// Slowest body, in bytes per second.
    pub body_rate: u32,
}

/// What a client did so that its exchange cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientFault {
    /// It is gone.
    #[error("the client is gone")]
    Gone,
    /// It takes nothing more of its answer.
    #[error("the client takes no more")]
    TakesNothing,
    /// Its connection ended or broke in the middle of its body.
    #[error("the client's body was not whole")]
    BodyCut,
    /// Its body comes too slowly.
    #[error("the client's body comes too slowly")]
    BodySlow,
    /// Its body cannot be read.
    #[error("the client's body is malformed")]
    BodyMalformed,
}

/// How the body of an answer is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delimited {
    /// There is none.
    NoBody,
    /// By a length, which is among the fields.
    Length,
    /// By itself: in chunks over HTTP/1.1.
    Itself,
    /// By the end of the connection: to a client over HTTP/1.0, which does not understand chunks (RFC 9112 section
    /// 7).
    Close,
    /// It is the bytes of a WebSocket.
    Tunnel,
}

/// The head of an answer.
#[derive(Clone, Copy, Debug)]
pub struct AnswerHead<'a, F> {
    /// 100 to 999.
    pub status: u16,
    /// Its reason; where it is empty, the usual one of the status.
    pub reason: &'a [u8],
    /// Its fields, without those of the connection.
    pub fields: &'a F,
    /// How its body is delimited.
    pub delimited: Delimited,
    /// Now, Unix milliseconds.
    pub now_ms: u64,
}

impl<F> AnswerHead<'_, F> {
    /// Whether another head follows.
    fn is_informational(&self) -> bool {
        is_informational(self.status)
    }
}

/// Why a head could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// A field of ours is none.
    #[error(transparent)]
    BadValue(#[from] BadValue),
    /// The client is gone.
    #[error(transparent)]
    Client(#[from] ClientFault),
}

/// One request and its answer at a time.
pub enum Session {
    /// A connection.
    Http1(Box<Http1>),
    /// A stream of a connection.
    Http2(Box<Http2>),
}

impl Session {
    /// The request's head.
    pub fn head(&self) -> RequestHead<'_> {
        match self {
            Session::Http1(session) => session.head(),
            Session::Http2(session) => session.head(),
        }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> IpAddr {
        match self {
            Session::Http1(session) => session.peer(),
            Session::Http2(session) => session.peer(),
        }
    }

    /// Whether messages are framed by HTTP/2.
    pub fn is_http2(&self) -> bool {
        matches!(self, Session::Http2(_))
    }

    /// Whether the client waits for a 100 before it sends its body, and has not got one. Of HTTP/1.0 that means
    /// nothing (RFC 9110 section 10.1.1).
    pub fn expects_continue(&self) -> bool {
        let was_told = match self {
            Session::Http1(session) => session.was_told(),
            Session::Http2(session) => session.was_told(),
        };
        let head = self.head();
        !was_told && head.version >= Version::Http11 && head.fields.has("expect")
    }

    /// The length of the request's body, if it is said; the head was checked.
    pub fn content_length(&self) -> Option<u64> {
        match self {
            Session::Http1(session) => session.content_length(),
            Session::Http2(session) => session.content_length(),
        }
    }

    /// Whether the request has no body at all.
    pub fn is_body_empty(&self) -> bool {
        match self {
            Session::Http1(session) => session.is_body_empty(),
            Session::Http2(session) => session.is_body_empty(),
        }
    }

    /// Whether all of the request's body was read.
    pub fn is_body_read(&self) -> bool {
        match self {
            Session::Http1(session) => session.is_body_read(),
            Session::Http2(session) => session.is_body_read(),
        }
    }

    /// The next piece of the body; `None` at its end. Can be dropped and asked again.
    pub async fn read_body(&mut self) -> Result<Option<Bytes>, ClientFault> {
        match self {
            Session::Http1(session) => session.read_body().await,
            Session::Http2(session) => session.read_body().await,
        }
    }

    /// The body of the request may pause as long as it likes, where HTTP/2 carries it: a call that streams.
    pub fn may_pause(&mut self) {
        match self {
            Session::Http1(_) => {}
            Session::Http2(session) => session.may_pause(),
        }
    }

    /// Waits until the client leaves. A client over HTTP/1.1 cannot be watched while there is more of its body on
    /// its connection.
    pub async fn left(&mut self) -> ClientFault {
        match self {
            Session::Http1(session) => session.left().await,
            Session::Http2(session) => session.left().await,
        }
    }

    /// The connection carries no other request.
    pub fn close_after(&mut self) {
        match self {
            Session::Http1(session) => session.close_after(),
            Session::Http2(_) => {}
        }
    }

    /// Tells the client to send its body (RFC 9110 section 15.2.1).
    pub async fn write_continue(&mut self) -> Result<(), ClientFault> {
        match self {
            Session::Http1(session) => session.write_continue().await,
            Session::Http2(session) => session.write_continue(),
        }
    }

    /// Writes a head. What is small waits for what follows it: see [`Session::flush`]. `is_whole` when nothing
    /// follows.
    pub fn write_head(&mut self, head: &AnswerHead<'_, impl FieldSource>, is_whole: bool) -> Result<(), HeadError> {
        match self {
            Session::Http1(session) => Ok(session.write_head(head)?),
            Session::Http2(session) => session.write_head(head, is_whole),
        }
    }

    /// Sends bytes of the body, and all that waits; `is_last` when nothing follows.
    pub async fn write_body(&mut self, data: &[u8], is_last: bool) -> Result<(), ClientFault> {
        match self {
            Session::Http1(session) => session.write_body(data, is_last).await,
            Session::Http2(session) => session.write_body(Bytes::copy_from_slice(data), is_last).await,
        }
    }

    /// The same with bytes that are to be had for nothing.
    pub async fn write_bytes(&mut self, data: Bytes, is_last: bool) -> Result<(), ClientFault> {
        match self {
            Session::Http1(session) => session.write_body(&data, is_last).await,
            Session::Http2(session) => session.write_body(data, is_last).await,
        }
    }

    /// Puts bytes of the body behind what waits, without waiting itself; `is_last` when nothing follows.
    pub fn put_body(&mut self, data: Bytes, is_last: bool) -> Result<(), ClientFault> {
        match self {
            Session::Http1(session) => {
                session.put_body(&data, is_last);
                Ok(())
            }
            Session::Http2(session) => session.put_body(data, is_last),
        }
    }

    /// Ends the answer with trailers, which wait to be sent. Over HTTP/1.1 only known ones are sent, to clients that
    /// say that they want them.
    pub fn put_trailers(&mut self, trailers: http::HeaderMap) -> Result<(), ClientFault> {
        match self {
            Session::Http1(session) => {
                session.put_trailers(&trailers);
                Ok(())
            }
            Session::Http2(session) => session.put_trailers(trailers),
        }
    }

    /// Whether the client has not taken all that it was sent.
    pub fn is_busy(&self) -> bool {
        match self {
            Session::Http1(session) => session.is_busy(),
            Session::Http2(session) => session.is_busy(),
        }
    }

    /// Ready when the client has taken all that waits. What comes from it can be read meanwhile.
    pub fn poll_taken(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientFault>> {
        match self {
            Session::Http1(session) => session.poll_taken(cx),
            Session::Http2(session) => session.poll_taken(cx),
        }
    }

    /// Sends all that waits.
    pub async fn flush(&mut self) -> Result<(), ClientFault> {
        match self {
            Session::Http1(session) => session.flush().await,
            Session::Http2(session) => session.flush().await,
        }
    }

    /// Whether a final answer has begun.
    pub fn has_begun(&self) -> bool {
        match self {
            Session::Http1(session) => session.has_begun(),
            Session::Http2(session) => session.has_begun(),
        }
    }

    /// Bytes of the request's body that were read, and of the answer's that were written.
    pub fn body_bytes(&self) -> (usize, usize) {
        match self {
            Session::Http1(session) => session.body_bytes(),
            Session::Http2(session) => session.body_bytes(),
        }
    }

    /// Cuts the client off, which may take no leave: what it has not taken is not waited for. An answer that stops
    /// must not look like one that ends.
    pub async fn cut(&mut self) {
        match self {
            Session::Http1(session) => session.cut().await,
            Session::Http2(session) => session.cut(),
        }
    }
}

/// Who is at the other end of a connection.
pub fn peer_address(stream: &Stream) -> IpAddr {
    let digest = stream.get_socket_digest();
    let inet = digest.and_then(|digest| digest.peer_addr().and_then(|address| address.as_inet().map(|inet| inet.ip())));
    inet.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).to_canonical()
}
