//! The canonical path: what is matched is byte for byte what is forwarded.
//!
//! Nothing is repaired. A path that two programs could read differently is refused; the only
//! rewriting is of escapes that every reader treats alike (RFC 3986 section 6.2.2), and that
//! rewriting is idempotent.

use std::borrow::Cow;

use unicode_normalization::{is_nfc, is_nfkc};

/// Longest path, in bytes.
pub const PATH_BYTES_MAX: usize = 2_048;
/// Most segments in a path; bounds the work of matching.
pub const SEGMENTS_MAX: usize = 64;

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathFault {
    /// Longer than [`PATH_BYTES_MAX`].
    TooLong,
    /// Does not start with a slash.
    NotAbsolute,
    /// A raw byte that has no place in a path.
    RawByte,
    /// `//`.
    EmptySegment,
    /// `%` without two hexadecimal digits.
    BadEscape,
    /// An escape of a byte that some reader would treat as syntax.
    EscapedSyntax,
    /// `.` or `..`, plain or escaped.
    DotSegment,
    /// Not UTF-8, not NFC, or with compatibility characters.
    Unicode,
    /// More than [`SEGMENTS_MAX`] segments.
    TooManySegments,
}

impl PathFault {
    /// A constant sentence for the caller.
    pub fn detail(self) -> &'static str {
        match self {
            PathFault::TooLong => "The path is too long.",
            PathFault::NotAbsolute => "The path must start with a slash.",
            PathFault::RawByte => "The path has a character that must not appear there.",
            PathFault::EmptySegment => "The path has an empty segment.",
            PathFault::BadEscape => "The path has a percent sign without two hexadecimal digits.",
            PathFault::EscapedSyntax => "The path has an escape that is not accepted.",
            PathFault::DotSegment => "The path has a dot segment.",
            PathFault::Unicode => "The path is not plain, normalized text.",
            PathFault::TooManySegments => "The path has too many segments.",
        }
    }
}

/// A path that every reader reads alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalPath<'a> {
    text: Cow<'a, str>,
    has_unicode: bool,
}

impl<'a> CanonicalPath<'a> {
    /// Accepts or refuses the path part of a request target.
    pub fn parse(raw: &'a [u8]) -> Result<Self, PathFault> {
        if raw.len() > PATH_BYTES_MAX {
            return Err(PathFault::TooLong);
        }
        if raw.first() != Some(&b'/') {
            return Err(PathFault::NotAbsolute);
        }
        let mut previous = 0u8;
        let (mut segments, mut begin) = (0usize, 0usize);
        let (mut has_escape, mut has_dots) = (false, false);
        let is_dots = |segment: Option<&[u8]>| matches!(segment, Some(b"." | b".."));
        for (at, &byte) in raw.iter().enumerate() {
            if !is_raw_path_byte(byte) {
                return Err(PathFault::RawByte);
            }
            if byte == b'/' {
                if previous == b'/' {
                    return Err(PathFault::EmptySegment);
                }
                segments += 1;
                has_dots |= is_dots(raw.get(begin..at));
                begin = at + 1;
            }
            has_escape |= byte == b'%';
            previous = byte;
        }
        if segments > SEGMENTS_MAX {
            return Err(PathFault::TooManySegments);
        }
        let text = std::str::from_utf8(raw).map_err(|_| PathFault::RawByte)?;
        let path =
            if has_escape { unescape(raw)? } else { CanonicalPath { text: Cow::Borrowed(text), has_unicode: false } };
        // An escaped dot is refused above, so that the bytes as they came show every such segment.
        if has_dots || is_dots(raw.get(begin..)) {
            return Err(PathFault::DotSegment);
        }
        Ok(path)
    }

    /// The path as matched and as forwarded.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it has escaped characters outside ASCII; such a path needs a route that accepts them.
    pub fn has_unicode(&self) -> bool {
        self.has_unicode
    }

    /// The segments after the first slash; the last is empty when the path ends in a slash.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.text.strip_prefix('/').unwrap_or(&self.text).split('/')
    }
}

/// Bytes that may stand in a path unescaped: RFC 3986 `pchar` without `;`, plus `/` and `%`,
/// plus `[` and `]`, which clients send unescaped and no reader treats as syntax.
fn is_raw_path_byte(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e)
        && !matches!(byte, b'\\' | b'#' | b'<' | b'>' | b'"' | b'^' | b'{' | b'|' | b'}' | b'`' | b';' | b'?')
}

/// Decodes once, refuses what decodes to syntax, rewrites the rest to its one canonical form.
fn unescape(raw: &[u8]) -> Result<CanonicalPath<'static>, PathFault> {
    let mut text = String::with_capacity(raw.len());
    let mut decoded = Vec::with_capacity(raw.len());
    let mut has_unicode = false;
    let mut bytes = raw.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            text.push(char::from(byte));
            decoded.push(byte);
            continue;
        }
        let high = bytes.next().and_then(hex).ok_or(PathFault::BadEscape)?;
        let low = bytes.next().and_then(hex).ok_or(PathFault::BadEscape)?;
        let value = high << 4 | low;
        match value {
            0x00..=0x20 | 0x7f | b'/' | b'\\' | b'.' | b'%' | b';' | b'?' | b'#' | b'"' | b'<' | b'>' => {
                return Err(PathFault::EscapedSyntax);
            }
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => text.push(char::from(value)),
            0x21..=0x7e | 0x80..=0xff => {
                has_unicode |= value >= 0x80;
                text.push('%');
                for nibble in [high, low] {
                    text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0').to_ascii_uppercase());
                }
            }
        }
        decoded.push(value);
    }
    if has_unicode {
        let plain = std::str::from_utf8(&decoded).map_err(|_| PathFault::Unicode)?;
        if !is_nfc(plain) || !is_nfkc(plain) || plain.chars().any(char::is_control) {
            return Err(PathFault::Unicode);
        }
    }
    Ok(CanonicalPath { text: Cow::Owned(text), has_unicode })
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(s: &str) -> Result<String, PathFault> {
        CanonicalPath::parse(s.as_bytes()).map(|p| p.as_str().to_owned())
    }

    #[test]
    fn a_plain_path_is_itself() {
        for path in ["/", "/v2/packs", "/v2/packs/", "/a.b/c..d/...", "/v2/packs/a@b:c,d=e", "/x[1]"] {
            assert_eq!(parse(path).as_deref(), Ok(path));
        }
    }

    #[test]
    fn an_escape_of_an_unreserved_letter_is_decoded_and_hex_is_upper_case() {
        assert_eq!(parse("/%41%2d%7e/%3a%c3%A9").as_deref(), Ok("/A-~/%3A%C3%A9"));
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        let cases: &[(&str, PathFault)] = &[
            ("v2", PathFault::NotAbsolute),
            ("", PathFault::NotAbsolute),
            ("//v2", PathFault::EmptySegment),
            ("/v2//packs", PathFault::EmptySegment),
            ("/v2/./packs", PathFault::DotSegment),
            ("/v2/../admin", PathFault::DotSegment),
            ("/v2/..", PathFault::DotSegment),
            ("/v2/%2e%2e/admin", PathFault::EscapedSyntax),
            ("/v2/.%2E/admin", PathFault::EscapedSyntax),
            ("/v2%2fpacks", PathFault::EscapedSyntax),
            ("/v2%5Cpacks", PathFault::EscapedSyntax),
            ("/v2\\packs", PathFault::RawByte),
            ("/v2/packs;v=1", PathFault::RawByte),
            ("/v2/packs%3bv", PathFault::EscapedSyntax),
            ("/v2/packs%00", PathFault::EscapedSyntax),
            ("/v2/packs%0a", PathFault::EscapedSyntax),
            ("/v2/packs%20", PathFault::EscapedSyntax),
            ("/v2/packs%7f", PathFault::EscapedSyntax),
            ("/v2/packs%252e", PathFault::EscapedSyntax),
            ("/v2/packs%", PathFault::BadEscape),
            ("/v2/packs%4", PathFault::BadEscape),
            ("/v2/packs%zz", PathFault::BadEscape),
            ("/v2/%ff", PathFault::Unicode),
            ("/v2/%c0%af", PathFault::Unicode),
            ("/v2/e%cc%81", PathFault::Unicode),
            ("/v2/%ef%bc%8f", PathFault::Unicode),
            ("/v2/%e2%84%aa", PathFault::Unicode),
            ("/v2/a b", PathFault::RawByte),
            ("/v2/a#b", PathFault::RawByte),
        ];
        for (path, fault) in cases {
            assert_eq!(parse(path), Err(*fault), "{path}");
        }
        assert_eq!(parse(&format!("/{}", "a".repeat(PATH_BYTES_MAX))), Err(PathFault::TooLong));
        assert_eq!(parse(&"/a".repeat(SEGMENTS_MAX + 1)), Err(PathFault::TooManySegments));
    }

    proptest! {
        #[test]
        fn canonicalising_twice_is_canonicalising_once(raw in "/(%[0-9a-fA-F]{2}|[ -~]){0,40}") {
            if let Ok(once) = parse(&raw) {
                prop_assert_eq!(parse(&once), Ok(once.clone()));
                prop_assert!(once.bytes().all(|b| (0x21..=0x7e).contains(&b)));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = CanonicalPath::parse(&raw);
        }
    }
}
