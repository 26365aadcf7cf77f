//! Credentials as text: how they are presented, what their prefix says, whether their form holds.
//!
//! Everything here is decided without any look-up. The secret is borrowed from the request and has
//! no `Display`; its `Debug` prints nothing of it.

use std::fmt;

use memchr::memchr;

use http1::bytes::Class;

/// Random base62 characters in a key that Tollgate mints.
pub const RANDOM_CHARS: usize = 30;
/// Checksum characters that follow them.
pub const CHECKSUM_CHARS: usize = 6;
/// Longest key accepted, prefix included.
pub const KEY_BYTES_MAX: usize = 128;
/// Shortest body (what follows the prefix) of a key made elsewhere.
pub const FOREIGN_BODY_BYTES_MIN: usize = 8;
/// Prefix of access tokens that Tollgate issues.
pub const TOKEN_PREFIX: &str = "iat_";
/// Prefix of refresh tokens that Tollgate issues.
pub const REFRESH_TOKEN_PREFIX: &str = "irt_";
/// Prefix of client secrets that Tollgate issues.
pub const CLIENT_SECRET_PREFIX: &str = "ics_";
/// Longest value of `Authorization` accepted.
pub const AUTHORIZATION_BYTES_MAX: usize = 8 * 1024 + 16;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The text after `Bearer`. Prints as `[redacted]`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret<'a>(&'a str);

impl<'a> Secret<'a> {
    /// Wraps text that must not be printed.
    pub fn new(text: &'a str) -> Self {
        Secret(text)
    }

    /// The text itself, for hashing and comparing. Never log what this returns.
    pub fn expose(&self) -> &'a str {
        self.0
    }
}

impl fmt::Debug for Secret<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Why presented credentials are refused as a request (400), before anything is known of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PresentationFault {
    /// More than one `Authorization` field.
    Several,
    /// Not `Bearer`, one space, one token.
    Unreadable,
}

/// Reads the `Authorization` values of a request (RFC 6750 section 2.1). No value, or another
/// scheme than Bearer, is no credential.
pub fn bearer<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Result<Option<Secret<'a>>, PresentationFault> {
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(PresentationFault::Several);
    }
    if value.len() > AUTHORIZATION_BYTES_MAX {
        return Err(PresentationFault::Unreadable);
    }
    let (scheme, token) = memchr(b' ', value).map_or((value, &[][..]), |at| value.split_at(at));
    if scheme.is_empty() || !Class::TOKEN.has_all(scheme) {
        return Err(PresentationFault::Unreadable);
    }
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        // What other schemes carry is nobody's business here, but it is text.
        return std::str::from_utf8(value).map(|_| None).map_err(|_| PresentationFault::Unreadable);
    }
    let token = token.get(1..).unwrap_or_default();
    let padding = token.iter().rev().take_while(|byte| **byte == b'=').count();
    let body = token.get(..token.len() - padding).unwrap_or_default();
    if body.is_empty() || !Class::BEARER.has_all(body) {
        return Err(PresentationFault::Unreadable);
    }
    std::str::from_utf8(token).map(|token| Some(Secret(token))).map_err(|_| PresentationFault::Unreadable)
}

/// The form of a key whose prefix is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyForm {
    /// Minted by Tollgate; the checksum holds.
    Minted,
    /// Made elsewhere: no checksum to hold.
    Foreign,
    /// Cannot be a key: wrong length, alphabet or checksum.
    Malformed,
}

/// Looks at a key (with its prefix) without any look-up.
pub fn key_form(secret: Secret<'_>, prefix: &str) -> KeyForm {
    let Some(body) = secret.0.strip_prefix(prefix) else { return KeyForm::Malformed };
    if secret.0.len() > KEY_BYTES_MAX {
        return KeyForm::Malformed;
    }
    if body.len() == RANDOM_CHARS + CHECKSUM_CHARS && Class::ALPHANUMERIC.has_all(body.as_bytes()) {
        let (covered, sum) = secret.0.split_at(secret.0.len() - CHECKSUM_CHARS);
        let holds = sum.as_bytes() == checksum(covered);
        return if holds { KeyForm::Minted } else { KeyForm::Malformed };
    }
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    if body.len() >= FOREIGN_BODY_BYTES_MIN && body.bytes().all(fits) { KeyForm::Foreign } else { KeyForm::Malformed }
}

/// CRC32 of the text in base62, six characters, most significant first. No secret: it lets a typo
/// be refused without a look-up and secret scanners match a key with few false alarms.
pub fn checksum(covered: &str) -> [u8; CHECKSUM_CHARS] {
    let mut rest = crc32fast::hash(covered.as_bytes());
    let mut sum = [b'0'; CHECKSUM_CHARS];
    for slot in sum.iter_mut().rev() {
        *slot = digit(rest % 62);
        rest /= 62;
    }
    sum
}

fn digit(value: u32) -> u8 {
    BASE62.get(value as usize).copied().unwrap_or(b'0')
}

/// Builds a key from random bytes: each byte below 248 gives one character, others are passed over
/// so that no character is more likely than another. `None` when the bytes did not suffice.
pub fn mint(prefix: &str, random: &[u8]) -> Option<String> {
    let mut key = String::with_capacity(prefix.len() + RANDOM_CHARS + CHECKSUM_CHARS);
    key.push_str(prefix);
    let chars = random.iter().filter(|b| **b < 248).map(|b| char::from(digit(u32::from(*b) % 62)));
    key.extend(chars.take(RANDOM_CHARS));
    if key.len() != prefix.len() + RANDOM_CHARS {
        return None;
    }
    let sum = checksum(&key);
    key.extend(sum.iter().map(|b| char::from(*b)));
    Some(key)
}

/// What may be shown of a key ever after: its prefix and four characters more.
pub fn display_prefix(key: &str, prefix: &str) -> String {
    let shown: String = key.chars().take(prefix.chars().count() + 4).collect();
    format!("{shown}…")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(value: &str) -> Result<Option<&str>, PresentationFault> {
        bearer(std::iter::once(value.as_bytes())).map(|s| s.map(|s| s.expose()))
    }

    #[test]
    fn the_scheme_is_case_insensitive_and_the_rest_is_exact() {
        for value in ["Bearer abc", "bearer abc", "BEARER abc"] {
            assert_eq!(one(value), Ok(Some("abc")));
        }
        for value in [
            "Bearer",
            "Bearer ",
            "Bearer  abc",
            "Bearer a b",
            "Bearer abc,def",
            "Bearer abc\t",
            "Bearer =",
            " Bearer abc",
            "Bearer\tabc",
            "Bearer é",
        ] {
            assert_eq!(one(value), Err(PresentationFault::Unreadable), "{value:?}");
        }
        assert_eq!(one("Basic abc"), Ok(None));
        assert_eq!(bearer([&b"Bearer a"[..], b"Bearer a"].into_iter()), Err(PresentationFault::Several));
        assert_eq!(bearer(std::iter::empty()), Ok(None));
    }

    #[test]
    fn a_secret_does_not_print() {
        assert_eq!(format!("{:?}", Secret::new("ifk_live_x")), "[redacted]");
    }

    #[test]
    fn the_keys_printed_in_the_documents_have_the_form_of_a_foreign_key() {
        assert_eq!(key_form(Secret::new("ifk_live_8xK2mN9pQr4vT7wL"), "ifk_live_"), KeyForm::Foreign);
        assert_eq!(key_form(Secret::new("ak_live_your_key_here"), "ak_live_"), KeyForm::Foreign);
    }

    proptest! {
        #[test]
        fn a_minted_key_holds_and_any_changed_character_breaks_it(
            random in proptest::collection::vec(0u8..248, RANDOM_CHARS), at in 0usize..36, to in "[0-9A-Za-z]",
        ) {
            let key = mint("ifk_live_", &random).unwrap();
            prop_assert_eq!(key_form(Secret::new(&key), "ifk_live_"), KeyForm::Minted);
            let mut typo = key.clone();
            typo.replace_range(9 + at..10 + at, &to);
            if typo != key {
                prop_assert_eq!(key_form(Secret::new(&typo), "ifk_live_"), KeyForm::Malformed);
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,200}") {
            let _ = key_form(Secret::new(&text), "ifk_live_");
            let _ = bearer(std::iter::once(text.as_bytes()));
        }
    }
}
