//! Tokens that were verified, found again by their text.
//!
//! A token is looked up by the end of its text, which is the end of its signature: nobody can choose it, so a
//! fast hash under a random key does. Then the whole text is compared. Only tokens that were verified are
//! here; how many is bounded by their bytes.

use std::sync::Arc;

use policy::credential::Secret;
use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use zeroize::Zeroizing;

use super::tokens::KnownToken;

/// Bytes of a text by which it is looked up.
const TAIL_BYTES: usize = 32;
/// Most bytes of all tokens that are remembered.
const BYTES_MAX: u64 = 128 * 1024 * 1024;
/// What an entry takes beside its text, roughly.
const ENTRY_BYTES: u64 = 768;
/// Tokens that are reckoned with; there may be more or fewer.
const TOKENS_EXPECTED: usize = 50_000;

/// The end of a token's text, and the place of the API it was verified for: a token may be for several.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Tail([u8; TAIL_BYTES], u32);

impl Tail {
    fn of(secret: Secret<'_>, api: u32) -> Self {
        let mut tail = [0; TAIL_BYTES];
        for (to, from) in tail.iter_mut().rev().zip(secret.expose().bytes().rev()) {
            *to = from;
        }
        Tail(tail, api)
    }
}

/// A token with its text, which is wiped when it is forgotten.
#[derive(Clone)]
struct Entry {
    text: Arc<Zeroizing<String>>,
    token: Arc<KnownToken>,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Tail, Entry> for ByBytes {
    fn weight(&self, _: &Tail, entry: &Entry) -> u64 {
        entry.text.len() as u64 + ENTRY_BYTES
    }
}

/// The tokens. It prints nothing of them.
pub(super) struct Verified(Cache<Tail, Entry, ByBytes, foldhash::quality::RandomState>);

impl Verified {
    /// None yet; at most so many, as far as their bytes allow.
    pub(super) fn new(most: usize) -> Self {
        let bytes = BYTES_MAX.min((most as u64).saturating_mul(2 * ENTRY_BYTES));
        let hasher = foldhash::quality::RandomState::default();
        Verified(Cache::with(TOKENS_EXPECTED.min(most), bytes, ByBytes, hasher, DefaultLifecycle::default()))
    }

    /// A token with exactly this text.
    pub(super) fn get(&self, secret: Secret<'_>, api: u32) -> Option<Arc<KnownToken>> {
        let entry = self.0.get(&Tail::of(secret, api))?;
        (**entry.text == *secret.expose()).then_some(entry.token)
    }

    /// Remembers a token that was verified.
    pub(super) fn insert(&self, secret: Secret<'_>, api: u32, token: Arc<KnownToken>) {
        let text = Arc::new(Zeroizing::new(secret.expose().to_owned()));
        self.0.insert(Tail::of(secret, api), Entry { text, token });
    }

    /// Forgets all.
    pub(super) fn clear(&self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: &str) -> Arc<KnownToken> {
        Arc::new(KnownToken::for_tests(id))
    }

    #[test]
    fn a_token_is_found_by_its_whole_text_for_its_api_only() {
        let known = Verified::new(1_000);
        let tail = "s".repeat(TAIL_BYTES);
        let (one, other) = (format!("one.{tail}"), format!("other.{tail}"));
        known.insert(Secret::new(&one), 0, token("one"));
        let found = |text: &str, api| known.get(Secret::new(text), api).map(|token| token.facts.id.to_string());
        assert_eq!(found(&one, 0).as_deref(), Some("one"));
        // The same end, and all that differs by one byte, or is a part of it.
        let (longer, behind) = (format!("{one}s"), one.strip_prefix("o").unwrap());
        for text in [&other, &longer, behind, one.strip_suffix("s").unwrap(), &tail, "", "s"] {
            assert_eq!(found(text, 0), None, "{text}");
        }
        assert_eq!(found(&one, 1), None, "another API");
        known.clear();
        assert_eq!(found(&one, 0), None);
    }

    #[test]
    fn how_much_is_remembered_is_bounded_by_bytes() {
        let known = Verified::new(100);
        for n in 0..10_000 {
            let text = format!("{n:0>2000}");
            known.insert(Secret::new(&text), 0, token("x"));
        }
        assert!(known.0.weight() <= 200 * ENTRY_BYTES && known.0.len() < 200);
    }
}
