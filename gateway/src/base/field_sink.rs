//! Where the fields of a message go that is being made: bytes of HTTP/1.1, or a map of HTTP/2.
//!
//! Nothing that is put in can end its line: a value of ours that is no field value makes the message fail.

use http::header::HeaderMap;
use http::{HeaderName, HeaderValue};

/// A text of ours that is no field value: a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a value of ours is not a field value")]
pub struct BadValue;

/// A text of ours as a value.
///
/// # Errors
/// It cannot be one.
pub fn value(text: &str) -> Result<HeaderValue, BadValue> {
    if is_value(text.as_bytes()) { HeaderValue::from_str(text).map_err(|_| BadValue) } else { Err(BadValue) }
}

/// How a field may be kept by those who compress heads (RFC 7541 section 7.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indexing {
    /// As usual.
    Usual,
    /// Not at all: no two messages share this value, and it would push out those that come again.
    Never,
}

/// Takes the fields of one message, in order.
pub trait FieldSink {
    /// A field that somebody else has sent: its name in lower case.
    fn pass(&mut self, name: &[u8], value: &[u8]);

    /// A field of ours whose value is written by `write`.
    fn write(&mut self, name: &HeaderName, indexing: Indexing, write: impl FnOnce(&mut Vec<u8>));

    /// A field of ours.
    fn put(&mut self, name: &HeaderName, value: &[u8]) {
        self.write(name, Indexing::Usual, |bytes| bytes.extend_from_slice(value));
    }

    /// A field of ours that is a number.
    fn number(&mut self, name: &HeaderName, indexing: Indexing, number: u64) {
        self.write(name, indexing, |bytes| bytes.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()));
    }

    /// A field as it stands in a map.
    fn copy(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.pass(name.as_str().as_bytes(), value.as_bytes());
    }
}

/// Something with fields that can be put into any message.
pub trait FieldSource {
    /// Puts them in.
    fn put_into(&self, sink: &mut impl FieldSink);
}

impl FieldSource for HeaderMap {
    fn put_into(&self, sink: &mut impl FieldSink) {
        self.iter().for_each(|(name, value)| sink.copy(name, value));
    }
}

/// Field lines of HTTP/1.1 (RFC 9112 section 5).
#[derive(Debug)]
pub struct FieldLines<'b> {
    bytes: &'b mut Vec<u8>,
    is_bad: bool,
    has_date: bool,
}

impl<'b> FieldLines<'b> {
    /// Behind these bytes.
    pub fn new(bytes: &'b mut Vec<u8>) -> Self {
        FieldLines { bytes, is_bad: false, has_date: false }
    }

    /// Whether there is a `date` among them.
    pub fn has_date(&self) -> bool {
        self.has_date
    }

    /// Ends the head.
    ///
    /// # Errors
    /// A value was no field value.
    pub fn end(self) -> Result<(), BadValue> {
        self.bytes.extend_from_slice(b"\r\n");
        if self.is_bad { Err(BadValue) } else { Ok(()) }
    }
}

impl FieldSink for FieldLines<'_> {
    fn pass(&mut self, name: &[u8], value: &[u8]) {
        self.has_date |= name == b"date";
        self.bytes.reserve(name.len() + value.len() + 4);
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(b": ");
        self.bytes.extend_from_slice(value);
        self.bytes.extend_from_slice(b"\r\n");
    }

    fn write(&mut self, name: &HeaderName, _: Indexing, write: impl FnOnce(&mut Vec<u8>)) {
        self.bytes.extend_from_slice(name.as_str().as_bytes());
        self.bytes.extend_from_slice(b": ");
        let start = self.bytes.len();
        write(self.bytes);
        self.is_bad |= !is_value(self.bytes.get(start..).unwrap_or_default());
        self.bytes.extend_from_slice(b"\r\n");
    }
}

/// A map of fields for HTTP/2.
#[derive(Debug, Default)]
pub struct FieldMap {
    fields: HeaderMap,
    value: Vec<u8>,
    is_bad: bool,
}

impl FieldMap {
    /// Room for so many fields.
    pub fn with_capacity(fields: usize) -> Self {
        FieldMap::of(HeaderMap::with_capacity(fields))
    }

    /// Behind the fields of a map.
    pub fn of(fields: HeaderMap) -> Self {
        FieldMap { fields, value: Vec::new(), is_bad: false }
    }

    /// The map.
    ///
    /// # Errors
    /// A value was no field value.
    pub fn end(self) -> Result<HeaderMap, BadValue> {
        if self.is_bad { Err(BadValue) } else { Ok(self.fields) }
    }
}

impl FieldSink for FieldMap {
    fn pass(&mut self, name: &[u8], value: &[u8]) {
        match (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            (Ok(name), Ok(value)) => {
                self.fields.append(name, value);
            }
            (_, _) => self.is_bad = true,
        }
    }

    fn write(&mut self, name: &HeaderName, indexing: Indexing, write: impl FnOnce(&mut Vec<u8>)) {
        self.value.clear();
        write(&mut self.value);
        match HeaderValue::from_bytes(&self.value) {
            Ok(mut value) if is_value(&self.value) => {
                value.set_sensitive(indexing == Indexing::Never);
                self.fields.append(name, value);
            }
            Ok(_) | Err(_) => self.is_bad = true,
        }
    }

    fn copy(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.fields.append(name, value.clone());
    }
}

/// Whether a text of ours can stand as a value: ASCII without control characters but HTAB.
fn is_value(text: &[u8]) -> bool {
    !text.iter().fold(false, |bad, byte| bad | ((*byte < 0x20) & (*byte != b'\t')) | (*byte >= 0x7f))
}

#[cfg(test)]
mod tests {
    use http::header::{ALLOW, RETRY_AFTER};

    use super::*;

    fn put(sink: &mut impl FieldSink) {
        sink.pass(b"x-theirs", b"\xe9");
        sink.put(&ALLOW, b"GET");
        sink.number(&RETRY_AFTER, Indexing::Never, 60);
    }

    #[test]
    fn the_same_fields_become_lines_and_a_map() {
        let (mut bytes, mut map) = (Vec::new(), FieldMap::with_capacity(3));
        let mut lines = FieldLines::new(&mut bytes);
        put(&mut lines);
        lines.end().unwrap();
        assert_eq!(bytes, b"x-theirs: \xe9\r\nallow: GET\r\nretry-after: 60\r\n\r\n");
        put(&mut map);
        let map = map.end().unwrap();
        assert_eq!((map.len(), &map[ALLOW], map[RETRY_AFTER].is_sensitive()), (3, &"GET".parse().unwrap(), true));
    }

    #[test]
    fn a_line_break_or_another_script_is_no_value() {
        for text in ["a\r\nb", "a\nb", "\0", "é", "\u{7f}"] {
            let (mut bytes, mut map) = (Vec::new(), FieldMap::default());
            let mut lines = FieldLines::new(&mut bytes);
            lines.put(&ALLOW, text.as_bytes());
            map.put(&ALLOW, text.as_bytes());
            assert!(lines.end().is_err() && map.end().is_err(), "{text:?}");
        }
    }
}
