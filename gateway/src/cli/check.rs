//! `tollgate check`: every problem of policy files, with line, excerpt and suggestion.

use std::path::PathBuf;

use clap::Args;

use super::{Failure, print};

/// Policy files to check, together as a gateway would load them.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// Policy files.
    #[arg(required = true, value_name = "POLICY")]
    files: Vec<PathBuf>,
}

impl Check {
    pub(super) fn run(&self, json: bool) -> Result<(), Failure> {
        let sources = crate::snapshot::read(&self.files).map_err(|e| Failure::Refused(e.to_string()))?;
        let policy = match policy::compile(sources) {
            Ok(policy) => policy,
            Err(problems) if json => {
                let list: Vec<_> = problems.list.iter().map(|p| problem_json(&problems, p)).collect();
                print::json(&serde_json::json!({ "ok": false, "problems": list }))?;
                return Err(Failure::Problems(Box::new(problems)));
            }
            Err(problems) => return Err(Failure::Problems(Box::new(problems))),
        };
        let counts =
            policy.apis.iter().map(|api| (api.name.to_string(), api.routes.len(), api.scopes.len(), api.plans.len()));
        if json {
            let apis: Vec<_> = counts.map(|(name, routes, scopes, plans)| serde_json::json!({ "name": name, "routes": routes, "scopes": scopes, "plans": plans })).collect();
            return print::json(&serde_json::json!({ "ok": true, "apis": apis }));
        }
        for (name, routes, scopes, plans) in counts {
            print::line(&format!("ok: {name}: {routes} routes, {scopes} scopes, {plans} plans"))?;
        }
        Ok(())
    }
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
