//! Heads as views: the same whether they stand as bytes of HTTP/1.1 or as a map of HTTP/2.
//!
//! Names of fields are in lower case, and tokens; values hold no control character but HTAB.

use http::header::HeaderMap;
use http::{HeaderName, HeaderValue};
use http1::head::{FieldSpan, NameSet};

/// Version of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
}

impl From<http1::head::Version> for Version {
    fn from(version: http1::head::Version) -> Self {
        match version {
            http1::head::Version::Http10 => Version::Http10,
            http1::head::Version::Http11 => Version::Http11,
        }
    }
}

/// The fields of a head, in order.
#[derive(Clone, Copy, Debug)]
pub enum Fields<'a> {
    /// In the bytes of a head, and which names they may have.
    Spans(&'a [FieldSpan], &'a [u8], NameSet),
    /// In a map.
    Map(&'a HeaderMap),
}

impl<'a> Fields<'a> {
    /// Names and values.
    pub fn iter(self) -> Iter<'a> {
        match self {
            Fields::Spans(spans, bytes, _) => Iter::Spans(spans.iter(), bytes),
            Fields::Map(map) => Iter::Map(map.iter()),
        }
    }

    /// How many there are.
    pub fn len(self) -> usize {
        match self {
            Fields::Spans(spans, ..) => spans.len(),
            Fields::Map(map) => map.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Whether all names are known to have only letters in lower case, digits and `-`.
    pub fn are_plain(self) -> bool {
        match self {
            Fields::Spans(_, _, names) => names.are_plain(),
            Fields::Map(_) => false,
        }
    }

    /// All values of a name in lower case.
    pub fn all<'n>(self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        let may_have = match self {
            Fields::Spans(_, _, names) => names.may_have(name.as_bytes()),
            Fields::Map(map) => map.contains_key(name),
        };
        let matching = self.iter().filter(move |(other, _)| *other == name.as_bytes()).map(|(_, value)| value);
        may_have.then_some(matching).into_iter().flatten()
    }

    /// The first value of a name.
    pub fn first(self, name: &str) -> Option<&'a [u8]> {
        match self {
            Fields::Spans(_, _, names) if !names.may_have(name.as_bytes()) => None,
            Fields::Spans(..) => self.iter().find(|(other, _)| *other == name.as_bytes()).map(|(_, value)| value),
            Fields::Map(map) => map.get(name).map(HeaderValue::as_bytes),
        }
    }

    /// Whether there is a field of a name.
    pub fn has(self, name: &str) -> bool {
        self.first(name).is_some()
    }

    /// The same as a map, for what is asked seldom. What a map cannot hold is left out.
    pub fn to_map(self) -> HeaderMap {
        let field = |(name, value): (&[u8], &[u8])| {
            Some((HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?))
        };
        self.iter().filter_map(field).collect()
    }
}

/// Names and values of fields, in order.
pub enum Iter<'a> {
    /// In the bytes of a head.
    Spans(std::slice::Iter<'a, FieldSpan>, &'a [u8]),
    /// In a map.
    Map(http::header::Iter<'a, HeaderValue>),
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Iter::Spans(spans, bytes) => {
                let part = |range: &std::ops::Range<usize>| bytes.get(range.clone()).unwrap_or_default();
                spans.next().map(|field| (part(&field.name), part(&field.value)))
            }
            Iter::Map(map) => map.next().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())),
        }
    }
}

/// A request's head.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// A token; empty in a head that could not be read.
    pub method: &'a str,
    /// Its version.
    pub version: Version,
    /// The target as it was sent; over HTTP/2 path and query.
    pub target: &'a [u8],
    /// `:authority` of HTTP/2.
    pub authority: Option<&'a [u8]>,
    /// Its fields.
    pub fields: Fields<'a>,
    /// Whether it asks for a WebSocket in the way of HTTP/2 (RFC 8441). It is a GET to those who judge it.
    pub is_websocket_stream: bool,
}

impl<'a> RequestHead<'a> {
    /// Whether its method is one that does no harm twice (RFC 9110 section 9.2.2).
    pub fn is_idempotent(&self) -> bool {
        matches!(self.method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
    }

    /// The host as the client named it.
    pub fn host(&self) -> Option<&'a [u8]> {
        self.authority.or_else(|| self.fields.first("host"))
    }
}

/// Whether another head follows one of this status. A 101 is a final one: what stands behind it is data.
pub fn is_informational(status: u16) -> bool {
    matches!(status, 100 | 102..=199)
}

/// A response's head.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'a> {
    /// 100 to 999.
    pub status: u16,
    /// Its reason; HTTP/2 has none.
    pub reason: &'a [u8],
    /// The one length that it says, of a body that follows or of one that would.
    pub length: Option<u64>,
    /// Its fields.
    pub fields: Fields<'a>,
}

impl ResponseHead<'_> {
    /// Whether another head follows.
    pub fn is_informational(&self) -> bool {
        is_informational(self.status)
    }
}

#[cfg(test)]
mod tests {
    use http1::head::{Bounds, RequestHead};

    use super::*;

    #[test]
    fn both_forms_give_the_same() {
        let mut bytes = b"GET / HTTP/1.1\r\nA: 1\r\nB: x\r\na: 2\r\n\r\n".to_vec();
        let mut head = RequestHead::default();
        head.read(&mut bytes, Bounds { bytes: 100, fields: 5 }).unwrap().unwrap();
        let spans = Fields::Spans(head.fields(), &bytes, head.names());
        let map = spans.to_map();
        for fields in [spans, Fields::Map(&map)] {
            assert_eq!(fields.len(), 3);
            assert_eq!(fields.all("a").collect::<Vec<_>>(), [b"1", b"2"]);
            assert!(fields.has("b") && !fields.has("c"));
        }
    }
}
