//! Logins at another system: a login page of the company's own, or an OpenID Provider.
//!
//! Either way the user comes back to `/oauth/continue`, in the browser in which the request began: nobody can
//! begin a login and have somebody else finish it. The company's page says who the user is in one of two ways.
//! It accepts the login through the management API, and sends the browser back with a verifier that only it was
//! given. Or it signs a statement for us about this request, which is valid for a minute and once. A user of
//! another system has an id here that says which system that is.

use std::collections::HashMap;

use http::StatusCode;
use policy::jws::{self, Claims};
use policy::oauth::Login;
use serde::Deserialize;

use super::error::{Code, OAuthError};
use super::http::{Form as Parameters, Request, with_parameters};
use super::login::{denied, forged};
use super::pages::message;
use super::server::AuthorizationServer;
use crate::base::answer::Answer;
use crate::base::http_client::{Form, HttpClientError};
use crate::identify::is_signed_by;
use crate::registry::access::{FlowRecord, Handed};
use crate::registry::secret::{challenge_of, has_digest, random_secret, same};
use crate::registry::user::{MEMBERSHIPS_MAX, Membership, Role, UserRecord, foreign_id};
use crate::store::StoreError;

/// Longest life of a signed login, seconds.
const STATEMENT_LIFE_S: u64 = 60;
/// How far the clock of another system may be off, seconds.
const LEEWAY_S: u64 = 30;
/// Longest `sub` of another system, in bytes.
const SUB_BYTES_MAX: usize = 255;

/// Who has logged in elsewhere.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// The other system's stable id of the user.
    pub sub: String,
    /// For people.
    #[serde(default)]
    pub name: String,
    /// What people know the user by.
    #[serde(default)]
    pub email: String,
    /// Organizations of ours that the user belongs to, all of them; absent to leave them.
    pub organizations: Option<Vec<String>>,
    /// Scopes that the other system's page has granted; only where the policy says that it asks.
    pub grant_scopes: Option<Vec<String>>,
    /// An organization that the user belongs to beside those there are.
    #[serde(skip)]
    pub join: Option<String>,
}

impl AuthorizationServer {
    /// Takes over a user of another system, and what it says of the request under way.
    pub async fn accept(
        &self,
        system: (&str, &str),
        flow: &mut FlowRecord,
        accepted: &Accepted,
        consents: bool,
        now_ms: u64,
    ) -> Result<UserRecord, OAuthError> {
        let refused = |words: String| OAuthError::new(Code::InvalidRequest, words);
        let user = self.take_over(system, accepted, now_ms).await?;
        flow.granted = match &accepted.grant_scopes {
            None => None,
            Some(_) if !consents => {
                return Err(refused("grant_scopes needs `consent: true` in the policy".into()));
            }
            Some(scopes) if scopes.is_empty() || scopes.iter().any(|scope| !flow.scopes.contains(scope)) => {
                return Err(refused("grant_scopes must be some of the scopes asked for".into()));
            }
            Some(scopes) => {
                flow.scopes.clone_from(scopes);
                Some(scopes.clone())
            }
        };
        Ok(user)
    }

    /// Says over the management API who has logged in, or that nobody has; returns the verifier
    /// with which that browser must come back. `None` when the request is over.
    pub async fn hand_over(&self, flow: &FlowRecord, user: Option<String>) -> Result<Option<String>, OAuthError> {
        let verifier = random_secret()?;
        let digest = self.peppers.current.digest(policy::credential::Secret::new(&verifier));
        let handed = Handed { user, verifier: digest };
        let kept = self.registry.change_flow(&flow.id, |now| {
            now.handed = Some(handed.clone());
            (now.granted, now.scopes) = (flow.granted.clone(), flow.scopes.clone());
        });
        Ok(kept.await?.map(|_| verifier))
    }

    async fn take_over(
        &self,
        (kind, issuer): (&str, &str),
        accepted: &Accepted,
        now_ms: u64,
    ) -> Result<UserRecord, OAuthError> {
        let refused = |words: String| OAuthError::new(Code::InvalidRequest, words);
        let fits = |text: &str| text.len() <= SUB_BYTES_MAX && !text.chars().any(char::is_control);
        if accepted.sub.is_empty() || ![&accepted.sub, &accepted.name, &accepted.email].into_iter().all(|t| fits(t)) {
            return Err(refused(format!("sub, name and email have at most {SUB_BYTES_MAX} printable bytes")));
        }
        let memberships = match &accepted.organizations {
            None => None,
            Some(list) if list.len() > MEMBERSHIPS_MAX => return Err(refused("too many organizations".into())),
            Some(list) => {
                for id in list {
                    if self.registry.store().organization(id).await?.is_none() {
                        return Err(refused(format!("there is no organization `{}`", id.escape_debug())));
                    }
                }
                let member = |id: &String| Membership { organization: id.clone(), role: Role::Member };
                Some(list.iter().map(member).collect::<Vec<_>>())
            }
        };
        let id = foreign_id(kind, issuer, &accepted.sub);
        let email = if accepted.email.is_empty() { accepted.sub.clone() } else { accepted.email.clone() };
        let user = UserRecord {
            id: id.clone(),
            email: email.clone(),
            name: accepted.name.clone(),
            password: None,
            memberships: joined(memberships.clone().unwrap_or_default(), accepted.join.as_deref()),
            created_ms: now_ms,
            sessions_from_ms: 0,
            disabled_ms: None,
        };
        match self.registry.insert_foreign_user(&user).await {
            Ok(()) => return Ok(user),
            Err(StoreError::Exists(_)) => {}
            Err(other) => return Err(other.into()),
        }
        let changed = self.registry.change_user(&id, |user| {
            user.email.clone_from(&email);
            user.name.clone_from(&accepted.name);
            let of = memberships.clone().unwrap_or_else(|| user.memberships.clone());
            user.memberships = joined(of, accepted.join.as_deref());
            Ok(())
        });
        let user = changed.await?.record;
        match user.disabled_ms {
            None => Ok(user),
            Some(_) => Err(OAuthError::new(Code::AccessDenied, "this user is switched off")),
        }
    }

    /// `GET /oauth/continue`: the user is back.
    pub(super) async fn go_on_after_login(&self, request: &Request<'_>) -> Result<Answer, OAuthError> {
        let form = Parameters::parse(request.query)?;
        if let Login::Oidc { .. } = &request.oauth.login {
            return self.back_from_provider(request, &form).await;
        }
        let (mut flow, _) = match self.flow(request, &form).await? {
            Ok(found) => found,
            Err(page) => return Ok(*page),
        };
        let Login::Handoff { keys, consents, .. } = &request.oauth.login else { return Ok(not_yet(request)) };
        let user = match (form.get("login_token")?, form.get("login_verifier")?, flow.handed.take()) {
            (Some(statement), _, _) => {
                let Some(accepted) = self.believed(request, statement, keys, &flow.id).await? else {
                    return Ok(forged(request));
                };
                let system = ("app", &*request.api.name);
                let user = self.accept(system, &mut flow, &accepted, *consents, request.now_ms).await?;
                Some(user.id)
            }
            (None, Some(verifier), Some(handed)) if has_digest(&self.peppers, verifier, &handed.verifier) => {
                handed.user
            }
            (None, _, _) => return Ok(not_yet(request)),
        };
        let Some(id) = user else {
            self.registry.end_flow(&flow.id).await?;
            return Ok(denied(request, &flow));
        };
        match self.registry.user(&id).await?.filter(|user| user.disabled_ms.is_none()) {
            Some(user) => self.logged_in(request, flow, &user).await,
            None => Ok(forged(request)),
        }
    }

    /// A statement that the company's login page signed: for us, about this request, for a short
    /// while, and used once.
    async fn believed(
        &self,
        request: &Request<'_>,
        statement: &str,
        keys: &[Box<str>],
        flow: &str,
    ) -> Result<Option<Accepted>, OAuthError> {
        let Ok(token) = jws::parse(statement) else { return Ok(None) };
        if !is_signed_by(&token, keys) {
            return Ok(None);
        }
        // The issuer of such a statement is whoever holds the key; the claim itself says nothing.
        let Ok(claims) = token.claims() else { return Ok(None) };
        let now_s = request.now_ms / 1_000;
        let is_short = claims.exp <= now_s + STATEMENT_LIFE_S + LEEWAY_S;
        let is_for_us = claims.is_for(&request.oauth.issuer) && claims.text("login_request") == Some(flow);
        let (true, true, true, Some(id)) = (is_short, is_for_us, claims.holds_at(now_s, LEEWAY_S), &claims.jti) else {
            return Ok(None);
        };
        let spent = blake3::hash(format!("{}/{id}", request.api.name).as_bytes()).to_hex().to_string();
        if !self.registry.spend(&spent, (claims.exp + 2 * LEEWAY_S) * 1_000).await? {
            return Ok(None);
        }
        let names = |name: &str| match claims.has(name) {
            true => claims.names(name).map(Some),
            false => Ok(None),
        };
        let (Ok(organizations), Ok(grant_scopes)) = (names("organizations"), names("grant_scopes")) else {
            return Ok(None);
        };
        Ok(Some(Accepted {
            sub: claims.sub.clone(),
            name: claims.text("name").unwrap_or_default().to_owned(),
            email: claims.text("email").unwrap_or_default().to_owned(),
            organizations,
            grant_scopes,
            join: None,
        }))
    }
}

/// How long what a provider says of itself is believed, milliseconds.
const PROVIDER_MS: u64 = 5 * 60_000;

/// What OpenID Providers say of themselves, by issuer. As many as the policy names.
#[derive(Default)]
pub struct Providers(tokio::sync::Mutex<HashMap<String, (u64, Provider)>>);

/// What an OpenID Provider says of itself (OpenID Connect Discovery section 3).
#[derive(Clone, Deserialize)]
struct Provider {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
}

/// What its token endpoint answers.
#[derive(Deserialize)]
struct ProviderTokens {
    id_token: String,
}

impl AuthorizationServer {
    async fn provider(&self, issuer: &str, now_ms: u64) -> Result<Provider, OAuthError> {
        let mut known = self.providers.0.lock().await;
        if let Some((_, provider)) = known.get(issuer).filter(|(at_ms, _)| now_ms.saturating_sub(*at_ms) < PROVIDER_MS)
        {
            return Ok(provider.clone());
        }
        let address = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let bytes = self.http_client.get(&address).await.map_err(unavailable)?;
        let provider: Provider = serde_json::from_slice(&bytes).map_err(|_| nonsense())?;
        let is_safe = |url: &String| policy::oauth::is_url(url);
        let urls = [&provider.authorization_endpoint, &provider.token_endpoint, &provider.jwks_uri];
        if provider.issuer != issuer || !urls.into_iter().all(is_safe) {
            return Err(nonsense());
        }
        known.insert(issuer.to_owned(), (now_ms, provider.clone()));
        Ok(provider)
    }

    /// Begins a login at the OpenID Provider: where to send the browser.
    pub(super) async fn upstream_login(
        &self,
        request: &Request<'_>,
        flow: &mut FlowRecord,
    ) -> Result<String, OAuthError> {
        let Login::Oidc { issuer, client_id, .. } = &request.oauth.login else { return Err(nonsense()) };
        let provider = self.provider(issuer, request.now_ms).await?;
        let (nonce, verifier) = (random_secret()?, random_secret()?);
        let callback = format!("{}/oauth/continue", request.oauth.issuer);
        let challenge = challenge_of(&verifier);
        let mut parameters = vec![
            ("response_type", "code"),
            ("client_id", &**client_id),
            ("redirect_uri", &callback),
            ("scope", "openid email profile"),
            ("state", &flow.id),
            ("nonce", &nonce),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ];
        parameters.extend(flow.must_login.then_some(("prompt", "login")));
        let address = with_parameters(&provider.authorization_endpoint, &parameters);
        flow.upstream = Some((nonce, verifier));
        Ok(address)
    }

    async fn back_from_provider(&self, request: &Request<'_>, form: &Parameters) -> Result<Answer, OAuthError> {
        let Login::Oidc { issuer, client_id, client_secret_file, organization } = &request.oauth.login else {
            return Err(nonsense());
        };
        let named = Parameters::parse(&format!("login_request={}", form.get("state")?.unwrap_or_default()))?;
        let (mut flow, _) = match self.flow(request, &named).await? {
            Ok(found) => found,
            Err(page) => return Ok(*page),
        };
        if form.get("error")?.is_some() {
            self.registry.end_flow(&flow.id).await?;
            return Ok(denied(request, &flow));
        }
        let (Some(code), Some((nonce, verifier))) = (form.get("code")?, flow.upstream.clone()) else {
            return Ok(forged(request));
        };
        // RFC 9207: an answer that says who it is from must be from the provider we asked.
        if form.get("iss")?.is_some_and(|iss| *iss != **issuer) {
            return Ok(forged(request));
        }
        let provider = self.provider(issuer, request.now_ms).await?;
        let secret = self.http_client.secret(client_secret_file).await.map_err(unavailable)?;
        let text = |text: &str| zeroize::Zeroizing::new(text.to_owned());
        let fields = vec![
            ("grant_type", text("authorization_code")),
            ("code", text(code)),
            ("redirect_uri", text(&format!("{}/oauth/continue", request.oauth.issuer))),
            ("code_verifier", text(&verifier)),
        ];
        let exchange = Form { login: Some((client_id.to_string(), secret)), fields };
        let bytes = match self.http_client.post(&provider.token_endpoint, exchange).await {
            Ok(bytes) => bytes,
            Err(HttpClientError::Status(400..=499)) => return Ok(forged(request)),
            Err(error) => return Err(unavailable(error)),
        };
        let tokens: ProviderTokens = serde_json::from_slice(&bytes).map_err(|_| nonsense())?;
        let keys = self.http_client.get(&provider.jwks_uri).await.map_err(unavailable)?;
        let claims = id_token(&tokens.id_token, &keys, (issuer, client_id), &nonce, request.now_ms / 1_000);
        let Some(claims) = claims else { return Ok(forged(request)) };
        let accepted = Accepted {
            sub: claims.sub.clone(),
            name: claims.text("name").unwrap_or_default().to_owned(),
            email: claims.text("email").unwrap_or_default().to_owned(),
            organizations: None,
            grant_scopes: None,
            join: organization.as_ref().map(ToString::to_string),
        };
        let user = self.accept(("oidc", issuer), &mut flow, &accepted, false, request.now_ms).await?;
        self.logged_in(request, flow, &user).await
    }
}

/// The claims of an ID token (OpenID Connect Core section 3.1.3.7).
fn id_token(text: &str, jwks: &[u8], (issuer, client): (&str, &str), nonce: &str, now_s: u64) -> Option<Claims> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    let token = jws::parse(text).ok()?;
    let set: Set = serde_json::from_slice(jwks).ok()?;
    let named = |key: &&serde_json::Value| {
        token.header.kid.is_none() || key.get("kid").and_then(|kid| kid.as_str()) == token.header.kid.as_deref()
    };
    let keys: Vec<Box<str>> = set.keys.iter().filter(named).map(|key| key.to_string().into()).collect();
    if !is_signed_by(&token, &keys) {
        return None;
    }
    let claims = token.claims().ok()?;
    let is_ours = claims.iss == issuer
        && claims.is_for(client)
        && (claims.aud.len() == 1 || claims.text("azp") == Some(client))
        && claims.text("azp").is_none_or(|azp| azp == client)
        && claims.text("nonce").is_some_and(|said| same(said, nonce))
        && claims.holds_at(now_s, LEEWAY_S);
    is_ours.then_some(claims)
}

fn joined(mut memberships: Vec<Membership>, organization: Option<&str>) -> Vec<Membership> {
    if let Some(id) = organization.filter(|id| !memberships.iter().any(|m| m.organization == *id)) {
        memberships.push(Membership { organization: id.to_owned(), role: Role::Member });
    }
    memberships
}

fn not_yet(request: &Request<'_>) -> Answer {
    let words = ("You are not logged in yet", "Go back to the application and start again from there.");
    message(request, StatusCode::BAD_REQUEST, words, None)
}

fn unavailable(error: HttpClientError) -> OAuthError {
    tracing::warn!(target: "tollgate::oauth", "the OpenID Provider does not answer: {error}");
    OAuthError::new(Code::TemporarilyUnavailable, "the login service does not answer")
}

fn nonsense() -> OAuthError {
    tracing::warn!(target: "tollgate::oauth", "the OpenID Provider answers something unusable");
    OAuthError::new(Code::TemporarilyUnavailable, "the login service does not answer")
}
