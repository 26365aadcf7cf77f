//! The authorization endpoint (RFC 6749 section 3.1, RFC 7636, RFC 9207, RFC 9700).
//!
//! Nobody is redirected before client and redirect URI are proven: until then every fault is a
//! page. After that, every fault goes back to the application, with its `state` and our `iss`.

use http::{StatusCode, header};
use policy::oauth::Login;

use super::error::{Code, OAuthError};
use super::http::{Form, Request, body_form, cookie, with_parameters};
use super::pages::message;
use super::server::AuthorizationServer;
use crate::base::answer::Answer;
use crate::base::random::base62;
use crate::registry::access::FlowRecord;
use crate::registry::app::AppRecord;
use crate::registry::secret::{is_challenge, random_secret};

/// Longest `state`, in bytes.
const STATE_BYTES_MAX: usize = 2_048;
/// How long an authorization request may take, milliseconds.
pub(super) const FLOW_LIFE_MS: u64 = 10 * 60_000;
/// Cookie of the browser in which a request began.
pub(super) const BROWSER_COOKIE: &str = "__Host-lr";

/// What may be asked of the user.
#[derive(Clone, Copy, Default)]
struct Prompt {
    none: bool,
    login: bool,
    consent: bool,
}

/// Where answers go: proven to be the application's.
struct Return {
    redirect_uri: String,
    state: Option<String>,
}

impl AuthorizationServer {
    /// `GET` or `POST /oauth/authorize`.
    pub(super) async fn authorize(&self, request: &Request<'_>) -> Result<Answer, OAuthError> {
        let form = match request.method {
            "POST" => body_form(request),
            _ => Form::parse(request.query),
        };
        let Ok(form) = form else { return Ok(self.refuse(request, "the request cannot be read")) };
        let app = match self.proven_app(request, &form).await? {
            Ok(app) => app,
            Err(why) => return Ok(self.refuse(request, why)),
        };
        // `proven_app` has seen it exactly once.
        let redirect_uri = form.get("redirect_uri").ok().flatten().unwrap_or_default().to_owned();
        let state = form.get("state");
        let is_plain = |s: &&str| s.len() <= STATE_BYTES_MAX && s.bytes().all(|b| (0x20..=0x7e).contains(&b));
        let (state, is_bad) = match state {
            Ok(state) => (state.filter(is_plain), state.is_some_and(|s| !is_plain(&s))),
            Err(_) => (None, true),
        };
        let back = Return { redirect_uri, state: state.map(str::to_owned) };
        if is_bad {
            let words = "state comes once, and is at most 2048 printable ASCII characters (RFC 6749 appendix A.5)";
            return Ok(self.back(request, &back, &OAuthError::new(Code::InvalidRequest, words)));
        }
        match self.begin(request, &form, &app, &back).await {
            Ok(reply) => Ok(reply),
            Err(error) => Ok(self.back(request, &back, &error)),
        }
    }

    fn refuse(&self, request: &Request<'_>, why: &str) -> Answer {
        let words = (
            "This link does not work",
            "The application that sent you here made a mistake. Nothing was shared with it.",
        );
        message(request, StatusCode::BAD_REQUEST, words, Some(why))
    }

    /// Sends an error back to the application (RFC 6749 section 4.1.2.1, RFC 9207 section 2).
    fn back(&self, request: &Request<'_>, back: &Return, error: &OAuthError) -> Answer {
        send_back(request, (&back.redirect_uri, back.state.as_deref()), error)
    }

    /// The application, if it is one and the redirect URI is registered. Otherwise why not: for the
    /// page, because nothing here says whose browser this should go back to.
    async fn proven_app(
        &self,
        request: &Request<'_>,
        form: &Form,
    ) -> Result<Result<AppRecord, &'static str>, OAuthError> {
        let Ok(id) = form.get("client_id") else { return Ok(Err("client_id comes more than once")) };
        let Some(id) = id else { return Ok(Err("client_id is missing")) };
        let app = self.registry.app(id).await?;
        let Some(app) = app.filter(|app| app.api == *request.api.name && app.disabled_ms.is_none()) else {
            return Ok(Err("there is no such client_id"));
        };
        Ok(match form.get("redirect_uri") {
            Err(_) => Err("redirect_uri comes more than once"),
            Ok(None) => Err("redirect_uri is missing; send exactly the one that is registered"),
            Ok(Some(uri)) if !app.allows_redirect(uri) => {
                Err("redirect_uri is not registered for this client; it is compared byte for byte")
            }
            Ok(Some(_)) => Ok(app),
        })
    }

    /// Checks everything else and begins.
    async fn begin(
        &self,
        request: &Request<'_>,
        form: &Form,
        app: &AppRecord,
        back: &Return,
    ) -> Result<Answer, OAuthError> {
        let get = |name: &str| form.get(name).map_err(OAuthError::from);
        let wrong = OAuthError::new;
        if get("request")?.is_some() {
            return Err(wrong(Code::RequestNotSupported, "send the parameters as they are"));
        }
        if get("request_uri")?.is_some() {
            return Err(wrong(Code::RequestUriNotSupported, "send the parameters as they are"));
        }
        match get("response_type")? {
            Some("code") => {}
            Some(_) => return Err(wrong(Code::UnsupportedResponseType, "response_type is code here")),
            None => return Err(wrong(Code::InvalidRequest, "response_type is missing")),
        }
        if get("response_mode")?.is_some_and(|mode| mode != "query") {
            return Err(wrong(Code::InvalidRequest, "response_mode is query here"));
        }
        if get("code_challenge_method")? != Some("S256") {
            return Err(wrong(Code::InvalidRequest, "code_challenge_method must be S256 (RFC 7636)"));
        }
        let challenge = get("code_challenge")?.filter(|challenge| is_challenge(challenge));
        let challenge = challenge.ok_or_else(|| {
            wrong(
                Code::InvalidRequest,
                "code_challenge must be the SHA-256 of the verifier: 43 characters of base64url",
            )
        })?;
        if get("resource")?.is_some_and(|resource| *resource != *request.oauth.audience) {
            return Err(wrong(Code::InvalidTarget, "tokens are for one resource; leave `resource` out"));
        }
        let scopes = asked_scopes(get("scope")?, app)?;
        let prompt = prompt(get("prompt")?)?;
        let flow = FlowRecord {
            id: base62(22)?,
            api: request.api.name.to_string(),
            app: app.id.clone(),
            redirect_uri: back.redirect_uri.clone(),
            scopes,
            state: back.state.clone(),
            challenge: challenge.to_owned(),
            must_consent: prompt.consent,
            must_login: prompt.login,
            browser: self.peppers.current.digest(policy::credential::Secret::new("")),
            created_ms: request.now_ms,
            expires_ms: request.now_ms + FLOW_LIFE_MS,
            user: None,
            handed: None,
            granted: None,
            upstream: None,
        };
        self.go_on(request, flow, Some(app), prompt.none).await
    }

    /// From a checked request to whatever comes next: the end, the consent page, a login.
    pub(super) async fn go_on(
        &self,
        request: &Request<'_>,
        mut flow: FlowRecord,
        app: Option<&AppRecord>,
        is_silent: bool,
    ) -> Result<Answer, OAuthError> {
        let browser = match cookie(request.headers, BROWSER_COOKIE).filter(|value| is_challenge(value)) {
            Some(value) => value.to_owned(),
            None => random_secret()?,
        };
        flow.browser = self.peppers.current.digest(policy::credential::Secret::new(&browser));
        let session = if flow.must_login { None } else { self.session(request).await? };
        if let (Some((_, user)), Some(app)) = (&session, app) {
            flow.user = Some(user.id.clone());
            if let Some(organization) = self.remembered(&flow, app, user).await? {
                return self.finish(request, &flow, app, &organization).await;
            }
        }
        if is_silent {
            return Err(wrong_silently(session.is_some()));
        }
        let next = match (&request.oauth.login, session.is_some()) {
            (_, true) => format!("/oauth/consent?login_request={}", flow.id),
            (Login::Builtin, false) => format!("/oauth/login?login_request={}", flow.id),
            (Login::Handoff { url, .. }, false) => with_parameters(url, &[("login_request", &flow.id)]),
            (Login::Oidc { .. }, false) => self.upstream_login(request, &mut flow).await?,
        };
        self.registry.put_flow(&flow).await?;
        let cookie = format!("{BROWSER_COOKIE}={browser}; Path=/; Secure; HttpOnly; SameSite=Lax");
        Ok(Answer::see_other(&next, "begun").with(header::SET_COOKIE, &cookie))
    }
}

/// Sends an error back to an application whose redirect URI is proven.
pub(super) fn send_back(request: &Request<'_>, (uri, state): (&str, Option<&str>), error: &OAuthError) -> Answer {
    let mut parameters = vec![("error", error.code.as_str()), ("error_description", error.description.as_str())];
    parameters.extend(state.map(|state| ("state", state)));
    parameters.push(("iss", &*request.oauth.issuer));
    Answer::see_other(&with_parameters(uri, &parameters), error.code.as_str())
}

/// The user must be asked something, and `prompt=none` forbids it (OpenID Connect Core section
/// 3.1.2.6).
fn wrong_silently(is_logged_in: bool) -> OAuthError {
    let code = if is_logged_in { Code::ConsentRequired } else { Code::LoginRequired };
    OAuthError::new(code, "the user must be asked, and prompt=none forbids it")
}

/// The scopes asked for: all of them registered, or nothing (RFC 6749 section 3.3).
fn asked_scopes(asked: Option<&str>, app: &AppRecord) -> Result<Vec<String>, OAuthError> {
    let Some(asked) = asked else { return Ok(app.scopes.clone()) };
    let mut scopes: Vec<String> = Vec::new();
    for name in asked.split(' ') {
        if !app.scopes.iter().any(|known| known == name) {
            return Err(OAuthError::new(Code::InvalidScope, "a scope is not registered for this client"));
        }
        if !scopes.iter().any(|known| known == name) {
            scopes.push(name.to_owned());
        }
    }
    Ok(scopes)
}

fn prompt(text: Option<&str>) -> Result<Prompt, OAuthError> {
    let mut prompt = Prompt::default();
    for word in text.into_iter().flat_map(|text| text.split(' ')) {
        match word {
            "none" => prompt.none = true,
            "login" => prompt.login = true,
            "consent" => prompt.consent = true,
            _ => {}
        }
    }
    if prompt.none && (prompt.login || prompt.consent) {
        return Err(OAuthError::new(Code::InvalidRequest, "prompt=none goes with nothing else"));
    }
    Ok(prompt)
}
