//! What people see of their own account: Connected Applications.

use http::{StatusCode, header};

use super::error::OAuthError;
use super::http::{Form, Request, body_form};
use super::login::{SESSION_COOKIE, forged};
use super::pages::{ApplicationsPage, Connected, Frame, in_words, page};
use super::server::AuthorizationServer;
use crate::base::answer::Answer;
use crate::base::clock::rfc3339;
use crate::base::random::base62;
use crate::registry::access::FlowRecord;
use crate::registry::grant::{Cause, GrantRecord};
use crate::registry::user::UserRecord;

/// An application with all live grants that one user gave it.
#[derive(Debug, serde::Serialize)]
pub struct Connection {
    /// The application.
    pub app: String,
    /// Its name.
    pub name: String,
    /// Organization that registered it.
    pub owner: String,
    /// Organizations for which the user granted it.
    pub organizations: Vec<String>,
    /// Everything that was granted.
    pub scopes: Vec<String>,
    /// Since when, Unix milliseconds.
    pub since_ms: u64,
    /// When a token of it was last used.
    pub last_used_ms: Option<u64>,
    /// The grants.
    pub grants: Vec<String>,
}

impl AuthorizationServer {
    /// The applications that can act for a user, at one API or at all; newest first.
    pub async fn connections(&self, user: &str, api: Option<&str>, now_ms: u64) -> Result<Vec<Connection>, OAuthError> {
        let is_shown = |grant: &GrantRecord| grant.is_live(now_ms) && api.is_none_or(|api| grant.api == api);
        let mut list: Vec<Connection> = Vec::new();
        for grant in self.registry.grants_of_user(user).await?.into_iter().filter(is_shown) {
            let used = self.registry.grant_use(&grant.id).await?;
            let place = match list.iter().position(|known| known.app == grant.app) {
                Some(place) => place,
                None => {
                    let app = self.registry.app(&grant.app).await?;
                    list.push(Connection {
                        name: app.as_ref().map_or_else(|| grant.app.clone(), |app| app.name.clone()),
                        owner: app.map(|app| app.organization).unwrap_or_default(),
                        app: grant.app.clone(),
                        organizations: Vec::new(),
                        scopes: Vec::new(),
                        since_ms: grant.created_ms,
                        last_used_ms: None,
                        grants: Vec::new(),
                    });
                    list.len() - 1
                }
            };
            let Some(known) = list.get_mut(place) else { continue };
            known.since_ms = known.since_ms.min(grant.created_ms);
            known.last_used_ms = known.last_used_ms.max(used);
            let new: Vec<String> = grant.scopes.iter().filter(|s| !known.scopes.contains(s)).cloned().collect();
            known.scopes.extend(new);
            if !known.organizations.contains(&grant.organization) {
                known.organizations.push(grant.organization.clone());
            }
            known.grants.push(grant.id);
        }
        Ok(list)
    }

    /// Takes an application's access away: all grants of a user, and the remembered consent.
    pub async fn disconnect(&self, user: &str, app: &str, cause: Cause, now_ms: u64) -> Result<usize, OAuthError> {
        self.registry.forget_consent(user, app).await?;
        let mut ended = 0;
        for grant in self.registry.grants_of_user(user).await? {
            if grant.app == app && grant.dead.is_none() {
                self.end_grant(&grant.id, cause, now_ms).await?;
                ended += 1;
            }
        }
        Ok(ended)
    }

    /// `GET /account/login`: a login that leads here instead of to an application.
    pub(super) async fn account_login(&self, request: &Request<'_>) -> Result<Answer, OAuthError> {
        if self.session(request).await?.is_some() {
            return Ok(Answer::see_other("/account/applications", "page"));
        }
        let flow = FlowRecord {
            id: base62(22)?,
            api: request.api.name.to_string(),
            app: String::new(),
            redirect_uri: String::new(),
            scopes: Vec::new(),
            state: None,
            challenge: String::new(),
            must_consent: false,
            must_login: false,
            browser: crate::base::digest::Digest::from_bytes([0; 32]),
            created_ms: request.now_ms,
            expires_ms: request.now_ms + super::authorize::FLOW_LIFE_MS,
            user: None,
            handed: None,
            granted: None,
            upstream: None,
        };
        self.go_on(request, flow, None, false).await
    }

    /// `GET /account/applications`.
    pub(super) async fn applications(&self, request: &Request<'_>) -> Result<Answer, OAuthError> {
        let Some((cookie, user)) = self.session(request).await? else {
            return Ok(Answer::see_other("/account/login", "page"));
        };
        let done = Form::parse(request.query)?.get("revoked")?.map(|_| "Access was revoked.".to_owned());
        let mut applications = Vec::new();
        for known in self.connections(&user.id, Some(&request.api.name), request.now_ms).await? {
            let mut organizations = Vec::new();
            for id in &known.organizations {
                organizations.push(self.organization_name(id).await?);
            }
            applications.push(Connected {
                owner: self.organization_name(&known.owner).await?,
                organizations: organizations.join(", "),
                scopes: in_words(request, &known.scopes),
                since: rfc3339(known.since_ms),
                since_words: day(known.since_ms),
                last_used: known.last_used_ms.map_or_else(|| "never".to_owned(), |ms| ago(request.now_ms, ms)),
                id: known.app,
                name: known.name,
            });
        }
        let mut frame = Frame::of(request);
        frame.csrf = self.csrf(&cookie);
        frame.who = Some(shown(&user));
        Ok(page(StatusCode::OK, "page", &ApplicationsPage { frame, applications, done }, None))
    }

    async fn organization_name(&self, id: &str) -> Result<String, OAuthError> {
        let found = self.registry.store().organization(id).await?;
        Ok(found.map_or_else(|| id.to_owned(), |organization| organization.name))
    }

    /// `POST /account/applications/revoke`.
    pub(super) async fn revoke_application(&self, request: &Request<'_>) -> Result<Answer, OAuthError> {
        let form = body_form(request)?;
        let Some((cookie, user)) = self.session(request).await? else {
            return Ok(Answer::see_other("/account/login", "page"));
        };
        if !self.is_ours(request, &form, &cookie) {
            return Ok(forged(request));
        }
        let app = form.get("app")?.unwrap_or_default();
        self.disconnect(&user.id, app, Cause::User, request.now_ms).await?;
        Ok(Answer::see_other("/account/applications?revoked=1", "disconnected"))
    }

    /// `POST /account/logout`.
    pub(super) async fn log_out(&self, request: &Request<'_>) -> Result<Answer, OAuthError> {
        let form = body_form(request)?;
        if let Some((cookie, _)) = self.session(request).await? {
            if !self.is_ours(request, &form, &cookie) {
                return Ok(forged(request));
            }
            let id = self.peppers.current.digest(policy::credential::Secret::new(&cookie)).to_hex();
            self.registry.end_session(&id).await?;
        }
        let gone = format!("{SESSION_COOKIE}=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0");
        Ok(Answer::see_other("/account/login", "logged_out").with(header::SET_COOKIE, &gone))
    }
}

fn shown(user: &UserRecord) -> String {
    if user.name.is_empty() { user.email.clone() } else { user.name.clone() }
}

fn day(ms: u64) -> String {
    rfc3339(ms).get(..10).unwrap_or_default().to_owned()
}

/// How long ago something was, as people say it. Uses are noted to the minute.
fn ago(now_ms: u64, ms: u64) -> String {
    let minutes = now_ms.saturating_sub(ms) / 60_000;
    let several = |n: u64, unit: &str| format!("{n} {unit}{} ago", if n == 1 { "" } else { "s" });
    match minutes {
        0..=1 => "just now".to_owned(),
        2..=59 => several(minutes, "minute"),
        60..=1_439 => several(minutes / 60, "hour"),
        _ => several(minutes / 1_440, "day"),
    }
}
