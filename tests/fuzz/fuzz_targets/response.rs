//! A backend's answer: the codec never panics, reads it alike however it was cut, and reads no head that
//! httparse refuses.
#![no_main]
use http1::Fault;
use http1::body::Decoder;
use http1::framing::of_response;
use http1::head::{Bounds, ResponseHead, pairs};
use libfuzzer_sys::fuzz_target;

const BOUNDS: Bounds = Bounds { bytes: 2_048, fields: 32 };

/// Status, body, whether it was whole, and how many bytes it took; read in pieces of so many bytes.
fn answer(raw: &[u8], piece: usize) -> Result<Option<(u16, Vec<u8>, bool, usize)>, Fault> {
    let mut head = ResponseHead::default();
    let ends = (1..raw.len()).filter(|end| end % piece == 0).chain([raw.len()]);
    let (mut length, mut bytes) = (None, raw.to_vec());
    for end in ends {
        length = head.read(&mut bytes[..end], BOUNDS)?;
        if length.is_some() {
            break;
        }
    }
    let Some(length) = length else { return Ok(None) };
    let of = of_response((head.version(), head.status()), pairs(head.fields(), &bytes), false)?;
    let (mut body, mut used, mut decoder) = (Vec::new(), length, Decoder::new(of.framing));
    for mut rest in raw[length..].chunks(piece) {
        while !rest.is_empty() && !decoder.is_done() {
            let found = decoder.decode(rest)?;
            assert!(found.used > 0 && found.data.end <= found.used);
            body.extend_from_slice(&rest[found.data]);
            used += found.used;
            rest = &rest[found.used..];
        }
    }
    let is_whole = decoder.is_done() || decoder.end_of_input().is_ok();
    Ok(Some((head.status(), body, is_whole, used)))
}

fuzz_target!(|raw: &[u8]| {
    let whole = answer(raw, raw.len().max(1));
    for piece in [1, 7] {
        match (&whole, &answer(raw, piece)) {
            // In pieces, a fault may be found before another one that stands further back.
            (Err(_), Err(_)) => {}
            (whole, pieces) => assert_eq!(*whole, *pieces),
        }
    }
    if let Ok(Some((status, ..))) = whole {
        let mut room = [httparse::EMPTY_HEADER; 64];
        let mut theirs = httparse::Response::new(&mut room);
        assert!(matches!(theirs.parse(raw), Ok(httparse::Status::Complete(_))));
        assert_eq!(theirs.code, Some(status));
    }
});
