//! Tokens of other issuers: by their published keys, or by asking them.
//!
//! Everything that leads to an issuer comes from the policy; nothing in a token leads anywhere.
//! Keys are fetched by one request at a time, not again within a cool-down, and serve on while
//! their issuer is down. What an issuer cannot be asked about is unknown (503), not wrong (401).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm as Jwa, DecodingKey};
use policy::credential::Secret;
use policy::jws::{self, Claims, Jws};
use policy::limit::stable_number;
use policy::oauth::{Algorithm, Issuer, Judged};
use policy::route::Api;
use policy::{KeyFault, Token};
use quick_cache::sync::Cache as Map;

use super::Unidentified;
use super::tokens::{FOREIGN_LEEWAY_S, KnownToken};
use crate::base::digest::Digest;
use crate::base::http_client::{Form, HttpClient, HttpClientError};
use crate::registry::user::foreign_id;

/// Keys are fetched anew after this long, milliseconds.
const REFRESH_MS: u64 = 5 * 60_000;
/// Pause between two fetches, milliseconds.
const COOL_DOWN_MS: u64 = 30_000;
/// Keys of an issuer that is down serve for this long.
const STALE_MS: u64 = 24 * 3_600_000;
/// Most keys of one issuer.
const KEYS_MAX: usize = 64;
/// How long an issuer's "active" is believed, milliseconds.
const ACTIVE_MS: u64 = 30_000;
/// How long its "not active" is.
const INACTIVE_MS: u64 = 5_000;
/// The end of a token whose issuer names none: its word holds for [`ACTIVE_MS`] anyway.
const NO_END_S: u64 = 1 << 40;
/// Most refused tokens remembered.
const REFUSED_MAX: usize = 50_000;

struct PublicKey {
    kid: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

struct Fetched {
    at_ms: u64,
    keys: Vec<PublicKey>,
}

#[derive(Default)]
struct KeySet {
    fetched: ArcSwapOption<Fetched>,
    flight: tokio::sync::Mutex<()>,
    tried_ms: AtomicU64,
}

pub(super) struct Foreign {
    http_client: Arc<HttpClient>,
    sets: Mutex<HashMap<Box<str>, Arc<KeySet>>>,
    refused: Map<(Digest, u32), u64>,
}

/// The key of a set, if it signs with an algorithm that we know.
#[expect(clippy::wildcard_enum_match_arm, reason = "the library's list may grow; what we do not know is refused")]
fn public_key(jwk: &Jwk) -> Option<PublicKey> {
    if jwk.common.public_key_use.as_ref().is_some_and(|use_| *use_ != PublicKeyUse::Signature) {
        return None;
    }
    let (algorithm, named) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(okp) if okp.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        _ => return None,
    };
    let agrees = jwk.common.key_algorithm.is_none_or(|alg| alg == named);
    let key = agrees.then(|| DecodingKey::from_jwk(jwk).ok())??;
    Some(PublicKey { kid: jwk.common.key_id.clone(), algorithm, key })
}

/// The usable keys of a set; what is no key is passed over.
fn read_keys(bytes: &[u8]) -> Result<Vec<PublicKey>, HttpClientError> {
    #[derive(serde::Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    let set: Set = serde_json::from_slice(bytes).map_err(|_| HttpClientError::Unreachable("not a key set".into()))?;
    let jwks = set.keys.into_iter().take(KEYS_MAX).filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
    let keys: Vec<PublicKey> = jwks.filter_map(|jwk| public_key(&jwk)).collect();
    // An issuer without a key would take back every token at once: more likely it answers nonsense.
    if keys.is_empty() { Err(HttpClientError::Unreachable("no usable key".into())) } else { Ok(keys) }
}

/// Whether a token is signed by a key of a set that it may mean, with an algorithm allowed; `None`
/// when there is no such key.
fn is_signed(token: &Jws<'_>, keys: &[PublicKey], allowed: &[Algorithm]) -> Option<bool> {
    let means = |key: &&PublicKey| token.header.kid.is_none() && keys.len() == 1 || token.header.kid == key.kid;
    let mut candidates = keys.iter().filter(means).peekable();
    candidates.peek()?;
    Some(candidates.any(|key| {
        let (algorithm, name) = match key.algorithm {
            Algorithm::RS256 => (Jwa::RS256, "RS256"),
            Algorithm::ES256 => (Jwa::ES256, "ES256"),
            Algorithm::EdDSA => (Jwa::EdDSA, "EdDSA"),
        };
        allowed.contains(&key.algorithm)
            && token.header.alg == name
            && jsonwebtoken::crypto::verify(token.signature, token.signed.as_bytes(), &key.key, algorithm)
                .unwrap_or(false)
    }))
}

/// Verifies a signed statement with given keys: for logins that another system hands over.
pub(crate) fn is_signed_by(token: &Jws<'_>, jwks: &[Box<str>]) -> bool {
    let all = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
    let jwks = jwks.iter().filter_map(|text| serde_json::from_str::<Jwk>(text).ok());
    let keys: Vec<PublicKey> = jwks.filter_map(|jwk| public_key(&jwk)).collect();
    is_signed(token, &keys, &all) == Some(true)
}

impl Foreign {
    pub(super) fn new(http_client: Arc<HttpClient>) -> Self {
        Foreign { http_client, sets: Mutex::default(), refused: Map::new(REFUSED_MAX) }
    }

    pub(super) fn is_refused(&self, id: &(Digest, u32), now_ms: u64) -> bool {
        self.refused.get(id).is_some_and(|until_ms| now_ms < until_ms)
    }

    pub(super) async fn verify(
        &self,
        api: &Api,
        secret: Secret<'_>,
        id: &(Digest, u32),
        now_ms: u64,
    ) -> Result<KnownToken, Unidentified> {
        let issuer = api.issuer_of(secret).ok_or(Unidentified::Unknown)?;
        let (claims, asked_until_ms) = match &issuer.judged {
            Judged::ByKeys { jwks, algorithms } => {
                let token = jws::parse(secret.expose()).map_err(|_| Unidentified::Unknown)?;
                (self.by_keys(&token, jwks, algorithms, now_ms).await?, now_ms + REFRESH_MS)
            }
            Judged::ByAsking { endpoint, client_id, client_secret_file, .. } => {
                let login = (&**client_id, &**client_secret_file);
                match self.by_asking(issuer, endpoint, login, secret).await? {
                    Some(claims) => (claims, now_ms + ACTIVE_MS),
                    None => {
                        self.refused.insert(*id, now_ms + INACTIVE_MS);
                        return Err(Unidentified::Unknown);
                    }
                }
            }
        };
        known(api, issuer, &claims, asked_until_ms, now_ms)
    }

    async fn by_keys(
        &self,
        token: &Jws<'_>,
        jwks: &str,
        algorithms: &[Algorithm],
        now_ms: u64,
    ) -> Result<Claims, Unidentified> {
        let plain = |typ: &str| {
            let typ = typ.to_ascii_lowercase();
            matches!(typ.strip_prefix("application/").unwrap_or(&typ), "at+jwt" | "jwt")
        };
        if !token.header.typ.as_deref().is_none_or(plain) {
            return Err(Unidentified::Unknown);
        }
        let set = {
            let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
            sets.entry(jwks.into()).or_default().clone()
        };
        let held = set.fetched.load_full().filter(|f| now_ms.saturating_sub(f.at_ms) < STALE_MS);
        let mut answer = held.as_ref().and_then(|fetched| is_signed(token, &fetched.keys, algorithms));
        let is_old = held.as_ref().is_none_or(|f| now_ms.saturating_sub(f.at_ms) >= REFRESH_MS);
        if answer.is_none() || is_old {
            // Whoever has an answer does not wait for others who ask the issuer.
            match self.fetch(&set, jwks, answer.is_none(), now_ms).await {
                Some(fetched) => answer = is_signed(token, &fetched.keys, algorithms).or(Some(false)),
                None if held.is_none() => return Err(Unidentified::CannotKnow),
                // A key that the last good set does not have, from an issuer asked a moment ago.
                None => answer = answer.or(Some(false)),
            }
        }
        if answer != Some(true) {
            return Err(Unidentified::Unknown);
        }
        token.claims().map_err(|_| Unidentified::Unknown)
    }

    /// Fetches keys: one request at a time, none within the cool-down of the one before. `None` when
    /// there is nothing new.
    async fn fetch(&self, set: &KeySet, jwks: &str, must_wait: bool, now_ms: u64) -> Option<Arc<Fetched>> {
        let before = set.fetched.load_full().map(|f| f.at_ms);
        let _flight = match must_wait {
            true => set.flight.lock().await,
            false => set.flight.try_lock().ok()?,
        };
        let now = set.fetched.load_full();
        if now.as_ref().map(|f| f.at_ms) != before {
            return now;
        }
        let tried = set.tried_ms.load(Ordering::Relaxed);
        if tried != 0 && now_ms.saturating_sub(tried) < COOL_DOWN_MS {
            return None;
        }
        set.tried_ms.store(now_ms, Ordering::Relaxed);
        match self.http_client.get(jwks).await.and_then(|bytes| read_keys(&bytes)) {
            Ok(keys) => {
                let fetched = Arc::new(Fetched { at_ms: now_ms, keys });
                set.fetched.store(Some(fetched.clone()));
                Some(fetched)
            }
            Err(error) => {
                tracing::warn!(target: "tollgate::oauth", "the keys at {jwks} could not be fetched: {error}");
                None
            }
        }
    }

    /// Asks the issuer (RFC 7662 section 2). `None`: the token is not active.
    async fn by_asking(
        &self,
        issuer: &Issuer,
        endpoint: &str,
        (client_id, secret_file): (&str, &str),
        token: Secret<'_>,
    ) -> Result<Option<Claims>, Unidentified> {
        let cannot_know = |error: HttpClientError| {
            tracing::warn!(target: "tollgate::oauth", "{endpoint} could not be asked about a token: {error}");
            Unidentified::CannotKnow
        };
        let secret = self.http_client.secret(secret_file).await.map_err(cannot_know)?;
        let text = |text: &str| zeroize::Zeroizing::new(text.to_owned());
        let fields = vec![("token", text(token.expose())), ("token_type_hint", text("access_token"))];
        let form = Form { login: Some((client_id.to_owned(), secret)), fields };
        let bytes = self.http_client.post(endpoint, form).await.map_err(cannot_know)?;
        let nonsense = |_| cannot_know(HttpClientError::Unreachable("the answer is not usable".into()));
        let mut members = Claims::from_json(&bytes).map_err(nonsense)?;
        if members.get("active") != Some(&serde_json::Value::Bool(true)) {
            return Ok(None);
        }
        // All of these are optional in such an answer; where they are there, they count.
        let other = |name: &str| Some(format!("{name}:{}", members.get(name)?.as_str()?));
        let subject = other("username").or_else(|| other("client_id")).unwrap_or_default();
        members.entry("sub").or_insert(subject.into());
        members.entry("iss").or_insert((*issuer.issuer).into());
        members.entry("aud").or_insert((*issuer.audience).into());
        members.entry("exp").or_insert(NO_END_S.into());
        Ok(Claims::read(members).ok().filter(|claims| *claims.iss == *issuer.issuer))
    }
}

fn known(
    api: &Api,
    issuer: &Arc<Issuer>,
    claims: &Claims,
    asked_until_ms: u64,
    now_ms: u64,
) -> Result<KnownToken, Unidentified> {
    if *claims.iss != *issuer.issuer || !claims.is_for(&issuer.audience) {
        return Err(Unidentified::Unknown);
    }
    if !claims.holds_at(now_ms / 1_000, FOREIGN_LEEWAY_S) {
        return Err(Unidentified::Dead(KeyFault::Expired));
    }
    let names = claims.names(&issuer.scope_claim).map_err(|_| Unidentified::Unknown)?;
    // Scopes of others may be words that mean nothing here.
    let ours =
        names.iter().filter_map(|name| policy::Scope::parse(name).ok()).filter(|s| issuer.permissions.contains(s));
    let scopes = policy::Scopes::new(ours).map_err(|_| Unidentified::Unknown)?;
    let client = claims.client_id.as_deref().or_else(|| claims.text("azp")).unwrap_or_default();
    let facts = Token {
        id: "".into(),
        grant: "".into(),
        user: foreign_id("iss", &issuer.issuer, &claims.sub).into(),
        client: client.into(),
        api: api.name.clone(),
        scopes: Arc::new(scopes),
        subject: stable_number(&["foreign", &issuer.issuer, &claims.sub, client]),
    };
    let organization = Arc::new(issuer.organization(claims));
    let ends_ms = claims.exp.saturating_add(FOREIGN_LEEWAY_S).saturating_mul(1_000);
    Ok(KnownToken::foreign(facts, (issuer.clone(), organization), ends_ms, asked_until_ms.min(ends_ms)))
}
