//! The token endpoint (RFC 6749 section 3.2), revocation (RFC 7009) and introspection (RFC 7662).
//!
//! The order of a refresh and of a redemption is always: who asks, what for, is it alive, and only
//! then the one step that changes anything. What fails on the way spends nothing.

use http::{StatusCode, header};
use policy::credential::{REFRESH_TOKEN_PREFIX, Secret, TOKEN_PREFIX};
use policy::jws::Claims;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::error::{Code, OAuthError};
use super::http::{Form, Request, basic, body_form};
use super::server::AuthorizationServer;
use crate::base::answer::Answer;
use crate::base::random::base62;
use crate::identify::Unidentified;
use crate::registry::app::{AppKind, AppRecord};
use crate::registry::grant::{Cause, GrantRecord, Redemption, Step, TOKEN_LIFE_S};
use crate::registry::secret::{grant_of_code, is_verifier, presented, refresh_token};
use crate::store::Change;

/// Characters of a `jti` and of a refresh token's salt.
const ID_CHARS: usize = 22;

type Answered = Result<Answer, OAuthError>;

/// The sentence for everything about a refresh token that is not in order.
const BAD_REFRESH: &str = "the refresh token is not valid, has expired or was revoked";

impl AuthorizationServer {
    /// Tells who asks: by HTTP Basic for applications that have a secret, by `client_id` for those
    /// that have none. Exactly one of the two (RFC 6749 section 2.3).
    async fn client(&self, request: &Request<'_>, form: &Form) -> Result<AppRecord, OAuthError> {
        let login = basic(request.headers).map_err(|fault| OAuthError::client(&fault.0, true))?;
        let (named, secret_in_body) = (form.get("client_id")?, form.get("client_secret")?);
        let tried_basic = login.is_some();
        let id = match (&login, named) {
            (Some(login), None) => login.id.as_str(),
            (Some(login), Some(named)) if login.id == named => named,
            (Some(_), Some(_)) => {
                return Err(OAuthError::new(Code::InvalidRequest, "client_id differs from the one of HTTP Basic"));
            }
            (None, Some(named)) => named,
            (None, None) => return Err(OAuthError::client("client_id is missing", false)),
        };
        if tried_basic && secret_in_body.is_some() {
            return Err(OAuthError::new(Code::InvalidRequest, "use one way of client authentication, HTTP Basic"));
        }
        let unknown = || OAuthError::client("the client is not known here", tried_basic);
        let found = self.registry.app(id).await?;
        let app = found.filter(|app| app.api == *request.api.name && app.disabled_ms.is_none()).ok_or_else(unknown)?;
        let empty = Zeroizing::new(String::new());
        match (app.kind, login.map(|login| login.secret)) {
            (AppKind::Public, None) if secret_in_body.is_none() => Ok(app),
            // Some libraries send Basic with an empty secret for a client that has none.
            (AppKind::Public, Some(secret)) if secret == empty => Ok(app),
            (AppKind::Public, _) => Err(OAuthError::client("a public client has no secret", tried_basic)),
            (AppKind::Confidential, Some(secret)) if app.has_secret(&self.peppers, &secret, request.now_ms) => Ok(app),
            (AppKind::Confidential, Some(_)) => {
                Err(OAuthError { is_guess: true, ..OAuthError::client("the client secret is wrong", true) })
            }
            (AppKind::Confidential, None) if secret_in_body.is_some() => {
                Err(OAuthError::client("send the client secret with HTTP Basic, not in the body", false))
            }
            (AppKind::Confidential, None) => {
                Err(OAuthError::client("this client needs its secret, with HTTP Basic", false))
            }
        }
    }

    /// `POST /oauth/token`.
    pub(super) async fn token(&self, request: &Request<'_>) -> Answered {
        let form = body_form(request)?;
        let app = self.client(request, &form).await?;
        if form.get("resource")?.is_some_and(|resource| *resource != *request.oauth.audience) {
            return Err(OAuthError::new(Code::InvalidTarget, "tokens are for one resource; leave `resource` out"));
        }
        // What cannot be signed is not spent.
        self.keys().ready(request.now_ms).await?;
        match form.get("grant_type")? {
            None => Err(OAuthError::new(Code::InvalidRequest, "grant_type is missing")),
            Some("authorization_code") => self.redeem(request, &form, &app).await,
            Some("refresh_token") => self.refresh(request, &form, &app).await,
            Some(_) => Err(OAuthError::new(
                Code::UnsupportedGrantType,
                "grant_type is authorization_code or refresh_token here",
            )),
        }
    }

    async fn redeem(&self, request: &Request<'_>, form: &Form, app: &AppRecord) -> Answered {
        let missing = |name: &str| OAuthError::new(Code::InvalidRequest, format!("{name} is missing"));
        let code = form.get("code")?.ok_or_else(|| missing("code"))?;
        let refused = |words: &str| OAuthError::new(Code::InvalidGrant, words);
        let redirect_uri = form.get("redirect_uri")?.ok_or_else(|| refused("redirect_uri is missing"))?;
        let verifier = form.get("code_verifier")?.ok_or_else(|| refused("code_verifier is missing"))?;
        if !is_verifier(verifier) {
            return Err(refused(
                "code_verifier has 43 to 128 characters of A-Z a-z 0-9 - . _ ~ (RFC 7636 section 4.1)",
            ));
        }
        let id = grant_of_code(code).ok_or_else(|| refused("the code is not valid"))?;
        let grant = self.live_grant(request, app, id).await?.ok_or_else(|| refused("the code is not valid"))?;
        let (current, previous) = self.peppers.digests(Secret::new(code));
        let salt = base62(ID_CHARS)?;
        let asked = Redemption {
            digests: (&current, previous.as_ref()),
            app: &app.id,
            redirect_uri,
            verifier,
            salt: &salt,
            now_ms: request.now_ms,
        };
        let changed = self.registry.change_grant(&grant.id, |grant| grant.redeem(&asked)).await?;
        let changed = changed.ok_or_else(|| refused("the code is not valid"))?;
        match changed.result {
            Step::Issue { generation } => {
                let scopes = changed.record.scopes.clone();
                self.issue(request, &changed.record, &scopes, generation).await
            }
            Step::Refused(words) => Err(refused(words)),
            Step::Killed(cause) => {
                self.tell_killed(&changed.record.id, cause).await;
                Err(refused("the code was redeemed twice: everything that it gave is revoked"))
            }
        }
    }

    /// The grant, if tokens of it may be given to an application at all: of this API and
    /// application, its user not switched off and still a member. Nothing is changed.
    async fn live_grant(
        &self,
        request: &Request<'_>,
        app: &AppRecord,
        id: &str,
    ) -> Result<Option<GrantRecord>, OAuthError> {
        let Some(grant) = self.registry.grant(id).await? else { return Ok(None) };
        if grant.app != app.id || grant.api != *request.api.name {
            return Ok(None);
        }
        let user = self.registry.user(&grant.user).await?;
        let may = user.is_some_and(|user| user.disabled_ms.is_none() && user.is_member(&grant.organization));
        Ok(may.then_some(grant))
    }

    async fn refresh(&self, request: &Request<'_>, form: &Form, app: &AppRecord) -> Answered {
        let refused = || OAuthError::new(Code::InvalidGrant, BAD_REFRESH);
        let text = form
            .get("refresh_token")?
            .ok_or_else(|| OAuthError::new(Code::InvalidRequest, "refresh_token is missing"))?;
        let token = presented(text).ok_or_else(refused)?;
        let grant = self.live_grant(request, app, token.grant).await?.ok_or_else(refused)?;
        let salt = grant.refresh.as_ref().map(|refresh| refresh.salt.as_str()).ok_or_else(refused)?;
        if !token.is_ours(&self.peppers, salt) {
            return Err(refused());
        }
        let scopes = match form.get("scope")? {
            None => grant.scopes.clone(),
            Some(asked) => narrower(asked, &grant.scopes)?,
        };
        // What the application may not ask for any more, it does not get any more.
        let scopes: Vec<String> = scopes.into_iter().filter(|scope| app.scopes.contains(scope)).collect();
        let (generation, now_ms) = (token.generation, request.now_ms);
        let changed = self.registry.change_grant(&grant.id, |grant| grant.refresh(generation, now_ms)).await?;
        let changed = changed.ok_or_else(refused)?;
        match changed.result {
            Step::Issue { generation } => self.issue(request, &changed.record, &scopes, generation).await,
            Step::Refused(_) => Err(refused()),
            Step::Killed(cause) => {
                self.tell_killed(&changed.record.id, cause).await;
                Err(OAuthError::new(
                    Code::InvalidGrant,
                    "this refresh token was replaced before: everything of this grant is revoked",
                ))
            }
        }
    }

    /// This gateway knows at once; the others are told by the store.
    async fn tell_killed(&self, grant: &str, cause: Cause) {
        tracing::warn!(target: "tollgate::oauth", "the grant {grant} has ended: {}", cause.as_str());
        self.metrics.oauth.grants_ended.with_label_values(&[cause.as_str()]).inc();
        self.forget(&Change::Grant(grant.to_owned())).await;
    }

    pub(super) async fn forget(&self, change: &Change) {
        if let Err(error) = self.identities.forget(std::slice::from_ref(change)).await {
            tracing::warn!(target: "tollgate::oauth", "a change is not in this gateway's caches yet: {error}");
        }
    }

    /// A token pair (RFC 6749 section 5.1; the access token is RFC 9068).
    async fn issue(&self, request: &Request<'_>, grant: &GrantRecord, scopes: &[String], generation: u32) -> Answered {
        let now_s = request.now_ms / 1_000;
        let life_s = TOKEN_LIFE_S.min(grant.expires_ms.saturating_sub(request.now_ms) / 1_000);
        let scope = scopes.join(" ");
        let claims = json!({
            "iss": &*request.oauth.issuer,
            "sub": grant.user,
            "aud": &*request.oauth.audience,
            "client_id": grant.app,
            "scope": scope,
            "iat": now_s,
            "exp": now_s + life_s,
            "jti": base62(ID_CHARS)?,
            "gid": grant.id,
        });
        let token = Zeroizing::new(format!("{TOKEN_PREFIX}{}", self.keys().sign(&claims, request.now_ms).await?));
        let salt = grant.refresh.as_ref().map_or("", |refresh| refresh.salt.as_str());
        self.metrics.oauth.tokens.inc();
        let body = json!({
            "access_token": *token,
            "token_type": "Bearer",
            "expires_in": life_s,
            "refresh_token": refresh_token(&self.peppers, &grant.id, salt, generation),
            "scope": scope,
        });
        Ok(Answer::json(StatusCode::OK, "issued", &body))
    }

    /// `POST /oauth/revoke`. Whatever the token is, the answer is 200 (RFC 7009 section 2.2).
    pub(super) async fn revoke(&self, request: &Request<'_>) -> Answered {
        let form = body_form(request)?;
        let app = self.client(request, &form).await?;
        let text = form.get("token")?.ok_or_else(|| OAuthError::new(Code::InvalidRequest, "token is missing"))?;
        let done = Answer::new(StatusCode::OK, "revoked");
        if let Some(token) = presented(text) {
            let grant = self.registry.grant(token.grant).await?.filter(|grant| grant.app == app.id);
            let salt = grant.as_ref().and_then(|grant| grant.refresh.as_ref()).map(|refresh| refresh.salt.clone());
            if let (Some(grant), true) = (grant, salt.is_some_and(|salt| token.is_ours(&self.peppers, &salt))) {
                self.end_grant(&grant.id, Cause::App, request.now_ms).await?;
            }
        } else if let Some(claims) = self.own_claims(request, text).await?
            && claims.client_id.as_deref() == Some(&app.id)
            && let (Some(grant), Some(id)) = (claims.text("gid"), &claims.jti)
        {
            let (until_ms, now_ms) = (claims.exp.saturating_add(TOKEN_LIFE_S) * 1_000, request.now_ms);
            self.registry.change_grant(grant, |grant| grant.revoke_token(id, until_ms, now_ms)).await?;
            self.forget(&Change::Grant(grant.to_owned())).await;
        }
        Ok(done)
    }

    /// Ends a grant everywhere, here before it returns.
    pub async fn end_grant(&self, id: &str, cause: Cause, now_ms: u64) -> Result<(), OAuthError> {
        let mut is_first = false;
        let changed = self.registry.change_grant(id, |grant| {
            is_first = grant.dead.is_none();
            grant.kill(cause, now_ms);
        });
        let Some(changed) = changed.await? else { return Ok(()) };
        if changed.position.is_none() {
            // It had ended before, and perhaps nobody was told.
            self.registry.store().announce_change(&Change::Grant(id.to_owned())).await?;
        }
        if is_first {
            self.tell_killed(id, cause).await;
        } else {
            self.forget(&Change::Grant(id.to_owned())).await;
        }
        Ok(())
    }

    async fn own_claims(&self, request: &Request<'_>, text: &str) -> Result<Option<Claims>, OAuthError> {
        let Some(text) = text.strip_prefix(TOKEN_PREFIX) else { return Ok(None) };
        let found = self.identities.tokens.own_claims(request.oauth, text, request.now_ms).await;
        Ok(if_known(found)?.map(|(claims, _)| claims))
    }

    /// `POST /oauth/introspect`: for applications that have a secret, and no others.
    pub(super) async fn introspect(&self, request: &Request<'_>) -> Answered {
        let login = basic(request.headers).map_err(|fault| OAuthError::client(&fault.0, true))?;
        if login.is_none() {
            return Err(OAuthError::client("introspection needs a client secret, with HTTP Basic", true));
        }
        let form = body_form(request)?;
        let app = self.client(request, &form).await?;
        if app.kind == AppKind::Public {
            return Err(OAuthError::client("public clients may not introspect", true));
        }
        let text = form.get("token")?.ok_or_else(|| OAuthError::new(Code::InvalidRequest, "token is missing"))?;
        let seen = if text.starts_with(REFRESH_TOKEN_PREFIX) {
            self.seen_refresh(request, &app, text).await?
        } else {
            self.seen_access(request, text).await?
        };
        let (outcome, body) = match seen {
            Some(body) => ("active", body),
            None => ("inactive", json!({ "active": false })),
        };
        Ok(Answer::json(StatusCode::OK, outcome, &body))
    }

    async fn seen_access(&self, request: &Request<'_>, text: &str) -> Result<Option<Value>, OAuthError> {
        if !text.starts_with(TOKEN_PREFIX) {
            return Ok(None);
        }
        if if_known(self.identities.tokens.identify(request.api, Secret::new(text)).await)?.is_none() {
            return Ok(None);
        }
        let Some(claims) = self.own_claims(request, text).await? else { return Ok(None) };
        Ok(Some(json!({
            "active": true,
            "scope": claims.text("scope"),
            "client_id": claims.client_id,
            "sub": claims.sub,
            "exp": claims.exp,
            "iat": claims.iat,
            "iss": claims.iss,
            "aud": claims.aud.first(),
            "jti": claims.jti,
            "token_type": "Bearer",
        })))
    }

    /// A refresh token is the business of its own application only.
    async fn seen_refresh(
        &self,
        request: &Request<'_>,
        app: &AppRecord,
        text: &str,
    ) -> Result<Option<Value>, OAuthError> {
        let Some(token) = presented(text) else { return Ok(None) };
        let grant = self.live_grant(request, app, token.grant).await?;
        let Some(grant) = grant.filter(|grant| grant.is_live(request.now_ms)) else { return Ok(None) };
        let newest = grant.refresh.as_ref().filter(|refresh| refresh.generation == token.generation);
        let is_it = newest.is_some_and(|refresh| token.is_ours(&self.peppers, &refresh.salt));
        Ok(is_it.then(|| {
            json!({
                "active": true,
                "scope": grant.scopes.join(" "),
                "client_id": grant.app,
                "sub": grant.user,
                "exp": grant.expires_ms / 1_000,
                "iat": grant.created_ms / 1_000,
                "iss": &*request.oauth.issuer,
            })
        }))
    }
}

/// What is not known and what is dead are the same to a client; what cannot be known is neither.
fn if_known<T>(found: Result<T, Unidentified>) -> Result<Option<T>, OAuthError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Unidentified::Unknown | Unidentified::Dead(_)) => Ok(None),
        Err(Unidentified::CannotKnow) => Err(OAuthError::new(Code::TemporarilyUnavailable, "try again in a moment")),
    }
}

/// A narrower set of scopes for one access token (RFC 6749 section 6).
fn narrower(asked: &str, granted: &[String]) -> Result<Vec<String>, OAuthError> {
    let names: Vec<String> = asked.split(' ').map(str::to_owned).collect();
    match names.iter().find(|name| !granted.contains(name)) {
        None => Ok(names),
        Some(_) => Err(OAuthError::new(Code::InvalidScope, "a refresh can narrow what was granted, not widen it")),
    }
}

/// Answers from every origin may be read: there is no cookie in play (RFC 9700 section 2.6).
pub(super) fn cross_origin(reply: Answer) -> Answer {
    reply
        .with(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")
        .with(header::ACCESS_CONTROL_EXPOSE_HEADERS, "WWW-Authenticate, Retry-After")
}

/// The answer to a preflight.
pub(super) fn preflight() -> Answer {
    Answer::new(StatusCode::NO_CONTENT, "preflight")
        .with(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")
        .with(header::ACCESS_CONTROL_ALLOW_METHODS, "POST")
        .with(header::ACCESS_CONTROL_ALLOW_HEADERS, "content-type, authorization")
        .with(header::ACCESS_CONTROL_MAX_AGE, "600")
}
