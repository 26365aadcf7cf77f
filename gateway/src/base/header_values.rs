//! Values of fields that we write, in one allocation for all of a message.

use std::fmt::Write as _;
use std::net::IpAddr;

use bytes::BytesMut;
use http::header::HeaderValue;

/// A text of ours that is no field value: a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a value of ours is not a field value")]
pub struct BadValue;

/// A value that no two messages share: over HTTP/2 it must not enter the table of fields that both sides keep
/// (RFC 7541 section 7.1.3), where it would push out those that come again.
pub(crate) fn never_indexed(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

/// Writes values one after the other into one buffer.
pub(crate) struct Values(BytesMut);

impl Values {
    /// Room for so many bytes; more can be written.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Values(BytesMut::with_capacity(bytes))
    }

    /// A value; text that cannot be one is a bug of ours.
    pub(crate) fn text(&mut self, text: &str) -> Result<HeaderValue, BadValue> {
        if text.is_empty() {
            return Ok(HeaderValue::from_static(""));
        }
        self.0.extend_from_slice(text.as_bytes());
        self.take()
    }

    /// Words with a space between them.
    pub(crate) fn list<'w>(&mut self, words: impl Iterator<Item = &'w str>) -> Result<HeaderValue, BadValue> {
        for (i, word) in words.enumerate() {
            if i > 0 {
                self.0.extend_from_slice(b" ");
            }
            self.0.extend_from_slice(word.as_bytes());
        }
        self.take()
    }

    /// A number.
    pub(crate) fn number(&mut self, number: u64) -> Result<HeaderValue, BadValue> {
        self.text(itoa::Buffer::new().format(number))
    }

    /// An address.
    pub(crate) fn address(&mut self, address: IpAddr) -> Result<HeaderValue, BadValue> {
        match address {
            IpAddr::V4(address) => {
                for (i, octet) in address.octets().into_iter().enumerate() {
                    if i > 0 {
                        self.0.extend_from_slice(b".");
                    }
                    self.0.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
                }
                self.take()
            }
            IpAddr::V6(address) => self.write(format_args!("{address}")),
        }
    }

    /// A value from its parts.
    pub(crate) fn write(&mut self, parts: std::fmt::Arguments<'_>) -> Result<HeaderValue, BadValue> {
        let _ = self.0.write_fmt(parts);
        self.take()
    }

    fn take(&mut self) -> Result<HeaderValue, BadValue> {
        let value = self.0.split().freeze();
        if !value.is_ascii() {
            return Err(BadValue);
        }
        HeaderValue::from_maybe_shared(value).map_err(|_| BadValue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_share_a_buffer_and_not_their_text() {
        let mut values = Values::with_capacity(4);
        let (first, second) = (values.text("one").unwrap(), values.write(format_args!("{}-{}", 2, "three")).unwrap());
        assert_eq!((first.as_bytes(), second.as_bytes()), (&b"one"[..], &b"2-three"[..]));
        assert_eq!(values.text("").unwrap().as_bytes(), b"");
    }

    #[test]
    fn numbers_and_addresses_are_written_as_everywhere_else() {
        let mut values = Values::with_capacity(64);
        assert_eq!(values.number(u64::MAX).unwrap().to_str().unwrap(), u64::MAX.to_string());
        for address in ["0.0.0.0", "203.0.113.9", "255.255.255.255", "::1", "2001:db8::7"] {
            assert_eq!(values.address(address.parse().unwrap()).unwrap().to_str().unwrap(), address);
        }
    }

    #[test]
    fn a_line_break_or_another_script_is_no_value() {
        assert!(Values::with_capacity(8).text("é").is_err());
        assert!(Values::with_capacity(8).text("a\r\nb").is_err());
    }
}
