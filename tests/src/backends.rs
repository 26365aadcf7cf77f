//! Backends that read strictly or laxly, and one that speaks HTTP/2 as it is told.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use http::Response;

/// How a backend takes a line that is no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manners {
    /// Answers it with 400 and keeps the connection.
    Strict,
    /// Passes over empty lines (RFC 9112 section 2.2), and answers the rest with 400 and an end.
    Lax,
}

/// Answers each request with its tag (the field `x-tag`) and the sum of its body's bytes.
pub struct TagServer {
    pub port: u16,
    /// Lines that were no requests.
    pub strays: Arc<AtomicUsize>,
}

impl TagServer {
    pub fn start(manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let strays = Arc::<AtomicUsize>::default();
        let counted = strays.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counted = counted.clone();
                std::thread::spawn(move || serve_tags(stream, manners, &counted));
            }
        });
        TagServer { port, strays }
    }

    pub fn strays(&self) -> usize {
        self.strays.load(Ordering::SeqCst)
    }
}

/// Bytes that were read and not yet used.
struct Reader {
    stream: TcpStream,
    ahead: Vec<u8>,
}

impl Reader {
    fn more(&mut self) -> Option<()> {
        let mut chunk = [0u8; 16 * 1024];
        let n = self.stream.read(&mut chunk).ok().filter(|n| *n > 0)?;
        self.ahead.extend_from_slice(&chunk[..n]);
        Some(())
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.ahead.windows(2).position(|w| w == b"\r\n") {
                let line = String::from_utf8_lossy(&self.ahead[..at]).into_owned();
                self.ahead.drain(..at + 2);
                return Some(line);
            }
            self.more()?;
        }
    }

    fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.ahead.len() < count {
            self.more()?;
        }
        Some(self.ahead.drain(..count).collect())
    }
}

fn serve_tags(stream: TcpStream, manners: Manners, strays: &AtomicUsize) {
    let _ = stream.set_nodelay(true);
    let mut reader = Reader { stream, ahead: Vec::new() };
    while serve_one(&mut reader, manners, strays).is_some() {}
}

fn serve_one(reader: &mut Reader, manners: Manners, strays: &AtomicUsize) -> Option<()> {
    let line = reader.line()?;
    if !line.ends_with(" HTTP/1.1") {
        if line.is_empty() && manners == Manners::Lax {
            return Some(());
        }
        strays.fetch_add(1, Ordering::SeqCst);
        reader.stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 5\r\n\r\nstray").ok()?;
        return (manners == Manners::Strict).then_some(());
    }
    let (mut tag, mut length, mut is_chunked) = (String::new(), 0usize, false);
    loop {
        let field = reader.line()?;
        let Some((name, value)) = field.split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "x-tag" => tag = value.trim().to_owned(),
            "content-length" => length = value.trim().parse().ok()?,
            "transfer-encoding" => is_chunked = true,
            _ => {}
        }
    }
    let mut sum = 0usize;
    let mut add = |bytes: &[u8]| sum += bytes.iter().map(|b| usize::from(*b)).sum::<usize>();
    if is_chunked {
        loop {
            let size = usize::from_str_radix(&reader.line()?, 16).ok()?;
            add(&reader.exactly(size)?);
            if !reader.line()?.is_empty() {
                return None;
            }
            if size == 0 {
                break;
            }
        }
    } else {
        add(&reader.exactly(length)?);
    }
    let body = format!("{tag} {sum}");
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    reader.stream.write_all(answer.as_bytes()).ok()
}

/// A backend over HTTP/2 whose connections end or refuse as it is told.
pub struct Http2Backend {
    pub port: u16,
    /// Requests that were answered.
    pub answered: Arc<AtomicUsize>,
    /// Refuses the next stream, once.
    pub refuse: Arc<AtomicBool>,
    /// Closes the connection with GOAWAY when the next stream comes, once, without processing it.
    pub go_away: Arc<AtomicBool>,
    /// Drops the connection without a word when the next stream comes, once.
    pub drop: Arc<AtomicBool>,
    /// Wants HTTP/1.1 for the next request, once.
    pub want_http1: Arc<AtomicBool>,
}

impl Http2Backend {
    /// Serves on a thread of its own until the test ends.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        let backend = Http2Backend {
            port,
            answered: Arc::default(),
            refuse: Arc::default(),
            go_away: Arc::default(),
            drop: Arc::default(),
            want_http1: Arc::default(),
        };
        let told = [&backend.refuse, &backend.go_away, &backend.drop, &backend.want_http1].map(Arc::clone);
        let answered = backend.answered.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve_http2(stream, told.clone(), answered.clone()));
                }
            });
        });
        backend
    }
}

async fn serve_http2(mut stream: tokio::net::TcpStream, told: [Arc<AtomicBool>; 4], answered: Arc<AtomicUsize>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let [refuse, go_away, drop_it, want_http1] = told;
    let mut begin = [0; 3];
    while stream.peek(&mut begin).await.is_ok_and(|count| (1..3).contains(&count)) {}
    if begin != *b"PRI" {
        let mut request = vec![0; 4_096];
        let _ = stream.read(&mut request).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nHTTP/1.1").await.unwrap();
        return;
    }
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        if drop_it.swap(false, Ordering::SeqCst) {
            return;
        }
        if go_away.swap(false, Ordering::SeqCst) {
            // What was accepted counts as processed; this one is refused by name instead.
            respond.send_reset(h2::Reason::REFUSED_STREAM);
            connection.graceful_shutdown();
            continue;
        }
        if refuse.swap(false, Ordering::SeqCst) {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
            continue;
        }
        if want_http1.swap(false, Ordering::SeqCst) {
            respond.send_reset(h2::Reason::HTTP_1_1_REQUIRED);
            continue;
        }
        let answered = answered.clone();
        tokio::spawn(async move {
            if request.uri().query() == Some("hints") {
                let hints = Response::builder().status(103).header("link", "</style.css>").body(()).unwrap();
                respond.send_informational(hints).unwrap();
            }
            if request.uri().query() == Some("short") {
                let head = Response::builder().header("content-length", 1_000).body(()).unwrap();
                let mut answer = respond.send_response(head, false).unwrap();
                answer.send_data(Bytes::from_static(&[b'x'; 500]), false).unwrap();
                // The half must have left before it.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                answer.send_reset(h2::Reason::NO_ERROR);
                return;
            }
            let mut body = request.into_body();
            let mut all = Vec::new();
            while let Some(Ok(piece)) = body.data().await {
                let _ = body.flow_control().release_capacity(piece.len());
                all.extend_from_slice(&piece);
            }
            answered.fetch_add(1, Ordering::SeqCst);
            let mut answer = respond.send_response(Response::new(()), false).unwrap();
            let _ = answer.send_data(Bytes::from(all), true);
        });
    }
}

/// A backend that sends an answer of so many bytes while it reads a request. One connection, one request.
pub fn both_ways(bytes: usize) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = stream.try_clone().unwrap();
        let (told, tells) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut piece = vec![0; 64 * 1024];
            while request.read(&mut piece).is_ok_and(|read| read > 0) {
                let _ = told.send(());
            }
        });
        tells.recv().unwrap();
        stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n").as_bytes()).unwrap();
        stream.write_all(&vec![b'a'; bytes]).unwrap();
    });
    port
}

/// An address that answers nothing at all: its queue is full, so that whoever knocks is not heard.
pub struct Dark {
    pub port: u16,
    _runtime: tokio::runtime::Runtime,
    _held: (tokio::net::TcpListener, Vec<TcpStream>),
}

impl Dark {
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            socket.listen(1).unwrap()
        });
        let address = listener.local_addr().unwrap();
        let knock = || TcpStream::connect_timeout(&address, std::time::Duration::from_millis(200));
        let knocked: Vec<TcpStream> = (0..16).map_while(|_| knock().ok()).collect();
        assert!(knocked.len() < 16, "the queue has an end");
        Dark { port: address.port(), _runtime: runtime, _held: (listener, knocked) }
    }
}
