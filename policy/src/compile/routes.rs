//! The routes of one API, with their total order made sure of.

use std::collections::HashMap;
use std::sync::Arc;

use super::ROUTES_MAX;
use super::api::{parse, parse_or};
use crate::file::{self, AccessFile, ApiFile, PathFormFile, ProtocolFile, RouteFile};
use crate::identity::{Scope, Scopes};
use crate::limit::{CHARGES_MAX, Limit, Per};
use crate::path::{Form, Forms};
use crate::problem::{Problem, nearest, slip};
use crate::route::{Access, Mode, Protocols, Route, RouteClass};
use crate::router::{Pattern, Router};
use crate::target::Method;
use crate::units::{Rate, duration, is_name, size};

/// Methods that are often meant.
const COMMON_METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// Largest request body when a route says nothing.
const BODY_BYTES_DEFAULT: u64 = 10 << 20;
/// Most tokens a request can take.
const COST_MAX: u32 = 1_000_000;

pub(super) fn compile(
    api: &ApiFile,
    scopes: &[(Scope, Box<str>)],
    plan_limits: usize,
    problems: &mut Vec<Problem>,
) -> (Box<[Route]>, Router) {
    let mut router = Router::default();
    let mut routes: Vec<Route> = Vec::new();
    let mut ids: HashMap<&str, u32> = HashMap::new();
    if api.routes.is_empty() {
        problems
            .push(Problem::at(api.name.span, format!("`{}` has no routes: every request would be refused", *api.name)));
    }
    for file in api.routes.iter().take(ROUTES_MAX + 1) {
        let index = u32::try_from(routes.len()).unwrap_or(u32::MAX);
        if let Some(line) = ids.insert(file.id.as_str(), file.id.span.line) {
            problems
                .push(Problem::at(file.id.span, format!("the route id `{}` is already used in line {line}", *file.id)));
        }
        insert(file, index, &mut router, api, problems);
        routes.push(Route { index, ..route(file, api, scopes, plan_limits, problems) });
    }
    if routes.len() > ROUTES_MAX {
        problems.push(Problem::at(api.name.span, format!("more than {ROUTES_MAX} routes")));
    }
    (routes.into(), router)
}

/// Enters a route's patterns; two routes for the same pattern and method are a problem.
fn insert(file: &RouteFile, index: u32, router: &mut Router, api: &ApiFile, problems: &mut Vec<Problem>) {
    let mut methods = Vec::new();
    for text in &file.methods {
        match Method::parse(text) {
            Some(Method::HEAD) => {
                problems.push(Problem::at(text.span, "HEAD follows GET and is not listed").help("write GET"))
            }
            // Any token is a method; one that is a slip of the pen away from a common one is hardly meant.
            Some(method) => match slip(text, COMMON_METHODS) {
                Some(near) => problems.push(
                    Problem::at(text.span, format!("`{method}` is hardly meant: methods are {near} and the like"))
                        .help(format!("did you mean `{near}`?")),
                ),
                None => methods.push(method),
            },
            None => problems.push(
                Problem::at(text.span, format!("`{}` is not a method", text.escape_debug()))
                    .help("a method is a token such as GET, POST, PROPFIND; CONNECT and TRACE are never forwarded"),
            ),
        }
    }
    if file.methods.is_empty() || file.paths.is_empty() {
        problems.push(Problem::at(file.id.span, format!("the route `{}` needs methods and paths", *file.id)));
    }
    for text in &file.paths {
        let Some(pattern) = parse(text, problems, Pattern::parse) else { continue };
        if pattern.forms.beyond(Forms::NONE).any(|form| form == Form::OtherUnicode) {
            problems.push(
                Problem::at(text.span, format!("`{}` is not in the normal form NFC and NFKC", text.escape_debug()))
                    .help("write it so: what a backend folds to the same text would be another route"),
            );
            continue;
        }
        for form in pattern.forms.beyond(forms(file)) {
            let name = PathFormFile::of(form).as_str();
            problems.push(
                Problem::at(text.span, format!("the route does not take the form of its own pattern `{}`", **text))
                    .help(format!("write `paths_may: [{name}]`")),
            );
        }
        for method in &methods {
            if let Some(taken) = router.insert(&pattern, *method, index) {
                let other = api.routes.get(taken as usize);
                let id = other.map_or("?", |r| r.id.as_str());
                let line = other.map_or(0, |r| r.id.span.line);
                problems.push(
                    Problem::at(
                        text.span,
                        format!("{method} `{}` already belongs to the route `{id}` in line {line}", **text),
                    )
                    .help("a method and pattern lead to one route"),
                );
            }
        }
    }
}

fn route(
    file: &RouteFile,
    api: &ApiFile,
    scopes: &[(Scope, Box<str>)],
    plan_limits: usize,
    problems: &mut Vec<Problem>,
) -> Route {
    if !is_name(&file.id) {
        problems.push(Problem::at(
            file.id.span,
            format!("`{}` is not a route id; use letters, digits, `-`, `_` and `.`", file.id.escape_debug()),
        ));
    }
    let cost = file.cost.as_ref().map_or(1, |c| **c);
    if let Some(text) = file.cost.as_ref().filter(|_| cost == 0 || cost > COST_MAX) {
        problems.push(Problem::at(text.span, format!("a cost is 1 to {COST_MAX}")));
    }
    let limits = limits(file, api, cost, problems);
    if plan_limits + limits.len() > CHARGES_MAX {
        problems.push(
            Problem::at(
                file.id.span,
                format!("a request to `{}` would be charged to {} limits", *file.id, plan_limits + limits.len()),
            )
            .help(format!("plan and route together may have {CHARGES_MAX}")),
        );
    }
    let reads = file.methods.iter().all(|m| m.as_str() == "GET");
    let class = match file.class {
        Some(file::RouteClassFile::Read) => RouteClass::Read,
        Some(file::RouteClassFile::Write) => RouteClass::Write,
        None if reads => RouteClass::Read,
        None => RouteClass::Write,
    };
    let mode = match file.authorization.or(api.authorization) {
        Some(file::ModeFile::Shadow) => Mode::Shadow,
        Some(file::ModeFile::Enforce) | None => Mode::Enforce,
    };
    Route {
        index: 0,
        id: Arc::from(file.id.as_str()),
        access: access(file, scopes, problems),
        public_keys: file.public_keys.unwrap_or(false),
        class,
        cost,
        limits,
        body_bytes_max: parse_or(file.body_max.as_ref(), BODY_BYTES_DEFAULT, problems, size),
        timeout: file.timeout.as_ref().and_then(|t| parse(t, problems, duration)),
        ends_with_credential: file.ends_with_credential.unwrap_or(true),
        protocols: Protocols {
            websocket: file.allow.contains(&ProtocolFile::Websocket),
            sse: file.allow.contains(&ProtocolFile::Sse),
            grpc: file.allow.contains(&ProtocolFile::Grpc),
        },
        paths_may: forms(file),
        outage: file.outage.or(api.outage).unwrap_or(file::OutageFile::LocalShare),
        mode,
    }
}

fn forms(file: &RouteFile) -> Forms {
    file.paths_may.iter().fold(Forms::NONE, |forms, form| forms.with(form.form()))
}

fn limits(file: &RouteFile, api: &ApiFile, cost: u32, problems: &mut Vec<Problem>) -> Box<[Limit]> {
    let mut limits: Vec<Limit> = Vec::new();
    for entry in &file.limits {
        let Some(rate) = parse(&entry.rate, problems, str::parse::<Rate>) else { continue };
        if cost > rate.count {
            problems.push(Problem::at(entry.rate.span, format!("a request costs {cost} and could never be admitted")));
        }
        let (per, stem) = match entry.per {
            Some(file::PerFile::Organization) => (Per::Organization, format!("{}-org", *file.id)),
            Some(file::PerFile::Key) | None => (Per::Key, file.id.value.clone()),
        };
        let limit = Limit::new(&api.name, &stem, rate, per);
        if limits.iter().any(|other| other.name == limit.name) {
            problems.push(Problem::at(entry.rate.span, format!("the route has two limits `{}`", limit.name)));
        }
        limits.push(limit);
    }
    limits.into()
}

fn access(file: &RouteFile, declared: &[(Scope, Box<str>)], problems: &mut Vec<Problem>) -> Access {
    let list = match &file.access {
        AccessFile::Public => return Access::Public,
        AccessFile::Authenticated => return Access::Authenticated,
        AccessFile::Scopes(list) => list,
    };
    if list.is_empty() {
        problems.push(
            Problem::at(file.id.span, "an empty list of scopes")
                .help("write `access: authenticated` when any working key will do"),
        );
    }
    let mut required = Vec::new();
    for text in list {
        let Some(scope) = parse(text, problems, Scope::parse) else { continue };
        if !declared.iter().any(|(known, _)| *known == scope) {
            let problem = Problem::at(text.span, format!("the scope `{scope}` is not declared"));
            problems.push(match nearest(scope.as_str(), declared.iter().map(|(s, _)| s.as_str())) {
                Some(near) => problem.help(format!("did you mean `{near}`?")),
                None => problem.help("declare it under `scopes:` with a sentence that says what it allows"),
            });
        }
        required.push(scope);
    }
    match Scopes::new(required) {
        Ok(scopes) => Access::Scopes(scopes),
        Err(message) => {
            problems.push(Problem::at(file.id.span, message));
            Access::Scopes(Scopes::default())
        }
    }
}
