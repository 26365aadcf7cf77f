//! What is stored instead of a key: a keyed BLAKE3 hash.
//!
//! Keys carry more than 178 bits of randomness, so a fast hash is right (argon2 is for people's
//! passwords). The hash is keyed with a pepper that is not in the store: a stolen store alone
//! cannot even confirm a guessed key.

use std::fmt;
use std::path::Path;

use policy::credential::Secret;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// Hash of a whole key, prefix included. Not a secret, but worth keeping out of logs: its `Debug`
/// shows four bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// From its bytes in the store.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Digest(bytes)
    }

    /// From hexadecimal text, as an import gives it.
    pub fn from_hex(text: &str) -> Option<Self> {
        blake3::Hash::from_hex(text).ok().map(|hash| Digest(*hash.as_bytes()))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Hexadecimal text.
    pub fn to_hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }

    /// Whether two digests are equal, in constant time.
    pub fn matches(&self, other: &Digest) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "Digest({a:02x}{b:02x}{c:02x}{d:02x}…)")
    }
}

pub(crate) mod hex {
    //! A digest as hexadecimal text, for records.

    use serde::{Deserialize, Deserializer, Serializer};

    use super::Digest;

    pub(crate) fn serialize<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&digest.to_hex())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        Digest::from_hex(&text).ok_or_else(|| serde::de::Error::custom("a digest is 64 hexadecimal characters"))
    }
}

/// The key of the hash: 32 random bytes that live in the configuration, never in the store.
#[derive(Clone)]
pub struct Pepper(Zeroizing<[u8; 32]>);

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pepper([redacted])")
    }
}

impl Pepper {
    /// From 64 hexadecimal characters.
    pub fn from_hex(text: &str) -> Result<Self, String> {
        let hash = blake3::Hash::from_hex(text.trim())
            .map_err(|_| "a pepper is 64 hexadecimal characters; `openssl rand -hex 32` makes one".to_owned())?;
        Ok(Pepper(Zeroizing::new(*hash.as_bytes())))
    }

    /// From a file that holds the text.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map(Zeroizing::new);
        let text = text.map_err(|e| format!("cannot read the pepper file {}: {e}", path.display()))?;
        Self::from_hex(&text).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// A key for another purpose, which the context names: the two say nothing of each other.
    pub fn derive(&self, context: &str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key(context, &*self.0))
    }

    /// The digest of a key.
    pub fn digest(&self, secret: Secret<'_>) -> Digest {
        Digest(*blake3::keyed_hash(&self.0, secret.expose().as_bytes()).as_bytes())
    }
}

/// The pepper in force and, during a rotation, the one before it.
#[derive(Clone, Debug)]
pub struct Peppers {
    /// Hashes new keys; tried first.
    pub current: Pepper,
    /// Still accepted.
    pub previous: Option<Pepper>,
}

impl Peppers {
    /// The digests under which a key may be stored, the current one first.
    pub fn digests(&self, secret: Secret<'_>) -> (Digest, Option<Digest>) {
        (self.current.digest(secret), self.previous.as_ref().map(|pepper| pepper.digest(secret)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_pepper_gives_another_digest_and_neither_prints() {
        let one = Pepper::from_hex(&"1".repeat(64)).unwrap();
        let two = Pepper::from_hex(&"2".repeat(64)).unwrap();
        let secret = Secret::new("ifk_live_8xK2mN9pQr4vT7wL");
        assert!(!one.digest(secret).matches(&two.digest(secret)));
        assert!(one.digest(secret).matches(&one.digest(secret)));
        assert_eq!(format!("{one:?}"), "Pepper([redacted])");
    }
}
