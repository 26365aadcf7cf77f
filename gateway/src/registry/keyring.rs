//! The keys that sign access tokens: made, rotated, sealed, published.
//!
//! All gateways on a store share one ring, kept in one record. What a key is at a moment follows
//! from the instants at which keys begin to sign: the next one is published long enough before
//! that for every cache to know it, and the last one stays published until its last token is over.
//! Private keys are sealed under a key that is derived from the pepper, which is not in the store.

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize, PublicKeyComponents};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::grant::TOKEN_LIFE_S;
use crate::base::digest::{Pepper, Peppers};

/// How long others may remember our published keys, seconds.
pub const PUBLISHED_MAX_AGE_S: u64 = 3_600;
/// How long before it signs a key is published: what others remember, and a minute.
const AHEAD_MS: u64 = (PUBLISHED_MAX_AGE_S + 60) * 1_000;
/// How long after it stopped signing a key stays published: a token's life, and a minute.
const AFTER_MS: u64 = (TOKEN_LIFE_S + 60) * 1_000;
/// How long a key signs.
pub const ROTATE_MS: u64 = 90 * 86_400_000;
/// Bytes of the nonce before a sealed key.
const NONCE_BYTES: usize = 12;

/// Why a ring cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyringFault {
    /// No key could be made.
    #[error("a signing key could not be made")]
    Generation,
    /// A sealed key cannot be opened: the pepper is not the one it was sealed under.
    #[error(
        "a signing key cannot be opened with this pepper; put the pepper back that was in force, or name it as `previous_pepper_file`"
    )]
    Sealed,
    /// What was opened is no key.
    #[error("a stored signing key is damaged; `tollgate signing-keys rotate --emergency` makes a new ring")]
    Damaged,
}

/// A key as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningKeyRecord {
    /// RFC 7638 thumbprint.
    pub kid: String,
    /// Modulus, base64url.
    pub n: String,
    /// Exponent, base64url.
    pub e: String,
    /// When it was made.
    pub created_ms: u64,
    /// From when on it signs, unless a newer one does.
    pub signs_from_ms: u64,
    /// The private key, sealed, base64url.
    pub sealed: String,
}

/// What a key does at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// Published, not signing yet.
    Next,
    /// Signing.
    Active,
    /// Still published: its tokens live.
    Retired,
    /// Nothing of it is left.
    Gone,
}

/// The ring as it is stored: keys in the order in which they begin to sign.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyringRecord {
    /// The keys.
    pub keys: Vec<SigningKeyRecord>,
}

impl KeyState {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            KeyState::Next => "next",
            KeyState::Active => "active",
            KeyState::Retired => "retired",
            KeyState::Gone => "gone",
        }
    }
}

impl KeyringRecord {
    /// What a key does at a moment.
    pub fn state(&self, kid: &str, now_ms: u64) -> KeyState {
        let Some(place) = self.keys.iter().position(|key| key.kid == kid) else { return KeyState::Gone };
        let successor = self.keys.get(place + 1).map(|key| key.signs_from_ms).filter(|from| *from <= now_ms);
        match (self.keys.get(place), successor) {
            (_, Some(from)) if now_ms >= from + AFTER_MS => KeyState::Gone,
            (_, Some(_)) => KeyState::Retired,
            (Some(key), None) if key.signs_from_ms > now_ms => KeyState::Next,
            (Some(_), None) => KeyState::Active,
            (None, None) => KeyState::Gone,
        }
    }

    fn is_state(&self, key: &SigningKeyRecord, state: KeyState, now_ms: u64) -> bool {
        self.state(&key.kid, now_ms) == state
    }

    /// The key that signs.
    pub fn active(&self, now_ms: u64) -> Option<&SigningKeyRecord> {
        self.keys.iter().find(|key| self.is_state(key, KeyState::Active, now_ms))
    }

    /// Whether a key should be made now: there is none that signs, or it has signed for long.
    pub fn is_due(&self, now_ms: u64) -> bool {
        let has_next = self.keys.iter().any(|key| self.is_state(key, KeyState::Next, now_ms));
        match self.active(now_ms) {
            None => true,
            Some(active) => !has_next && now_ms + AHEAD_MS >= active.signs_from_ms + ROTATE_MS,
        }
    }

    /// Takes a new key in. It signs at once when none does; otherwise after it was published for
    /// long enough. Keys that are gone are let go.
    pub fn add(&mut self, mut key: SigningKeyRecord, now_ms: u64) {
        key.signs_from_ms = if self.active(now_ms).is_some() { now_ms + AHEAD_MS } else { now_ms };
        let gone: Vec<String> =
            self.keys.iter().filter(|k| self.is_state(k, KeyState::Gone, now_ms)).map(|k| k.kid.clone()).collect();
        self.keys.retain(|k| !gone.contains(&k.kid));
        // Of two next keys the later one is the one that was asked for last.
        let next: Vec<String> =
            self.keys.iter().filter(|k| self.is_state(k, KeyState::Next, now_ms)).map(|k| k.kid.clone()).collect();
        self.keys.retain(|k| !next.contains(&k.kid));
        self.keys.push(key);
    }

    /// Lets all keys go and signs with a new one from now on: every token is void at once.
    pub fn replace(&mut self, mut key: SigningKeyRecord, now_ms: u64) {
        key.signs_from_ms = now_ms;
        self.keys = vec![key];
    }

    /// What is published (RFC 7517): public parts of the keys that sign, will sign or have signed.
    pub fn jwks(&self, now_ms: u64) -> serde_json::Value {
        let published = self.keys.iter().filter(|key| !self.is_state(key, KeyState::Gone, now_ms));
        let list: Vec<serde_json::Value> = published
            .map(|key| {
                serde_json::json!({
                    "kty": "RSA", "use": "sig", "alg": "RS256", "kid": key.kid, "n": key.n, "e": key.e,
                })
            })
            .collect();
        serde_json::json!({ "keys": list })
    }
}

fn sealing_key(pepper: &Pepper) -> Result<RandomizedNonceKey, KeyringFault> {
    let key = pepper.derive("tollgate 2026-11-22 signing keys at rest");
    RandomizedNonceKey::new(&AES_256_GCM, &*key).map_err(|_| KeyringFault::Generation)
}

/// Makes a key, RSA with 2048 bits. Takes a good part of a second.
pub fn generate(pepper: &Pepper, now_ms: u64) -> Result<SigningKeyRecord, KeyringFault> {
    let failed = |_| KeyringFault::Generation;
    let pair = KeyPair::generate(KeySize::Rsa2048).map_err(failed)?;
    let private = pair.as_der().map_err(failed)?;
    let public = PublicKeyComponents::<Vec<u8>>::from(pair.public_key());
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let (n, e) = (encode(&public.n), encode(&public.e));
    // RFC 7638 section 3.1: required members in this order, no space.
    let canonical = format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#);
    let kid = encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, canonical.as_bytes()).as_ref());
    let sealed = seal(private.as_ref(), &kid, pepper)?;
    Ok(SigningKeyRecord { kid, n, e, created_ms: now_ms, signs_from_ms: now_ms, sealed })
}

/// The private key, if it was sealed under this pepper.
fn unseal(key: &SigningKeyRecord, pepper: &Pepper) -> Result<zeroize::Zeroizing<Vec<u8>>, KeyringFault> {
    let bytes = URL_SAFE_NO_PAD.decode(&key.sealed).map_err(|_| KeyringFault::Damaged)?;
    let (nonce, sealed) = bytes.split_first_chunk::<NONCE_BYTES>().ok_or(KeyringFault::Damaged)?;
    let mut buffer = zeroize::Zeroizing::new(sealed.to_vec());
    let opened = sealing_key(pepper)?.open_in_place(Nonce::from(nonce), Aad::from(key.kid.as_bytes()), &mut buffer);
    opened.map(|plain| zeroize::Zeroizing::new(plain.to_vec())).map_err(|_| KeyringFault::Sealed)
}

fn seal(private: &[u8], kid: &str, pepper: &Pepper) -> Result<String, KeyringFault> {
    let mut sealed = private.to_vec();
    let nonce = sealing_key(pepper)?.seal_in_place_append_tag(Aad::from(kid.as_bytes()), &mut sealed);
    let nonce = nonce.map_err(|_| KeyringFault::Generation)?;
    Ok(URL_SAFE_NO_PAD.encode([&nonce.as_ref()[..], &sealed].concat()))
}

/// Whether a key was sealed under the pepper before the one in force.
pub fn is_under_old_pepper(key: &SigningKeyRecord, peppers: &Peppers) -> bool {
    let old = peppers.previous.as_ref();
    old.is_some_and(|old| unseal(key, &peppers.current).is_err() && unseal(key, old).is_ok())
}

/// Seals a key under the pepper in force, so that the one before can be let go.
pub fn reseal(key: &mut SigningKeyRecord, peppers: &Peppers) {
    let Some(old) = peppers.previous.as_ref().filter(|_| is_under_old_pepper(key, peppers)) else { return };
    if let Ok(sealed) = unseal(key, old).and_then(|private| seal(&private, &key.kid, &peppers.current)) {
        key.sealed = sealed;
    }
}

/// Opens a sealed key and makes it ready to sign.
pub fn open(key: &SigningKeyRecord, peppers: &Peppers) -> Result<RsaKeyPair, KeyringFault> {
    let under_old = || peppers.previous.as_ref().map_or(Err(KeyringFault::Sealed), |old| unseal(key, old));
    let plain = unseal(key, &peppers.current).or_else(|_| under_old())?;
    RsaKeyPair::from_pkcs8(&plain).map_err(|_| KeyringFault::Damaged)
}

/// Signs, RS256 (RFC 7518 section 3.3). Takes about a millisecond.
pub fn sign(pair: &RsaKeyPair, message: &[u8]) -> Result<Vec<u8>, KeyringFault> {
    let mut signature = vec![0; pair.public_key().modulus_len()];
    let signed = pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature);
    signed.map_err(|_| KeyringFault::Damaged)?;
    Ok(signature)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pepper(c: &str) -> Pepper {
        Pepper::from_hex(&c.repeat(64)).unwrap()
    }

    fn key(kid: &str) -> SigningKeyRecord {
        SigningKeyRecord {
            kid: kid.into(),
            n: "n".into(),
            e: "AQAB".into(),
            created_ms: 0,
            signs_from_ms: 0,
            sealed: String::new(),
        }
    }

    #[test]
    fn a_key_is_published_before_it_signs_and_after_its_last_token() {
        let mut ring = KeyringRecord::default();
        assert!(ring.is_due(1_000));
        ring.add(key("one"), 1_000);
        assert_eq!(ring.state("one", 1_000), KeyState::Active, "the first key signs at once");
        assert!(!ring.is_due(ROTATE_MS - AHEAD_MS) && ring.is_due(1_000 + ROTATE_MS - AHEAD_MS));
        let turn = 1_000 + ROTATE_MS - AHEAD_MS;
        ring.add(key("two"), turn);
        assert_eq!((ring.state("one", turn), ring.state("two", turn)), (KeyState::Active, KeyState::Next));
        assert!(!ring.is_due(turn), "one successor is enough");
        let then = turn + AHEAD_MS;
        assert_eq!((ring.state("one", then), ring.state("two", then)), (KeyState::Retired, KeyState::Active));
        assert_eq!(ring.jwks(then)["keys"].as_array().unwrap().len(), 2);
        assert_eq!(ring.state("one", then + AFTER_MS), KeyState::Gone);
        assert_eq!(ring.jwks(then + AFTER_MS)["keys"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn an_emergency_leaves_only_the_new_key() {
        let mut ring = KeyringRecord::default();
        ring.add(key("one"), 0);
        ring.replace(key("two"), 50);
        assert_eq!((ring.state("one", 50), ring.active(50).unwrap().kid.as_str()), (KeyState::Gone, "two"));
    }

    #[test]
    fn a_sealed_key_opens_with_its_pepper_only_and_its_signature_verifies() {
        let made = generate(&pepper("1"), 5).unwrap();
        let peppers = |current: &str, previous: Option<&str>| Peppers {
            current: pepper(current),
            previous: previous.map(pepper),
        };
        assert_eq!(open(&made, &peppers("2", None)).err(), Some(KeyringFault::Sealed));
        assert!(open(&made, &peppers("2", Some("1"))).is_ok());
        let mut moved = made.clone();
        reseal(&mut moved, &peppers("2", Some("1")));
        assert!(open(&moved, &peppers("2", None)).is_ok(), "sealed under the pepper in force");
        let pair = open(&made, &peppers("1", None)).unwrap();
        let signature = sign(&pair, b"message").unwrap();
        let public = jsonwebtoken::DecodingKey::from_rsa_components(&made.n, &made.e).unwrap();
        let text = URL_SAFE_NO_PAD.encode(signature);
        assert!(jsonwebtoken::crypto::verify(&text, b"message", &public, jsonwebtoken::Algorithm::RS256).unwrap());
        let jwk: jsonwebtoken::jwk::Jwk =
            serde_json::from_value(serde_json::json!({"kty":"RSA","n":made.n,"e":made.e})).unwrap();
        assert_eq!(jwk.thumbprint(jsonwebtoken::jwk::ThumbprintHash::SHA256).unwrap(), made.kid);
    }
}
