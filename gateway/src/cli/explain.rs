//! `tollgate explain`: the whole decision for a request, from the functions that the gateway calls.

use std::net::IpAddr;

use clap::Args;
use policy::explain::{AnsweredBy, Explanation, Question, explain};
use policy::{Circumstances, Identity, RefusalCode};

use super::{Context, Failure, print};
use crate::base::clock::{Clock as _, System, rfc3339};

/// A request to explain.
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// Id of the key that would be sent, or `-` to read the key itself from standard input.
    #[arg(long, value_name = "ID|-")]
    key: Option<String>,
    /// Id of the grant whose token would be sent.
    #[arg(long, value_name = "ID", conflicts_with = "key")]
    grant: Option<String>,
    /// Address that the request would come from.
    #[arg(long, default_value = "127.0.0.1")]
    address: IpAddr,
    /// `Origin` that a browser would send.
    #[arg(long)]
    origin: Option<String>,
    /// Method.
    method: String,
    /// URL, such as https://api.example/v2/packs
    url: String,
}

impl Explain {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let policy = context.policy()?;
        let url = Url::split(&self.url)?;
        let key = match self.key.as_deref() {
            None => None,
            Some("-") => context.key_on_stdin().await?,
            Some(id) => Some(context.store.key(id).await?),
        };
        let caller = match &key {
            Some(record) => {
                let organization = context.store.organization(&record.organization).await?;
                let missing = || Failure::Refused(format!("the organization {} is missing", record.organization));
                Some((record.facts()?, organization.ok_or_else(missing)?.facts()?))
            }
            None => None,
        };
        let token = match &self.grant {
            Some(id) => Some(super::grants::token_of(context, id).await?),
            None => None,
        };
        let question = Question {
            bounds: context.config.bounds.requests,
            is_https: url.is_https,
            method: &self.method,
            target: &url.target,
            host: &url.host,
            caller: match (&caller, &token) {
                (Some((key, organization)), _) => Some(Identity::Key(key, organization)),
                (None, Some((token, organization))) => Some(Identity::Token(token, organization)),
                // A key that was read, and that the store does not have.
                (None, None) if self.key.is_some() => None,
                (None, None) => Some(Identity::Anonymous),
            },
            circumstances: Circumstances {
                address: self.address,
                origin: self.origin.as_deref(),
                has_fetch_metadata: false,
            },
            now_ms: System.now_ms(),
        };
        let mut told = explain(&policy, &question);
        if told.answered_by == AnsweredBy::Upstream
            && let Some(caller) = question.caller.filter(|caller| caller.organization().is_some())
        {
            self.add_what_is_left(context, &policy, (&question, caller), &mut told).await?;
        }
        if context.json {
            return print::json(&told);
        }
        for step in &told.steps {
            let mark = if step.passed { "pass" } else { "STOP" };
            print::line(&format!("{mark}  {:<10} {}", step.step, step.found))?;
        }
        match (told.code, told.answered_by) {
            (Some(code), _) => print::line(&format!("answer: {} {code}", told.status)),
            (None, AnsweredBy::Upstream) => print::line("answer: forwarded"),
            (None, AnsweredBy::Issuer) => print::line("answer: by the authorization server"),
            (None, AnsweredBy::Gateway) => print::line(&format!("answer: {} by the gateway", told.status)),
        }
    }

    /// Says of each bucket what is left. Whoever cannot tell says so; the rest of the story stands.
    async fn add_what_is_left(
        &self,
        context: &Context,
        policy: &policy::Policy,
        (question, caller): (&Question<'_>, Identity<'_>),
        told: &mut Explanation,
    ) -> Result<(), Failure> {
        let parsed = question.target();
        let api = parsed.as_ref().ok().and_then(|target| policy.api_at(&target.host));
        let (Ok(target), Some(api)) = (&parsed, api) else { return Ok(()) };
        let Ok(grant) = api.authorize(target, caller, &question.circumstances) else { return Ok(()) };
        let charges: Vec<_> = grant.charges().iter().flat_map(|charges| charges.iter().copied()).collect();
        let steps = told.steps.iter_mut().filter(|step| step.step == "limits");
        match super::limits::standings(context, &charges).await {
            Ok(standings) => {
                let mut is_over = false;
                for ((step, charge), standing) in steps.zip(&charges).zip(standings) {
                    let whole = rfc3339(standing.window.end_ms);
                    step.found += &format!("; {} of {} left until {whole}", standing.remaining, standing.limit);
                    step.passed = standing.remaining >= charge.cost;
                    is_over |= !step.passed;
                }
                if is_over {
                    let code = RefusalCode::LIMIT_EXCEEDED;
                    (told.status, told.code) = (code.status(), Some(code.as_str()));
                    told.answered_by = AnsweredBy::Gateway;
                    told.steps.retain(|step| step.step != "upstream");
                }
            }
            Err(why) => steps.for_each(|step| step.found += &format!("; what is left is not known: {why}")),
        }
        Ok(())
    }
}

/// The parts of a URL that a decision needs.
struct Url {
    is_https: bool,
    host: String,
    target: String,
}

impl Url {
    fn split(url: &str) -> Result<Self, Failure> {
        let no_url = || Failure::Refused(format!("`{url}` is not a URL; write it like https://api.example/v2/packs"));
        let (scheme, rest) = url.split_once("://").ok_or_else(no_url)?;
        let is_https = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(no_url()),
        };
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if host.is_empty() {
            return Err(no_url());
        }
        let target = if path.is_empty() { "/" } else { path };
        Ok(Url { is_https, host: host.to_owned(), target: target.to_owned() })
    }
}
