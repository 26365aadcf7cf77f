//! Bodies in chunks, as they are sent (RFC 9112 section 7.1).

/// The end of a body without trailers.
pub const LAST: &[u8] = b"0\r\n\r\n";
/// What stands behind a chunk's data.
pub const END: &[u8] = b"\r\n";

/// What stands behind the data of the last chunk that has any, in a body without trailers.
pub const END_AND_LAST: &[u8] = b"\r\n0\r\n\r\n";

/// The line before a chunk's data.
#[derive(Clone, Copy, Debug)]
pub struct SizeLine {
    bytes: [u8; 18],
    start: usize,
}

impl SizeLine {
    /// For a chunk of so many bytes; `None` for a chunk of none, which would be the end.
    pub fn of(size: u64) -> Option<Self> {
        if size == 0 {
            return None;
        }
        let (mut bytes, mut start, mut left) = (*b"0000000000000000\r\n", 16, size);
        while left > 0 {
            let digit = u32::try_from(left % 16).ok().and_then(|digit| char::from_digit(digit, 16));
            start -= 1;
            if let (Some(place), Some(digit)) = (bytes.get_mut(start), digit) {
                *place = digit as u8;
            }
            left /= 16;
        }
        Some(SizeLine { bytes, start })
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }
}
