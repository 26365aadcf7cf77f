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
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use policy::credential::{Secret, bearer};
use policy::oauth::{Login, OAuth};
use serde::Deserialize;
use serde_json::{Value, json};

use super::problem::{Problem, invalid, no_login_request};
use crate::base::clock::dated;
use crate::base::digest::Digest;
use crate::oauth::{Accepted, AuthorizationServer};
use crate::registry::access::FlowRecord;
use crate::registry::app::AppRecord;
use crate::registry::apps::{self, NewApp, register};
use crate::registry::grant::Cause;
use crate::registry::{Actor, By, views};
use crate::snapshot::PolicyKeeper;
use crate::store::{Change, Cursor, PAGE_MAX, Page};

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

type Answer = Result<Json<Value>, Problem>;

impl Management {
    /// Its routes; all of them want the key.
    pub fn router(self) -> Router {
        Router::new()
            .route("/admin/apps", get(list_apps).post(add_app))
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

    /// Whoever holds the key of this API, now.
    async fn by(&self) -> Result<By, Problem> {
        Ok(By { actor: Actor::management(), now_ms: self.authorization.registry.now_ms(self.now_ms()).await? })
    }

    /// A request under way, with the authorization server of its API.
    async fn flow(&self, id: &str) -> Result<(FlowRecord, Arc<OAuth>), Problem> {
        let now_ms = self.authorization.registry.now_ms(self.now_ms()).await?;
        let flow = self.authorization.registry.flow(id, now_ms).await?.ok_or_else(no_login_request)?;
        let snapshot = self.keeper.load();
        let oauth = snapshot.policy.api(&flow.api).and_then(|api| api.oauth.clone()).ok_or_else(no_login_request)?;
        Ok((flow, oauth))
    }

    /// An application that was switched off or on; what this gateway knew of it is forgotten at once.
    async fn switched(&self, app: AppRecord) -> Answer {
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
    let mut answer = Problem(StatusCode::UNAUTHORIZED, "unauthorized", words.into()).into_response();
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
async fn list_apps(
    State(management): State<Management>,
    listing: Result<Query<Listing>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(Listing { limit, after }) = listing.map_err(|rejection| invalid(rejection.body_text()))?;
    let after = after.map(|text| text.parse::<Cursor>().map_err(invalid)).transpose()?;
    let limit = limit.unwrap_or(PAGE_MAX);
    if limit == 0 || limit > PAGE_MAX {
        return Err(invalid(format!("`limit` is 1 to {PAGE_MAX}")));
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
    let by = management.by().await?;
    let (app, secret) = register(&server.registry, &server.peppers, &snapshot.policy, &new, &by).await?;
    Ok((StatusCode::CREATED, Json(view(&app, secret.as_deref()))))
}

async fn app(State(management): State<Management>, Path(id): Path<String>) -> Answer {
    Ok(Json(view(&apps::find(&management.authorization.registry, &id).await?, None)))
}

async fn disable_app(State(management): State<Management>, Path(id): Path<String>) -> Answer {
    let app = apps::disable(&management.authorization.registry, &id, &management.by().await?).await?;
    management.switched(app).await
}

async fn enable_app(State(management): State<Management>, Path(id): Path<String>) -> Answer {
    let app = apps::enable(&management.authorization.registry, &id, &management.by().await?).await?;
    management.switched(app).await
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
    let (verifier, issuer) = (verifier.ok_or_else(no_login_request)?, &oauth.issuer);
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
        let words = "logins are not handed off; see `oauth.login` in the policy";
        return Err(Problem(StatusCode::CONFLICT, "not_handed_off", words.into()));
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
