//! `tollgate explain`: the whole decision for a request, from the functions that the proxy calls.

use std::io::Read as _;
use std::net::IpAddr;

use clap::Args;
use policy::Circumstances;
use policy::Identity;
use policy::credential::Secret;
use policy::explain::{Explanation, Question, explain};

use super::{Desk, Failure, print};
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

/// Longest key read from standard input.
const KEY_BYTES_MAX: u64 = 4_096;

impl Explain {
    pub(super) async fn run(&self, desk: &Desk) -> Result<(), Failure> {
        let policy = desk.policy()?;
        let (host, target) = split(&self.url)?;
        let key = match self.key.as_deref() {
            None => None,
            Some("-") => Some(self.read_key(desk).await?),
            Some(id) => Some(desk.store.key(id).await?),
        };
        let caller = match &key {
            Some(record) => {
                let organization = desk.store.organization(&record.organization).await?;
                let missing = || Failure::Refused(format!("the organization {} is missing", record.organization));
                Some((record.facts()?, organization.ok_or_else(missing)?.facts()?))
            }
            None => None,
        };
        let token = match &self.grant {
            Some(id) => Some(super::grants::token_of(desk, id).await?),
            None => None,
        };
        let question = Question {
            bounds: desk.config.bounds.requests,
            method: &self.method,
            target: &target,
            host: &host,
            caller: match (&caller, &token) {
                (Some((key, organization)), _) => Identity::Key(key, organization),
                (None, Some((token, organization))) => Identity::Token(token, organization),
                (None, None) => Identity::Anonymous,
            },
            circumstances: Circumstances {
                address: self.address,
                origin: self.origin.as_deref(),
                has_fetch_metadata: false,
            },
            now_ms: System.now_ms(),
        };
        let mut told = explain(&policy, &question);
        if told.code.is_none() && question.caller.organization().is_some() {
            self.add_what_is_left(desk, &policy, &question, &mut told).await?;
        }
        if desk.json {
            return print::json(&told);
        }
        for step in &told.steps {
            let mark = if step.passed { "pass" } else { "STOP" };
            print::line(&format!("{mark}  {:<10} {}", step.step, step.found))?;
        }
        match told.code {
            Some(code) => print::line(&format!("answer: {} {code}", told.status)),
            None => print::line("answer: forwarded"),
        }
    }

    /// Says of each bucket what is left. Whoever cannot tell says so; the rest of the story stands.
    async fn add_what_is_left(
        &self,
        desk: &Desk,
        policy: &policy::Policy,
        question: &Question<'_>,
        told: &mut Explanation,
    ) -> Result<(), Failure> {
        let parsed = question.target();
        let api = parsed.as_ref().ok().and_then(|target| policy.api_at(&target.host));
        let (Ok(target), Some(api)) = (&parsed, api) else { return Ok(()) };
        let Ok(grant) = api.authorize(target, question.caller, &question.circumstances) else { return Ok(()) };
        let charges: Vec<_> = grant.charges().iter().flat_map(|charges| charges.iter().copied()).collect();
        let steps = told.steps.iter_mut().filter(|step| step.step == "limits");
        match super::limits::standings(desk, &charges).await {
            Ok(standings) => {
                let mut is_over = false;
                for ((step, charge), standing) in steps.zip(&charges).zip(standings) {
                    let whole = rfc3339(standing.window.end_ms);
                    step.found += &format!("; {} of {} left until {whole}", standing.remaining, standing.limit);
                    step.passed = standing.remaining >= charge.cost;
                    is_over |= !step.passed;
                }
                if is_over {
                    (told.status, told.code) = (429, Some("limit_exceeded"));
                    told.steps.retain(|step| step.step != "upstream");
                }
            }
            Err(why) => steps.for_each(|step| step.found += &format!("; what is left is not known: {why}")),
        }
        Ok(())
    }

    async fn read_key(&self, desk: &Desk) -> Result<crate::store::KeyRecord, Failure> {
        let mut text = zeroize::Zeroizing::new(String::new());
        std::io::stdin().take(KEY_BYTES_MAX).read_to_string(&mut text)?;
        let secret = Secret::new(text.trim());
        let (current, previous) = desk.config.peppers.digests(secret);
        for digest in [Some(current), previous].into_iter().flatten() {
            if let Some(key) = desk.store.find_key(&digest).await? {
                return Ok(key);
            }
        }
        Err(Failure::Refused("no such key in the store; the answer would be 401 invalid_credential".into()))
    }
}

fn split(url: &str) -> Result<(String, String), Failure> {
    let explain = || Failure::Refused(format!("`{url}` is not a URL; write it like https://api.example/v2/packs"));
    let (scheme, rest) = url.split_once("://").ok_or_else(explain)?;
    if scheme != "https" {
        return Err(Failure::Refused(
            "plain HTTP is always refused with 403 https_required; explain an https:// URL".into(),
        ));
    }
    let at = rest.find('/').unwrap_or(rest.len());
    let (host, path) = rest.split_at(at);
    if host.is_empty() {
        return Err(explain());
    }
    Ok((host.to_owned(), if path.is_empty() { "/".to_owned() } else { path.to_owned() }))
}
