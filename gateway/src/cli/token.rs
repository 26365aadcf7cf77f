//! `tollgate token`: what a token says, and whether it would be believed. Never prints it back.

use std::io::Read as _;
use std::sync::Arc;

use clap::Subcommand;
use policy::credential::{REFRESH_TOKEN_PREFIX, Secret, TOKEN_PREFIX};
use policy::jws::{self, TOKEN_BYTES_MAX};

use super::{Context, Failure, print};
use crate::base::clock::{Clock as _, System, rfc3339};
use crate::base::http_client::HttpClient;
use crate::identify::{Bounds, Caller, Tokens, Unidentified};
use crate::registry::secret::presented;

/// Tokens.
#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Read a token from standard input, say what it is and whether it would be believed.
    Inspect {
        /// API that it would be sent to; may be left out when there is one.
        #[arg(long)]
        api: Option<String>,
    },
}

/// What became known of a token.
#[derive(Debug, Default, serde::Serialize)]
struct Seen {
    kind: &'static str,
    verdict: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    claims: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grant: Option<String>,
}

impl TokenCommand {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        let TokenCommand::Inspect { api } = self;
        let mut text = zeroize::Zeroizing::new(String::new());
        std::io::stdin().take(2 * TOKEN_BYTES_MAX as u64).read_to_string(&mut text)?;
        let text = text.trim();
        let seen = if text.starts_with(REFRESH_TOKEN_PREFIX) {
            refresh(context, text).await?
        } else {
            access(context, api.as_deref(), text).await?
        };
        if context.json {
            return print::json(&seen);
        }
        let json = |value: Option<serde_json::Value>| value.map(|v| v.to_string()).unwrap_or_default();
        print::fields(&[
            ("kind", seen.kind.into()),
            ("verdict", seen.verdict),
            ("header", json(seen.header)),
            ("claims", json(seen.claims)),
            ("grant", seen.grant.unwrap_or_default()),
        ])
    }
}

async fn refresh(context: &Context, text: &str) -> Result<Seen, Failure> {
    let kind = "refresh token";
    let not_ours = || Seen { kind, verdict: "not one of ours: it would be refused".into(), ..Seen::default() };
    let Some(token) = presented(text) else { return Ok(not_ours()) };
    let Some(grant) = context.registry().grant(token.grant).await? else { return Ok(not_ours()) };
    let Some(newest) = grant.refresh.as_ref().filter(|r| token.is_ours(&context.config.peppers, &r.salt)) else {
        return Ok(not_ours());
    };
    let verdict = match (&grant.dead, newest.generation.checked_sub(token.generation)) {
        (Some((ms, cause)), _) => format!("its grant ended {} by {}", rfc3339(*ms), cause.as_str()),
        (None, _) if !grant.is_live(System.now_ms()) => "its ninety days are over".into(),
        (None, Some(0) | None) => {
            "the newest of its grant: it would work, if user and application are switched on".into()
        }
        (None, Some(1)) => "replaced: within ten seconds it gives the same token again, later it ends the grant".into(),
        (None, Some(_)) => "replaced long ago: using it would end the grant".into(),
    };
    Ok(Seen { kind, verdict, grant: Some(grant.id), ..Seen::default() })
}

async fn access(context: &Context, api: Option<&str>, text: &str) -> Result<Seen, Failure> {
    let policy = context.policy()?;
    let candidates: Vec<&policy::Api> =
        policy.apis.iter().filter(|api| api.oauth.is_some() || !api.issuers.is_empty()).collect();
    let api = match (api, candidates.as_slice()) {
        (Some(name), _) => policy.api(name).ok_or_else(|| Failure::Refused(format!("there is no API {name}")))?,
        (None, [only]) => only,
        (None, _) => return Err(Failure::Refused("say for which API with --api".into())),
    };
    let bare = text.strip_prefix(TOKEN_PREFIX);
    let mut seen =
        Seen { kind: if bare.is_some() { "access token" } else { "token of another issuer" }, ..Seen::default() };
    if let Ok(token) = jws::parse(bare.unwrap_or(text)) {
        let header = &token.header;
        seen.header = Some(serde_json::json!({ "alg": header.alg, "typ": header.typ, "kid": header.kid }));
        if let Ok(claims) = token.claims() {
            seen.grant = claims.text("gid").map(str::to_owned);
            seen.claims = Some(claims.to_json());
        }
    }
    let http_client = Arc::new(HttpClient::new(context.config.issuer_ca.as_ref(), context.config.folder.clone())?);
    let peppers = context.config.peppers.clone();
    let tokens = Tokens::new(context.store.clone(), peppers, Bounds::default(), Arc::new(System), http_client);
    seen.verdict = match tokens.identify(api, Secret::new(text)).await {
        Ok(found) => match found.caller {
            Caller::Token(token, _) => format!("works, until {}", rfc3339(token.ends_ms)),
            Caller::Key(_) => "works".into(),
        },
        Err(Unidentified::Unknown) => "would be refused: 401 invalid_credential".into(),
        Err(Unidentified::Dead(fault)) => {
            format!("would be refused: 401 {}", crate::admit::denial::Denial::DeadCredential(fault).code())
        }
        Err(Unidentified::CannotKnow) => "cannot be told now: 503 temporarily_unavailable".into(),
    };
    Ok(seen)
}
