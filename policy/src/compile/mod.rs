//! Policy files in, one immutable [`Policy`] out, or every problem at once.
//!
//! Three steps: text to tree (the YAML library), tree against the schema (all mistakes of shape,
//! cut out), what is left to types and to the policy (all mistakes of meaning). A policy is only
//! returned when no step had anything to say: half a policy is never in force.

mod api;
pub(crate) mod oauth;
mod routes;

use std::sync::Arc;

use serde::Deserialize;

use crate::file::PolicyFile;
use crate::policy::Policy;
use crate::problem::{Problem, Problems, Source};
use crate::route::{Api, Names};
use crate::span::Span;
use crate::{shape, tree};

/// Most problems reported in one run; the rest would only repeat them.
const PROBLEMS_MAX: usize = 200;
/// Most APIs in one policy.
pub const APIS_MAX: usize = 64;
/// Most routes in one API.
pub const ROUTES_MAX: usize = 20_000;

/// Compiles a set of policy files.
pub fn compile(sources: Vec<Source>) -> Result<Policy, Problems> {
    let schema = crate::file::schema();
    let mut problems = Vec::new();
    let mut apis: Vec<(Span, Api)> = Vec::new();
    for (number, source) in sources.iter().enumerate() {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let Some(file) = read(number, &source.text, &schema, &mut problems) else { continue };
        if *file.version != 1 {
            problems.push(
                Problem::at(file.version.span, format!("version {} is not known", *file.version))
                    .help("write `version: 1`"),
            );
        }
        if file.apis.is_empty() && problems.is_empty() {
            problems.push(
                Problem::at(file.version.span, "the file has no APIs")
                    .help("a file that lost its APIs would take them out of force; leave the file out instead"),
            );
        }
        for api in &file.apis {
            if let Some(compiled) = api::compile(api, &mut problems) {
                apis.push((api.name.span, compiled));
            }
        }
    }
    if apis.is_empty() && problems.is_empty() {
        let at = Span { line: 1, column: 1, ..Span::default() };
        problems.push(Problem::at(at, "the policy has no APIs").help("an empty policy would refuse every request"));
    }
    if let Some((span, _)) = apis.get(APIS_MAX) {
        problems.push(Problem::at(*span, format!("more than {APIS_MAX} APIs")));
    }
    let hosts = unique_hosts(&apis, &mut problems);
    let issuers = unique_issuers(&apis, &hosts, &mut problems);
    unique_names_and_prefixes(&apis, &mut problems);
    if problems.is_empty() {
        let prefixes = apis.iter().flat_map(|(_, api)| api.prefixes.iter().map(|(prefix, _)| prefix.clone()));
        let reserved: Arc<[Box<str>]> = prefixes.collect();
        let numbered = (0..).zip(apis).map(|(index, (_, api))| Api { index, reserved: reserved.clone(), ..api });
        return Ok(Policy { apis: numbered.collect(), hosts, issuers });
    }
    problems.sort_by_key(|p| p.span);
    problems.dedup();
    problems.truncate(PROBLEMS_MAX);
    Err(Problems { list: problems, sources, subject: "the policy was" })
}

fn read(number: u32, text: &str, schema: &serde_json::Value, problems: &mut Vec<Problem>) -> Option<PolicyFile> {
    let root = match tree::parse(number, text) {
        Ok(root) => root,
        Err(problem) => {
            problems.push(problem);
            return None;
        }
    };
    let span = root.span;
    let root = shape::check(root, schema, problems)?;
    PolicyFile::deserialize(&root)
        .map_err(|error| problems.push(Problem::at(span, format!("the policy could not be read: {error}"))))
        .ok()
}

fn unique_hosts(apis: &[(Span, Api)], problems: &mut Vec<Problem>) -> Names<usize> {
    let mut hosts = Names::default();
    for (index, (span, api)) in apis.iter().enumerate() {
        for host in &api.hosts {
            if let Some(other) = hosts.insert(host.clone(), index) {
                let name = apis.get(other).map_or("", |(_, a)| &*a.name);
                problems.push(
                    Problem::at(*span, format!("the host `{host}` of `{}` already belongs to `{name}`", api.name))
                        .help("a host leads to one API"),
                );
            }
        }
    }
    hosts
}

/// Hosts of authorization servers; none of them is the host of an API.
fn unique_issuers(apis: &[(Span, Api)], hosts: &Names<usize>, problems: &mut Vec<Problem>) -> Names<usize> {
    let mut issuers = Names::default();
    for (index, (span, api)) in apis.iter().enumerate() {
        let Some(oauth) = &api.oauth else { continue };
        let is_taken = hosts.contains_key(&oauth.host) || issuers.insert(oauth.host.clone(), index).is_some();
        if is_taken {
            problems.push(
                Problem::at(
                    *span,
                    format!("the host `{}` of the issuer of `{}` is already taken", oauth.host, api.name),
                )
                .help("an authorization server has a host of its own, such as `auth.example.com`"),
            );
        }
    }
    issuers
}

fn unique_names_and_prefixes(apis: &[(Span, Api)], problems: &mut Vec<Problem>) {
    for (index, (span, api)) in apis.iter().enumerate() {
        for (_, other) in apis.iter().take(index) {
            if other.name == api.name {
                problems.push(Problem::at(*span, format!("there are two APIs with the name `{}`", api.name)));
            }
        }
        let earlier = apis.iter().take(index).flat_map(|(_, a)| a.prefixes.iter());
        for (i, (prefix, _)) in api.prefixes.iter().enumerate() {
            let own = api.prefixes.iter().take(i);
            let clash = earlier.clone().chain(own).find(|(o, _)| o.starts_with(&**prefix) || prefix.starts_with(&**o));
            if let Some((other, _)) = clash {
                problems.push(
                    Problem::at(*span, format!("the key prefixes `{prefix}` and `{other}` begin alike"))
                        .help("a prefix must tell API and environment, so none may begin another"),
                );
            }
        }
    }
}
