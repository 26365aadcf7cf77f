//! One request and its answer on a connection to a backend that speaks HTTP/1.1, read by the codec of the
//! crate `http1`.
//!
//! Each read can be cancelled and begun again without losing a byte. A connection is used again only when its
//! answer was whole, its backend goes on, and nothing stands behind the answer: bytes that nobody asked for
//! would be the answer to somebody else's request.

use std::pin::pin;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use http1::Fault;
use http1::body::Decoder;
use http1::framing::{Framing, Persistence, of_response};
use http1::head::{Bounds, ResponseHead, Version as HeadVersion, pairs};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::{Error, ErrorType, OrErr as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::connection::BackendConnection;
use crate::base::clock::within;

/// Bounds of an answer's head.
const HEAD: Bounds = Bounds { bytes: 64 * 1024, fields: 256 };
/// Room for a read at first, in bytes.
const ROOM_MIN: usize = 8 * 1024;
/// Room for a read once the backend fills what it is given.
const ROOM_MAX: usize = 64 * 1024;
/// Room for a request's head: common ones fit.
const REQUEST_BYTES: usize = 1_024;
/// Trailers that are passed on. Others might be taken for fields of the head (RFC 9110 section 6.5.1).
const TRAILERS: [&str; 6] =
    ["grpc-status", "grpc-message", "grpc-status-details-bin", "server-timing", "content-digest", "repr-digest"];

/// One request on one connection.
pub struct Http1 {
    connection: BackendConnection,
    /// Longest silence while an answer is waited for.
    pub silence: Duration,
    /// What was received and is not used up.
    input: BytesMut,
    /// Bytes at the start of `input` that were lent out, and are used up with the next read.
    lent: usize,
    room: usize,
    spans: ResponseHead,
    head: Option<ResponseHeader>,
    is_head_asked: bool,
    body: Decoder,
    persistence: Persistence,
}

impl Http1 {
    /// Begins a request.
    pub fn new(connection: BackendConnection) -> Self {
        connection.begin();
        Http1 {
            connection,
            silence: Duration::MAX,
            input: BytesMut::new(),
            lent: 0,
            room: ROOM_MIN,
            spans: ResponseHead::default(),
            head: None,
            is_head_asked: false,
            body: Decoder::new(Framing::None),
            persistence: Persistence::Close,
        }
    }

    /// The connection.
    pub fn connection(&self) -> &BackendConnection {
        &self.connection
    }

    /// Sends a request's head; `patience` is the longest time for that.
    pub async fn send_head(&mut self, head: &RequestHeader, patience: Duration) -> pingora::Result<()> {
        self.is_head_asked = head.method == Method::HEAD;
        let mut bytes = Vec::with_capacity(REQUEST_BYTES);
        for part in [head.method.as_str().as_bytes(), b" ", head.raw_path(), b" HTTP/1.1\r\n"] {
            bytes.extend_from_slice(part);
        }
        head.header_to_h1_wire(&mut bytes);
        bytes.extend_from_slice(b"\r\n");
        let send = async {
            self.connection.write_all(&bytes).await?;
            self.connection.flush().await
        };
        match within(patience, pin!(send)).await {
            Some(sent) => sent.or_err(ErrorType::WriteError, "sending a head"),
            None => Error::e_explain(ErrorType::WriteTimedout, "the backend takes no head"),
        }
    }

    /// Receives some bytes; 0 at the end of the connection.
    async fn receive(&mut self) -> pingora::Result<usize> {
        self.input.reserve(self.room);
        let read = self.connection.read_buf(&mut self.input);
        let read = match within(self.silence, pin!(read)).await {
            Some(read) => read.or_err(ErrorType::ReadError, "reading an answer")?,
            None => return Error::e_explain(ErrorType::ReadTimedout, "the backend is silent"),
        };
        if read >= self.room {
            self.room = ROOM_MAX;
        }
        Ok(read)
    }

    /// Waits for a head: an informational one, or the final one.
    pub async fn read_head(&mut self) -> pingora::Result<()> {
        let length = loop {
            if let Some(length) = self.spans.read(&mut self.input, HEAD).map_err(malformed)? {
                break length;
            }
            if self.receive().await? == 0 {
                return Error::e_explain(ErrorType::ConnectionClosed, "the connection ended before an answer");
            }
        };
        let (version, status) = (self.spans.version(), self.spans.status());
        let of = of_response((version, status), pairs(self.spans.fields(), &self.input), self.is_head_asked);
        let of = of.map_err(malformed)?;
        let mut head = ResponseHeader::build_no_case(status, Some(self.spans.fields().len()))?;
        head.set_version(match version {
            HeadVersion::Http10 => Version::HTTP_10,
            HeadVersion::Http11 => Version::HTTP_11,
        });
        let reason = self.input.get(self.spans.reason()).and_then(|reason| std::str::from_utf8(reason).ok());
        head.set_reason_phrase(reason)?;
        for (name, value) in pairs(self.spans.fields(), &self.input) {
            let name = HeaderName::from_bytes(name).or_err(ErrorType::InvalidHTTPHeader, "a field of an answer")?;
            if name != CONTENT_LENGTH {
                let value = HeaderValue::from_bytes(value);
                head.append_header(name, value.or_err(ErrorType::InvalidHTTPHeader, "a field of an answer")?)?;
            }
        }
        // One that has one reading, whatever was sent.
        if let Some(length) = of.length {
            head.insert_header(CONTENT_LENGTH, HeaderValue::from(length))?;
        }
        self.input.advance(length);
        (self.head, self.body, self.persistence) = (Some(head), Decoder::new(of.framing), of.persistence);
        Ok(())
    }

    /// The head that came last.
    pub fn head(&self) -> Option<&ResponseHeader> {
        self.head.as_ref()
    }

    /// The next bytes of the body; `None` at its end.
    pub async fn read_body(&mut self) -> pingora::Result<Option<&[u8]>> {
        self.input.advance(std::mem::take(&mut self.lent));
        loop {
            if self.body.is_done() {
                return Ok(None);
            }
            let found = self.body.decode(&self.input).map_err(malformed)?;
            if !found.data.is_empty() {
                self.lent = found.used;
                return Ok(self.input.get(found.data));
            }
            self.input.advance(found.used);
            if !self.body.is_done() && self.receive().await? == 0 {
                let ended = self.body.end_of_input();
                ended.or_err(ErrorType::ConnectionClosed, "the connection ended in an answer")?;
            }
        }
    }

    /// Whether the answer is over; `false` while there are trailers to pass on.
    pub fn is_done(&self) -> bool {
        self.body.is_done() && self.known_trailers().next().is_none()
    }

    /// The trailers that may be passed on, after the body.
    pub fn trailers(&self) -> Option<HeaderMap> {
        let mut fields = HeaderMap::new();
        self.known_trailers().for_each(|(name, value)| {
            fields.append(name, value);
        });
        Some(fields).filter(|fields| !fields.is_empty())
    }

    fn known_trailers(&self) -> impl Iterator<Item = (&'static str, HeaderValue)> {
        self.body.trailers().filter_map(|(name, value)| {
            let known = TRAILERS.into_iter().find(|known| name.eq_ignore_ascii_case(known.as_bytes()))?;
            Some((known, HeaderValue::from_bytes(value).ok()?))
        })
    }

    /// Bytes that came with a 101, and the connection, which is a tunnel from there on.
    pub fn into_tunnel(self) -> (Vec<u8>, BackendConnection) {
        (self.input.to_vec(), self.connection)
    }

    /// The connection, if its backend keeps it.
    pub fn into_kept(self) -> Option<BackendConnection> {
        let is_upgrade = self.head.as_ref().is_none_or(|head| head.status == StatusCode::SWITCHING_PROTOCOLS);
        let has_more = self.input.len() > self.lent;
        let goes_on = self.body.is_done() && self.persistence == Persistence::Persistent;
        (goes_on && !is_upgrade && !has_more).then_some(self.connection)
    }
}

/// An answer that cannot be read is its backend's fault. What was received is not repeated.
fn malformed(fault: Fault) -> Box<Error> {
    Error::because(ErrorType::InvalidHTTPHeader, "an answer cannot be read", fault)
}

/// What an operator should know of a backend's error, without anything that was received.
pub fn kind_of(error: &Error) -> &str {
    error.root_cause().downcast_ref::<Fault>().map_or_else(|| error.etype().as_str(), |fault| fault.as_str())
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    /// What became of an answer: status, body, trailers, whether its connection is kept.
    type Outcome = (u16, Vec<u8>, Option<HeaderMap>, bool);

    fn asked(method: &str) -> (Http1, DuplexStream) {
        let (ours, theirs) = duplex(1 << 16);
        let mut session = Http1::new(BackendConnection::new(Box::new(ours)));
        session.silence = Duration::from_secs(5);
        session.is_head_asked = method == "HEAD";
        (session, theirs)
    }

    async fn outcome(session: &mut Http1) -> pingora::Result<(u16, Vec<u8>, Option<HeaderMap>)> {
        session.read_head().await?;
        while session.head().is_some_and(|head| head.status.is_informational()) {
            session.read_head().await?;
        }
        let mut body = Vec::new();
        while let Some(bytes) = session.read_body().await? {
            body.extend_from_slice(bytes);
        }
        Ok((session.head().unwrap().status.as_u16(), body, session.trailers()))
    }

    /// The answer, which comes in pieces of so many bytes; then the connection ends.
    fn answered(method: &str, answer: &[u8], piece: usize) -> pingora::Result<Outcome> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut session, mut theirs) = asked(method);
            let send = async {
                for bytes in answer.chunks(piece) {
                    theirs.write_all(bytes).await.unwrap();
                    tokio::task::yield_now().await;
                }
                drop(theirs);
            };
            let (_, read) = tokio::join!(send, outcome(&mut session));
            let (status, body, trailers) = read?;
            Ok((status, body, trailers, session.into_kept().is_some()))
        })
    }

    fn of(method: &str, answer: &str) -> pingora::Result<Outcome> {
        let whole = answered(method, answer.as_bytes(), answer.len().max(1));
        let bytes = answered(method, answer.as_bytes(), 1);
        match (&whole, &bytes) {
            (Ok(whole), Ok(bytes)) => assert_eq!((whole.0, &whole.1, &whole.2), (bytes.0, &bytes.1, &bytes.2)),
            (whole, bytes) => assert_eq!(whole.is_err(), bytes.is_err(), "{answer}"),
        }
        whole
    }

    #[test]
    fn an_answer_is_read_and_its_connection_kept_only_if_nothing_stands_behind_it() {
        let body = |answer: &str| {
            let (status, body, _, is_kept) = of("GET", answer).unwrap();
            (status, String::from_utf8(body).unwrap(), is_kept)
        };
        let hello = |is_kept| (200, "hello".to_owned(), is_kept);
        assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"), hello(true));
        assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello, world"), hello(false));
        assert_eq!(body("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"), hello(true));
        assert_eq!(
            body("HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
            hello(false)
        );
        assert_eq!(body("HTTP/1.1 200 OK\r\n\r\nhello"), hello(false));
        assert_eq!(body("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"), hello(false));
        assert_eq!(body("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"), hello(false));
        assert_eq!(
            body("HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
            hello(true)
        );
        assert_eq!(body("HTTP/1.1 204 None\r\nContent-Length: 5\r\n\r\n"), (204, String::new(), true));
        assert_eq!(body("HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n"), (304, String::new(), true));
        let (_, empty, _, is_kept) = of("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").unwrap();
        assert_eq!((empty.len(), is_kept), (0, true));
    }

    #[test]
    fn an_answer_that_is_not_whole_or_not_clear_is_a_fault_of_its_backend() {
        for (answer, kind) in [
            ("", ErrorType::ConnectionClosed),
            ("HTTP/1.1 200 OK\r\n", ErrorType::ConnectionClosed),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", ErrorType::ConnectionClosed),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", ErrorType::ConnectionClosed),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
                ErrorType::InvalidHTTPHeader,
            ),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", ErrorType::InvalidHTTPHeader),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello", ErrorType::InvalidHTTPHeader),
            ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", ErrorType::InvalidHTTPHeader),
            ("SSH-2.0-x\r\n\r\n", ErrorType::InvalidHTTPHeader),
        ] {
            let error = of("GET", answer).unwrap_err();
            assert_eq!(*error.etype(), kind, "{answer:?}");
            assert!(!error.to_string().contains("hell"), "what was received is not repeated: {error}");
        }
    }

    #[test]
    fn equal_lengths_become_one_and_void_ones_none() {
        let length = |answer: &str| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (mut session, mut theirs) = asked("GET");
                theirs.write_all(answer.as_bytes()).await.unwrap();
                session.read_head().await.unwrap();
                let all = session.head().unwrap().headers.get_all(CONTENT_LENGTH);
                all.iter().map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
            })
        };
        assert_eq!(length("HTTP/1.1 200 OK\r\nContent-Length: 05, 5\r\nContent-Length: 5\r\n\r\n"), ["5"]);
        assert_eq!(length("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"), [""; 0]);
        assert_eq!(length("HTTP/1.1 204 None\r\nContent-Length: 5\r\n\r\n"), [""; 0]);
        assert_eq!(length("HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n"), ["5"]);
    }

    #[test]
    fn only_known_trailers_are_passed_on() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n";
        let trailers = |lines: &str| of("GET", &format!("{chunked}{lines}\r\n")).unwrap().2;
        assert_eq!(trailers("Set-Cookie: a=b\r\nAuthorization: x\r\n"), None);
        let known = trailers("Grpc-Status: 0\r\nContent-Length: 7\r\nServer-Timing: db;dur=5\r\n").unwrap();
        assert_eq!(known.len(), 2);
        assert_eq!(
            (&known["grpc-status"], &known["server-timing"]),
            (&"0".parse().unwrap(), &"db;dur=5".parse().unwrap())
        );
    }
}
