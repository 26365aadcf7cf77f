//! Randomness as an input. The only file that asks the operating system for it.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};

/// The operating system has no randomness to give; nothing can be issued.
#[derive(Debug, thiserror::Error)]
#[error("the operating system's random generator failed")]
pub struct NoRandomness;

/// Fills a buffer with random bytes from the operating system.
#[expect(clippy::disallowed_methods, reason = "this is the one place that draws randomness")]
pub fn fill(buffer: &mut [u8]) -> Result<(), NoRandomness> {
    getrandom::fill(buffer).map_err(|_| NoRandomness)
}

/// Random base62 text of a length, for identifiers. 62 values out of 256, unbiased by rejection.
pub fn base62(length: usize) -> Result<String, NoRandomness> {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut text = String::with_capacity(length);
    while text.len() < length {
        let mut bytes = [0u8; 64];
        fill(&mut bytes)?;
        let chars = bytes.iter().filter(|b| **b < 248).filter_map(|b| ALPHABET.get(usize::from(*b) % 62));
        text.extend(chars.take(length - text.len()).map(|b| char::from(*b)));
    }
    Ok(text)
}

/// Longest id of a request, the client's or ours.
pub const REQUEST_ID_BYTES_MAX: usize = 64;
/// Characters of an id of ours: those of its process, and its number in hexadecimal.
const PREFIX_CHARS: usize = 12;
const NUMBER_DIGITS: usize = 12;

/// The id of a request: the client's, or one of ours, which has a number. In place, without an allocation.
#[derive(Clone, Copy)]
pub struct RequestId {
    text: [u8; REQUEST_ID_BYTES_MAX],
    len: u8,
    number: u64,
}

impl RequestId {
    /// No id yet.
    pub const NONE: RequestId = RequestId { text: [0; REQUEST_ID_BYTES_MAX], len: 0, number: 0 };

    /// An id that the client has chosen; `None` when it is longer than [`REQUEST_ID_BYTES_MAX`].
    pub fn of_client(id: &str) -> Option<Self> {
        let mut text = [0; REQUEST_ID_BYTES_MAX];
        text.get_mut(..id.len())?.copy_from_slice(id.as_bytes());
        Some(RequestId { text, len: u8::try_from(id.len()).ok()?, number: 0 })
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        self.text.get(..usize::from(self.len)).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
    }

    /// Its number, if it is one of ours: requests of a process are counted from 1.
    pub fn number(&self) -> Option<NonZeroU64> {
        NonZeroU64::new(self.number)
    }
}

impl std::fmt::Debug for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Request ids: a random start per process and a counter, printed as 24 characters. Unique, not
/// secret; drawing randomness for each request would be a system call for nothing.
#[derive(Debug)]
pub struct RequestIds {
    prefix: [u8; PREFIX_CHARS],
    next: AtomicU64,
}

impl RequestIds {
    /// Draws the prefix.
    pub fn new() -> Result<Self, NoRandomness> {
        let mut prefix = [b'0'; PREFIX_CHARS];
        prefix.copy_from_slice(base62(PREFIX_CHARS)?.as_bytes());
        Ok(RequestIds { prefix, next: AtomicU64::new(1) })
    }

    /// The next id.
    pub fn next(&self) -> RequestId {
        id_of(&self.prefix, self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// What all ids of this process begin with.
    pub fn prefix(&self) -> &str {
        std::str::from_utf8(&self.prefix).unwrap_or_default()
    }
}

/// The id that request number `number` of a process has, whose ids begin with `prefix`.
pub fn request_id(prefix: &str, number: u64) -> String {
    format!("{prefix}{number:0NUMBER_DIGITS$x}")
}

/// The number in an id of a process, whose ids begin with `prefix`.
pub fn request_number(prefix: &str, id: &str) -> Option<u64> {
    let digits = id.strip_prefix(prefix).filter(|digits| digits.len() == NUMBER_DIGITS)?;
    u64::from_str_radix(digits, 16).ok()
}

fn id_of(prefix: &[u8; PREFIX_CHARS], number: u64) -> RequestId {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut id = RequestId { len: (PREFIX_CHARS + NUMBER_DIGITS) as u8, number, ..RequestId::NONE };
    let (start, rest) = id.text.split_at_mut(PREFIX_CHARS);
    start.copy_from_slice(prefix);
    for (digit, shift) in rest.iter_mut().zip((0..NUMBER_DIGITS).rev()) {
        let nibble = usize::try_from((number >> (shift * 4)) & 0xf).unwrap_or(0);
        *digit = HEX.get(nibble).copied().unwrap_or(b'0');
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_differ_and_are_accepted_as_request_ids() {
        let ids = RequestIds::new().unwrap();
        let (a, b) = (ids.next(), ids.next());
        assert_ne!(a.as_str(), b.as_str());
        assert!(a.as_str().len() == 24 && a.as_str().bytes().all(|c| c.is_ascii_alphanumeric()));
        assert!(a.as_str().starts_with(ids.prefix()) && a.as_str().ends_with("000001"));
        assert_eq!((a.number(), b.number()), (NonZeroU64::new(1), NonZeroU64::new(2)));
        assert_eq!(request_id(ids.prefix(), 2), b.as_str());
        assert_eq!(request_number(ids.prefix(), b.as_str()), Some(2));
        assert_eq!(request_number(ids.prefix(), "order-7"), None);
    }

    #[test]
    fn an_id_of_a_client_has_no_number_and_a_bound() {
        let id = RequestId::of_client("order-7").unwrap();
        assert_eq!((id.as_str(), id.number()), ("order-7", None));
        assert!(RequestId::of_client(&"x".repeat(REQUEST_ID_BYTES_MAX)).is_some());
        assert!(RequestId::of_client(&"x".repeat(REQUEST_ID_BYTES_MAX + 1)).is_none());
    }

    #[test]
    fn random_text_has_the_length_asked_for() {
        assert_eq!(base62(30).unwrap().len(), 30);
    }
}
