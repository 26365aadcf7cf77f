//! One API of the file becomes an [`Api`], or problems.

use std::sync::Arc;
use std::time::Duration;

use super::{oauth, routes};
use crate::bounds::Bounds;
use crate::cors::{Cors, Origins};
use crate::file::{self, ApiFile, Text};
use crate::identity::{Environment, KeyClass, Origin, Scope};
use crate::limit::{Limit, Per, Plan};
use crate::path::CanonicalPath;
use crate::problem::{Problem, nearest};
use crate::route::{Api, Health, Names, Upstream, UpstreamTls};
use crate::span::Spanned;
use crate::target::Host;
use crate::units::{Rate, duration, is_name};
use http1::bytes::Class;

/// Response fields that scripts may always read.
const EXPOSED: &str = "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, RateLimit-Policy, RateLimit, Retry-After, X-Request-Id, WWW-Authenticate";
/// Most addresses of one upstream.
const ADDRESSES_MAX: usize = 64;
/// Most further tries of a request.
const RETRIES_MAX: u32 = 5;

/// Turns text into a value or reports why not, at the text's place.
pub(super) fn parse<T>(
    text: &Text,
    problems: &mut Vec<Problem>,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    parse(text).map_err(|message| problems.push(Problem::at(text.span, message))).ok()
}

/// The same for a value that may be absent.
pub(super) fn parse_or<T>(
    text: Option<&Text>,
    default: T,
    problems: &mut Vec<Problem>,
    with: impl FnOnce(&str) -> Result<T, String>,
) -> T {
    match text {
        Some(text) => parse(text, problems, with).unwrap_or(default),
        None => default,
    }
}

pub(super) fn compile(api: &ApiFile, problems: &mut Vec<Problem>) -> Option<Api> {
    let before = problems.len();
    if !is_name(&api.name) {
        let text = format!("`{}` is not a name; use letters, digits, `-`, `_` and `.`", api.name.escape_debug());
        problems.push(Problem::at(api.name.span, text));
    }
    let scopes = scopes(api, problems);
    let plans = plans(api, problems);
    let default_plan: Box<str> = default_plan(api, problems);
    let (routes, router) = routes::compile(api, &scopes, plans.values().map(Plan::limits).max().unwrap_or(1), problems);
    let live = upstream(&api.upstreams.live, (api, "live"), problems);
    let test = api.upstreams.test.as_ref().map(|file| upstream(file, (api, "test"), problems));
    let hosts = hosts(api, problems);
    let compiled = Api {
        index: 0,
        oauth: api.oauth.as_ref().and_then(|file| oauth::server(file, api, hosts.first()?, problems)).map(Arc::new),
        reserved: Arc::from([]),
        issuers: oauth::issuers(api, &scopes, hosts.first().map_or("", |host| host), problems),
        name: Arc::from(api.name.as_str()),
        realm: realm(api, problems),
        hosts,
        prefixes: prefixes(api, problems),
        foreign_keys: api.keys.foreign.unwrap_or(true),
        scopes: scopes.into_iter().collect(),
        fallback_plan: plans.get(&default_plan).or_else(|| plans.values().next())?.clone(),
        plans,
        default_plan,
        browser_keys: api.browser_keys.clone().unwrap_or_else(|| vec![KeyClass::Read, KeyClass::Public]).into(),
        cors: api.cors.as_ref().map(|file| cors(file, &api.routes, problems)),
        inspection: inspection(api, problems),
        limit_headers: api.limit_headers.unwrap_or(file::LimitHeadersFile::Both),
        live,
        test,
        routes,
        router,
    };
    (problems.len() == before).then_some(compiled)
}

/// The path of self-inspection when a policy names none.
const INSPECTION: &str = "/.tollgate/self";

fn inspection(api: &ApiFile, problems: &mut Vec<Problem>) -> Option<Box<str>> {
    let Some(text) = &api.inspection else { return Some(INSPECTION.into()) };
    if **text == "off" {
        return None;
    }
    parse(text, problems, |text| match CanonicalPath::parse(text.as_bytes(), &Bounds::DEFAULT) {
        Ok(path) if path.as_str() == text => Ok(path.decoded().into()),
        Ok(path) => Err(format!("`{text}` is not how the path would be matched; write `{}`", path.as_str())),
        Err(fault) => Err(format!("`{}` is not a path: {}; or write `off`", text.escape_debug(), fault.detail())),
    })
}

fn hosts(api: &ApiFile, problems: &mut Vec<Problem>) -> Box<[Box<str>]> {
    if api.hosts.is_empty() {
        problems.push(Problem::at(api.name.span, format!("`{}` has no hosts", *api.name)));
    }
    let mut hosts = Vec::new();
    for text in &api.hosts {
        match Host::parse(text.as_bytes()) {
            Ok(host) if !text.contains(':') || text.starts_with('[') => hosts.push(host.as_str().into()),
            Ok(_) => problems.push(
                Problem::at(text.span, format!("`{}` has a port", **text))
                    .help("write the host alone; the API is the same on every port"),
            ),
            Err(_) => problems.push(
                Problem::at(text.span, format!("`{}` is not a host name", text.escape_debug()))
                    .help("write it like `api.example.com`; wildcards are not supported"),
            ),
        }
    }
    hosts.into()
}

fn realm(api: &ApiFile, problems: &mut Vec<Problem>) -> Box<str> {
    let text = api.realm.as_ref().unwrap_or(&api.name);
    if text.len() > 128 || !text.bytes().all(|b| matches!(b, 0x20..=0x7e) && b != b'"' && b != b'\\') {
        problems.push(Problem::at(
            text.span,
            "a realm is up to 128 printable ASCII characters without quote and backslash",
        ));
    }
    text.as_str().into()
}

fn prefixes(api: &ApiFile, problems: &mut Vec<Problem>) -> Box<[(Box<str>, Environment)]> {
    let mut list = Vec::new();
    let both = [(Some(&api.keys.live), Environment::Live), (api.keys.test.as_ref(), Environment::Test)];
    for (text, environment) in both {
        let Some(text) = text else { continue };
        let fits = (2..=32).contains(&text.len())
            && text.ends_with('_')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if fits {
            list.push((text.as_str().into(), environment));
        } else {
            problems.push(
                Problem::at(text.span, format!("`{}` cannot be a key prefix", text.escape_debug()))
                    .help("use 2 to 32 letters, digits and `_`, ending in `_`, such as `acme_live_`"),
            );
        }
    }
    match (&api.keys.test, &api.upstreams.test) {
        (Some(text), None) => problems.push(
            Problem::at(text.span, "there are test keys but no test upstream")
                .help("add `upstreams.test`, or remove `keys.test`: a test key must never reach live data"),
        ),
        (None, Some(file)) => {
            let span = file.addresses.first().map_or(api.name.span, |a| a.span);
            problems.push(Problem::at(span, "there is a test upstream but no test key prefix").help("add `keys.test`"));
        }
        (Some(_), Some(_)) | (None, None) => {}
    }
    list.into()
}

fn scopes(api: &ApiFile, problems: &mut Vec<Problem>) -> Vec<(Scope, Box<str>)> {
    api.scopes
        .iter()
        .filter_map(|(name, words)| Some((parse(name, problems, Scope::parse)?, words.as_str().into())))
        .collect()
}

fn plans(api: &ApiFile, problems: &mut Vec<Problem>) -> Names<Plan> {
    let mut plans = Names::default();
    let name = api.name.as_str();
    for (plan_name, file) in &api.plans {
        if !is_name(plan_name) {
            problems.push(Problem::at(plan_name.span, format!("`{}` is not a plan name", plan_name.escape_debug())));
        }
        let per_key = match &file.per_key {
            file::PerKeyFile::Same(text) => parse(text, problems, str::parse::<Rate>).map(|rate| [rate; 4]),
            file::PerKeyFile::ByClass(by) => {
                let read = parse(&by.read, problems, str::parse::<Rate>);
                let write = parse(&by.write, problems, str::parse::<Rate>);
                let admin = by.admin.as_ref().map_or(write, |t| parse(t, problems, str::parse::<Rate>));
                let public = by.public.as_ref().map_or(read, |t| parse(t, problems, str::parse::<Rate>));
                (|| Some([read?, write?, admin?, public?]))()
            }
        };
        let mut also = Vec::new();
        for (texts, per, stem) in
            [(&file.per_key_also, Per::Key, "key"), (&file.per_organization, Per::Organization, "org")]
        {
            for text in texts {
                let Some(rate) = parse(text, problems, str::parse::<Rate>) else { continue };
                let limit = Limit::new(name, stem, rate, per);
                if also.iter().any(|other: &Limit| other.name == limit.name) {
                    problems.push(
                        Problem::at(text.span, format!("the plan has two limits `{}`", limit.name))
                            .help("one limit for each period is enough: the smaller one"),
                    );
                }
                also.push(limit);
            }
        }
        if let Some(per_key) = per_key {
            plans.insert(plan_name.as_str().into(), Plan::new(name, plan_name, per_key, also));
        }
    }
    if api.plans.is_empty() {
        problems.push(
            Problem::at(api.name.span, format!("`{name}` has no plans"))
                .help("write at least one, such as `plans: { standard: { per_key: 100/min } }`"),
        );
    }
    plans
}

fn default_plan(api: &ApiFile, problems: &mut Vec<Problem>) -> Box<str> {
    let names = || api.plans.keys().map(|k| k.as_str());
    match &api.default_plan {
        Some(text) if names().any(|n| n == text.as_str()) => text.as_str().into(),
        Some(text) => {
            let problem = Problem::at(text.span, format!("there is no plan `{}`", text.escape_debug()));
            problems.push(match nearest(text, names()) {
                Some(near) => problem.help(format!("did you mean `{near}`?")),
                None => problem.help(format!("plans: {}", names().collect::<Vec<_>>().join(", "))),
            });
            "".into()
        }
        None if api.plans.len() > 1 => {
            problems.push(Problem::at(api.name.span, "there are several plans and no `default_plan`"));
            "".into()
        }
        None => names().next().unwrap_or_default().into(),
    }
}

fn cors(file: &file::CorsFile, routes: &[file::RouteFile], problems: &mut Vec<Problem>) -> Cors {
    let origins = if file.origins.iter().any(|o| o.as_str() == "*") {
        if let Some(other) = file.origins.iter().find(|o| o.as_str() != "*") {
            problems.push(Problem::at(other.span, "`*` already allows this origin"));
        }
        Origins::Any
    } else {
        Origins::These(file.origins.iter().filter_map(|o| parse(o, problems, Origin::parse)).collect())
    };
    let field = |text: &Text, problems: &mut Vec<Problem>| {
        if text.is_empty() || text.len() > 64 || !Class::TOKEN.has_all(text.as_bytes()) || text.as_str() == "*" {
            problems.push(Problem::at(text.span, format!("`{}` is not a field name", text.escape_debug())));
        }
        text.as_str().to_owned()
    };
    let allow = match &file.headers {
        Some(list) => list.iter().map(|t| field(t, problems)).collect::<Vec<_>>().join(", "),
        None => "Authorization, Content-Type".to_owned(),
    };
    let mut expose = vec![EXPOSED.to_owned()];
    expose.extend(file.expose.iter().map(|t| field(t, problems)));
    // What is always said, and what else a route names.
    let mut methods = vec!["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
    for method in routes.iter().flat_map(|route| &route.methods) {
        if !methods.contains(&method.as_str()) && crate::Method::parse(method).is_some() {
            methods.push(method);
        }
    }
    Cors {
        origins,
        allow_methods: methods.join(", ").into(),
        allow_headers: allow.into(),
        expose_headers: expose.join(", ").into(),
        max_age: parse_or(file.max_age.as_ref(), Duration::from_secs(600), problems, duration),
    }
}

fn upstream(file: &file::UpstreamFile, (api, which): (&ApiFile, &str), problems: &mut Vec<Problem>) -> Upstream {
    if file.addresses.is_empty() {
        let text = format!("the upstream `{which}` of `{}` has no addresses: every request would be a 502", *api.name);
        problems.push(Problem::at(api.name.span, text).help("write `addresses: [\"127.0.0.1:9000\"]`"));
    }
    let mut addresses: Vec<Box<str>> = Vec::new();
    for text in &file.addresses {
        let port = text.rsplit_once(':').map(|(_, port)| port.parse::<u16>().is_ok_and(|p| p > 0));
        if port == Some(true) && Host::parse(text.as_bytes()).is_ok() {
            addresses.push(text.as_str().into());
        } else {
            problems.push(
                Problem::at(text.span, format!("`{}` is not an address", text.escape_debug()))
                    .help("write host and port, such as `127.0.0.1:9000`, `backend.internal:8080` or `[::1]:9000`"),
            );
        }
    }
    let span = file.addresses.first().map_or_else(Default::default, |a| a.span);
    if file.addresses.len() > ADDRESSES_MAX {
        problems.push(Problem::at(span, format!("more than {ADDRESSES_MAX} addresses")));
    }
    if let Some(retries) = file.retries.as_ref().filter(|r| ***r > RETRIES_MAX) {
        problems.push(Problem::at(retries.span, format!("at most {RETRIES_MAX} retries")));
    }
    let tls =
        file.tls.as_ref().map(|tls| UpstreamTls { name: tls.name.as_str().into(), verify: tls.verify.unwrap_or(true) });
    if let Some(tls) = &file.tls {
        check_host(&tls.name, problems);
    }
    if let Some(host) = &file.host {
        check_host(host, problems);
    }
    Upstream {
        addresses: addresses.into(),
        tls,
        http: file.http.unwrap_or(file::HttpVersionFile::H1),
        resolve_every: parse_or(file.resolve_every.as_ref(), Duration::from_secs(10), problems, duration),
        health: file.health.as_ref().map(|health| Health {
            path: health.path.as_ref().map(|p| p.as_str().into()),
            every: parse_or(health.every.as_ref(), Duration::from_secs(5), problems, duration),
        }),
        connect_timeout: parse_or(file.connect_timeout.as_ref(), Duration::from_secs(2), problems, duration),
        timeout: parse_or(file.timeout.as_ref(), Duration::from_secs(60), problems, duration),
        retries: file.retries.as_ref().map_or(1, |r| **r),
        host: file.host.as_ref().map(|h| h.as_str().into()),
    }
}

fn check_host(text: &Spanned<String>, problems: &mut Vec<Problem>) {
    if Host::parse(text.as_bytes()).is_err() {
        problems.push(Problem::at(text.span, format!("`{}` is not a host name", text.escape_debug())));
    }
}
