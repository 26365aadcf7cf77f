//! The canonical path: decoded once for matching, and forwarded byte for byte as it was matched, in
//! canonical escapes.
//!
//! Nothing is repaired. What backends read in two ways is refused: an escaped `/` or `\`, a raw `\`,
//! controls, dot segments, `//`, broken escapes and UTF-8, look-alikes of these, and an escaped `%`
//! before two hexadecimal digits, which a backend that decodes twice would decode again. A few forms
//! are ordinary to some backends and syntax to others: those pass where the route says so ([`Form`]).
//! Everything else that a client may escape is ordinary.

mod forms;

use std::borrow::Cow;

use unicode_normalization::{UnicodeNormalization as _, is_nfc, is_nfkc};

pub use self::forms::{Form, Forms};
use crate::bounds::Bounds;
use http1::bytes::Class;

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathFault {
    /// Longer than accepted.
    TooLong,
    /// Does not start with a slash.
    NotAbsolute,
    /// A raw byte that has no place in a path.
    RawByte,
    /// `//`.
    EmptySegment,
    /// `%` without two hexadecimal digits.
    BadEscape,
    /// An escape of `/`, `\` or a control, or of `%` before two hexadecimal digits.
    EscapedSyntax,
    /// `.` or `..`, plain or escaped.
    DotSegment,
    /// Not UTF-8, or a look-alike of something else that is refused.
    Unicode,
    /// More segments than are accepted.
    TooManySegments,
}

impl PathFault {
    /// A constant sentence for the caller.
    pub fn detail(self) -> &'static str {
        match self {
            PathFault::TooLong => "The path is too long.",
            PathFault::NotAbsolute => "The path must start with a slash.",
            PathFault::RawByte => "The path has a character that must be escaped or must not appear there.",
            PathFault::EmptySegment => "The path has an empty segment.",
            PathFault::BadEscape => "The path has a percent sign without two hexadecimal digits.",
            PathFault::EscapedSyntax => "The path has an escape that backends read in different ways.",
            PathFault::DotSegment => "The path has a dot segment.",
            PathFault::Unicode => "The path is not text, or has a look-alike of a slash, a dot segment or the like.",
            PathFault::TooManySegments => "The path has too many segments.",
        }
    }
}

/// A path that every reader reads alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalPath<'a> {
    text: Cow<'a, str>,
    /// The decoded text, where it differs.
    decoded: Option<String>,
    forms: Forms,
}

impl<'a> CanonicalPath<'a> {
    /// Accepts or refuses the path part of a request target.
    pub fn parse(raw: &'a [u8], bounds: &Bounds) -> Result<Self, PathFault> {
        if raw.len() > bounds.path_bytes {
            return Err(PathFault::TooLong);
        }
        if raw.first() != Some(&b'/') {
            return Err(PathFault::NotAbsolute);
        }
        let mut previous = 0u8;
        let (mut segments, mut begin) = (0usize, 0usize);
        let (mut needs_more, mut has_dots) = (false, false);
        let is_dots = |segment: Option<&[u8]>| matches!(segment, Some(b"." | b".."));
        for (at, &byte) in raw.iter().enumerate() {
            if !RAW.has(byte) {
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
            needs_more |= matches!(byte, b'%' | b';' | b'[' | b']');
            previous = byte;
        }
        if segments > bounds.segments {
            return Err(PathFault::TooManySegments);
        }
        if has_dots || is_dots(raw.get(begin..)) {
            return Err(PathFault::DotSegment);
        }
        if needs_more {
            // What is forwarded may be longer than what came, and the bound is its too.
            return unescape(raw).and_then(|path| match path.text.len() > bounds.path_bytes {
                true => Err(PathFault::TooLong),
                false => Ok(path),
            });
        }
        let text = std::str::from_utf8(raw).map_err(|_| PathFault::RawByte)?;
        Ok(CanonicalPath { text: Cow::Borrowed(text), decoded: None, forms: Forms::NONE })
    }

    /// The path as forwarded.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The path as matched: decoded once.
    pub fn decoded(&self) -> &str {
        self.decoded.as_deref().unwrap_or(&self.text)
    }

    /// The forms that its route must take.
    pub fn forms(&self) -> Forms {
        self.forms
    }
}

/// Bytes that may stand in a path unescaped: RFC 3986 `pchar`, `/` and `%`, and `[` and `]`, which
/// clients send unescaped.
const RAW: Class = Class::ALPHANUMERIC.with(b"-._~!$&'()*+,;=:@/%[]");
/// Those whose escape means the same (RFC 3986 section 6.2.2.2), but for the dot.
const UNRESERVED: Class = Class::ALPHANUMERIC.with(b"-_~");

/// Decodes once, refuses what has two readings, rewrites the rest to its one canonical form.
fn unescape(raw: &[u8]) -> Result<CanonicalPath<'static>, PathFault> {
    let mut text = String::with_capacity(raw.len() + 8);
    let mut decoded = Vec::with_capacity(raw.len());
    let mut forms = Forms::NONE;
    let mut bytes = raw.iter().copied();
    while let Some(byte) = bytes.next() {
        let (value, is_escaped) = match byte {
            b'%' => {
                let high = bytes.next().and_then(hex).ok_or(PathFault::BadEscape)?;
                let low = bytes.next().and_then(hex).ok_or(PathFault::BadEscape)?;
                (high << 4 | low, true)
            }
            plain => (plain, false),
        };
        match value {
            0x00..=0x1f | 0x7f => return Err(PathFault::EscapedSyntax),
            b'/' | b'\\' if is_escaped => return Err(PathFault::EscapedSyntax),
            b';' => forms = forms.with(Form::Semicolon),
            b'#' => forms = forms.with(Form::Hash),
            b'?' => forms = forms.with(Form::QuestionMark),
            b'.' if is_escaped => forms = forms.with(Form::EscapedDot),
            _ => {}
        }
        decoded.push(value);
        let stays_plain = if is_escaped { UNRESERVED.has(value) || value == b'.' } else { RAW.has(value) };
        match stays_plain && !matches!(value, b'[' | b']') {
            true => text.push(char::from(value)),
            false => push_escape(&mut text, value),
        }
    }
    let decoded = String::from_utf8(decoded).map_err(|_| PathFault::Unicode)?;
    for segment in decoded.split('/') {
        forms = forms.and(check_segment(segment)?);
    }
    Ok(CanonicalPath { text: Cow::Owned(text), decoded: Some(decoded), forms })
}

fn push_escape(text: &mut String, value: u8) {
    text.push('%');
    for nibble in [value >> 4, value & 0xf] {
        text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0').to_ascii_uppercase());
    }
}

/// Looks at a decoded segment as a backend might that decodes, normalizes or folds once more.
fn check_segment(segment: &str) -> Result<Forms, PathFault> {
    if is_dots(segment) {
        return Err(PathFault::DotSegment);
    }
    if has_escape(segment) {
        return Err(PathFault::EscapedSyntax);
    }
    if segment.is_ascii() {
        return Ok(Forms::NONE);
    }
    // Slashes and backslashes that normalization keeps and other foldings do not.
    let is_look_alike =
        |c: char| matches!(c, '\u{2044}' | '\u{2215}' | '\u{29f8}' | '\u{2216}' | '\u{29f5}' | '\u{29f9}' | '\u{fe68}');
    if segment.chars().any(|c| c.is_control() || is_look_alike(c)) {
        return Err(PathFault::Unicode);
    }
    // Some foldings leave out what is not seen (NFKC_Casefold, UTS 46).
    let has_ignorable = segment.chars().any(is_ignorable);
    if has_ignorable {
        let seen: String = segment.chars().filter(|c| !is_ignorable(*c)).nfkc().collect();
        if seen.is_empty() || is_dots(&seen) || has_escape(&seen) {
            return Err(PathFault::Unicode);
        }
    }
    if !has_ignorable && is_nfc(segment) && is_nfkc(segment) {
        return Ok(Forms::NONE);
    }
    let folded: String = segment.nfkc().collect();
    let has_new = |c: char| folded.contains(c) && !segment.contains(c);
    if is_dots(&folded) || ['/', '\\', ';', '?', '#'].into_iter().any(has_new) || has_escape(&folded) {
        return Err(PathFault::Unicode);
    }
    Ok(Forms::NONE.with(Form::OtherUnicode))
}

/// Whether a segment is a dot segment, also to those who cut parameters off it.
fn is_dots(segment: &str) -> bool {
    matches!(segment.split([';', '?', '#']).next(), Some("." | ".."))
}

/// Whether a character is not seen: Unicode's property Default_Ignorable_Code_Point, and the
/// separators of lines and paragraphs.
fn is_ignorable(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// Whether there is something that another decoding would decode.
fn has_escape(text: &str) -> bool {
    let is_hex = |b: Option<&u8>| b.is_some_and(u8::is_ascii_hexdigit);
    let bytes = text.as_bytes();
    let escapes = memchr::memchr_iter(b'%', bytes);
    escapes.into_iter().any(|at| is_hex(bytes.get(at + 1)) && is_hex(bytes.get(at + 2)))
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(s: &str) -> Result<CanonicalPath<'_>, PathFault> {
        CanonicalPath::parse(s.as_bytes(), &Bounds::DEFAULT)
    }

    fn parse(s: &str) -> Result<String, PathFault> {
        path(s).map(|p| p.as_str().to_owned())
    }

    #[test]
    fn a_plain_path_is_itself() {
        for plain in ["/", "/v2/packs", "/v2/packs/", "/a.b/c..d/...", "/v2/packs/a@b:c,d=e", "/(x)!$&'*+"] {
            let path = path(plain).unwrap();
            assert_eq!((path.as_str(), path.decoded(), path.forms()), (plain, plain, Forms::NONE));
        }
    }

    #[test]
    fn an_ordinary_escape_is_matched_decoded_and_forwarded_in_its_canonical_form() {
        for (sent, forwarded, matched) in [
            ("/items/by-name/a%20b", "/items/by-name/a%20b", "/items/by-name/a b"),
            ("/%41%2d%7e/%3a%c3%A9", "/A-~/%3A%C3%A9", "/A-~/:é"),
            ("/%22%3c%3E%5b%5D%7b%7D%7c%5E%60", "/%22%3C%3E%5B%5D%7B%7D%7C%5E%60", "/\"<>[]{}|^`"),
            ("/100%25", "/100%25", "/100%"),
            ("/a%25zz", "/a%25zz", "/a%zz"),
            ("/x[1]", "/x%5B1%5D", "/x[1]"),
            ("/a%2Bb+c", "/a%2Bb+c", "/a+b+c"),
        ] {
            let path = path(sent).unwrap();
            assert_eq!((path.as_str(), path.decoded(), path.forms()), (forwarded, matched, Forms::NONE), "{sent}");
        }
    }

    #[test]
    fn what_some_backends_take_for_syntax_needs_a_route_that_takes_it() {
        for (sent, forwarded, form) in [
            ("/v2/packs;v=1", "/v2/packs;v=1", Form::Semicolon),
            ("/v2/packs%3bv", "/v2/packs%3Bv", Form::Semicolon),
            ("/c%23", "/c%23", Form::Hash),
            ("/why%3f", "/why%3F", Form::QuestionMark),
            ("/a%2eb", "/a.b", Form::EscapedDot),
            ("/e%cc%81", "/e%CC%81", Form::OtherUnicode),
            ("/ad%c2%admin", "/ad%C2%ADmin", Form::OtherUnicode),
            ("/%f0%9f%91%a9%e2%80%8d%f0%9f%9a%80", "/%F0%9F%91%A9%E2%80%8D%F0%9F%9A%80", Form::OtherUnicode),
            ("/%e2%84%aa", "/%E2%84%AA", Form::OtherUnicode),
            ("/%ef%bc%a1", "/%EF%BC%A1", Form::OtherUnicode),
        ] {
            let path = path(sent).unwrap();
            assert_eq!((path.as_str(), path.forms()), (forwarded, Forms::NONE.with(form)), "{sent}");
        }
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
            ("/v2/%2e%2e/admin", PathFault::DotSegment),
            ("/v2/.%2E/admin", PathFault::DotSegment),
            ("/v2/%2e", PathFault::DotSegment),
            ("/v2/packs/..;/billing", PathFault::DotSegment),
            ("/v2/packs/.%2e%3bx/billing", PathFault::DotSegment),
            ("/v2%2fpacks", PathFault::EscapedSyntax),
            ("/v2%5Cpacks", PathFault::EscapedSyntax),
            ("/v2\\packs", PathFault::RawByte),
            ("/v2/packs%00", PathFault::EscapedSyntax),
            ("/v2/packs%0a", PathFault::EscapedSyntax),
            ("/v2/packs%1f", PathFault::EscapedSyntax),
            ("/v2/packs%7f", PathFault::EscapedSyntax),
            ("/v2/packs%c2%85", PathFault::Unicode),
            ("/v2/packs%252e", PathFault::EscapedSyntax),
            ("/v2/packs%252F", PathFault::EscapedSyntax),
            ("/v2/packs%25%32%65", PathFault::EscapedSyntax),
            ("/v2/packs%", PathFault::BadEscape),
            ("/v2/packs%4", PathFault::BadEscape),
            ("/v2/packs%zz", PathFault::BadEscape),
            ("/v2/%ff", PathFault::Unicode),
            ("/v2/%c0%af", PathFault::Unicode),
            ("/v2/%c0%ae%c0%ae/admin", PathFault::Unicode),
            ("/v2/%ef%bc%8f", PathFault::Unicode),
            ("/v2/%ef%bc%8e%ef%bc%8e/admin", PathFault::Unicode),
            ("/v2/%e2%80%a5/admin", PathFault::Unicode),
            ("/v2/%ef%bc%9b", PathFault::Unicode),
            ("/v2/%ef%bc%852e", PathFault::Unicode),
            ("/v2/%e2%88%95x", PathFault::Unicode),
            ("/v2/%e2%84%80", PathFault::Unicode),
            ("/v2/a b", PathFault::RawByte),
            ("/v2/a#b", PathFault::RawByte),
            ("/v2/é", PathFault::RawByte),
        ];
        for (path, fault) in cases {
            assert_eq!(parse(path), Err(*fault), "{path}");
        }
        assert_eq!(parse(&format!("/{}", "a".repeat(Bounds::DEFAULT.path_bytes))), Err(PathFault::TooLong));
        assert_eq!(parse(&"/a".repeat(Bounds::DEFAULT.segments + 1)), Err(PathFault::TooManySegments));
    }

    proptest! {
        #[test]
        fn canonicalising_twice_is_canonicalising_once(raw in "/(%[0-9a-fA-F]{2}|[ -~]){0,40}") {
            if let Ok(once) = path(&raw) {
                let twice = path(once.as_str()).unwrap();
                prop_assert_eq!((twice.as_str(), twice.decoded()), (once.as_str(), once.decoded()));
                prop_assert!(once.as_str().bytes().all(|b| (0x21..=0x7e).contains(&b)));
            }
        }

        #[test]
        fn no_decoding_finds_a_slash_or_a_dot_segment_that_was_not_there(raw in "/(%[0-9a-fA-F]{2}|[ -~]){0,20}") {
            if let Ok(path) = path(&raw) {
                let decode = |text: &str| percent_decode(text.as_bytes());
                let once = decode(path.as_str());
                prop_assert_eq!(String::from_utf8_lossy(&once), path.decoded());
                let slashes = |bytes: &[u8]| bytes.iter().filter(|b| matches!(b, b'/' | b'\\')).count();
                prop_assert_eq!(slashes(&once), slashes(raw.as_bytes()));
                prop_assert_eq!(&percent_decode(&once), &once, "decoding again changes nothing");
                prop_assert!(!once.split(|b| *b == b'/').any(|s| s == b"." || s == b".."));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = CanonicalPath::parse(&raw, &Bounds::DEFAULT);
        }
    }

    fn percent_decode(raw: &[u8]) -> Vec<u8> {
        let mut decoded = Vec::new();
        let mut at = 0;
        while let Some(&byte) = raw.get(at) {
            let digits = (byte == b'%').then(|| Some((hex(*raw.get(at + 1)?)?, hex(*raw.get(at + 2)?)?))).flatten();
            decoded.push(digits.map_or(byte, |(high, low)| high << 4 | low));
            at += if digits.is_some() { 3 } else { 1 };
        }
        decoded
    }

    #[test]
    fn a_path_that_is_forwarded_is_no_longer_than_the_bound() {
        let bounds = Bounds { path_bytes: 10, ..Bounds::DEFAULT };
        assert!(CanonicalPath::parse(b"/[]/abc", &bounds).is_err_and(|fault| fault == PathFault::TooLong));
        assert!(CanonicalPath::parse(b"/[]/ab", &bounds).is_ok());
    }

    #[test]
    fn a_dot_segment_is_none_the_less_for_what_is_not_seen() {
        for sent in
            ["/v2/.%e2%80%8b./admin", "/%ef%bb%bf..", "/.%c2%ad", "/%e2%80%8b", "/%2%e2%81%a05", "/..%3fx", "/..%23x"]
        {
            assert!(parse(sent).is_err(), "{sent}");
        }
    }
}
