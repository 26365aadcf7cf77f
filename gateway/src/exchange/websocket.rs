//! What is asked of a backend for a client that wants a WebSocket (RFC 6455 section 4; RFC 8441 over HTTP/2).
//!
//! Over HTTP/1.1 the client's own handshake is passed on, and the client looks at the answer. Over HTTP/2 there is
//! none: then we make one, and look at the answer ourselves.

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::request_fields::Nominations;
use crate::base::message::{Fields, RequestHead, Version};
use crate::base::random::{self, NoRandomness};
use crate::upstream::request::Upgrade;

/// What a server's answer is made of, beside the key (RFC 6455 section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a client wants of its backend's connection.
#[derive(Debug)]
pub(super) enum Wish {
    /// An answer.
    Answer,
    /// A WebSocket, by the client's own handshake.
    Upgrade,
    /// A WebSocket, by a handshake of ours with this key.
    Stream(String),
}

impl Wish {
    /// Of a request whose body is over, on a route that allows WebSockets.
    ///
    /// # Errors
    /// There is no randomness for a key.
    pub(super) fn of(head: &RequestHead<'_>) -> Result<Self, NoRandomness> {
        if head.is_websocket_stream {
            let mut key = [0; 16];
            random::fill(&mut key)?;
            return Ok(Wish::Stream(STANDARD.encode(key)));
        }
        let is_upgrade = head.version == Version::Http11 && head.method == "GET" && is_websocket(head.fields);
        Ok(if is_upgrade { Wish::Upgrade } else { Wish::Answer })
    }

    /// The same for the request to the backend.
    pub(super) fn upgrade(&self) -> Upgrade<'_> {
        match self {
            Wish::Answer => Upgrade::None,
            Wish::Upgrade => Upgrade::Passed,
            Wish::Stream(key) => Upgrade::Keyed(key),
        }
    }

    /// Whether it is for a WebSocket.
    pub(super) fn is_websocket(&self) -> bool {
        !matches!(self, Wish::Answer)
    }

    /// Whether a 101 with these fields grants it.
    pub(super) fn is_granted(&self, fields: Fields<'_>) -> bool {
        match self {
            Wish::Answer => false,
            Wish::Upgrade => is_websocket(fields),
            Wish::Stream(key) => {
                is_websocket(fields) && fields.first("sec-websocket-accept") == Some(accept(key).as_bytes())
            }
        }
    }
}

/// What a server makes of a key (RFC 6455 section 4.2.2).
fn accept(key: &str) -> String {
    let mut hash = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(GUID);
    STANDARD.encode(hash.finish())
}

/// Whether a message asks for, or grants, a WebSocket on its connection.
fn is_websocket(fields: Fields<'_>) -> bool {
    let mut protocols = fields.all("upgrade");
    let is_one = protocols.next().is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket"));
    is_one && protocols.next().is_none() && Nominations::of(fields).contain(b"upgrade")
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn fields(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn the_answer_to_a_key_is_that_of_the_standard() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_handshake_of_ours_is_granted_only_by_the_answer_to_its_key() {
        let wish = Wish::Stream("dGhlIHNhbXBsZSBub25jZQ==".to_owned());
        let granted = |accept: &str| {
            let fields =
                fields(&[("upgrade", "WebSocket"), ("connection", "Upgrade"), ("sec-websocket-accept", accept)]);
            wish.is_granted(Fields::Map(&fields))
        };
        assert!(granted("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert!(!granted("s3pPLMBiTxaQ9kYGzzhZRbK+xOO="));
        assert!(!granted(""));
        assert!(!wish.is_granted(Fields::Map(&fields(&[("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")]))));
    }
}
