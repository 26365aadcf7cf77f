//! Other readers of HTTP/1.1 beside ours: hyper, llhttp (in Node), h11, nginx and HAProxy. Of what both take, they read
//! the same; of what is right, all read all. Whatever has two readings is where requests are smuggled.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::convert::Infallible;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full};
use http1::body::Decoder;
use http1::framing::{Framing, Persistence, of_request, of_response};
use http1::head::{Bounds, RequestHead, ResponseHead, pairs};
use hyper_util::rt::TokioIo;
use tests::{Dice, clients, free_port, until};

const BOUNDS: Bounds = Bounds { bytes: 32 * 1024, fields: 100 };
/// Messages of each kind that are tried.
const CASES: u64 = 1_000;

/// A message as it was read: method and target or status, and the body in hexadecimal.
type Message = String;

fn hex(body: &[u8]) -> String {
    body.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The messages that a reader has told of.
fn told(text: &[u8]) -> Vec<Message> {
    let text = String::from_utf8_lossy(text).into_owned();
    let lines = text.split("@@").skip(1).step_by(2);
    lines.map(str::to_owned).collect()
}

/// A body from the start of the input, and how long it is there; `None` when it is not whole or not right.
fn body(framing: Framing, input: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut decoder, mut all, mut used) = (Decoder::new(framing), Vec::new(), 0);
    while !decoder.is_done() && used < input.len() {
        let found = decoder.decode(&input[used..]).ok()?;
        all.extend_from_slice(&input[used..][found.data]);
        used += found.used;
    }
    if !decoder.is_done() {
        decoder.end_of_input().ok()?;
    }
    Some((all, used))
}

/// What we read of requests, until one is not right or the last one.
fn our_requests(input: &[u8]) -> Vec<Message> {
    let (mut rest, mut messages) = (input.to_vec(), Vec::new());
    loop {
        let mut head = RequestHead::default();
        let Ok(Some(length)) = head.read(&mut rest, BOUNDS) else { return messages };
        let part = |range: std::ops::Range<usize>| String::from_utf8_lossy(&rest[range]).into_owned();
        let (method, target) = (part(head.method()), part(head.target()));
        let Ok(of) = of_request(head.version(), pairs(head.fields(), &rest)) else { return messages };
        let Some((body, used)) = body(of.framing, &rest[length..]) else { return messages };
        messages.push(format!("{method} {target} {}", hex(&body)));
        rest.drain(..length + used);
        if of.persistence == Persistence::Close {
            return messages;
        }
    }
}

/// What we read of the answer to a GET; nothing when it is not whole or not right.
fn our_response(input: &[u8]) -> Vec<Message> {
    let mut rest = input.to_vec();
    loop {
        let mut head = ResponseHead::default();
        let Ok(Some(length)) = head.read(&mut rest, BOUNDS) else { return Vec::new() };
        let of = (head.version(), head.status());
        let Ok(of) = of_response(of, pairs(head.fields(), &rest), false) else { return Vec::new() };
        if (100..200).contains(&head.status()) {
            rest.drain(..length);
            continue;
        }
        let Some((body, _)) = body(of.framing, &rest[length..]) else { return Vec::new() };
        return vec![format!("{} {}", head.status(), hex(&body))];
    }
}

/// A process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a reader that prints its two ports.
fn start(program: &Path, script: &str) -> (Process, u16, u16) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(script);
    let mut child = Command::new(program).arg(script).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let mut ports = line.split_whitespace().map(|port| port.parse().unwrap());
    (Process(child), ports.next().unwrap(), ports.next().unwrap())
}

/// A proxy with a configuration of ours, in front of hyper.
fn proxy(program: &str, folder: &Path, arguments: &[&str], config: &str) -> (Process, u16) {
    let port = free_port();
    let config = config.replace("PORT", &port.to_string()).replace("BACKEND", &hyper().to_string());
    let config = config.replace("FOLDER", folder.to_str().unwrap());
    let file = folder.join(format!("{program}.conf"));
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(program);
    command.args(arguments).arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
    let process = Process(command.spawn().unwrap_or_else(|error| panic!("{program}: {error}; use tests/run")));
    until(&format!("{program} listens"), || TcpStream::connect(("127.0.0.1", port)).is_ok());
    (process, port)
}

const NGINX: &str = "daemon off; master_process off; pid FOLDER/pid; error_log /dev/null; events {}\n\
http {\n access_log off; client_body_temp_path FOLDER; proxy_temp_path FOLDER; fastcgi_temp_path FOLDER;\n\
 uwsgi_temp_path FOLDER; scgi_temp_path FOLDER;\n server { listen 127.0.0.1:PORT; location / {\n\
 proxy_pass http://127.0.0.1:BACKEND; proxy_http_version 1.1; proxy_ignore_client_abort on;\n\
 proxy_set_header Connection \"\"; } }\n}\n";

/// It takes a client that has closed its half for one that has left, so that it must find out by itself.
const HAPROXY: &str = "defaults\n mode http\n timeout client 200ms\n timeout http-request 200ms\n timeout server 5s\n timeout connect 5s\n\
frontend f\n bind 127.0.0.1:PORT\n default_backend b\nbackend b\n server s 127.0.0.1:BACKEND\n";

/// hyper as a server, on a thread of its own until the test ends.
fn hyper() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let service = hyper::service::service_fn(tell);
                let mut server = hyper::server::conn::http1::Builder::new();
                tokio::spawn(server.half_close(true).serve_connection(TokioIo::new(stream), service));
            }
        });
    });
    port
}

async fn tell(request: hyper::Request<hyper::body::Incoming>) -> Result<hyper::Response<Full<Bytes>>, hyper::Error> {
    let (method, target) = (request.method().to_string(), request.uri().to_string());
    let body = request.into_body().collect().await?.to_bytes();
    Ok(hyper::Response::new(Full::from(format!("@@{method} {target} {}@@\n", hex(&body)))))
}

/// What hyper reads of the answer to a GET.
async fn hyper_response(input: &[u8]) -> Vec<Message> {
    use tokio::io::AsyncWriteExt as _;
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(ours)).await.unwrap();
    tokio::spawn(connection);
    let request = hyper::Request::get("/").header("host", "a").body(Empty::<Bytes>::new()).unwrap();
    let answer = sender.send_request(request);
    let answers = async {
        // What comes before a request is no answer to it.
        tokio::task::yield_now().await;
        theirs.write_all(input).await.unwrap();
        theirs.shutdown().await.unwrap();
        Ok::<(), Infallible>(())
    };
    let (answer, _) = tokio::join!(answer, answers);
    let Ok(answer) = answer else { return Vec::new() };
    let status = answer.status().as_u16();
    match answer.into_body().collect().await {
        Ok(body) if status != 101 => vec![format!("{status} {}", hex(&body.to_bytes()))],
        Ok(_) | Err(_) => Vec::new(),
    }
}

/// What a reader behind a port makes of these bytes. `is_all` says that nothing follows.
fn ask(port: u16, input: &[u8], is_all: bool) -> Vec<Message> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut seen = Vec::new();
    // A reader that has had enough may close before it has all.
    let _ = stream.write_all(input);
    if is_all {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let _ = stream.read_to_end(&mut seen);
    told(&seen)
}

/// One of these, mostly one of the first so many.
fn mostly(dice: &mut Dice, from: &[&str], right: usize, in_so_many: u64) -> String {
    let from = if dice.below(in_so_many) == 0 { from } else { &from[..right] };
    dice.pick(from).to_owned()
}

const FIELDS: [&str; 26] = [
    "A: b",
    "X-Y: a, b",
    "Accept: */*",
    "Cookie: a=b",
    "X: \té ",
    "Content-Length : 5",
    "Content-Length:\t5",
    "Content-Length: +5",
    "Content-Length: 5, 5",
    "Content-Length: 05",
    "Content-Length: 0x5",
    "Content-Length: 5\x0b",
    "Content_Length: 5",
    "Content-Length:5\r\nContent-Length: 6",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding:\tchunked",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: identity, chunked",
    "Transfer-Encoding: \"chunked\"",
    "Transfer_Encoding: chunked",
    "X: y\r\n folded",
    "no colon",
    ": no name",
    "X: \0",
    "X: a\rb",
];
const ENDS: [&str; 5] = ["\r\n", "\n", "\r", "\r\r\n", "\n\r\n"];
const CHUNKED: [&str; 17] = [
    "5\r\nhello\r\n0\r\n\r\n",
    "3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
    "005;a=b\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello\r\n0\r\nT: u\r\n\r\n",
    "0\r\n\r\n",
    "5 \r\nhello\r\n0\r\n\r\n",
    " 5\r\nhello\r\n0\r\n\r\n",
    "0x5\r\nhello\r\n0\r\n\r\n",
    "+5\r\nhello\r\n0\r\n\r\n",
    "5\nhello\r\n0\r\n\r\n",
    "5\r\nhello0\r\n\r\n",
    "5\r\nhello\n0\r\n\r\n",
    "5;a\nb\r\nhello\r\n0\r\n\r\n",
    "5;\"\r\n\"\r\nhello\r\n0\r\n\r\n",
    "10000000000000005\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello\r\n0\r\nT : u\r\n\r\n",
    "5\r\nhello\r\n-0\r\n\r\n",
];

/// Fields and a body behind a first line; `wrong` is how seldom something is not right.
fn message(dice: &mut Dice, line: &str, wrong: u64, has_host: bool) -> Vec<u8> {
    let mut bytes = line.as_bytes().to_vec();
    let end = |dice: &mut Dice, bytes: &mut Vec<u8>| bytes.extend(mostly(dice, &ENDS, 1, wrong * 4).as_bytes());
    end(dice, &mut bytes);
    let mut fields: Vec<String> = (0..dice.below(3)).map(|_| mostly(dice, &FIELDS, 5, wrong)).collect();
    if has_host {
        fields.push(mostly(dice, &["Host: a", "Host: a\r\nHost: b", "Hos: a"], 1, wrong * 4));
    }
    let kind = dice.below(3);
    match kind {
        0 => fields.push("Content-Length: 5".to_owned()),
        1 => fields.push(mostly(dice, &["Transfer-Encoding: chunked", "Transfer-Encoding: Chunked"], 2, wrong)),
        _ => {}
    }
    if dice.below(wrong * 4) == 0 {
        fields.push("Transfer-Encoding: chunked".to_owned());
    }
    for field in fields {
        bytes.extend(field.as_bytes());
        end(dice, &mut bytes);
    }
    end(dice, &mut bytes);
    match kind {
        0 => bytes.extend(b"hello"),
        1 => bytes.extend(mostly(dice, &CHUNKED, 5, wrong).as_bytes()),
        _ => {}
    }
    bytes
}

/// Two requests and one that is right behind them; `wrong` is how seldom something is not right in the first two.
fn requests(seed: u64, wrong: u64) -> Vec<u8> {
    const LINES: [&str; 9] = [
        "POST /one HTTP/1.1",
        "POST /a?b=c HTTP/1.1",
        "POST /a b HTTP/1.1",
        "POST  /a HTTP/1.1",
        "post /a HTTP/1.1",
        "POST /a HTTP/1.2",
        "POST /a HTTP/1.0",
        "POST /a http/1.1",
        "POST\t/a HTTP/1.1",
    ];
    let dice = &mut Dice::new(seed);
    let mut bytes = Vec::new();
    for _ in 0..2 {
        let line = mostly(dice, &LINES, 2, wrong * 2);
        bytes.extend(message(dice, &line, wrong, true));
    }
    bytes.extend(b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    bytes
}

fn response(seed: u64, wrong: u64) -> Vec<u8> {
    const LINES: [&str; 10] = [
        "HTTP/1.1 200 OK",
        "HTTP/1.1 404 Not Found",
        "HTTP/1.1 204 None",
        "HTTP/1.1 304 Same",
        "HTTP/1.0 200 OK",
        "HTTP/1.1 200",
        "HTTP/1.1  200 OK",
        "HTTP/1.1 20 OK",
        "HTTP/1.2 200 OK",
        "http/1.1 200 OK",
    ];
    let dice = &mut Dice::new(seed);
    let line = mostly(dice, &LINES, 2, wrong);
    message(dice, &line, wrong, false)
}

fn agree(name: &str, input: &[u8], ours: &[Message], theirs: &[Message]) {
    let both = ours.len().min(theirs.len());
    assert_eq!(ours[..both], theirs[..both], "{name}: {:?}", String::from_utf8_lossy(input));
}

#[test]
fn of_requests_that_both_take_other_readers_read_the_same_and_all_that_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let (_h11, h11, _) = start(&clients().join("python/bin/python"), "reader.py");
    let (_node, node, _) = start(Path::new("node"), "reader.mjs");
    let (_nginx, nginx) = proxy("nginx", folder.path(), &["-c"], NGINX);
    let (_haproxy, haproxy) = proxy("haproxy", folder.path(), &["-f"], HAPROXY);
    let readers = [("hyper", hyper()), ("h11", h11), ("llhttp", node), ("nginx", nginx), ("haproxy", haproxy)];
    for seed in 0..CASES {
        let right = requests(seed, u64::MAX >> 8);
        let ours = our_requests(&right);
        assert_eq!(ours.len(), 3, "{:?}", String::from_utf8_lossy(&right));
        for (name, port) in readers {
            assert_eq!(ours, ask(port, &right, name != "haproxy"), "{name}: {:?}", String::from_utf8_lossy(&right));
        }
        let nearly = requests(seed, 6);
        let ours = our_requests(&nearly);
        for (name, port) in readers {
            agree(name, &nearly, &ours, &ask(port, &nearly, name != "haproxy"));
        }
    }
}

#[test]
fn of_answers_that_both_take_other_readers_read_the_same_and_all_that_is_right() {
    let (_h11, _, h11) = start(&clients().join("python/bin/python"), "reader.py");
    let (_node, _, node) = start(Path::new("node"), "reader.mjs");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for seed in 0..CASES {
        let right = response(seed, u64::MAX >> 8);
        let ours = our_response(&right);
        assert_eq!(ours.len(), 1, "{:?}", String::from_utf8_lossy(&right));
        let nearly = response(seed, 6);
        for (name, port) in [("hyper", None), ("h11", Some(h11)), ("llhttp", Some(node))] {
            let ask = |input: &[u8]| match port {
                Some(port) => ask(port, input, true),
                None => runtime.block_on(hyper_response(input)),
            };
            assert_eq!(ours, ask(&right), "{name}: {:?}", String::from_utf8_lossy(&right));
            agree(name, &nearly, &our_response(&nearly), &ask(&nearly));
        }
    }
}
