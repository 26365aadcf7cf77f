//! Logging in, and what follows until the application has its code.
//!
//! A request under way belongs to the browser that began it: each step asks for that browser's
//! cookie, so that nobody can finish what somebody else began, and nobody can be made to finish
//! what they did not begin. Each form carries a token that is made from a cookie.

use http::{StatusCode, header};
use policy::credential::Secret;
use policy::oauth::Login;

use super::authorize::{BROWSER_COOKIE, send_back};
use super::error::{Code, OAuthError};
use super::http::{Form, Request, body_form, cookie};
use super::pages::{Frame, LoginPage, message, page};
use super::server::AuthorizationServer;
use crate::base::answer::Answer;
use crate::registry::access::{FlowRecord, SessionRecord};
use crate::registry::secret::{random_secret, same};
use crate::registry::user::{PasswordFault, UserRecord, email};

/// Cookie of a session.
pub(super) const SESSION_COOKIE: &str = "__Host-as";
/// How long a session lasts without being used, milliseconds.
const SESSION_IDLE_MS: u64 = 8 * 3_600_000;
/// A session's end is moved at most this often.
const SESSION_TOUCH_MS: u64 = 5 * 60_000;

/// The one sentence for every login that fails.
const WRONG: &str = "E-mail address or password is wrong.";

impl AuthorizationServer {
    /// Who is logged in in this browser.
    pub(super) async fn session(&self, request: &Request<'_>) -> Result<Option<(String, UserRecord)>, OAuthError> {
        let Some(value) = cookie(request.headers, SESSION_COOKIE) else { return Ok(None) };
        let id = self.peppers.current.digest(Secret::new(value)).to_hex();
        let Some(session) = self.registry.session(&id, request.now_ms).await? else { return Ok(None) };
        let Some(user) = self.registry.user(&session.user).await? else { return Ok(None) };
        let counts = session.realm == realm(request) && session.created_ms >= user.sessions_from_ms;
        if user.disabled_ms.is_some() || !counts {
            return Ok(None);
        }
        let end_ms = request.now_ms + SESSION_IDLE_MS;
        if session.expires_ms + SESSION_TOUCH_MS < end_ms {
            self.registry.touch_session(&id, end_ms).await?;
        }
        Ok(Some((value.to_owned(), user)))
    }

    /// The token of a form: made from a cookie that only this browser has.
    pub(super) fn csrf(&self, cookie: &str) -> String {
        let key = self.peppers.current.derive("tollgate 2026-11-22 form tokens");
        blake3::keyed_hash(&key, cookie.as_bytes()).to_hex().to_string()
    }

    /// Whether a form comes from a page of ours in this browser.
    pub(super) fn is_ours(&self, request: &Request<'_>, form: &Form, cookie: &str) -> bool {
        let origin = request.headers.get(header::ORIGIN).map(|origin| origin.as_bytes());
        let is_foreign = origin.is_some_and(|origin| origin != request.oauth.issuer.as_bytes());
        let token = form.get("csrf").ok().flatten().unwrap_or_default();
        !is_foreign && same(token, &self.csrf(cookie))
    }

    /// The request under way that a form or query names, if it is this browser's.
    pub(super) async fn flow(
        &self,
        request: &Request<'_>,
        form: &Form,
    ) -> Result<Result<(FlowRecord, String), Box<Answer>>, OAuthError> {
        let id = form.get("login_request").ok().flatten().unwrap_or_default();
        let flow = self.registry.flow(id, request.now_ms).await?.filter(|flow| flow.api == *request.api.name);
        let browser = cookie(request.headers, BROWSER_COOKIE);
        let is_its = |flow: &FlowRecord, browser: &str| {
            crate::registry::secret::has_digest(&self.peppers, browser, &flow.browser)
        };
        Ok(match (flow, browser) {
            (Some(flow), Some(browser)) if is_its(&flow, browser) => Ok((flow, browser.to_owned())),
            (Some(_), _) => Err(Box::new(message(
                request,
                StatusCode::BAD_REQUEST,
                ("This was begun in another browser", "Go back to the application and start again from there."),
                None,
            ))),
            (None, _) => Err(Box::new(message(
                request,
                StatusCode::BAD_REQUEST,
                ("This took too long", "Go back to the application and start again from there."),
                None,
            ))),
        })
    }

    /// `GET` and `POST /oauth/login`.
    pub(super) async fn login(&self, request: &Request<'_>) -> Result<Answer, OAuthError> {
        let is_post = request.method == "POST";
        let form = if is_post { body_form(request)? } else { Form::parse(request.query)? };
        let (flow, browser) = match self.flow(request, &form).await? {
            Ok(found) => found,
            Err(page) => return Ok(*page),
        };
        if request.oauth.login != Login::Builtin {
            return Ok(message(request, StatusCode::NOT_FOUND, ("Not here", "You log in elsewhere."), None));
        }
        if !is_post {
            return self.login_page(request, &flow, &browser, "", None).await;
        }
        if !self.is_ours(request, &form, &browser) {
            return Ok(forged(request));
        }
        let address = form.get("email").ok().flatten().unwrap_or_default();
        let password = form.get("password").ok().flatten().unwrap_or_default();
        match self.check_login(request, address, password).await? {
            Ok(user) => self.logged_in(request, flow, &user).await,
            Err((status, words)) => {
                let mut reply = self.login_page(request, &flow, &browser, address, Some(words)).await?;
                reply.status = status;
                reply.outcome = "login_failed";
                Ok(reply)
            }
        }
    }

    async fn login_page(
        &self,
        request: &Request<'_>,
        flow: &FlowRecord,
        browser: &str,
        email: &str,
        problem: Option<&str>,
    ) -> Result<Answer, OAuthError> {
        let app = self.registry.app(&flow.app).await?.map(|app| app.name);
        let mut frame = Frame::of(request);
        frame.csrf = self.csrf(browser);
        let (id, problem) = (flow.id.clone(), problem.map(str::to_owned));
        let login = LoginPage { frame, flow: id, app, email: email.to_owned(), problem };
        // With a consent that is remembered, the next step is the application.
        let leads_to = Some(flow.redirect_uri.as_str()).filter(|uri| !uri.is_empty());
        Ok(page(StatusCode::OK, "page", &login, leads_to))
    }

    /// Checks a password. Unknown people, wrong passwords and switched-off accounts take as long
    /// and get the same words.
    async fn check_login(
        &self,
        request: &Request<'_>,
        address: &str,
        password: &str,
    ) -> Result<Result<UserRecord, (StatusCode, &'static str)>, OAuthError> {
        let wrong = Ok(Err((StatusCode::UNAUTHORIZED, WRONG)));
        let Ok(address) = email(address) else { return wrong };
        if !self.logins.take(&address, request.address, request.now_ms) {
            let words = "Too many attempts. Wait a minute and try again.";
            return Ok(Err((StatusCode::TOO_MANY_REQUESTS, words)));
        }
        let user = self.registry.user_by_email(&address).await?;
        let hash = user.as_ref().and_then(|user| user.password.as_deref());
        let matches = match self.passwords.check(hash, password).await {
            Ok(matches) => matches,
            Err(PasswordFault::Length) => false,
            Err(PasswordFault::Busy) => {
                return Ok(Err((
                    StatusCode::SERVICE_UNAVAILABLE,
                    "Too many people are logging in. Try again in a moment.",
                )));
            }
        };
        match user.filter(|user| matches && user.disabled_ms.is_none()) {
            Some(user) => {
                self.logins.give_back(&address, request.address, request.now_ms);
                Ok(Ok(user))
            }
            None => {
                self.metrics.oauth.logins.with_label_values(&["failed"]).inc();
                wrong
            }
        }
    }

    /// Somebody has logged in: a new session, and on to the consent.
    pub(super) async fn logged_in(
        &self,
        request: &Request<'_>,
        mut flow: FlowRecord,
        user: &UserRecord,
    ) -> Result<Answer, OAuthError> {
        self.metrics.oauth.logins.with_label_values(&["ok"]).inc();
        if let Some(old) = cookie(request.headers, SESSION_COOKIE) {
            self.registry.end_session(&self.peppers.current.digest(Secret::new(old)).to_hex()).await?;
        }
        let value = random_secret()?;
        let id = self.peppers.current.digest(Secret::new(&value)).to_hex();
        let (created_ms, expires_ms) = (request.now_ms, request.now_ms + SESSION_IDLE_MS);
        let record = SessionRecord { realm: realm(request), user: user.id.clone(), created_ms, expires_ms };
        self.registry.put_session(&id, &record).await?;
        let session = format!("{SESSION_COOKIE}={value}; Path=/; Secure; HttpOnly; SameSite=Lax");
        flow.user = Some(user.id.clone());
        let Some(app) = self.registry.app(&flow.app).await? else {
            self.registry.end_flow(&flow.id).await?;
            return Ok(Answer::see_other("/account/applications", "logged_in").with(header::SET_COOKIE, &session));
        };
        if let Some(organization) = self.remembered(&flow, &app, user).await? {
            if !self.registry.end_flow(&flow.id).await? {
                return Ok(forged(request));
            }
            let reply = self.finish(request, &flow, &app, &organization).await?;
            return Ok(reply.with(header::SET_COOKIE, &session));
        }
        let user = flow.user.clone();
        let (granted, scopes) = (flow.granted.clone(), flow.scopes.clone());
        let kept = self.registry.change_flow(&flow.id, |now| {
            (now.user, now.granted, now.scopes) = (user.clone(), granted.clone(), scopes.clone());
        });
        if kept.await?.is_none() {
            return Ok(forged(request));
        }
        let next = format!("/oauth/consent?login_request={}", flow.id);
        Ok(Answer::see_other(&next, "logged_in").with(header::SET_COOKIE, &session))
    }
}

/// Where a login counts: at this API, and as long as the same system knows its users.
fn realm(request: &Request<'_>) -> String {
    let system = match &request.oauth.login {
        Login::Builtin => "builtin",
        Login::Handoff { .. } => "handoff",
        Login::Oidc { issuer, .. } => issuer,
    };
    format!("{}/{system}", request.api.name)
}

/// The user said no (RFC 6749 section 4.1.2.1).
pub(super) fn denied(request: &Request<'_>, flow: &FlowRecord) -> Answer {
    if flow.redirect_uri.is_empty() {
        return message(request, StatusCode::FORBIDDEN, ("You are not logged in", "The login was refused."), None);
    }
    let error = OAuthError::new(Code::AccessDenied, "the user did not allow it");
    send_back(request, (&flow.redirect_uri, flow.state.as_deref()), &error)
}

/// A form that did not come from a page of ours.
pub(super) fn forged(request: &Request<'_>) -> Answer {
    let words = ("That did not work", "The form did not come from this page, or is too old. Go back and try again.");
    message(request, StatusCode::FORBIDDEN, words, None)
}
