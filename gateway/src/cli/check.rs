//! `tollgate check`: every problem of what a gateway would start with, or of some policy files, with
//! line, excerpt and suggestion.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::{Failure, print};
use crate::base::clock::{Clock as _, System};
use crate::config::{Config, ConfigError};
use crate::edge::tls::Certificates;

/// What to check.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// Policy files, checked together as a gateway would load them. Without any, everything that the
    /// settings name is checked: settings, policies, certificates, keys, pepper, authorities, store URL.
    #[arg(value_name = "POLICY")]
    files: Vec<PathBuf>,
}

impl Check {
    pub(super) fn run(&self, settings: &Path, json: bool) -> Result<(), Failure> {
        if self.files.is_empty() {
            return whole(settings, json);
        }
        let policy = policy(&self.files, Failure::Refused).or_else(|failure| reported(failure, &[], json))?;
        fits(&policy, json)
    }
}

/// What there is of one API.
#[derive(serde::Serialize)]
struct Counts {
    name: String,
    routes: usize,
    scopes: usize,
    plans: usize,
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Counts { name, routes, scopes, plans } = self;
        write!(f, "ok: {name}: {routes} routes, {scopes} scopes, {plans} plans")
    }
}

fn counts(policy: &policy::Policy) -> Vec<Counts> {
    let count = |api: &policy::Api| Counts {
        name: api.name.to_string(),
        routes: api.routes.len(),
        scopes: api.scopes.len(),
        plans: api.plans.len(),
    };
    policy.apis.iter().map(count).collect()
}

fn policy(files: &[PathBuf], unreadable: impl Fn(String) -> Failure) -> Result<policy::Policy, Failure> {
    let sources = crate::snapshot::read(files).map_err(|error| unreadable(error.to_string()))?;
    policy::compile(sources).map_err(|problems| Failure::Problems(Box::new(problems)))
}

/// Everything that a gateway would start with, as `nginx -t` does it.
fn whole(settings: &Path, json: bool) -> Result<(), Failure> {
    let config = match Config::read(settings) {
        Ok(config) => config,
        Err(error) => return reported(Failure::Config(error), &[], json),
    };
    let now_s = i64::try_from(System.now_ms() / 1_000).unwrap_or(i64::MAX);
    let certificates = Certificates::load(&config.certificates, now_s).and_then(Certificates::in_force);
    let certificates = certificates.map_err(|fault| fault.to_string());
    let authorities = [("upstream_ca", &config.upstream_ca), ("issuer_ca", &config.issuer_ca)];
    let unreadable = authorities.into_iter().filter_map(|(field, path)| {
        let path = path.as_ref()?;
        let count = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        match count {
            Ok(list) if list.is_empty() => Some(format!("{field}: there is no certificate in {}", path.display())),
            Ok(_) => None,
            Err(error) => Some(format!("{field}: cannot read {}: {error}", path.display())),
        }
    });
    let faults: Vec<String> = certificates.err().into_iter().chain(unreadable).collect();
    let policy = match (policy(&config.policy, Failure::Unfit), faults.split_last()) {
        (Ok(policy), None) => policy,
        (Ok(_), Some((last, others))) => return reported(Failure::Unfit(last.clone()), others, json),
        (Err(failure), _) => return reported(failure, &faults, json),
    };
    if !json {
        let (settings, certificates) = (settings.display(), config.certificates.len());
        print::line(&format!("ok: {settings}: settings, {certificates} certificates, pepper, store"))?;
    }
    fits(&policy, json)
}

/// Says what there is of each API.
fn fits(policy: &policy::Policy, json: bool) -> Result<(), Failure> {
    let counts = counts(policy);
    if json {
        return print::json(&serde_json::json!({ "ok": true, "apis": counts }));
    }
    counts.iter().try_for_each(|api| print::line(&api.to_string()))
}

/// Passes a failure on, after what else was found; in JSON all of it is printed first.
fn reported<T>(failure: Failure, others: &[String], json: bool) -> Result<T, Failure> {
    let problems: Option<&policy::Problems> = match &failure {
        Failure::Problems(problems) => Some(problems),
        Failure::Config(ConfigError::Wrong(problems)) => Some(problems),
        Failure::Refused(_)
        | Failure::Unfit(_)
        | Failure::Config(_)
        | Failure::Store(_)
        | Failure::Start(_)
        | Failure::System(_) => None,
    };
    if json {
        let mut list: Vec<_> = match problems {
            Some(problems) => problems.list.iter().map(|problem| problem_json(problems, problem)).collect(),
            None => vec![serde_json::json!({ "message": failure.to_string() })],
        };
        list.extend(others.iter().map(|message| serde_json::json!({ "message": message })));
        print::json(&serde_json::json!({ "ok": false, "problems": list }))?;
    } else {
        others.iter().try_for_each(|fault| writeln!(std::io::stderr(), "error: {fault}"))?;
    }
    Err(failure)
}

fn problem_json(problems: &policy::Problems, problem: &policy::Problem) -> serde_json::Value {
    let file = problems.sources.get(problem.span.file as usize).map(|s| s.name.as_str());
    serde_json::json!({
        "file": file,
        "line": problem.span.line,
        "column": problem.span.column,
        "message": problem.message,
        "help": problem.help,
    })
}
