//! Classes of bytes as tables, for what is asked of every byte of every head.

/// A set of bytes.
#[derive(Clone, Copy, Debug)]
pub struct Class([bool; 256]);

impl Class {
    /// Letters and digits.
    pub const ALPHANUMERIC: Class =
        Class([false; 256]).with_range(b'0', b'9').with_range(b'A', b'Z').with_range(b'a', b'z');
    /// Letters in lower case.
    pub const LOWER: Class = Class([false; 256]).with_range(b'a', b'z');
    /// RFC 9110 section 5.6.2, `tchar`.
    pub const TOKEN: Class = Class::ALPHANUMERIC.with(b"!#$%&'*+-.^_`|~");
    /// RFC 6750 section 2.1, `b64token` without its padding.
    pub const BEARER: Class = Class::ALPHANUMERIC.with(b"-._~+/");

    #[expect(clippy::indexing_slicing, reason = "a byte is an index of 256; evaluated when compiled")]
    const fn with_range(mut self, first: u8, last: u8) -> Self {
        let mut byte = first as usize;
        while byte <= last as usize {
            self.0[byte] = true;
            byte += 1;
        }
        self
    }

    /// These bytes too.
    #[expect(clippy::indexing_slicing, reason = "within its length; evaluated when compiled")]
    pub const fn with(mut self, bytes: &[u8]) -> Self {
        let mut at = 0;
        while at < bytes.len() {
            self = self.with_range(bytes[at], bytes[at]);
            at += 1;
        }
        self
    }

    /// Whether a byte is one of these.
    #[expect(clippy::indexing_slicing, reason = "a byte is an index of 256")]
    pub const fn has(&self, byte: u8) -> bool {
        self.0[byte as usize]
    }

    /// Whether all bytes are.
    pub fn has_all(&self, bytes: &[u8]) -> bool {
        bytes.iter().all(|byte| self.has(*byte))
    }
}

/// Whether there is a control character but HTAB. Without a branch for each byte, so that many are looked at
/// together.
pub fn has_control(bytes: &[u8]) -> bool {
    bytes.iter().fold(false, |found, byte| found | ((*byte < 0x20) & (*byte != b'\t')) | (*byte == 0x7f))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_say_what_the_definitions_say() {
        for byte in 0..=u8::MAX {
            assert_eq!(Class::ALPHANUMERIC.has(byte), byte.is_ascii_alphanumeric());
            assert_eq!(has_control(&[byte]), byte.is_ascii_control() && byte != b'\t');
            let delimiters = b"\"(),/:;<=>?@[\\]{}";
            assert_eq!(Class::TOKEN.has(byte), byte.is_ascii_graphic() && !delimiters.contains(&byte));
            assert_eq!(Class::BEARER.has(byte), byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte));
        }
    }
}
