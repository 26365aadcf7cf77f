//! The management API, on the admin listener, behind a key of its own: applications, what users
//! have connected, and logins that another system hands over.
//!
//! Answers are JSON; errors are RFC 9457 problems whose `detail` says what would be right. Nothing
//! here shows a secret but the answer that has just made it.

use std::sync::Arc;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use policy::credential::{Secret, bearer};
use policy::oauth::{Login, OAuth};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::base::clock::dated;
use crate::base::digest::Digest;
use crate::oauth::error::{Code, OAuthError};
use crate::oauth::{Accepted, AuthorizationServer};
use crate::registry::access::FlowRecord;
use crate::registry::app::AppRecord;
use crate::registry::apps::{NewApp, register};
use crate::registry::grant::Cause;
use crate::registry::{Actor, ChangeError, views};
use crate::snapshot::PolicyKeeper;
use crate::store::{Change, Cursor, PAGE_MAX, Page, StoreError};

/// What the management API works on.
#[derive(Clone)]
pub struct Management {
    /// Records, and what follows from changing them.
    pub authorization: Arc<AuthorizationServer>,
    /// The policy in force.
    pub keeper: Arc<PolicyKeeper>,
    /// Hash of the key that opens it.
    pub key: Digest,
}

/// A refusal.
struct Problem(StatusCode, String);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.0.canonical_reason().unwrap_or("Error");
        let body = json!({ "type": "about:blank", "title": title, "status": self.0.as_u16(), "detail": self.1 });
        let kind = HeaderValue::from_static("application/problem+json");
        (self.0, [(header::CONTENT_TYPE, kind)], body.to_string()).into_response()
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound(what) => Problem(StatusCode::NOT_FOUND, format!("there is no {what}")),
            StoreError::Exists(what) => Problem(StatusCode::CONFLICT, format!("{what} already exists")),
            StoreError::Refused(words) => Problem(StatusCode::CONFLICT, words),
            StoreError::Unavailable(_) | StoreError::Corrupt(_) => {
                tracing::warn!(target: "tollgate::management", "{error}");
                Problem(StatusCode::SERVICE_UNAVAILABLE, "the store cannot answer; try again".into())
            }
        }
    }
}

impl From<OAuthError> for Problem {
    fn from(error: OAuthError) -> Self {
        let status = match error.code {
            Code::TemporarilyUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Code::AccessDenied => StatusCode::FORBIDDEN,
            Code::InvalidRequest
            | Code::InvalidClient
            | Code::InvalidGrant
            | Code::UnauthorizedClient
            | Code::UnsupportedGrantType
            | Code::UnsupportedResponseType
            | Code::InvalidScope
            | Code::InvalidTarget
            | Code::LoginRequired
            | Code::ConsentRequired
            | Code::RequestNotSupported
            | Code::RequestUriNotSupported => StatusCode::BAD_REQUEST,
        };
        Problem(status, error.description)
    }
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Refused(_, words) => Problem(StatusCode::BAD_REQUEST, words),
            ChangeError::Store(error) => error.into(),
            ChangeError::Randomness(error) => Problem(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        }
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        Problem(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

type Answer = Result<Json<Value>, Problem>;

impl Management {
    /// Its routes; all of them want the key.
    pub fn router(self) -> Router {
        Router::new()
            .route("/admin/apps", get(apps).post(add_app))
            .route("/admin/apps/{id}", get(app))
            .route("/admin/apps/{id}/disable", post(disable_app))
            .route("/admin/apps/{id}/enable", post(enable_app))
            .route("/admin/users/{id}/applications", get(applications))
            .route("/admin/users/{id}/applications/{app}", delete(disconnect))
            .route("/admin/oauth/login-requests/{id}", get(login_request))
            .route("/admin/oauth/login-requests/{id}/accept", post(accept))
            .route("/admin/oauth/login-requests/{id}/reject", post(reject))
            .layer(axum::extract::DefaultBodyLimit::max(64 * 1024))
            .layer(from_fn_with_state(self.clone(), check_key))
            .with_state(self)
    }

    fn now_ms(&self) -> u64 {
        self.authorization.clock.now_ms()
    }

    /// A request under way, with the authorization server of its API.
    async fn flow(&self, id: &str) -> Result<(FlowRecord, Arc<OAuth>), Problem> {
        let gone = || Problem(StatusCode::NOT_FOUND, "there is no such login request, or it took too long".into());
        let now_ms = self.authorization.registry.now_ms(self.now_ms()).await?;
        let flow = self.authorization.registry.flow(id, now_ms).await?.ok_or_else(gone)?;
        let snapshot = self.keeper.load();
        let oauth = snapshot.policy.api(&flow.api).and_then(|api| api.oauth.clone()).ok_or_else(gone)?;
        Ok((flow, oauth))
    }

    async fn switch(&self, id: &str, disabled_ms: Option<u64>) -> Answer {
        let registry = &self.authorization.registry;
        let changed = registry.change_app(id, |app| {
            app.disabled_ms = disabled_ms;
            Ok(())
        });
        let app = changed.await?.record;
        self.authorization.identities.forget(&[Change::App(app.id.clone())]).await?;
        Ok(Json(view(&app, None)))
    }
}

async fn check_key(State(management): State<Management>, request: Request, next: Next) -> Response {
    let fields = request.headers().get_all(header::AUTHORIZATION);
    let secret = bearer(fields.iter().map(HeaderValue::as_bytes)).ok().flatten();
    let is_it = secret.is_some_and(|secret: Secret<'_>| {
        management.key.matches(&management.authorization.peppers.current.digest(secret))
    });
    if is_it {
        return next.run(request).await;
    }
    let words = "send the management key: `Authorization: Bearer <key>`";
    let mut answer = Problem(StatusCode::UNAUTHORIZED, words.into()).into_response();
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"management\""));
    answer
}

/// An application, with its secret where that is shown the only time.
pub(crate) fn view(app: &AppRecord, secret: Option<&str>) -> Value {
    let mut value = views::app(app);
    if let (Some(map), Some(secret)) = (value.as_object_mut(), secret) {
        map.insert("client_secret".into(), secret.into());
    }
    dated(value)
}

/// How much of a listing is asked for: `?limit=100&after=<cursor>`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    limit: Option<usize>,
    after: Option<String>,
}

/// A page of applications. The field `Link` with `rel="next"` says where the next one is (RFC 8288).
async fn apps(
    State(management): State<Management>,
    listing: Result<Query<Listing>, QueryRejection>,
) -> Result<Response, Problem> {
    let wrong = |words: String| Problem(StatusCode::BAD_REQUEST, words);
    let Query(Listing { limit, after }) = listing.map_err(|rejection| wrong(rejection.body_text()))?;
    let after = after.map(|text| text.parse::<Cursor>().map_err(|words| wrong(words.into()))).transpose()?;
    let limit = limit.unwrap_or(PAGE_MAX);
    if limit == 0 || limit > PAGE_MAX {
        return Err(wrong(format!("`limit` is 1 to {PAGE_MAX}")));
    }
    let apps = management.authorization.registry.apps(None, &Page::of(limit, after)).await?;
    let list: Value = apps.list.iter().map(|app| view(app, None)).collect();
    let mut answer = Json(list).into_response();
    let next = apps.next.map(|next| format!("</admin/apps?limit={limit}&after={next}>; rel=\"next\""));
    if let Some(link) = next.and_then(|link| HeaderValue::try_from(link).ok()) {
        answer.headers_mut().insert(header::LINK, link);
    }
    Ok(answer)
}

async fn add_app(
    State(management): State<Management>,
    new: Result<Json<NewApp>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let Json(new) = new?;
    let (server, snapshot) = (&management.authorization, management.keeper.load());
    let actor = Actor::management();
    let (app, secret) =
        register(&server.registry, &server.peppers, &snapshot.policy, &new, (&actor, management.now_ms())).await?;
    Ok((StatusCode::CREATED, Json(view(&app, secret.as_deref()))))
}

async fn app(State(management): State<Management>, Path(id): Path<String>) -> Answer {
    match management.authorization.registry.app(&id).await? {
        Some(app) => Ok(Json(view(&app, None))),
        None => Err(Problem(StatusCode::NOT_FOUND, "there is no such application".into())),
    }
}

async fn disable_app(State(management): State<Management>, Path(id): Path<String>) -> Answer {
    let now_ms = management.now_ms();
    management.switch(&id, Some(now_ms)).await
}

async fn enable_app(State(management): State<Management>, Path(id): Path<String>) -> Answer {
    management.switch(&id, None).await
}

async fn applications(State(management): State<Management>, Path(id): Path<String>) -> Answer {
    let connected = management.authorization.connections(&id, None, management.now_ms()).await?;
    Ok(Json(dated(json!(connected))))
}

async fn disconnect(State(management): State<Management>, Path((id, app)): Path<(String, String)>) -> Answer {
    let ended = management.authorization.disconnect(&id, &app, Cause::Operator, management.now_ms()).await?;
    Ok(Json(json!({ "ended_grants": ended })))
}

async fn login_request(State(management): State<Management>, Path(id): Path<String>) -> Answer {
    let (flow, _) = management.flow(&id).await?;
    let app = management.authorization.registry.app(&flow.app).await?;
    Ok(Json(json!({
        "id": flow.id,
        "api": flow.api,
        "client_id": flow.app,
        "client_name": app.as_ref().map(|app| app.name.as_str()),
        "client_organization": app.as_ref().map(|app| app.organization.as_str()),
        "redirect_uri": flow.redirect_uri,
        "scopes": flow.scopes,
        "must_login": flow.must_login,
        "must_consent": flow.must_consent,
        "expires_ms": flow.expires_ms,
    })))
}

/// Where the browser must be sent, once and in which it began.
fn go_on(oauth: &OAuth, flow: &FlowRecord, verifier: Option<String>) -> Answer {
    let gone = || Problem(StatusCode::NOT_FOUND, "the login request took too long".into());
    let (verifier, issuer) = (verifier.ok_or_else(gone)?, &oauth.issuer);
    let to = format!("{issuer}/oauth/continue?login_request={}&login_verifier={verifier}", flow.id);
    Ok(Json(json!({ "redirect_to": to })))
}

async fn accept(
    State(management): State<Management>,
    Path(id): Path<String>,
    accepted: Result<Json<Accepted>, JsonRejection>,
) -> Answer {
    let Json(accepted) = accepted?;
    let (mut flow, oauth) = management.flow(&id).await?;
    let Login::Handoff { consents, .. } = &oauth.login else {
        return Err(Problem(StatusCode::CONFLICT, "logins are not handed off; see `oauth.login` in the policy".into()));
    };
    let server = &management.authorization;
    let system = ("app", flow.api.clone());
    let user = server.accept((system.0, &system.1), &mut flow, &accepted, *consents, management.now_ms()).await?;
    let verifier = server.hand_over(&flow, Some(user.id)).await?;
    go_on(&oauth, &flow, verifier)
}

async fn reject(State(management): State<Management>, Path(id): Path<String>) -> Answer {
    let (flow, oauth) = management.flow(&id).await?;
    let verifier = management.authorization.hand_over(&flow, None).await?;
    go_on(&oauth, &flow, verifier)
}
