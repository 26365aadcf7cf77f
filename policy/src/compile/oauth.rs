//! The authorization server and the trusted issuers of one API.

use std::collections::HashMap;
use std::sync::Arc;

use super::api::{parse, parse_or};
use crate::credential::{REFRESH_TOKEN_PREFIX, TOKEN_PREFIX};
use crate::file::{ApiFile, IssuerFile, LoginFile, OAuthFile, Text};
use crate::identity::{Scope, Scopes};
use crate::oauth::{Algorithm, Issuer, Judged, Login, OAuth, RESOURCE_METADATA_PATH};
use crate::problem::{Problem, nearest};
use crate::target::Host;
use crate::units::is_name;

/// Most issuers of one API.
const ISSUERS_MAX: usize = 16;

/// An absolute URL as we are willing to call it or send people to it: https, or http on loopback.
pub(crate) fn url(text: &str) -> Result<Box<str>, String> {
    let explain = || format!("`{}` is not a usable URL; write `https://host/path`", text.escape_debug());
    let (is_secure, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => return Err(explain()),
    };
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let host = Host::parse(authority.as_bytes()).map_err(|_| explain())?;
    if text.len() > 1_024 || !text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'#' | b'\\' | b'"')) {
        return Err(explain());
    }
    let is_loopback = matches!(host.as_str(), "127.0.0.1" | "[::1]" | "localhost");
    if !is_secure && !is_loopback {
        return Err(format!("`{text}` is not https; http is for loopback only"));
    }
    Ok(text.into())
}

/// An issuer identifier of ours: `https://` and a host, nothing else.
fn own_issuer(text: &str) -> Result<(Box<str>, Box<str>), String> {
    let explain = || {
        format!(
            "`{}` cannot be the issuer; write `https://` and a host of its own, such as `https://auth.example.com`, \
             without slash at the end",
            text.escape_debug()
        )
    };
    let authority = text.strip_prefix("https://").ok_or_else(explain)?;
    let host = Host::parse(authority.as_bytes()).map_err(|_| explain())?;
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(explain());
    }
    Ok((text.into(), host.as_str().into()))
}

pub(super) fn server(file: &OAuthFile, api: &ApiFile, host: &str, problems: &mut Vec<Problem>) -> Option<OAuth> {
    let (issuer, own_host) = parse(&file.issuer, problems, own_issuer)?;
    let resource = format!("https://{host}");
    let audience = parse_or(file.audience.as_ref(), resource.as_str().into(), problems, url);
    let name = file.name.as_ref().or(api.realm.as_ref()).unwrap_or(&api.name);
    if name.is_empty() || name.len() > 64 {
        problems.push(Problem::at(name.span, "the product's name has 1 to 64 characters"));
    }
    Some(OAuth {
        issuer,
        host: own_host,
        name: name.as_str().into(),
        audience,
        resource_metadata: format!("{resource}{RESOURCE_METADATA_PATH}").into(),
        home: file.home.as_ref().and_then(|text| parse(text, problems, url)),
        login: login(file.login.as_ref(), problems)?,
    })
}

fn login(file: Option<&LoginFile>, problems: &mut Vec<Problem>) -> Option<Login> {
    Some(match file {
        None | Some(LoginFile::Builtin) => Login::Builtin,
        Some(LoginFile::Handoff(handoff)) => Login::Handoff {
            url: parse(&handoff.url, problems, url)?,
            keys: handoff.keys.iter().filter_map(|key| parse(key, problems, jwk)).collect(),
            consents: handoff.consent.unwrap_or(false),
        },
        Some(LoginFile::Oidc(oidc)) => Login::Oidc {
            issuer: parse(&oidc.issuer, problems, url)?,
            client_id: oidc.client_id.as_str().into(),
            client_secret_file: oidc.client_secret_file.as_str().into(),
            organization: oidc.organization.as_ref().map(|o| o.as_str().into()),
        },
    })
}

/// A public key (RFC 7517); a private one has no business in a policy.
fn jwk(text: &str) -> Result<Box<str>, String> {
    let key: serde_json::Value =
        serde_json::from_str(text).map_err(|_| "a key is a JWK: one JSON object".to_owned())?;
    if key.get("kty").and_then(|kty| kty.as_str()).is_none_or(|kty| kty == "oct") {
        return Err("a key is a public JWK with `kty` RSA, EC or OKP".into());
    }
    if key.get("d").is_some() {
        return Err("this is a private key; put the public one here, and take this one out of use".into());
    }
    Ok(text.into())
}

pub(super) fn issuers(
    api: &ApiFile,
    declared: &[(Scope, Box<str>)],
    host: &str,
    problems: &mut Vec<Problem>,
) -> Box<[Arc<Issuer>]> {
    let mut list: Vec<Arc<Issuer>> = Vec::new();
    if let Some(extra) = api.issuers.get(ISSUERS_MAX) {
        problems.push(Problem::at(extra.issuer.span, format!("more than {ISSUERS_MAX} issuers")));
    }
    for file in &api.issuers {
        let Some(issuer) = issuer(file, api, declared, host, problems) else { continue };
        let own = api.oauth.as_ref().is_some_and(|own| *own.issuer == *issuer.issuer);
        if own || list.iter().any(|other| other.issuer == issuer.issuer) {
            problems.push(Problem::at(file.issuer.span, format!("the issuer `{}` is already there", issuer.issuer)));
        }
        let asks_about_all = |i: &Issuer| matches!(&i.judged, Judged::ByAsking { prefix: None, .. });
        if asks_about_all(&issuer) && list.iter().any(|other| asks_about_all(other)) {
            problems.push(
                Problem::at(file.issuer.span, "a second issuer would be asked about every opaque token")
                    .help("give one of them a `prefix`"),
            );
        }
        list.push(Arc::new(issuer));
    }
    list.into()
}

fn issuer(
    file: &IssuerFile,
    api: &ApiFile,
    declared: &[(Scope, Box<str>)],
    host: &str,
    problems: &mut Vec<Problem>,
) -> Option<Issuer> {
    let mut scopes = Vec::new();
    for text in &file.scopes {
        let Some(scope) = parse(text, problems, Scope::parse) else { continue };
        if !declared.iter().any(|(known, _)| *known == scope) {
            problems.push(Problem::at(text.span, format!("the scope `{scope}` is not declared")));
        }
        scopes.push(scope);
    }
    let permissions = parse(&file.issuer, problems, |_| Scopes::new(scopes))?;
    let plan = |text: &Text, problems: &mut Vec<Problem>| -> Box<str> {
        let names = || api.plans.keys().map(|name| name.as_str());
        if !names().any(|name| name == text.as_str()) {
            let problem = Problem::at(text.span, format!("there is no plan `{}`", text.escape_debug()));
            problems.push(match nearest(text, names()) {
                Some(near) => problem.help(format!("did you mean `{near}`?")),
                None => problem,
            });
        }
        text.as_str().into()
    };
    let plans: HashMap<Box<str>, Box<str>> =
        file.plans.iter().map(|(value, name)| (value.as_str().into(), plan(name, problems))).collect();
    if let (None, Some(text)) = (&file.plan_claim, file.plans.keys().next()) {
        problems.push(Problem::at(text.span, "`plans` says what values of `plan_claim` mean, and there is none"));
    }
    let default = format!("https://{host}").as_str().into();
    Some(Issuer {
        issuer: parse(&file.issuer, problems, url)?,
        audience: file.audience.as_ref().map_or(default, |text| text.as_str().into()),
        judged: judged(file, api, problems)?,
        scope_claim: file.scope_claim.as_ref().map_or("scope", |text| text.as_str()).into(),
        permissions,
        plan: file.plan.as_ref().map_or_else(|| "".into(), |text| plan(text, problems)),
        plan_claim: file.plan_claim.as_ref().map(|claim| claim.as_str().into()),
        plans,
    })
}

fn judged(file: &IssuerFile, api: &ApiFile, problems: &mut Vec<Problem>) -> Option<Judged> {
    match (&file.jwks, &file.introspection) {
        (Some(jwks), None) => {
            if let Some(prefix) = &file.prefix {
                problems.push(Problem::at(prefix.span, "a prefix is for opaque tokens; JWTs are told by their `iss`"));
            }
            let algorithms = file.algorithms.clone().unwrap_or_else(|| vec![Algorithm::RS256]);
            if algorithms.is_empty() {
                problems.push(Problem::at(jwks.span, "no algorithm is allowed"));
            }
            Some(Judged::ByKeys { jwks: parse(jwks, problems, url)?, algorithms: algorithms.into() })
        }
        (None, Some(asked)) => {
            let prefix = file.prefix.as_ref().and_then(|text| {
                parse(text, problems, |text| {
                    let keys = std::iter::once(&api.keys.live).chain(&api.keys.test).map(|p| p.as_str());
                    let ours = keys.chain([TOKEN_PREFIX, REFRESH_TOKEN_PREFIX]);
                    if !is_name(text) || ours.clone().any(|own| own.starts_with(text) || text.starts_with(own)) {
                        return Err(format!("`{}` cannot tell its tokens from ours", text.escape_debug()));
                    }
                    Ok(Box::<str>::from(text))
                })
            });
            Some(Judged::ByAsking {
                endpoint: parse(&asked.endpoint, problems, url)?,
                client_id: asked.client_id.as_str().into(),
                client_secret_file: asked.client_secret_file.as_str().into(),
                prefix,
            })
        }
        (None, None) | (Some(_), Some(_)) => {
            problems.push(
                Problem::at(file.issuer.span, "an issuer's tokens are judged by its keys or by asking it")
                    .help("write `jwks: https://…` or `introspection: { … }`, one of them"),
            );
            None
        }
    }
}
