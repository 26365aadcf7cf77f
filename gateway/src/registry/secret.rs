//! The texts that stand for a grant: codes, refresh tokens, client secrets, PKCE.
//!
//! A code and a refresh token name their grant and carry 256 bits that nobody can guess. Of a code, the store
//! holds a keyed hash. Of a refresh token, it holds a salt and a number: the text is a MAC over both, under a
//! key that is derived from the pepper, which is not in the store. So a stolen store holds no token, a token
//! that was replaced can give its successor again without that being stored, and a grant is one row however
//! often it is refreshed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use policy::credential::{CLIENT_SECRET_PREFIX, REFRESH_TOKEN_PREFIX, Secret};
use subtle::ConstantTimeEq as _;

use crate::base::digest::{Digest, Pepper, Peppers};
use crate::base::random::{NoRandomness, base62, fill};

/// Characters of a grant's id: 130 bits, so that it cannot be guessed either.
pub const GRANT_ID_CHARS: usize = 22;
/// Characters of 32 bytes in base64url.
const SECRET_CHARS: usize = 43;
/// Bytes of a refresh token's number.
const GENERATION_BYTES: usize = 4;
/// Bytes of its MAC.
const MAC_BYTES: usize = 28;

/// Whether two texts are equal, in constant time.
pub fn same(a: &str, b: &str) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

/// The S256 challenge of a verifier (RFC 7636 section 4.2).
pub fn challenge_of(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, verifier.as_bytes()))
}

/// Whether text can be a verifier (RFC 7636 section 4.1): 43 to 128 unreserved characters.
pub fn is_verifier(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    (43..=128).contains(&text.len()) && text.bytes().all(fits)
}

/// Whether text can be an S256 challenge: 32 bytes in base64url.
pub fn is_challenge(text: &str) -> bool {
    text.len() == SECRET_CHARS && URL_SAFE_NO_PAD.decode(text).is_ok_and(|bytes| bytes.len() == 32)
}

/// 32 random bytes in base64url.
pub fn random_secret() -> Result<String, NoRandomness> {
    let mut bytes = [0u8; 32];
    fill(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// A new code of a grant.
pub fn new_code(grant: &str) -> Result<String, NoRandomness> {
    Ok(format!("{grant}{}", random_secret()?))
}

/// A new client secret.
pub fn new_client_secret() -> Result<String, NoRandomness> {
    Ok(format!("{CLIENT_SECRET_PREFIX}{}", base62(SECRET_CHARS)?))
}

fn is_grant_id(text: &str) -> bool {
    text.len() == GRANT_ID_CHARS && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// The grant that a code names; `None` when the text cannot be a code.
pub fn grant_of_code(code: &str) -> Option<&str> {
    let (grant, secret) = code.split_at_checked(GRANT_ID_CHARS)?;
    (is_grant_id(grant) && is_challenge(secret)).then_some(grant)
}

/// A refresh token taken apart. It is not known to be one of ours before its MAC was checked.
#[derive(Clone, Copy)]
pub struct PresentedRefresh<'a> {
    /// The grant it names.
    pub grant: &'a str,
    /// Its number.
    pub generation: u32,
    mac: [u8; MAC_BYTES],
}

/// Takes a refresh token apart; `None` when the text cannot be one.
pub fn presented(token: &str) -> Option<PresentedRefresh<'_>> {
    let (grant, rest) = token.strip_prefix(REFRESH_TOKEN_PREFIX)?.split_at_checked(GRANT_ID_CHARS)?;
    let bytes = URL_SAFE_NO_PAD.decode(rest).ok()?;
    let (generation, mac) = bytes.split_first_chunk::<GENERATION_BYTES>()?;
    let mac = <[u8; MAC_BYTES]>::try_from(mac).ok()?;
    is_grant_id(grant).then_some(PresentedRefresh { grant, generation: u32::from_be_bytes(*generation), mac })
}

fn mac(pepper: &Pepper, grant: &str, salt: &str, generation: u32) -> [u8; MAC_BYTES] {
    let key = pepper.derive("tollgate 2026-11-22 refresh tokens");
    let mut hasher = blake3::Hasher::new_keyed(&key);
    for part in [grant, salt] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.update(&generation.to_be_bytes());
    let mut out = [0u8; MAC_BYTES];
    hasher.finalize_xof().fill(&mut out);
    out
}

/// The refresh token of a grant with a number.
pub fn refresh_token(peppers: &Peppers, grant: &str, salt: &str, generation: u32) -> String {
    let mut bytes = generation.to_be_bytes().to_vec();
    bytes.extend(mac(&peppers.current, grant, salt, generation));
    format!("{REFRESH_TOKEN_PREFIX}{grant}{}", URL_SAFE_NO_PAD.encode(bytes))
}

impl PresentedRefresh<'_> {
    /// Whether we made it, under the pepper in force or the one before it.
    pub fn is_ours(&self, peppers: &Peppers, salt: &str) -> bool {
        let under = |pepper: &Pepper| mac(pepper, self.grant, salt, self.generation).ct_eq(&self.mac).into();
        under(&peppers.current) || peppers.previous.as_ref().is_some_and(under)
    }
}

/// Whether a secret has one of the stored hashes.
pub fn has_digest(peppers: &Peppers, secret: &str, stored: &Digest) -> bool {
    let (current, previous) = peppers.digests(Secret::new(secret));
    stored.matches(&current) || previous.is_some_and(|digest| stored.matches(&digest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn peppers(current: &str, previous: Option<&str>) -> Peppers {
        let pepper = |c: &str| Pepper::from_hex(&c.repeat(64)).unwrap();
        Peppers { current: pepper(current), previous: previous.map(pepper) }
    }

    const GRANT: &str = "abcdefghijklmnopqrstuv";

    #[test]
    fn the_documents_challenge_is_that_of_the_rfc_and_not_of_its_own_verifier() {
        let challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
        assert_eq!(challenge_of("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"), challenge);
        assert_ne!(challenge_of("D2o1jQ8n7K3mR5pT9wL4xY6zA0bC"), challenge);
        assert!(!is_verifier("D2o1jQ8n7K3mR5pT9wL4xY6zA0bC") && is_challenge(challenge));
        assert!(!is_challenge("E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cN"), "spare bits are set");
    }

    #[test]
    fn a_refresh_token_is_ours_under_the_pepper_before_too_and_under_no_other() {
        let token = refresh_token(&peppers("1", None), GRANT, "salt", 7);
        let taken = presented(&token).unwrap();
        assert_eq!((taken.grant, taken.generation), (GRANT, 7));
        assert!(taken.is_ours(&peppers("1", None), "salt") && taken.is_ours(&peppers("2", Some("1")), "salt"));
        assert!(!taken.is_ours(&peppers("2", None), "salt") && !taken.is_ours(&peppers("1", None), "other"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_a_changed_token_is_not_ours(text in ".{0,120}", at in 4usize..69, to in "[A-Za-z0-9_-]") {
            let _ = (presented(&text), grant_of_code(&text), is_challenge(&text));
            let token = refresh_token(&peppers("1", None), GRANT, "salt", 1);
            let mut changed = token.clone();
            changed.replace_range(at..=at, &to);
            if changed != token && let Some(taken) = presented(&changed) {
                prop_assert!(!taken.is_ours(&peppers("1", None), "salt"));
            }
        }
    }
}
