//! A client's request: the codec never panics, reads it alike however it was cut, and reads no head that
//! httparse refuses.
#![no_main]
use http1::Fault;
use http1::body::Decoder;
use http1::framing::of_request;
use http1::head::{Bounds, RequestHead, pairs};
use libfuzzer_sys::fuzz_target;

const BOUNDS: Bounds = Bounds { bytes: 2_048, fields: 32 };

/// Target, body, whether it was whole, and how many bytes it took; read in pieces of so many bytes.
fn request(raw: &[u8], piece: usize) -> Result<Option<(Vec<u8>, Vec<u8>, bool, usize)>, Fault> {
    let mut head = RequestHead::default();
    let ends = (1..raw.len()).filter(|end| end % piece == 0).chain([raw.len()]);
    let (mut length, mut bytes) = (None, raw.to_vec());
    for end in ends {
        length = head.read(&mut bytes[..end], BOUNDS)?;
        if length.is_some() {
            break;
        }
    }
    let Some(length) = length else { return Ok(None) };
    let of = of_request(head.version(), pairs(head.fields(), &bytes))?;
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
    Ok(Some((bytes[head.target()].to_vec(), body, decoder.is_done(), used)))
}

fuzz_target!(|raw: &[u8]| {
    let whole = request(raw, raw.len().max(1));
    for piece in [1, 7] {
        match (&whole, &request(raw, piece)) {
            // In pieces, a fault may be found before another one that stands further back.
            (Err(_), Err(_)) => {}
            (whole, pieces) => assert_eq!(*whole, *pieces),
        }
    }
    if let Ok(Some((target, ..))) = whole {
        let mut room = [httparse::EMPTY_HEADER; 64];
        let mut theirs = httparse::Request::new(&mut room);
        assert!(matches!(theirs.parse(raw), Ok(httparse::Status::Complete(_))));
        assert_eq!(theirs.path.map(str::as_bytes), Some(&target[..]));
    }
});
