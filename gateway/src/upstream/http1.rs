//! Requests and their answers on a connection to a backend that speaks HTTP/1.1, read by the codec of the
//! crate `http1`.
//!
//! Each read can be cancelled and begun again without losing a byte. A connection is used again only when its
//! answer was whole, its backend goes on, and nothing stands behind the answer: bytes that nobody asked for
//! would be the answer to somebody else's request. Its buffers and its timer live as long as it does.

use std::pin::pin;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use http::{HeaderMap, HeaderValue};
use http1::body::Decoder;
use http1::framing::{Framing as Delimited, Persistence, of_response};
use http1::head::{Bounds, ResponseHead as Spans, pairs};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::connection::BackendConnection;
use super::fault::BackendFault;
use super::outbound::Framing;
use super::request::{BackendRequest, Upgrade};
use crate::base::field_names::TRAILERS;
use crate::base::field_sink::{FieldLines, FieldSink as _, FieldSource};
use crate::base::message::{Fields, ResponseHead};
use crate::base::timer::Timer;

/// Bounds of an answer's head.
const HEAD: Bounds = Bounds { bytes: 64 * 1024, fields: 256 };
/// Room for a read at first, in bytes.
const ROOM_MIN: usize = 8 * 1024;
/// Room for a read once the backend fills what it is given.
const ROOM_MAX: usize = 64 * 1024;
/// Most room that a connection keeps while it waits for a request.
const KEPT_ROOM_MAX: usize = 2 * ROOM_MIN;

/// A connection, with one request at a time.
#[derive(Debug)]
pub struct Http1 {
    connection: BackendConnection,
    /// Longest silence while an answer is waited for.
    pub silence: Duration,
    timer: Timer,
    /// What was received and is not used up.
    input: BytesMut,
    /// Bytes at the start of `input` that were lent out, and are used up with the next read.
    lent: usize,
    room: usize,
    spans: Spans,
    /// The bytes of the head that came last; none before the first.
    head: Vec<u8>,
    length: Option<u64>,
    is_head_asked: bool,
    body: Decoder,
    persistence: Persistence,
    /// What is sent.
    output: Vec<u8>,
}

impl Http1 {
    /// On a new connection.
    pub fn new(connection: BackendConnection) -> Self {
        Http1 {
            connection,
            silence: Duration::MAX,
            timer: Timer::default(),
            input: BytesMut::new(),
            lent: 0,
            room: ROOM_MIN,
            spans: Spans::default(),
            head: Vec::new(),
            length: None,
            is_head_asked: false,
            body: Decoder::new(Delimited::None),
            persistence: Persistence::Close,
            output: Vec::new(),
        }
    }

    /// The connection.
    pub fn connection(&self) -> &BackendConnection {
        &self.connection
    }

    /// The connection, to be looked at while it waits.
    pub(super) fn connection_mut(&mut self) -> &mut BackendConnection {
        &mut self.connection
    }

    /// Sends a request's head, and its body if that is here; `patience` is the longest time for that.
    pub async fn send_head(
        &mut self,
        request: &BackendRequest<'_, impl FieldSource>,
        body: &[u8],
        patience: Duration,
    ) -> Result<(), BackendFault> {
        self.connection.begin();
        self.head.clear();
        self.is_head_asked = request.method == "HEAD";
        self.output.clear();
        for part in [request.method.as_bytes(), b" ", request.target.as_bytes(), b" HTTP/1.1\r\n"] {
            self.output.extend_from_slice(part);
        }
        let mut lines = FieldLines::new(&mut self.output);
        lines.pass(b"host", request.host);
        request.fields.put_into(&mut lines);
        request.put_framing(&mut lines);
        match request.framing {
            Framing::Unknown => lines.pass(b"transfer-encoding", b"chunked"),
            Framing::None | Framing::Length(_) => {}
        }
        if let Upgrade::Keyed(key) = request.upgrade {
            lines.pass(b"sec-websocket-key", key.as_bytes());
        }
        if request.upgrade != Upgrade::None {
            lines.pass(b"connection", b"upgrade");
            lines.pass(b"upgrade", b"websocket");
        }
        lines.end()?;
        self.output.extend_from_slice(body);
        let (connection, output) = (&mut self.connection, &self.output);
        let send = async {
            connection.write_all(output).await?;
            connection.flush().await
        };
        match self.timer.within(patience, pin!(send)).await {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) => Err(BackendFault::Closed),
            None => Err(BackendFault::TakesNothing),
        }
    }

    /// Receives some bytes; 0 at the end of the connection.
    async fn receive(&mut self) -> Result<usize, BackendFault> {
        self.input.reserve(self.room);
        let read = self.connection.read_buf(&mut self.input);
        let read = match self.timer.within(self.silence, pin!(read)).await {
            Some(read) => read.map_err(|_| BackendFault::Closed)?,
            None => return Err(BackendFault::Silent),
        };
        if read >= self.room {
            self.room = ROOM_MAX;
        }
        Ok(read)
    }

    /// Waits for a head: an informational one, or the final one.
    pub async fn read_head(&mut self) -> Result<(), BackendFault> {
        let length = loop {
            if !self.input.is_empty()
                && let Some(length) = self.spans.read(&mut self.input, HEAD)?
            {
                break length;
            }
            if self.receive().await? == 0 {
                return Err(BackendFault::Closed);
            }
        };
        self.head.clear();
        self.head.extend_from_slice(self.input.get(..length).unwrap_or_default());
        self.input.advance(length);
        let of = (self.spans.version(), self.spans.status());
        let of = of_response(of, pairs(self.spans.fields(), &self.head), self.is_head_asked);
        let of = of.inspect_err(|_| self.head.clear())?;
        (self.length, self.body, self.persistence) = (of.length, Decoder::new(of.framing), of.persistence);
        Ok(())
    }

    /// The head that came last.
    pub fn head(&self) -> Option<ResponseHead<'_>> {
        let head = ResponseHead {
            status: self.spans.status(),
            reason: self.head.get(self.spans.reason()).unwrap_or_default(),
            length: self.length,
            fields: Fields::Spans(self.spans.fields(), &self.head, self.spans.names()),
        };
        (!self.head.is_empty()).then_some(head)
    }

    /// The next bytes of the body, and whether the answer ends with them; `None` at its end.
    pub async fn read_body(&mut self) -> Result<Option<(&[u8], bool)>, BackendFault> {
        self.input.advance(std::mem::take(&mut self.lent));
        loop {
            if self.body.is_done() {
                return Ok(None);
            }
            let found = self.body.decode(&self.input)?;
            if !found.data.is_empty() {
                self.lent = found.used;
                let is_last = self.is_done();
                return Ok(self.input.get(found.data).map(|data| (data, is_last)));
            }
            self.input.advance(found.used);
            if !self.body.is_done() && self.receive().await? == 0 {
                self.body.end_of_input().map_err(|_| BackendFault::Closed)?;
            }
        }
    }

    /// Whether something of the answer is here that was not read.
    pub fn has_more(&self) -> bool {
        self.input.len() > self.lent
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
            let known = TRAILERS.into_iter().find(|known| name == known.as_bytes())?;
            Some((known, HeaderValue::from_bytes(value).ok()?))
        })
    }

    /// Bytes that came with a 101, and the connection, which is a tunnel from there on.
    pub fn into_tunnel(self) -> (Vec<u8>, BackendConnection) {
        (self.input.to_vec(), self.connection)
    }

    /// Whether its backend keeps the connection.
    pub(super) fn is_kept(&self) -> bool {
        let is_upgrade = self.head.is_empty() || self.spans.status() == 101;
        let goes_on = self.body.is_done() && self.persistence == Persistence::Persistent;
        goes_on && !is_upgrade && !self.has_more()
    }

    /// The exchange is over: makes it ready to wait for another one.
    pub(super) fn rest(&mut self) {
        self.input.advance(std::mem::take(&mut self.lent));
        if self.input.capacity() > KEPT_ROOM_MAX {
            (self.input, self.room) = (BytesMut::new(), ROOM_MIN);
        }
        self.output.shrink_to(KEPT_ROOM_MAX);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use http1::Fault;

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

    async fn outcome(session: &mut Http1) -> Result<(u16, Vec<u8>, Option<HeaderMap>), BackendFault> {
        session.read_head().await?;
        while session.head().is_some_and(|head| head.is_informational()) {
            session.read_head().await?;
        }
        let mut body = Vec::new();
        while let Some((bytes, _)) = session.read_body().await? {
            body.extend_from_slice(bytes);
        }
        Ok((session.head().unwrap().status, body, session.trailers()))
    }

    /// The answer, which comes in pieces of so many bytes; then the connection ends.
    fn answered(method: &str, answer: &[u8], piece: usize) -> Result<Outcome, BackendFault> {
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
            Ok((status, body, trailers, session.is_kept()))
        })
    }

    fn of(method: &str, answer: &str) -> Result<Outcome, BackendFault> {
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
        const MALFORMED: BackendFault = BackendFault::Malformed(Fault::Framing);
        for (answer, kind) in [
            ("", BackendFault::Closed),
            ("HTTP/1.1 200 OK\r\n", BackendFault::Closed),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", BackendFault::Closed),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", BackendFault::Closed),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", MALFORMED),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", MALFORMED),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello", MALFORMED),
            ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", MALFORMED),
            ("SSH-2.0-x\r\n\r\n", MALFORMED),
        ] {
            let error = of("GET", answer).unwrap_err();
            assert_eq!(std::mem::discriminant(&error), std::mem::discriminant(&kind), "{answer:?}");
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
                session.head().unwrap().length
            })
        };
        assert_eq!(length("HTTP/1.1 200 OK\r\nContent-Length: 05, 5\r\nContent-Length: 5\r\n\r\n"), Some(5));
        assert_eq!(length("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"), None);
        assert_eq!(length("HTTP/1.1 204 None\r\nContent-Length: 5\r\n\r\n"), None);
        assert_eq!(length("HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n"), Some(5));
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
