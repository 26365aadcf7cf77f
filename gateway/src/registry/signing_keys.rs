//! The signing keys as a gateway holds them: read from the store, opened, kept up to date.
//!
//! The ring is made by whoever finds that it must be, under compare-and-set: of many gateways that
//! start at once, one makes it and the others take it. A token's key is looked up here; a key that
//! is not known is asked for once in a while, not for each token that names one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use aws_lc_rs::signature::RsaKeyPair;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use tokio::sync::Mutex;

use super::access::Registry;
use super::change::{Actor, By};
use super::keyring::{KeyState, KeyringFault, KeyringRecord, generate, is_under_old_pepper, open, reseal, sign};
use crate::base::clock::Clock;
use crate::base::digest::Peppers;
use crate::store::StoreError;

/// How often the store is asked again because of a key that nobody knows, milliseconds.
const ASK_AGAIN_MS: u64 = 2_000;

/// Why there is no key.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SigningKeysError {
    /// The store.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The ring.
    #[error("{0}")]
    Ring(#[from] KeyringFault),
}

/// The ring, opened.
pub struct Ring {
    record: KeyringRecord,
    public: HashMap<Box<str>, DecodingKey>,
    private: HashMap<Box<str>, Result<Arc<RsaKeyPair>, KeyringFault>>,
}

impl Ring {
    fn new(record: KeyringRecord, peppers: &Peppers) -> Self {
        let id = |kid: &str| Box::<str>::from(kid);
        let public = record.keys.iter().filter_map(|key| {
            let public = DecodingKey::from_rsa_components(&key.n, &key.e).ok()?;
            Some((id(&key.kid), public))
        });
        let private = record.keys.iter().map(|key| (id(&key.kid), open(key, peppers).map(Arc::new)));
        Ring { public: public.collect(), private: private.collect(), record }
    }

    /// The public key that a token names, unless it is gone.
    pub fn public(&self, kid: &str, now_ms: u64) -> Option<&DecodingKey> {
        self.public.get(kid).filter(|_| self.record.state(kid, now_ms) != KeyState::Gone)
    }

    /// What is published.
    pub fn jwks(&self, now_ms: u64) -> serde_json::Value {
        self.record.jwks(now_ms)
    }
}

/// The keys of one gateway.
pub struct SigningKeys {
    registry: Registry,
    peppers: Peppers,
    clock: Arc<dyn Clock>,
    ring: ArcSwapOption<Ring>,
    making: Mutex<()>,
    reading: Mutex<()>,
    asked_ms: AtomicU64,
}

impl SigningKeys {
    /// Nothing read yet.
    pub fn new(registry: Registry, peppers: Peppers, clock: Arc<dyn Clock>) -> Self {
        SigningKeys {
            registry,
            peppers,
            clock,
            ring: ArcSwapOption::empty(),
            making: Mutex::default(),
            reading: Mutex::default(),
            asked_ms: AtomicU64::new(0),
        }
    }

    /// The ring as it was last read; `None` before that.
    pub fn ring(&self) -> Option<Arc<Ring>> {
        self.ring.load_full()
    }

    /// Reads the ring anew. One at a time, so that an older one never takes the place of a newer.
    pub async fn read(&self) -> Result<Arc<Ring>, StoreError> {
        let _reading = self.reading.lock().await;
        self.read_alone().await
    }

    async fn read_alone(&self) -> Result<Arc<Ring>, StoreError> {
        let ring = Arc::new(Ring::new(self.registry.keyring().await?, &self.peppers));
        self.ring.store(Some(ring.clone()));
        Ok(ring)
    }

    /// Reads the ring again because of a key that is not in it, unless that was done a moment ago.
    /// Whoever asks meanwhile waits for the same answer.
    pub async fn read_again(&self, now_ms: u64) -> Result<Arc<Ring>, StoreError> {
        let _reading = self.reading.lock().await;
        let is_recent = now_ms.saturating_sub(self.asked_ms.load(Ordering::Relaxed)) < ASK_AGAIN_MS;
        match self.ring() {
            Some(ring) if is_recent => Ok(ring),
            Some(_) | None => {
                let ring = self.read_alone().await?;
                self.asked_ms.store(now_ms, Ordering::Relaxed);
                Ok(ring)
            }
        }
    }

    /// Reads the ring and makes a key if one is due.
    pub async fn maintain(&self) -> Result<Arc<Ring>, SigningKeysError> {
        let _making = self.making.lock().await;
        let mut ring = self.read().await?;
        if ring.record.keys.iter().any(|key| is_under_old_pepper(key, &self.peppers)) {
            let peppers = &self.peppers;
            self.registry.change_keyring(|ring| ring.keys.iter_mut().for_each(|key| reseal(key, peppers))).await?;
            ring = self.read().await?;
        }
        let now_ms = self.registry.now_ms(self.clock.now_ms()).await?;
        if !ring.record.is_due(now_ms) {
            return Ok(ring);
        }
        self.rotate(false, &Actor::gateway()).await
    }

    /// Makes a key; at once in an emergency, when no other key is to be believed any more.
    pub async fn rotate(&self, is_emergency: bool, actor: &Actor) -> Result<Arc<Ring>, SigningKeysError> {
        let now_ms = self.registry.now_ms(self.clock.now_ms()).await?;
        let pepper = self.peppers.current.clone();
        let made = tokio::task::spawn_blocking(move || generate(&pepper, now_ms)).await;
        let made = made.map_err(|_| KeyringFault::Generation)??;
        let was_due = self.ring().is_some_and(|ring| ring.record.is_due(now_ms));
        let change = |ring: &mut KeyringRecord| {
            // Somebody else may have made the key that was due.
            let is_mine = is_emergency || !was_due || ring.is_due(now_ms);
            match is_emergency {
                true => ring.replace(made.clone(), now_ms),
                false if is_mine => ring.add(made.clone(), now_ms),
                false => {}
            }
            is_mine
        };
        if self.registry.change_keyring(change).await?.result {
            By { actor: actor.clone(), now_ms }.tell("made the signing key", &made.kid);
        }
        Ok(self.read().await?)
    }

    /// Makes sure that there is a key to sign with.
    pub async fn ready(&self, now_ms: u64) -> Result<(), SigningKeysError> {
        self.signer(now_ms).await.map(|_| ())
    }

    async fn signer(&self, now_ms: u64) -> Result<(String, Arc<RsaKeyPair>), SigningKeysError> {
        let ring = match self.ring() {
            Some(ring) if ring.record.active(now_ms).is_some() => ring,
            Some(_) | None => self.maintain().await?,
        };
        let kid = ring.record.active(now_ms).map(|key| key.kid.clone()).ok_or(KeyringFault::Generation)?;
        let pair = ring.private.get(&*kid).cloned().ok_or(KeyringFault::Damaged)??;
        Ok((kid, pair))
    }

    /// Signs claims: header, payload, signature (RFC 7515 section 7.1). The signature is made on a
    /// thread that serves no requests.
    pub async fn sign(&self, claims: &serde_json::Value, now_ms: u64) -> Result<String, SigningKeysError> {
        let (kid, pair) = self.signer(now_ms).await?;
        let header = serde_json::json!({ "alg": "RS256", "typ": "at+jwt", "kid": kid });
        let encode = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let mut token = format!("{}.{}", encode(&header), encode(claims));
        let message = token.clone();
        let signature = tokio::task::spawn_blocking(move || sign(&pair, message.as_bytes())).await;
        let signature = signature.map_err(|_| KeyringFault::Damaged)??;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    /// The ring as it is stored, for people.
    pub async fn record(&self) -> Result<KeyringRecord, StoreError> {
        self.registry.keyring().await
    }
}
