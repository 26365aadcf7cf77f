//! Heads and framing of responses: what is accepted, what is refused, and that others agree.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod nearly;

use http1::Fault;
use http1::framing::{Framing, OfResponse, Persistence, of_response};
use http1::head::{Bounds, ResponseHead, Version, pairs};
use proptest::prelude::*;

const BOUNDS: Bounds = Bounds { bytes: 4_096, fields: 20 };

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;
type Head = (u16, Vec<u8>, Pairs, usize);

/// A head that is read whole: status, reason, fields, and its length.
fn read(input: &[u8]) -> Result<Option<Head>, Fault> {
    let mut head = ResponseHead::default();
    let mut input = input.to_vec();
    let Some(length) = head.read(&mut input, BOUNDS)? else { return Ok(None) };
    let pairs = pairs(head.fields(), &input).map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
    Ok(Some((head.status(), input[head.reason()].to_vec(), pairs, length)))
}

fn framing(head: &str) -> Result<OfResponse, Fault> {
    answer_to(head, false)
}

fn answer_to(text: &str, is_head: bool) -> Result<OfResponse, Fault> {
    let mut input = format!("{text}\r\n\r\n").into_bytes();
    let mut head = ResponseHead::default();
    head.read(&mut input, BOUNDS).unwrap().unwrap();
    of_response((head.version(), head.status()), pairs(head.fields(), &input), is_head)
}

#[test]
fn a_head_is_read_as_it_stands() {
    let input = b"HTTP/1.1 200 All right\r\nServer: a b\t\r\nX-Empty:\r\nset-cookie: \xe9=1\r\n\r\nbody";
    let (status, reason, fields, length) = read(input).unwrap().unwrap();
    assert_eq!((status, &reason[..], length), (200, &b"All right"[..], input.len() - 4));
    let expected: [(&[u8], &[u8]); 3] = [(b"server", b"a b"), (b"x-empty", b""), (b"set-cookie", b"\xe9=1")];
    assert_eq!(fields, expected.map(|(name, value)| (name.to_vec(), value.to_vec())));
    for line in ["HTTP/1.1 204", "HTTP/1.1 204 ", "HTTP/1.0 999 x"] {
        assert!(read(format!("{line}\r\n\r\n").as_bytes()).unwrap().is_some(), "{line}");
    }
}

#[test]
fn a_head_with_another_reading_is_refused() {
    for (input, fault) in [
        ("HTTP/1.1  200 OK\r\n\r\n", Fault::StatusLine),
        ("HTTP/1.1 20 OK\r\n\r\n", Fault::StatusLine),
        ("HTTP/1.1 2000 OK\r\n\r\n", Fault::StatusLine),
        ("HTTP/1.1 099 OK\r\n\r\n", Fault::StatusLine),
        ("HTTP/1.1 +20 OK\r\n\r\n", Fault::StatusLine),
        ("HTTP/1.1\t200 OK\r\n\r\n", Fault::StatusLine),
        ("HTTP/1.2 200 OK\r\n\r\n", Fault::StatusLine),
        ("HTTP/2 200 OK\r\n\r\n", Fault::StatusLine),
        ("http/1.1 200 OK\r\n\r\n", Fault::StatusLine),
        ("ICY 200 OK\r\n\r\n", Fault::StatusLine),
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", Fault::StatusLine),
        (" HTTP/1.1 200 OK\r\n\r\n", Fault::StatusLine),
        ("HTTP/1.1 200 O\rK\r\n\r\n", Fault::Line),
        ("HTTP/1.1 200 OK\nA: b\r\n\r\n", Fault::Line),
        ("HTTP/1.1 200 OK\n\n", Fault::Line),
        ("HTTP/1.1 200 OK\r\nA: b\n", Fault::Line),
        ("\n", Fault::Line),
        ("HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n", Fault::Line),
        ("HTTP/1.1 200 OK\r\nA: b\x7f\r\n\r\n", Fault::Line),
        ("HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n", Fault::Line),
        ("HTTP/1.1 200 OK\r\n A: b\r\n\r\n", Fault::Field),
        ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", Fault::Field),
        ("HTTP/1.1 200 OK\r\nA: b\r\n\tc: d\r\n\r\n", Fault::Field),
        ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", Fault::Field),
        ("HTTP/1.1 200 OK\r\n: b\r\n\r\n", Fault::Field),
        ("HTTP/1.1 200 OK\r\nA\r\n\r\n", Fault::Field),
        ("HTTP/1.1 200 OK\r\nA(: b\r\n\r\n", Fault::Field),
        ("HTTP/1.1 200 OK\r\nÄ: b\r\n\r\n", Fault::Field),
    ] {
        assert_eq!(read(input.as_bytes()), Err(fault), "{input:?}");
    }
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(BOUNDS.fields + 1));
    assert_eq!(read(many.as_bytes()), Err(Fault::TooManyFields));
    for long in ["x".repeat(BOUNDS.bytes), format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "b".repeat(BOUNDS.bytes))] {
        assert_eq!(read(long.as_bytes()), Err(Fault::TooLarge));
    }
}

#[test]
fn a_length_has_one_reading_or_none() {
    let of = |fields: &str| framing(&format!("HTTP/1.1 200 OK\r\n{fields}")).map(|of| (of.framing, of.persistence));
    let (keep, close) = (Persistence::Persistent, Persistence::Close);
    assert_eq!(of("A: b"), Ok((Framing::UntilClose, close)));
    assert_eq!(of("Content-Length: 5"), Ok((Framing::Length(5), keep)));
    assert_eq!(of("Content-Length: 05"), Ok((Framing::Length(5), keep)));
    assert_eq!(of("Content-Length: 5\r\ncontent-length: 5"), Ok((Framing::Length(5), keep)));
    assert_eq!(of("Content-Length: 5, 5"), Ok((Framing::Length(5), keep)));
    assert_eq!(of("Transfer-Encoding: Chunked"), Ok((Framing::Chunked, keep)));
    // Somebody on the way may have believed the length.
    assert_eq!(of("Transfer-Encoding: chunked\r\nContent-Length: 5"), Ok((Framing::Chunked, close)));
    for wrong in [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 6",
        "Content-Length: 5,",
        "Content-Length:",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 5 5",
        "Content-Length: 0x5",
        "Content-Length: 5.0",
        "Content-Length: 1234567890123456789",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding:",
    ] {
        assert_eq!(of(wrong), Err(Fault::Framing), "{wrong}");
    }
    assert_eq!(framing("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked"), Err(Fault::Framing));
}

#[test]
fn some_responses_have_no_body_whatever_they_say() {
    for status in [100, 103, 199, 204] {
        let of = framing(&format!("HTTP/1.1 {status} x\r\nContent-Length: 5")).unwrap();
        assert_eq!((of.framing, of.length, of.has_void_length), (Framing::None, None, true), "{status}");
        let of = framing(&format!("HTTP/1.1 {status} x\r\nTransfer-Encoding: chunked")).unwrap();
        assert_eq!(of.framing, Framing::None, "{status}");
    }
    let of = framing("HTTP/1.1 304 x\r\nContent-Length: 5").unwrap();
    assert_eq!((of.framing, of.length, of.has_void_length), (Framing::None, Some(5), false));
    let of = answer_to("HTTP/1.1 200 OK\r\nContent-Length: 5", true).unwrap();
    assert_eq!((of.framing, of.length, of.persistence), (Framing::None, Some(5), Persistence::Persistent));
    assert_eq!(framing("HTTP/1.1 205 x\r\nContent-Length: 0").unwrap().framing, Framing::Length(0));
}

#[test]
fn a_connection_goes_on_as_its_version_and_options_say() {
    let of = |text: &str| framing(&format!("{text}\r\nContent-Length: 0")).unwrap().persistence;
    assert_eq!(of("HTTP/1.1 200 OK"), Persistence::Persistent);
    assert_eq!(of("HTTP/1.1 200 OK\r\nConnection: x, Close"), Persistence::Close);
    assert_eq!(of("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nConnection: close"), Persistence::Close);
    assert_eq!(of("HTTP/1.0 200 OK"), Persistence::Close);
    assert_eq!(of("HTTP/1.0 200 OK\r\nConnection: Keep-Alive"), Persistence::Persistent);
    assert_eq!(of("HTTP/1.0 200 OK\r\nConnection: keep-alive, close"), Persistence::Close);
    assert_eq!(of("HTTP/1.1 200 OK\r\nConnection: closed"), Persistence::Persistent);
    let _ = Version::Http11;
}

fn nearly() -> impl Strategy<Value = Vec<u8>> {
    nearly::nearly(prop_oneof![
        Just("HTTP/1.1 200 OK".to_owned()),
        Just("HTTP/1.0 404 ".to_owned()),
        Just("HTTP/1.1 301".to_owned()),
        "HTTP/1.[0-2] [0-9]{2,4} ?[ -~]{0,4}",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn what_is_accepted_is_read_alike_by_httparse(input in nearly()) {
        if let Ok(Some((status, reason, fields, length))) = read(&input) {
            let mut room = [httparse::EMPTY_HEADER; 32];
            let mut theirs = httparse::Response::new(&mut room);
            prop_assert_eq!(theirs.parse(&input), Ok(httparse::Status::Complete(length)));
            prop_assert_eq!(theirs.code, Some(status));
            // Its reason is text or nothing.
            prop_assert!(theirs.reason.is_none_or(|text| text.as_bytes() == reason || text.is_empty()));
            let theirs: Vec<(Vec<u8>, Vec<u8>)> =
                theirs.headers.iter().map(|h| (h.name.to_ascii_lowercase().into_bytes(), h.value.to_vec())).collect();
            prop_assert_eq!(theirs, fields);
        }
    }

    #[test]
    fn a_head_is_the_same_however_it_was_cut(mut input in nearly()) {
        let whole = read(&input);
        let mut head = ResponseHead::default();
        let mut pieces = Ok(None);
        for end in 1..=input.len() {
            pieces = head.read(&mut input[..end], BOUNDS);
            if pieces != Ok(None) {
                break;
            }
        }
        match (whole, pieces) {
            (Ok(whole), Ok(length)) => prop_assert_eq!(whole.map(|(_, _, _, length)| length), length),
            // Byte by byte, a fault may be seen before another one that stands further back.
            (Err(_), Err(_)) => {}
            (whole, pieces) => prop_assert!(false, "{whole:?} and {pieces:?}"),
        }
    }

    #[test]
    fn no_bytes_make_it_panic(mut input in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut head = ResponseHead::default();
        if let Ok(Some(_)) = head.read(&mut input, BOUNDS) {
            let _ = of_response((head.version(), head.status()), pairs(head.fields(), &input), false);
        }
    }
}
