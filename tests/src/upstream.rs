//! An upstream that records every byte it receives and behaves as the request asks it to.
//!
//! The field `x-behave` of a request chooses: `slow` (waits), `sse` (a stream of events), `quiet` (one
//! event, and then none for ever), `limits`
//! (sends limit and CORS fields of its own), `garbage`, `two-lengths`, `big` (a 1 MiB answer),
//! `reset` (closes without an answer), `last` (closes after one), `hints` (103 before the answer),
//! `inner` (fields of the connection), `until-close` (no length), `pieces` (chunks and a trailer, torn
//! apart), `nothing` (204), `not-modified` (304), `early` (413 before the body was read), `eager` (begins
//! to answer before it), `half` and `half-chunks` (break off in the middle of the answer), `half-a-head`, `unasked-101`, `created` (201), `links` (to itself over http),
//! `many-hints` (nine of them). A WebSocket handshake is accepted and echoed.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    pub line: String,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub connection: usize,
}

impl Received {
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
        let value = values.next();
        assert!(values.next().is_none(), "{name} arrived twice: {self:?}");
        value
    }
}

#[derive(Clone)]
pub struct Upstream {
    pub port: u16,
    pub name: &'static str,
    received: Arc<Mutex<Vec<Received>>>,
    connections: Arc<AtomicUsize>,
}

impl Upstream {
    pub fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let upstream = Upstream { port, name, received: Arc::default(), connections: Arc::default() };
        let served = upstream.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let served = served.clone();
                let number = served.connections.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || served.serve(stream, number));
            }
        });
        upstream
    }

    /// Everything that arrived so far.
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    pub fn last(&self) -> Received {
        self.received().pop().expect("the upstream received nothing")
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn serve(&self, mut stream: TcpStream, connection: usize) {
        let mut buffer = Vec::new();
        stream.set_nodelay(true).unwrap();
        while let Some(request) = read_request(&mut stream, &mut buffer, connection) {
            let behave = request.field("x-behave").unwrap_or_default().to_owned();
            let upgrade = request.field("upgrade").map(str::to_owned);
            let to_head = request.line.starts_with("HEAD ");
            let line = request.line.clone();
            self.received.lock().unwrap().push(request);
            if upgrade.as_deref() == Some("websocket") {
                let accept = match behave.as_str() {
                    "wrong-accept" => "AAAA".to_owned(),
                    _ => accept(self.last().field("sec-websocket-key").unwrap_or_default()),
                };
                let head = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
                );
                let _ = stream.write_all(head.as_bytes());
                let mut echo = [0u8; 1024];
                while let Ok(n @ 1..) = stream.read(&mut echo) {
                    if &echo[..n] == b"quit" {
                        return;
                    }
                    if stream.write_all(&echo[..n]).is_err() {
                        return;
                    }
                }
                return;
            }
            if !self.answer(&mut stream, &behave, to_head, &line) {
                return;
            }
        }
    }

    #[allow(clippy::too_many_lines, reason = "one arm for each way to behave")]
    fn answer(&self, stream: &mut TcpStream, behave: &str, to_head: bool, line: &str) -> bool {
        let body = format!("{{\"upstream\":\"{}\",\"line\":\"{line}\"}}", self.name);
        let plain = |extra: &str, body: &str| {
            let length = body.len();
            let body = if to_head { "" } else { body };
            format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{extra}\r\n{body}"
            )
        };
        match behave {
            "slow" => {
                std::thread::sleep(Duration::from_secs(3));
                stream.write_all(plain("", &body).as_bytes()).is_ok()
            }
            "sse" => {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
                let _ = stream.write_all(head.as_bytes());
                for n in 0..3 {
                    let event = format!("data: {n}\n\n");
                    let chunk = format!("{:x}\r\n{event}\r\n", event.len());
                    if stream.write_all(chunk.as_bytes()).is_err() {
                        return false;
                    }
                    std::thread::sleep(Duration::from_millis(300));
                }
                stream.write_all(b"0\r\n\r\n").is_ok()
            }
            "quiet" => {
                let event = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 0\n\n\r\n";
                let _ = stream.write_all(event.as_bytes());
                // Until the other side goes away.
                let _ = stream.read(&mut [0u8; 1]);
                false
            }
            "limits" => {
                let own = "X-RateLimit-Limit: 7\r\nx-ratelimit-remaining: 7\r\nX-RateLimit-Reset: 7\r\nRateLimit: \"x\";r=7\r\nAccess-Control-Allow-Origin: https://evil.example\r\n";
                stream.write_all(plain(own, &body).as_bytes()).is_ok()
            }
            "big" => stream.write_all(plain("", &"x".repeat(1 << 20)).as_bytes()).is_ok(),
            "garbage" => {
                let _ = stream.write_all(b"SSH-2.0-nonsense\r\n\r\n");
                false
            }
            "two-lengths" => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 5\r\n\r\nabcde");
                false
            }
            "hints" => {
                let _ = stream.write_all(b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n");
                stream.write_all(plain("", &body).as_bytes()).is_ok()
            }
            "inner" => {
                let inner = "Connection: keep-alive, X-Inner\r\nX-Inner: 1\r\nKeep-Alive: timeout=9\r\nx-outer: 1\r\n";
                stream.write_all(plain(inner, &body).as_bytes()).is_ok()
            }
            "until-close" => {
                let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n\r\n{body}").as_bytes());
                false
            }
            // Says nothing of closing, and closes.
            "last" => {
                let _ = stream.write_all(plain("", &body).as_bytes());
                false
            }
            "pieces" => {
                // Where a reader may find itself in the middle of nothing.
                let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                for piece in [head, "5", "\r\nhello", "\r\n5\r\nworld", "\r\n", "0\r\n", "X-Sum: 1\r\n", "\r\n"] {
                    if stream.write_all(piece.as_bytes()).is_err() {
                        return false;
                    }
                    std::thread::sleep(Duration::from_millis(30));
                }
                true
            }
            "nothing" => stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").is_ok(),
            "not-modified" => stream.write_all(b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n").is_ok(),
            "early" => {
                let _ = stream.write_all(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno");
                // Until the other side goes away: it must not take this for a connection to keep.
                let _ = stream.read_to_end(&mut Vec::new());
                false
            }
            "eager" => {
                let begun = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegun\r\n";
                let _ = stream.write_all(begun.as_bytes());
                let _ = stream.read_to_end(&mut Vec::new());
                false
            }
            "half-chunks" => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nonly this\r\n");
                false
            }
            "half" => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this");
                false
            }
            "half-a-head" => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-le");
                false
            }
            "unasked-101" => {
                let _ = stream.write_all(
                    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nraw bytes",
                );
                let _ = stream.read(&mut [0u8; 1]);
                false
            }
            "created" => {
                let own =
                    "HTTP/1.1 201 Created\r\ncontent-length: 0\r\nlocation: http://api.iconflow.dev/v2/packs/7\r\n\r\n";
                stream.write_all(own.as_bytes()).is_ok()
            }
            "links" => {
                let own = "link: <http://api.iconflow.dev/v2/packs?page=2>; rel=\"next\", <http://cdn.example/x>; rel=\"x\"\r\n";
                stream.write_all(plain(own, &body).as_bytes()).is_ok()
            }
            "many-hints" => {
                for _ in 0..9 {
                    let _ = stream.write_all(b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n");
                }
                stream.write_all(plain("", &body).as_bytes()).is_ok()
            }
            "reset" => false,
            // Exactly these bytes, in hexadecimal.
            raw if raw.starts_with("raw-") => {
                let digits = &raw.as_bytes()[4..];
                let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
                stream.write_all(&digits.chunks(2).map(byte).collect::<Vec<u8>>()).is_ok()
            }
            _ => stream.write_all(plain("", &body).as_bytes()).is_ok(),
        }
    }
}

fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>, connection: usize) -> Option<Received> {
    let head_end = loop {
        if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        more(stream, buffer)?;
    };
    let head = String::from_utf8_lossy(&buffer[..head_end]).into_owned();
    buffer.drain(..head_end);
    let mut lines = head.trim_end().split("\r\n");
    let line = lines.next()?.to_owned();
    let fields: Vec<(String, String)> =
        lines.filter_map(|l| l.split_once(':')).map(|(n, v)| (n.to_owned(), v.trim().to_owned())).collect();
    let value = |name: &str| fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
    let mut body = Vec::new();
    if matches!(value("x-behave"), Some("early" | "eager")) {
        return Some(Received { line, fields, body, connection });
    }
    if let Some(length) = value("content-length").and_then(|v| v.parse::<usize>().ok()) {
        while buffer.len() < length {
            more(stream, buffer)?;
        }
        body.extend(buffer.drain(..length));
    } else if value("transfer-encoding").is_some() {
        loop {
            let at = loop {
                if let Some(at) = buffer.windows(2).position(|w| w == b"\r\n") {
                    break at;
                }
                more(stream, buffer)?;
            };
            let size = usize::from_str_radix(&String::from_utf8_lossy(&buffer[..at]), 16).ok()?;
            while buffer.len() < at + 2 + size + 2 {
                more(stream, buffer)?;
            }
            body.extend_from_slice(&buffer[at + 2..at + 2 + size]);
            buffer.drain(..at + 2 + size + 2);
            if size == 0 {
                break;
            }
        }
    }
    Some(Received { line, fields, body, connection })
}

fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    let mut chunk = [0u8; 64 * 1024];
    let n = stream.read(&mut chunk).ok().filter(|n| *n > 0)?;
    buffer.extend_from_slice(&chunk[..n]);
    Some(())
}

/// What a server makes of a key (RFC 6455 section 4.2.2).
fn accept(key: &str) -> String {
    use base64::Engine as _;
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(hash)
}
