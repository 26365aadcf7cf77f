//! From an access token to an identity: form, signature, claims, and the grant behind it.
//!
//! What always holds:
//! - the token's prefix and its `iss` say who issued it; the key is one that this issuer publishes; the key, and
//!   never the token, says which algorithm it is (RFC 8725 section 3.1);
//! - a verified token is remembered by its hash, with the issuer it was verified for; its end and its grant are
//!   checked again each time;
//! - while its grant cannot be asked about, a token is answered with 503; once the grant is dead, with 401,
//!   however long it would have lasted.

use std::sync::Arc;

use policy::credential::{Secret, TOKEN_PREFIX};
use policy::jws::{self, Claims, Jws};
use policy::limit::stable_number;
use policy::oauth::{Issuer, OAuth};
use policy::route::Api;
use policy::{KeyFault, Organization, Token};

use super::bounds::Bounds;
use super::cache::Cache;
use super::foreign::Foreign;
use super::grants::{GrantFacts, KnownGrant};
use super::verified::Verified;
use super::{Caller, Found, Identified, Unidentified};
use crate::base::clock::Clock;
use crate::base::digest::{Digest, Peppers};
use crate::base::http_client::HttpClient;
use crate::registry::signing_keys::SigningKeys;
use crate::store::{Change, Store, StoreError};

/// Most verified tokens remembered; their bytes are bounded too.
const VERIFIED_MAX: usize = 200_000;
/// Questions about different tokens that do not wait for each other.
const LANES: usize = 256;
/// How far a clock of ours may be off, seconds.
const OWN_LEEWAY_S: u64 = 5;
/// How far the clock of another issuer may be off, seconds (SPEC section 2).
pub(super) const FOREIGN_LEEWAY_S: u64 = 60;

/// Who issued a token, as the policy said when it was verified.
#[derive(Debug, PartialEq)]
pub(super) enum Source {
    /// With the key that signed it.
    Own(Arc<OAuth>, Box<str>),
    Foreign(Arc<Issuer>, Arc<Organization>),
}

/// A token whose signature and claims hold.
#[derive(Debug)]
pub struct KnownToken {
    /// What a decision needs.
    pub facts: Token,
    /// First instant at which it is over, Unix milliseconds, leeway included.
    pub ends_ms: u64,
    /// When it must be asked about again; never for tokens that say everything themselves.
    pub(super) asked_until_ms: u64,
    issued_s: u64,
    source: Source,
}

impl KnownToken {
    pub(super) fn foreign(
        facts: Token,
        (issuer, organization): (Arc<Issuer>, Arc<Organization>),
        ends_ms: u64,
        asked_until_ms: u64,
    ) -> Self {
        KnownToken { facts, ends_ms, asked_until_ms, issued_s: 0, source: Source::Foreign(issuer, organization) }
    }

    #[cfg(test)]
    pub(super) fn for_tests(id: &str) -> Self {
        let text = || Box::<str>::from("x");
        let oauth = OAuth {
            issuer: text(),
            host: text(),
            name: text(),
            audience: text(),
            resource_metadata: text(),
            home: None,
            login: policy::oauth::Login::Builtin,
        };
        let facts = Token {
            id: id.into(),
            grant: text(),
            user: text(),
            client: text(),
            api: "x".into(),
            scopes: Arc::default(),
            subject: 0,
        };
        KnownToken { facts, ends_ms: 0, asked_until_ms: 0, issued_s: 0, source: Source::Own(Arc::new(oauth), text()) }
    }

    /// Whether the policy still trusts whoever it was verified for.
    fn is_of(&self, api: &Api) -> bool {
        *self.facts.api == *api.name
            && match &self.source {
                Source::Own(oauth, _) => api.oauth.as_ref().is_some_and(|now| Arc::ptr_eq(now, oauth) || now == oauth),
                Source::Foreign(issuer, _) => api.issuers.iter().any(|now| Arc::ptr_eq(now, issuer) || now == issuer),
            }
    }
}

/// Verifies tokens. One per gateway.
pub struct Tokens {
    verified: Verified,
    /// One question at a time about a token that its issuer is asked about.
    lanes: Box<[tokio::sync::Mutex<()>]>,
    grants: Cache<GrantFacts>,
    foreign: Foreign,
    /// The keys that sign tokens of ours.
    pub keys: Arc<SigningKeys>,
    store: Arc<dyn Store>,
    peppers: Peppers,
    clock: Arc<dyn Clock>,
}

impl Tokens {
    /// Nothing known yet.
    pub fn new(
        store: Arc<dyn Store>,
        peppers: Peppers,
        bounds: Bounds,
        clock: Arc<dyn Clock>,
        http_client: Arc<HttpClient>,
    ) -> Self {
        let registry = crate::registry::access::Registry::new(store.clone());
        let keys = Arc::new(SigningKeys::new(registry, peppers.clone(), clock.clone()));
        Tokens {
            verified: Verified::new(VERIFIED_MAX.min(bounds.keys_max)),
            lanes: (0..LANES).map(|_| tokio::sync::Mutex::default()).collect(),
            grants: Cache::new(bounds),
            foreign: Foreign::new(http_client),
            keys,
            store,
            peppers,
            clock,
        }
    }

    pub(super) fn set_following(&self, is_following: bool) {
        self.grants.set_following(is_following);
    }

    pub(super) async fn forget(&self, changes: &[Change]) -> Result<(), StoreError> {
        let about_keys =
            changes.iter().any(|change| matches!(change, Change::Keyring | Change::Doubt(_) | Change::Everything));
        // A gateway without an authorization server has never read the ring and need not.
        if about_keys && self.keys.ring().is_some() {
            match self.keys.read().await {
                Ok(_) => self.verified.clear(),
                Err(error @ StoreError::Unavailable(_)) => return Err(error),
                Err(error) => tracing::error!(target: "tollgate::store", "the signing keys stay as they were: {error}"),
            }
        }
        self.grants.forget(changes, &*self.store).await
    }

    /// Answers from memory alone; `None` when something must be computed or asked.
    pub fn identify_cached(
        &self,
        api: &Api,
        secret: Secret<'_>,
        now_ms: u64,
    ) -> Option<Result<Identified, Unidentified>> {
        if let Some(token) = self.remembered(api, secret, now_ms) {
            return self.believed(token, now_ms);
        }
        self.foreign.is_refused(&self.id(api, secret), now_ms).then_some(Err(Unidentified::Unknown))
    }

    /// A token that was verified, if it is still believed.
    fn remembered(&self, api: &Api, secret: Secret<'_>, now_ms: u64) -> Option<Arc<KnownToken>> {
        self.verified.get(secret, api.index).filter(|token| self.stands(token, api, now_ms))
    }

    /// What a token is asked about and refused by.
    fn id(&self, api: &Api, secret: Secret<'_>) -> (Digest, u32) {
        (self.peppers.current.digest(secret), api.index)
    }

    /// Whose a token is, if its grant is at hand.
    fn believed(&self, token: Arc<KnownToken>, now_ms: u64) -> Option<Result<Identified, Unidentified>> {
        if now_ms >= token.ends_ms {
            return Some(Err(Unidentified::Dead(KeyFault::Expired)));
        }
        match &token.source {
            Source::Foreign(_, organization) => {
                let organization = organization.clone();
                Some(Ok(Identified { caller: Caller::Token(token, None), organization, found: Found::Cached }))
            }
            Source::Own(..) => match self.grants.fresh(&token.facts.grant, now_ms)? {
                None => Some(Err(Unidentified::Unknown)),
                Some(grant) => judge(token, grant, Found::Cached),
            },
        }
    }

    /// Answers from memory, by computing, or by asking the store or the issuer.
    pub async fn identify(&self, api: &Api, secret: Secret<'_>) -> Result<Identified, Unidentified> {
        let now_ms = self.clock.now_ms();
        if let Some(answer) = self.identify_cached(api, secret, now_ms) {
            return answer;
        }
        let token = match self.remembered(api, secret, now_ms) {
            Some(token) => token,
            None => {
                let id = self.id(api, secret);
                let _lane = match secret.expose().starts_with(TOKEN_PREFIX) {
                    true => None,
                    false => self.lane(&id.0).await,
                };
                match self.remembered(api, secret, now_ms) {
                    Some(token) => token,
                    None if self.foreign.is_refused(&id, now_ms) => return Err(Unidentified::Unknown),
                    None => {
                        let token = Arc::new(self.verify(api, secret, &id, now_ms).await?);
                        self.verified.insert(secret, api.index, token.clone());
                        token
                    }
                }
            }
        };
        if now_ms >= token.ends_ms {
            return Err(Unidentified::Dead(KeyFault::Expired));
        }
        match &token.source {
            Source::Foreign(_, organization) => {
                let organization = organization.clone();
                Ok(Identified { caller: Caller::Token(token, None), organization, found: Found::Stored })
            }
            // Each refresh gives a new token of a grant that is mostly at hand.
            Source::Own(..) => {
                let grant = self.grants.fresh(&token.facts.grant, now_ms).flatten();
                match grant.and_then(|grant| judge(token.clone(), grant, Found::Cached)) {
                    Some(Ok(identified)) => Ok(identified),
                    Some(Err(_)) | None => self.look_up(token).await,
                }
            }
        }
    }

    /// Whether what was verified is still believed: for whom it was, by the key that signed it, and
    /// not longer than its issuer's word holds.
    fn stands(&self, token: &KnownToken, api: &Api, now_ms: u64) -> bool {
        let has_key = match &token.source {
            Source::Own(_, kid) => self.keys.ring().is_some_and(|ring| ring.public(kid, now_ms).is_some()),
            Source::Foreign(..) => true,
        };
        has_key && token.is_of(api) && now_ms < token.asked_until_ms
    }

    async fn lane(&self, digest: &Digest) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let [first, ..] = digest.as_bytes();
        Some(self.lanes.get(usize::from(*first) % LANES)?.lock().await)
    }

    /// Whether a token is remembered, whether or not it still works: it is no guess.
    pub fn is_known(&self, api: &Api, secret: Secret<'_>) -> bool {
        self.verified.get(secret, api.index).is_some()
    }

    async fn look_up(&self, token: Arc<KnownToken>) -> Result<Identified, Unidentified> {
        let id = token.facts.grant.clone();
        let (found, how) = self.grants.find(id, (&*self.store, &*self.clock), "grant").await?;
        let Some(grant) = found else { return Err(Unidentified::Unknown) };
        judge(token, grant, how).unwrap_or(Err(Unidentified::CannotKnow))
    }

    async fn verify(
        &self,
        api: &Api,
        secret: Secret<'_>,
        id: &(Digest, u32),
        now_ms: u64,
    ) -> Result<KnownToken, Unidentified> {
        match (secret.expose().strip_prefix(TOKEN_PREFIX), &api.oauth) {
            (Some(text), Some(oauth)) => self.verify_own(api, oauth, text, now_ms).await,
            (Some(_), None) => Err(Unidentified::Unknown),
            (None, _) => self.foreign.verify(api, secret, id, now_ms).await,
        }
    }

    /// The claims of a token that we signed for this API, whether or not it is over.
    pub async fn own_claims(&self, oauth: &OAuth, text: &str, now_ms: u64) -> Result<(Claims, Box<str>), Unidentified> {
        let token = jws::parse(text).map_err(|_| Unidentified::Unknown)?;
        let is_ours = token.header.alg == "RS256" && token.header.typ.as_deref() == Some("at+jwt");
        let kid = token.header.kid.as_deref().filter(|_| is_ours).ok_or(Unidentified::Unknown)?;
        let is_signed = self.is_signed(&token, kid, now_ms).await?;
        let claims = token.claims().map_err(|_| Unidentified::Unknown)?;
        let is_for_us = is_signed && *claims.iss == *oauth.issuer && claims.is_for(&oauth.audience);
        if is_for_us { Ok((claims, kid.into())) } else { Err(Unidentified::Unknown) }
    }

    async fn is_signed(&self, token: &Jws<'_>, kid: &str, now_ms: u64) -> Result<bool, Unidentified> {
        let cannot_know = |error: StoreError| {
            tracing::warn!(target: "tollgate::store", "the signing keys could not be read: {error}");
            Unidentified::CannotKnow
        };
        let ring = match self.keys.ring() {
            Some(ring) => ring,
            None => self.keys.read().await.map_err(cannot_know)?,
        };
        let check = |key: &jsonwebtoken::DecodingKey| {
            let algorithm = jsonwebtoken::Algorithm::RS256;
            jsonwebtoken::crypto::verify(token.signature, token.signed.as_bytes(), key, algorithm).unwrap_or(false)
        };
        if let Some(key) = ring.public(kid, now_ms) {
            return Ok(check(key));
        }
        let ring = self.keys.read_again(now_ms).await.map_err(cannot_know)?;
        Ok(ring.public(kid, now_ms).is_some_and(check))
    }

    async fn verify_own(
        &self,
        api: &Api,
        oauth: &Arc<OAuth>,
        text: &str,
        now_ms: u64,
    ) -> Result<KnownToken, Unidentified> {
        let (claims, kid) = self.own_claims(oauth, text, now_ms).await?;
        // Of our own tokens only the end is looked at: they are issued by the clock of the store,
        // which may be ahead of ours.
        if now_ms / 1_000 >= claims.exp + OWN_LEEWAY_S {
            return Err(Unidentified::Dead(KeyFault::Expired));
        }
        let text_of = |name: &str| claims.text(name).filter(|t| !t.is_empty()).ok_or(Unidentified::Unknown);
        let (grant, client) = (text_of("gid")?, text_of("client_id")?);
        let names = claims.names("scope").map_err(|_| Unidentified::Unknown)?;
        let scopes = crate::store::scopes(&names).map_err(|_| Unidentified::Unknown)?;
        let facts = Token {
            id: text_of("jti")?.into(),
            grant: grant.into(),
            user: claims.sub.as_str().into(),
            client: client.into(),
            api: api.name.clone(),
            scopes: Arc::new(scopes),
            subject: subject(&claims.sub, client),
        };
        let ends_ms = (claims.exp + OWN_LEEWAY_S) * 1_000;
        let issued_s = claims.iat.ok_or(Unidentified::Unknown)?;
        Ok(KnownToken { facts, ends_ms, asked_until_ms: u64::MAX, issued_s, source: Source::Own(oauth.clone(), kid) })
    }

    /// Whether the grant of a token still stands.
    pub(super) async fn is_alive(&self, token: &Arc<KnownToken>) -> Result<bool, StoreError> {
        if let Source::Own(_, kid) = &token.source
            && self.keys.ring().is_none_or(|ring| ring.public(kid, self.clock.now_ms()).is_none())
        {
            return Ok(false);
        }
        let found = self.grants.look_up(token.facts.grant.clone(), &*self.store, &*self.clock).await?;
        Ok(found.is_some_and(|grant| grant.facts.allows(&token.facts.id, token.issued_s).is_ok()))
    }

    /// Puts a grant into the cache as if it had been looked up: for benches.
    pub fn warm(&self, grant: &str, facts: GrantFacts, organization: Arc<super::KnownOrganization>) {
        self.grants.insert(grant.into(), facts, organization, self.clock.now_ms());
    }
}

/// The limit buckets of a user and an application: all their tokens share them, so that a refresh
/// gives no fresh limit.
pub fn subject(user: &str, client: &str) -> u128 {
    stable_number(&["grant", user, client])
}

/// A token is as good as its grant; `None` when the organization is not at hand any more.
fn judge(token: Arc<KnownToken>, grant: Arc<KnownGrant>, found: Found) -> Option<Result<Identified, Unidentified>> {
    let is_of = *grant.facts.user == *token.facts.user && *grant.facts.app == *token.facts.client;
    if !is_of {
        return Some(Err(Unidentified::Unknown));
    }
    if let Err(fault) = grant.facts.allows(&token.facts.id, token.issued_s) {
        return Some(Err(Unidentified::Dead(fault)));
    }
    let organization = grant.organization.current()?;
    Some(Ok(Identified { caller: Caller::Token(token, Some(grant)), organization, found }))
}
