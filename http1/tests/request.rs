//! Heads and framing of requests: what is accepted, what is refused, and that others agree.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod nearly;

use http1::Fault;
use http1::framing::{Framing, OfRequest, Persistence, of_request};
use http1::head::{Bounds, RequestHead, Version, pairs};
use proptest::prelude::*;

const BOUNDS: Bounds = Bounds { bytes: 4_096, fields: 20 };

/// What was read of a head.
#[derive(Debug, PartialEq)]
struct Read {
    version: Version,
    method: Vec<u8>,
    target: Vec<u8>,
    fields: Vec<(Vec<u8>, Vec<u8>)>,
    length: usize,
}

fn read(input: &[u8]) -> Result<Option<Read>, Fault> {
    let (mut head, mut input) = (RequestHead::default(), input.to_vec());
    let Some(length) = head.read(&mut input, BOUNDS)? else { return Ok(None) };
    let fields = pairs(head.fields(), &input).map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
    let (method, target) = (input[head.method()].to_vec(), input[head.target()].to_vec());
    Ok(Some(Read { version: head.version(), method, target, fields, length }))
}

fn framing(text: &str) -> Result<OfRequest, Fault> {
    let mut input = format!("{text}\r\n\r\n").into_bytes();
    let mut head = RequestHead::default();
    head.read(&mut input, BOUNDS).unwrap().unwrap();
    of_request(head.version(), pairs(head.fields(), &input))
}

fn with(fields: &str) -> Result<OfRequest, Fault> {
    framing(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}"))
}

#[test]
fn a_head_is_read_as_it_stands_and_names_in_lower_case() {
    let input = b"GET /a?b HTTP/1.1\r\nHost: A.example\t\r\nX-Empty:\r\nCookie: \xe9=1\r\n\r\nbody";
    let read_head = read(input).unwrap().unwrap();
    assert_eq!(
        (read_head.version, &read_head.method[..], &read_head.target[..]),
        (Version::Http11, &b"GET"[..], &b"/a?b"[..])
    );
    let expected: [(&[u8], &[u8]); 3] = [(b"host", b"A.example"), (b"x-empty", b""), (b"cookie", b"\xe9=1")];
    assert_eq!(read_head.fields, expected.map(|(name, value)| (name.to_vec(), value.to_vec())));
    assert_eq!(read_head.length, input.len() - 4);
    // One empty line may stand before it.
    assert_eq!(read(b"\r\nGET / HTTP/1.0\r\n\r\n").unwrap().unwrap().length, 20);
}

#[test]
fn one_value_reads_head_after_head() {
    let mut head = RequestHead::default();
    for (text, fields) in [("GET / HTTP/1.1\r\nA: b\r\nC: d\r\n\r\n", 2), ("PUT /x HTTP/1.0\r\n\r\n", 0)] {
        let mut input = text.as_bytes().to_vec();
        assert_eq!(head.read(&mut input, BOUNDS), Ok(Some(text.len())));
        assert_eq!(head.fields().len(), fields);
        assert!(text.as_bytes().starts_with(&input[head.method()]));
    }
}

#[test]
fn a_head_that_cannot_be_read_has_not_the_method_of_the_one_before() {
    let mut head = RequestHead::default();
    let mut input = b"DELETE / HTTP/1.1\r\n\r\n".to_vec();
    head.read(&mut input, BOUNDS).unwrap().unwrap();
    for faulty in ["GET / HTTP/1.1\n", "GET / HTTP/1.2\r\n\r\n"] {
        let mut head = head.clone();
        assert!(head.read(&mut faulty.as_bytes().to_vec(), BOUNDS).is_err());
        assert_eq!(head.method(), 0..0, "{faulty:?}");
    }
}

#[test]
fn a_head_with_another_reading_is_refused() {
    for (input, fault) in [
        ("GET /a b HTTP/1.1\r\n\r\n", Fault::RequestLine),
        ("GET  / HTTP/1.1\r\n\r\n", Fault::RequestLine),
        ("GET /  HTTP/1.1\r\n\r\n", Fault::RequestLine),
        ("GET / HTTP/1.2\r\n\r\n", Fault::RequestLine),
        ("GET / HTTP/2.0\r\n\r\n", Fault::RequestLine),
        ("GET / http/1.1\r\n\r\n", Fault::RequestLine),
        ("GET /\r\n\r\n", Fault::RequestLine),
        ("GET HTTP/1.1\r\n\r\n", Fault::RequestLine),
        ("G(T / HTTP/1.1\r\n\r\n", Fault::RequestLine),
        (" GET / HTTP/1.1\r\n\r\n", Fault::RequestLine),
        ("GET\t/ HTTP/1.1\r\n\r\n", Fault::RequestLine),
        ("\r\n\r\nGET / HTTP/1.1\r\n\r\n", Fault::RequestLine),
        ("\nGET / HTTP/1.1\r\n\r\n", Fault::Line),
        ("GET / HTTP/1.1\nA: b\r\n\r\n", Fault::Line),
        ("GET / HTTP/1.1\r\nA: b\n\r\n", Fault::Line),
        ("GET / HTTP/1.1\r\nA: b\n", Fault::Line),
        ("GET / HTTP/1.1\r\nA: b\rc\r\n\r\n", Fault::Line),
        ("GET / HTTP/1.1\r\nA: b\0c\r\n\r\n", Fault::Line),
        ("GET / HTTP/1.1\r\nA: b\x1b[31m\r\n\r\n", Fault::Line),
        ("GET / HTTP/1.1\r\n folded: x\r\n\r\n", Fault::Field),
        ("GET / HTTP/1.1\r\nA: b\r\n\tc\r\n\r\n", Fault::Field),
        ("GET / HTTP/1.1\r\nA : b\r\n\r\n", Fault::Field),
        ("GET / HTTP/1.1\r\n: b\r\n\r\n", Fault::Field),
        ("GET / HTTP/1.1\r\nA\r\n\r\n", Fault::Field),
        ("GET / HTTP/1.1\r\nÄ: b\r\n\r\n", Fault::Field),
    ] {
        assert_eq!(read(input.as_bytes()), Err(fault), "{input:?}");
    }
    let long_name = format!("GET / HTTP/1.1\r\n{}: b\r\n\r\n", "a".repeat(257));
    assert_eq!(read(long_name.as_bytes()), Err(Fault::Field));
    let long_method = format!("{} / HTTP/1.1\r\n\r\n", "A".repeat(33));
    assert_eq!(read(long_method.as_bytes()), Err(Fault::RequestLine));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(BOUNDS.fields + 1));
    assert_eq!(read(many.as_bytes()), Err(Fault::TooManyFields));
    for long in ["x".repeat(BOUNDS.bytes), format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "b".repeat(BOUNDS.bytes))] {
        assert_eq!(read(long.as_bytes()), Err(Fault::TooLarge));
    }
}

#[test]
fn a_body_has_one_length() {
    let of = |fields: &str| with(fields).map(|of| of.framing);
    assert_eq!(of("A: b"), Ok(Framing::None));
    assert_eq!(of("Content-Length: 5"), Ok(Framing::Length(5)));
    assert_eq!(of("Content-Length: 0"), Ok(Framing::Length(0)));
    assert_eq!(of("Transfer-Encoding: Chunked"), Ok(Framing::Chunked));
    for wrong in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: ",
        "Content-Length: 0x5",
        "Content-Length: 5.0",
        "Content-Length: 1234567890123456",
        "Content_Length: 5",
        "Content.Length: 5",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding:",
        "Transfer_Encoding: chunked",
    ] {
        assert_eq!(of(wrong), Err(Fault::Framing), "{wrong}");
    }
    assert_eq!(framing("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked"), Err(Fault::Framing));
}

#[test]
fn there_is_one_host_and_one_expectation_that_is_known() {
    assert_eq!(framing("GET / HTTP/1.1\r\nA: b"), Err(Fault::Host));
    assert_eq!(with("Host: a"), Err(Fault::Host));
    assert_eq!(framing("GET / HTTP/1.1\r\nA: b\r\nHost: a").unwrap().host, 1);
    assert!(with("Expect: 100-Continue").unwrap().expects_continue);
    assert!(!framing("POST / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue").unwrap().expects_continue);
    for wrong in ["Expect: 200-ok", "Expect:", "Expect: 100-continue\r\nExpect: 100-continue"] {
        assert_eq!(with(wrong), Err(Fault::Expect), "{wrong}");
    }
}

#[test]
fn a_connection_goes_on_unless_somebody_says_otherwise() {
    let of = |fields: &str| with(fields).unwrap().persistence;
    assert_eq!(of("A: b"), Persistence::Persistent);
    assert_eq!(of("Connection: keep-alive"), Persistence::Persistent);
    assert_eq!(of("Connection: x, Close"), Persistence::Close);
    assert_eq!(of("Connection: keep-alive\r\nConnection: close"), Persistence::Close);
    assert_eq!(framing("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive").unwrap().persistence, Persistence::Close);
}

fn nearly() -> impl Strategy<Value = Vec<u8>> {
    nearly::nearly(prop_oneof![
        Just("GET / HTTP/1.1".to_owned()),
        Just("\r\nPOST /a?b HTTP/1.0".to_owned()),
        "[A-Z!(]{0,4} ?/?[!-~]{0,6} HTTP/1.[0-2] ?",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn what_is_accepted_is_read_alike_by_httparse(input in nearly()) {
        if let Ok(Some(ours)) = read(&input) {
            let mut room = [httparse::EMPTY_HEADER; 32];
            let mut theirs = httparse::Request::new(&mut room);
            prop_assert_eq!(theirs.parse(&input), Ok(httparse::Status::Complete(ours.length)));
            prop_assert_eq!(theirs.method.unwrap().as_bytes(), &ours.method);
            prop_assert_eq!(theirs.path.unwrap().as_bytes(), &ours.target);
            let fields: Vec<(Vec<u8>, Vec<u8>)> =
                theirs.headers.iter().map(|h| (h.name.to_ascii_lowercase().into_bytes(), h.value.to_vec())).collect();
            prop_assert_eq!(fields, ours.fields);
        }
    }

    #[test]
    fn a_head_is_the_same_however_it_was_cut(mut input in nearly()) {
        let whole = read(&input);
        let mut head = RequestHead::default();
        let mut pieces = Ok(None);
        for end in 1..=input.len() {
            pieces = head.read(&mut input[..end], BOUNDS);
            if pieces != Ok(None) {
                break;
            }
        }
        match (whole, pieces) {
            (Ok(whole), Ok(length)) => prop_assert_eq!(whole.map(|whole| whole.length), length),
            // Byte by byte, a fault may be seen before another one that stands further back.
            (Err(_), Err(_)) => {}
            (whole, pieces) => prop_assert!(false, "{whole:?} and {pieces:?}"),
        }
    }

    #[test]
    fn no_bytes_make_it_panic(mut input in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut head = RequestHead::default();
        if let Ok(Some(_)) = head.read(&mut input, BOUNDS) {
            let _ = of_request(head.version(), pairs(head.fields(), &input));
        }
    }
}
