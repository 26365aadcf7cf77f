//! Two sample OAuth clients for the demo, as a developer would write them: a single page, and a
//! server with a secret. Each walks the whole flow with a browser.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use askama::Template;
use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::net::TcpListener;

use super::keys_for_demo::Apps;
use crate::base::http_client::agent;
use crate::oauth::http::{Form, with_parameters};
use crate::registry::secret::{challenge_of, random_secret};

/// Where the single page is served.
pub(super) const SINGLE_PAGE: u16 = 9301;
/// Where the server-side client is.
pub(super) const SERVER_SIDE: u16 = 9302;
/// The issuer, as the example policy says.
const ISSUER: &str = "https://auth.iconflow.dev";
/// The API, as the example policy says.
const API: &str = "https://api.iconflow.dev";
/// Where the gateway of the demo listens.
const GATEWAY: &str = "https://127.0.0.1:8443";
/// Logins under way that the server-side client remembers.
const UNDER_WAY_MAX: usize = 100;

#[derive(Template)]
#[template(path = "demo/single-page.html")]
struct SinglePage {
    client_id: String,
    issuer: &'static str,
    api: &'static str,
}

#[derive(Template)]
#[template(path = "demo/server-side.html")]
struct ServerSide {
    said: String,
}

fn html<T: Template>(page: &T) -> Response {
    match page.render() {
        Ok(text) => ([(header::CACHE_CONTROL, "no-store")], Html(text)).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Serves the single page.
pub(super) async fn single_page(listener: TcpListener, apps: Arc<Apps>) -> std::io::Result<()> {
    let page = move || {
        let page = SinglePage { client_id: apps.public.clone(), issuer: ISSUER, api: API };
        async move { html(&page) }
    };
    let router = Router::new().route("/", get(page.clone())).route("/callback", get(page));
    axum::serve(listener, router).await
}

#[derive(Clone)]
struct Server {
    apps: Arc<Apps>,
    agent: ureq::Agent,
    /// From `state` to the verifier of a login under way.
    under_way: Arc<Mutex<HashMap<String, String>>>,
}

/// Serves the server-side client. It trusts the demo's certificate authority.
pub(super) async fn server_side(listener: TcpListener, apps: Arc<Apps>, ca: &Path) -> std::io::Result<()> {
    let server = Server { apps, agent: agent(Some(ca))?, under_way: Arc::default() };
    let start = || async { html(&ServerSide { said: "not connected".into() }) };
    let router = Router::new()
        .route("/", get(start))
        .route("/login", get(login))
        .route("/callback", get(callback))
        .with_state(server);
    axum::serve(listener, router).await
}

fn redirect_uri() -> String {
    format!("http://127.0.0.1:{SERVER_SIDE}/callback")
}

async fn login(State(server): State<Server>) -> Response {
    let (Ok(state), Ok(verifier)) = (random_secret(), random_secret()) else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let challenge = challenge_of(&verifier);
    let mut under_way = server.under_way.lock().unwrap_or_else(PoisonError::into_inner);
    if under_way.len() >= UNDER_WAY_MAX {
        under_way.clear();
    }
    under_way.insert(state.clone(), verifier);
    let url = with_parameters(
        &format!("{ISSUER}/oauth/authorize"),
        &[
            ("response_type", "code"),
            ("client_id", &server.apps.confidential),
            ("redirect_uri", &redirect_uri()),
            ("scope", "packs:read"),
            ("state", &state),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ],
    );
    // The cookie ties the answer to this browser.
    let cookie = format!("state={state}; HttpOnly; SameSite=Lax; Path=/");
    ([(header::SET_COOKIE, cookie)], Redirect::to(&url)).into_response()
}

async fn callback(State(server): State<Server>, RawQuery(query): RawQuery, headers: axum::http::HeaderMap) -> Response {
    let said = finish(server, query.unwrap_or_default(), headers).await;
    html(&ServerSide { said: said.unwrap_or_else(|error| format!("error: {error}")) })
}

async fn finish(server: Server, query: String, headers: axum::http::HeaderMap) -> Result<String, String> {
    let form = Form::parse(&query).map_err(|fault| fault.0)?;
    let get = |name: &str| form.get(name).ok().flatten().map(str::to_owned);
    let state = get("state").unwrap_or_default();
    let is_ours =
        crate::oauth::http::cookie(&headers, "state") == Some(&state) && get("iss").as_deref() == Some(ISSUER);
    let verifier = server.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&state);
    let verifier = verifier.filter(|_| is_ours).ok_or("this answer is not for this browser")?;
    if let Some(error) = get("error") {
        return Err(error);
    }
    let code = get("code").ok_or("there is no code")?;
    let work = move || exchange(&server, &code, &verifier);
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?
}

/// From a code to an answer of the API.
fn exchange(server: &Server, code: &str, verifier: &str) -> Result<String, String> {
    let Apps { confidential, secret, .. } = &*server.apps;
    let basic = STANDARD.encode(format!("{confidential}:{secret}"));
    let fields = [
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", &redirect_uri()),
        ("code_verifier", verifier),
    ];
    let failed = |error: ureq::Error| error.to_string();
    let mut answer = server
        .agent
        .post(format!("{GATEWAY}/oauth/token"))
        .header("host", "auth.iconflow.dev")
        .header("authorization", format!("Basic {basic}"))
        .send_form(fields)
        .map_err(failed)?;
    let text = answer.body_mut().read_to_string().map_err(failed)?;
    let tokens: serde_json::Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let access = tokens.get("access_token").and_then(|token| token.as_str()).ok_or(text.as_str())?;
    let mut packs = server
        .agent
        .get(format!("{GATEWAY}/v2/packs"))
        .header("host", "api.iconflow.dev")
        .header("authorization", format!("Bearer {access}"))
        .call()
        .map_err(failed)?;
    let body = packs.body_mut().read_to_string().map_err(failed)?;
    let scope = tokens.get("scope").and_then(|scope| scope.as_str()).unwrap_or_default();
    Ok(format!("connected, scope {scope}; the API answers {}:\n{body}", packs.status().as_u16()))
}
