//! Randomness as an input. The only file that asks the operating system for it.

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

/// Request ids: a random start per process and a counter, printed as 24 characters. Unique, not
/// secret; drawing randomness for each request would be a system call for nothing.
#[derive(Debug)]
pub struct RequestIds {
    prefix: String,
    next: AtomicU64,
}

impl RequestIds {
    /// Draws the prefix.
    pub fn new() -> Result<Self, NoRandomness> {
        Ok(RequestIds { prefix: base62(12)?, next: AtomicU64::new(1) })
    }

    /// The next id.
    pub fn next(&self) -> String {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let mut id = String::with_capacity(self.prefix.len() + 12);
        id.push_str(&self.prefix);
        for shift in (0..12).rev() {
            let nibble = usize::try_from((n >> (shift * 4)) & 0xf).unwrap_or(0);
            id.push(HEX.get(nibble).copied().map_or('0', char::from));
        }
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_differ_and_are_accepted_as_request_ids() {
        let ids = RequestIds::new().unwrap();
        let (a, b) = (ids.next(), ids.next());
        assert_ne!(a, b);
        assert!(a.len() == 24 && a.bytes().all(|c| c.is_ascii_alphanumeric()));
    }

    #[test]
    fn random_text_has_the_length_asked_for() {
        assert_eq!(base62(30).unwrap().len(), 30);
    }
}
