//! Bodies: what is read of them, however they were cut, and what is refused.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use http1::body::{Decoder, EXTENSION_BYTES_MAX, TRAILER_BYTES_MAX, TRAILERS_MAX};
use http1::chunk::{END, LAST, SizeLine};
use http1::{Fault, framing::Framing};
use proptest::prelude::*;

/// A body, how many bytes of the input it took, and whether it is whole; the input comes in pieces.
fn decode<'i>(framing: Framing, pieces: impl IntoIterator<Item = &'i [u8]>) -> Result<(Vec<u8>, usize, bool), Fault> {
    let mut decoder = Decoder::new(framing);
    let (mut body, mut used) = (Vec::new(), 0);
    for mut piece in pieces {
        while !piece.is_empty() && !decoder.is_done() {
            let found = decoder.decode(piece)?;
            assert!(found.used > 0, "it goes on");
            assert!(found.data.end <= found.used);
            body.extend_from_slice(&piece[found.data.clone()]);
            used += found.used;
            piece = &piece[found.used..];
        }
    }
    Ok((body, used, decoder.is_done()))
}

fn chunked(input: &[u8]) -> Result<(Vec<u8>, usize, bool), Fault> {
    decode(Framing::Chunked, [input])
}

#[test]
fn a_chunked_body_ends_where_it_says() {
    for (input, body) in [
        (&b"0\r\n\r\n"[..], &b""[..]),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"5\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n", b"hello0123456789"),
        (b"0005\r\nhello\r\n000\r\n\r\n", b"hello"),
        (b"5;a=b;c=\"d;e\"\r\nhello\r\n0;last\r\n\r\n", b"hello"),
        (b"1\r\n\r\r\n1\r\n\n\r\n0\r\nA: b\r\n\r\n", b"\r\n"),
    ] {
        let longer = [input, b"GET /"].concat();
        assert_eq!(chunked(&longer), Ok((body.to_vec(), input.len(), true)), "{input:?}");
    }
}

#[test]
fn a_malformed_chunk_is_refused() {
    for input in [
        &b"\r\n"[..],
        b" 5\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"-1\r\n",
        b"0x5\r\nhello\r\n",
        b"g\r\n",
        b";a\r\n",
        b"5\nhello\r\n",
        b"5\r\rhello",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello\r0\r\n\r\n",
        b"5\r\nhell\r\n0\r\n\r\n",
        b"5;a\nb\r\nhello",
        b"5;a\0\r\nhello",
        b"5;a\rb\r\nhello",
        b"1000000000000000\r\n",
        b"0000000000000005\r\nhello",
        b"0\n\r\n",
        b"0\r\r\n",
    ] {
        assert_eq!(chunked(input), Err(Fault::Chunk), "{:?}", String::from_utf8_lossy(input));
    }
    let flood = "1;aaaaaaaaaaaaaaa\r\nx\r\n".repeat(EXTENSION_BYTES_MAX / 15 + 1);
    assert_eq!(chunked(flood.as_bytes()), Err(Fault::Chunk));
}

#[test]
fn trailers_are_read_strictly_and_within_bounds() {
    let mut decoder = Decoder::new(Framing::Chunked);
    let input = b"0\r\nA: b\r\nGrpc-Status:  0 \r\n\r\nmore";
    assert_eq!(decoder.decode(input).unwrap().used, input.len() - 4);
    let trailers: Vec<(&[u8], &[u8])> = decoder.trailers().collect();
    assert_eq!(trailers, [(&b"a"[..], &b"b"[..]), (b"grpc-status", b"0")]);
    for (input, fault) in [
        (&b"0\r\nA\r\n\r\n"[..], Fault::Field),
        (b"0\r\n A: b\r\n\r\n", Fault::Field),
        (b"0\r\nA: b\n\r\n", Fault::Line),
        (b"0\r\nA: \0\r\n\r\n", Fault::Line),
    ] {
        assert_eq!(chunked(input), Err(fault), "{:?}", String::from_utf8_lossy(input));
    }
    let large = format!("0\r\nA: {}\r\n\r\n", "b".repeat(TRAILER_BYTES_MAX));
    assert_eq!(chunked(large.as_bytes()), Err(Fault::TooLarge));
    let endless = format!("0\r\n{}", "b".repeat(TRAILER_BYTES_MAX + 1));
    assert_eq!(chunked(endless.as_bytes()), Err(Fault::TooLarge));
    let many = format!("0\r\n{}\r\n", "A: b\r\n".repeat(TRAILERS_MAX + 1));
    assert_eq!(chunked(many.as_bytes()), Err(Fault::TooManyFields));
}

#[test]
fn only_a_whole_body_may_end_with_its_connection() {
    for (framing, input, end) in [
        (Framing::None, &b""[..], Ok(())),
        (Framing::Length(0), b"", Ok(())),
        (Framing::Length(5), b"hello", Ok(())),
        (Framing::Length(5), b"hell", Err(Fault::Incomplete)),
        (Framing::UntilClose, b"hello", Ok(())),
        (Framing::Chunked, b"5\r\nhello\r\n0\r\n\r\n", Ok(())),
        (Framing::Chunked, b"5\r\nhello\r\n0\r\n", Err(Fault::Incomplete)),
        (Framing::Chunked, b"5\r\nhello\r\n", Err(Fault::Incomplete)),
        (Framing::Chunked, b"5\r\nhel", Err(Fault::Incomplete)),
        (Framing::Chunked, b"", Err(Fault::Incomplete)),
    ] {
        let mut decoder = Decoder::new(framing);
        let mut rest = input;
        while !rest.is_empty() {
            rest = &rest[decoder.decode(rest).unwrap().used..];
        }
        assert_eq!(decoder.end_of_input(), end, "{framing:?} {input:?}");
    }
}

#[test]
fn a_length_takes_what_is_its_own() {
    assert_eq!(decode(Framing::Length(5), [&b"hello, world"[..]]), Ok((b"hello".to_vec(), 5, true)));
    assert_eq!(decode(Framing::None, [&b"hello"[..]]), Ok((Vec::new(), 0, true)));
}

/// A body in chunks as we send it.
fn encode(pieces: &[Vec<u8>]) -> Vec<u8> {
    let mut sent = Vec::new();
    for piece in pieces {
        let Some(line) = SizeLine::of(piece.len() as u64) else { continue };
        for part in [line.as_bytes(), piece, END] {
            sent.extend_from_slice(part);
        }
    }
    sent.extend_from_slice(LAST);
    sent
}

#[test]
fn the_line_before_a_chunk_is_its_size_in_hexadecimal() {
    for size in [1, 9, 10, 15, 16, 255, 65_536, u64::MAX] {
        assert_eq!(SizeLine::of(size).unwrap().as_bytes(), format!("{size:x}\r\n").as_bytes());
    }
    assert!(SizeLine::of(0).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_we_send_in_chunks_is_read_as_it_was(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8),
    ) {
        let sent = encode(&pieces);
        prop_assert_eq!(chunked(&sent), Ok((pieces.concat(), sent.len(), true)));
    }

    #[test]
    fn a_body_is_the_same_however_it_was_cut(
        input in prop_oneof![
            "[0-9a-f]{0,2}(;[a-z]{0,3})?\r?\n?[a-z]{0,12}\r?\n?0?\r\n(A: b\r\n)?\r\n[A-Z]{0,3}".prop_map(String::into_bytes),
            proptest::collection::vec(any::<u8>(), 0..60),
            proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..4).prop_map(|p| encode(&p)),
        ],
        framing in prop_oneof![Just(Framing::Chunked), (0u64..50).prop_map(Framing::Length), Just(Framing::UntilClose)],
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..5),
    ) {
        let whole = decode(framing, [&input[..]]);
        let bytes = decode(framing, input.chunks(1));
        prop_assert_eq!(&whole, &bytes);
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
        places.sort_unstable();
        let ends: Vec<usize> = places.iter().copied().chain([input.len()]).collect();
        let pieces = [0].into_iter().chain(places).zip(ends).map(|(from, to)| &input[from..to]);
        prop_assert_eq!(&whole, &decode(framing, pieces));
    }
}
