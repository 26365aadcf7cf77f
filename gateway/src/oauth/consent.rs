//! Asks the user for consent. A yes makes a grant with a code, and leads back to the application.

use http::StatusCode;
use policy::credential::Secret;

use super::error::OAuthError;
use super::http::{Form, Request, body_form, with_parameters};
use super::login::{denied, forged};
use super::pages::{Choice, ConsentPage, Frame, destination, in_words, message, page};
use super::server::AuthorizationServer;
use crate::base::answer::Answer;
use crate::base::random::base62;
use crate::registry::access::{ConsentRecord, FlowRecord};
use crate::registry::app::AppRecord;
use crate::registry::grant::{CODE_LIFE_MS, Cause, Code as GrantCode, GrantRecord, REFRESH_LIFE_MS};
use crate::registry::secret::new_code;
use crate::registry::user::UserRecord;

/// Most live grants of one user for one application; each device has one.
const GRANTS_MAX: usize = 50;

impl AuthorizationServer {
    /// The organization for which a user need not be asked again: they have agreed to all of it
    /// before, for an application that nobody else can pretend to be and that has not moved since.
    pub(super) async fn remembered(
        &self,
        flow: &FlowRecord,
        app: &AppRecord,
        user: &UserRecord,
    ) -> Result<Option<String>, OAuthError> {
        if let (Some(granted), [only]) = (&flow.granted, user.memberships.as_slice()) {
            // Another system's page has asked already.
            return Ok((*granted == flow.scopes).then(|| only.organization.clone()));
        }
        if flow.must_consent || app.asks_every_time(&flow.redirect_uri) {
            return Ok(None);
        }
        let Some(consent) = self.registry.consent(&user.id, &app.id).await? else { return Ok(None) };
        let covers = flow.scopes.iter().all(|scope| consent.scopes.contains(scope));
        let holds = covers && consent.agreed_ms > app.redirects_changed_ms && user.is_member(&consent.organization);
        Ok(holds.then_some(consent.organization))
    }

    /// `GET` and `POST /oauth/consent`.
    pub(super) async fn consent(&self, request: &Request<'_>) -> Result<Answer, OAuthError> {
        let is_post = request.method == "POST";
        let form = if is_post { body_form(request)? } else { Form::parse(request.query)? };
        let (flow, browser) = match self.flow(request, &form).await? {
            Ok(found) => found,
            Err(page) => return Ok(*page),
        };
        let session = self.session(request).await?.filter(|(_, user)| flow.user.as_ref() == Some(&user.id));
        let app = self.registry.app(&flow.app).await?.filter(|app| app.disabled_ms.is_none());
        let (Some((_, user)), Some(app)) = (session, app) else {
            return Ok(message(
                request,
                StatusCode::BAD_REQUEST,
                ("You are not logged in any more", "Go back to the application and start again from there."),
                None,
            ));
        };
        if !is_post {
            return self.consent_page(request, &flow, &browser, &app, &user).await;
        }
        if !self.is_ours(request, &form, &browser) {
            return Ok(forged(request));
        }
        let is_allowed = form.get("decision").ok().flatten() == Some("allow");
        let organization = form.get("organization").ok().flatten().unwrap_or_default();
        if is_allowed && !user.is_member(organization) {
            return Ok(forged(request));
        }
        // One decision for one question, however often the form is sent.
        if !self.registry.end_flow(&flow.id).await? {
            return Ok(forged(request));
        }
        if !is_allowed {
            return Ok(denied(request, &flow));
        }
        self.remember(request, &flow, &app, &user, organization).await?;
        self.finish(request, &flow, &app, organization).await
    }

    /// Remembers what was agreed to, beside what was agreed to before for the same organization.
    async fn remember(
        &self,
        request: &Request<'_>,
        flow: &FlowRecord,
        app: &AppRecord,
        user: &UserRecord,
        organization: &str,
    ) -> Result<(), OAuthError> {
        let mut scopes = flow.scopes.clone();
        let before = self.registry.consent(&user.id, &app.id).await?;
        let before = before.filter(|c| c.organization == organization && c.agreed_ms > app.redirects_changed_ms);
        scopes.extend(before.into_iter().flat_map(|consent| consent.scopes));
        scopes.sort();
        scopes.dedup();
        let (organization, agreed_ms) = (organization.to_owned(), request.now_ms);
        let consent = ConsentRecord { scopes, organization, agreed_ms };
        Ok(self.registry.put_consent(&user.id, &app.id, &consent).await?)
    }

    /// A user and an application have a bounded number of grants: the oldest makes room.
    async fn make_room(&self, flow: &FlowRecord, now_ms: u64) -> Result<(), OAuthError> {
        let user = flow.user.as_deref().unwrap_or_default();
        let grants = self.registry.grants_of_user(user).await?;
        let of_app = grants.iter().filter(|grant| grant.app == flow.app && grant.dead.is_none());
        for grant in of_app.skip(GRANTS_MAX - 1) {
            self.end_grant(&grant.id, Cause::Superseded, now_ms).await?;
        }
        Ok(())
    }

    async fn consent_page(
        &self,
        request: &Request<'_>,
        flow: &FlowRecord,
        browser: &str,
        app: &AppRecord,
        user: &UserRecord,
    ) -> Result<Answer, OAuthError> {
        let mut organizations = Vec::new();
        for membership in &user.memberships {
            let found = self.registry.store().organization(&membership.organization).await?;
            organizations.extend(found.map(|organization| Choice { id: organization.id, name: organization.name }));
        }
        let owner = self.registry.store().organization(&app.organization).await?;
        let mut frame = Frame::of(request);
        frame.csrf = self.csrf(browser);
        let consent = ConsentPage {
            frame,
            flow: flow.id.clone(),
            app: app.name.clone(),
            owner: owner.map_or_else(|| app.organization.clone(), |owner| owner.name),
            host: destination(app, &flow.redirect_uri),
            scopes: in_words(request, &flow.scopes),
            organizations,
        };
        Ok(page(StatusCode::OK, "page", &consent, Some(&flow.redirect_uri)))
    }

    /// The user said yes: a grant with a code, and back to the application.
    pub(super) async fn finish(
        &self,
        request: &Request<'_>,
        flow: &FlowRecord,
        app: &AppRecord,
        organization: &str,
    ) -> Result<Answer, OAuthError> {
        // The application may have changed while the user was thinking.
        let may = flow.scopes.iter().all(|scope| app.scopes.contains(scope)) && app.disabled_ms.is_none();
        if !may || !app.allows_redirect(&flow.redirect_uri) {
            return Ok(forged(request));
        }
        self.make_room(flow, request.now_ms).await?;
        let id = base62(crate::registry::secret::GRANT_ID_CHARS)?;
        let code = new_code(&id)?;
        let now_ms = request.now_ms;
        let grant = GrantRecord {
            id,
            api: flow.api.clone(),
            app: flow.app.clone(),
            user: flow.user.clone().unwrap_or_default(),
            organization: organization.to_owned(),
            scopes: flow.scopes.clone(),
            created_ms: now_ms,
            expires_ms: now_ms + REFRESH_LIFE_MS,
            code: Some(GrantCode {
                digest: self.peppers.current.digest(Secret::new(&code)),
                redirect_uri: flow.redirect_uri.clone(),
                challenge: flow.challenge.clone(),
                expires_ms: now_ms + CODE_LIFE_MS,
                used_ms: None,
            }),
            refresh: None,
            dead: None,
            not_before_s: 0,
            revoked: Vec::new(),
        };
        self.registry.insert_grant(&grant).await?;
        let mut parameters = vec![("code", code.as_str())];
        parameters.extend(flow.state.as_deref().map(|state| ("state", state)));
        parameters.push(("iss", &*request.oauth.issuer));
        Ok(Answer::see_other(&with_parameters(&flow.redirect_uri, &parameters), "granted"))
    }
}
