//! A client that sends the bytes it is given and reads one answer at a time.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// Trust in one certificate authority.
#[derive(Clone)]
pub struct Trust(Arc<ClientConfig>);

impl Trust {
    pub fn new(ca: &Path) -> Self {
        Self::speaking(ca, &[b"http/1.1"])
    }

    /// Offers these protocols (RFC 7301).
    pub fn speaking(ca: &Path, protocols: &[&[u8]]) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Trust(Arc::new(config))
    }
}

enum Transport {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Transport {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Transport::Plain(s) => s.read(buf),
            Transport::Tls(s) => s.read(buf),
        }
    }
}

impl Write for Transport {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        match self {
            Transport::Plain(s) => s.write(buf),
            Transport::Tls(s) => s.write(buf),
        }
    }
    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Transport::Plain(s) => s.flush(),
            Transport::Tls(s) => s.flush(),
        }
    }
}

/// One connection.
pub struct Connection {
    wire: Transport,
    ahead: Vec<u8>,
}

/// One answer.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// The one value of a field; panics when it was sent twice.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
        let value = values.next();
        assert!(values.next().is_none(), "{name} was sent twice");
        value
    }

    pub fn number(&self, name: &str) -> u64 {
        self.field(name).unwrap_or_else(|| panic!("no {name} in {self:?}")).parse().unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The problem code of a refusal.
    pub fn code(&self) -> String {
        assert_eq!(self.field("content-type"), Some("application/problem+json"), "{self:?}");
        self.json()["code"].as_str().unwrap().to_owned()
    }
}

impl Connection {
    pub fn plain(port: u16) -> Self {
        Self { wire: Transport::Plain(tcp(port)), ahead: Vec::new() }
    }

    pub fn tls(port: u16, trust: &Trust, name: &str) -> Self {
        Self::try_tls(port, trust, name).unwrap()
    }

    pub fn try_tls(port: u16, trust: &Trust, name: &str) -> std::io::Result<Self> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let session = ClientConnection::new(trust.0.clone(), name).unwrap();
        let mut stream = StreamOwned::new(session, TcpStream::connect(("127.0.0.1", port))?);
        stream.sock.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.sock.set_nodelay(true)?;
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self { wire: Transport::Tls(Box::new(stream)), ahead: Vec::new() })
    }

    /// Whether the handshake went on with an earlier session.
    pub fn is_resumed(&self) -> bool {
        match &self.wire {
            Transport::Tls(s) => s.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
            Transport::Plain(_) => panic!("no TLS"),
        }
    }

    /// The certificate that the server showed.
    pub fn certificate(&self) -> Vec<u8> {
        match &self.wire {
            Transport::Tls(s) => s.conn.peer_certificates().unwrap()[0].to_vec(),
            Transport::Plain(_) => panic!("no TLS"),
        }
    }

    /// Protocol version and cipher suite in use.
    pub fn cipher(&self) -> String {
        match &self.wire {
            Transport::Tls(s) => format!("{:?}", s.conn.negotiated_cipher_suite().unwrap().suite()),
            Transport::Plain(_) => panic!("no TLS"),
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap();
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.wire.write_all(bytes)?;
        self.wire.flush()
    }

    /// Reads some bytes; empty at the end.
    pub fn read_some(&mut self) -> std::io::Result<Vec<u8>> {
        if !self.ahead.is_empty() {
            return Ok(std::mem::take(&mut self.ahead));
        }
        let mut buffer = [0u8; 16 * 1024];
        match self.wire.read(&mut buffer) {
            Ok(n) => Ok(buffer[..n].to_vec()),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }

    /// Reads until so many bytes have come; fails at an end before that.
    pub fn read_at_least(&mut self, count: usize) -> std::io::Result<Vec<u8>> {
        self.read_until_so(|seen| seen.len() >= count)
    }

    /// Reads until what came is enough; fails at an end before that. Everything that came is given.
    pub fn read_until_so(&mut self, is_enough: impl Fn(&[u8]) -> bool) -> std::io::Result<Vec<u8>> {
        let mut seen = Vec::new();
        while !is_enough(&seen) {
            let more = self.read_some()?;
            if more.is_empty() {
                let said = format!("the connection ended after {:?}", String::from_utf8_lossy(&seen));
                return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, said));
            }
            seen.extend(more);
        }
        Ok(seen)
    }

    /// Reads until a text has come; fails at an end before that.
    pub fn read_until_text(&mut self, text: &str) -> std::io::Result<String> {
        let seen = self.read_until_so(|seen| String::from_utf8_lossy(seen).contains(text))?;
        Ok(String::from_utf8_lossy(&seen).into_owned())
    }

    /// Whether the server has closed (nothing but an end or a reset comes).
    pub fn is_closed(&mut self) -> bool {
        self.read_some().map_or(true, |bytes| bytes.is_empty())
    }

    /// Reads to the end; `true` when the server said that it is one, `false` when it broke off.
    pub fn ends_cleanly(&mut self) -> bool {
        let mut rest = Vec::new();
        self.wire.read_to_end(&mut rest).is_ok()
    }

    /// Reads one answer; `None` when the connection ended before one.
    pub fn try_receive(&mut self, to_head: bool) -> std::io::Result<Option<Response>> {
        loop {
            let Some(head) = self.until(b"\r\n\r\n")? else { return Ok(None) };
            let text = String::from_utf8_lossy(&head).into_owned();
            let mut lines = text.trim_end().split("\r\n");
            let status: u16 = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
            let fields: Vec<(String, String)> = lines
                .map(|l| l.split_once(':').unwrap())
                .map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned()))
                .collect();
            if status == 100 {
                continue;
            }
            let by_name: HashMap<&str, &str> = fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            let body = if to_head || status == 204 || status == 304 || (101..200).contains(&status) {
                Vec::new()
            } else if by_name.get("transfer-encoding") == Some(&"chunked") {
                self.chunked()?
            } else if let Some(length) = by_name.get("content-length") {
                self.exactly(length.parse().unwrap())?
            } else {
                let mut body = Vec::new();
                loop {
                    let more = self.read_some()?;
                    if more.is_empty() {
                        break body;
                    }
                    body.extend(more);
                }
            };
            return Ok(Some(Response { status, fields, body }));
        }
    }

    pub fn receive(&mut self) -> Response {
        self.try_receive(false).unwrap().expect("the connection ended without an answer")
    }

    /// Sends a request made of a method, a target and fields, and reads its answer.
    pub fn ask(&mut self, method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> Response {
        self.try_ask(method, target, fields, body).unwrap().expect("the connection ended without an answer")
    }

    pub fn try_ask(
        &mut self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Option<Response>> {
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        for (name, value) in fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend(body);
        self.try_send(&bytes)?;
        self.try_receive(method == "HEAD")
    }

    fn until(&mut self, end: &[u8]) -> std::io::Result<Option<Vec<u8>>> {
        let mut seen = Vec::new();
        loop {
            if let Some(at) = seen.windows(end.len()).position(|w| w == end) {
                self.ahead = seen.split_off(at + end.len());
                return Ok(Some(seen));
            }
            let more = self.read_some()?;
            if more.is_empty() {
                return Ok(None);
            }
            seen.extend(more);
        }
    }

    fn exactly(&mut self, length: usize) -> std::io::Result<Vec<u8>> {
        let mut seen = std::mem::take(&mut self.ahead);
        while seen.len() < length {
            let more = self.read_some()?;
            if more.is_empty() {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            seen.extend(more);
        }
        self.ahead = seen.split_off(length);
        Ok(seen)
    }

    fn chunked(&mut self) -> std::io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.until(b"\r\n")?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
            let size = usize::from_str_radix(String::from_utf8_lossy(&line).trim(), 16).unwrap();
            body.extend(self.exactly(size)?);
            self.exactly(2)?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
}

fn tcp(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}
