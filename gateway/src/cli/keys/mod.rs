//! `tollgate keys`: making, showing and ending keys.

pub(super) mod issue;
mod list;

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};

pub(super) use self::issue::{Create, Import, Rotate};
use super::{Context, Failure, print};
use crate::base::clock::{Clock as _, System, rfc3339};
use crate::store::{Exposure, KeyRecord, Position, StoreError};

/// API keys.
#[derive(Debug, Subcommand)]
pub(super) enum Keys {
    /// Create a key and show it, once.
    Create(Create),
    /// Import a key made elsewhere, plain or hashed.
    Import(Import),
    /// List keys, newest first.
    List(list::List),
    /// Show a key: everything but its secret.
    Show {
        /// Its id.
        id: String,
    },
    /// Stop a key until it is resumed.
    Suspend(Ending),
    /// Let a suspended key work again.
    Resume(Ending),
    /// End a key for good.
    Revoke(Ending),
    /// Say that an exposure was looked at and matters no more.
    ClearExposure {
        /// Its id.
        id: String,
        /// Why, for whoever asks later.
        #[arg(long)]
        reason: String,
    },
    /// Replace a key: a new one with the same rights, the old one valid for an overlap.
    Rotate(Rotate),
}

/// A key to change, and whether to wait for all gateways.
#[derive(Debug, Args)]
pub(super) struct Ending {
    /// Its id.
    id: String,
    #[command(flatten)]
    wait: Wait,
}

/// Waiting for gateways.
#[derive(Debug, Args)]
pub(super) struct Wait {
    /// Wait until every gateway has acknowledged the change.
    #[arg(long)]
    wait: bool,
    /// Longest wait, in seconds.
    #[arg(long, default_value_t = 5, value_name = "SECONDS")]
    wait_timeout: u64,
}

/// Who acknowledged a change, and how fast.
#[derive(Debug, serde::Serialize)]
pub(super) struct Acknowledged {
    acknowledged: usize,
    gateways: usize,
    within_ms: u64,
}

impl std::fmt::Display for Acknowledged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Acknowledged { acknowledged, gateways, within_ms } = self;
        write!(f, "acknowledged by {acknowledged} of {gateways} gateways within {within_ms} ms")
    }
}

impl Wait {
    /// Waits, if asked to.
    pub(super) async fn run(&self, context: &Context, position: &Position) -> Result<Option<Acknowledged>, Failure> {
        if !self.wait {
            return Ok(None);
        }
        let started = Instant::now();
        loop {
            let gateways = context.store.gateways(System.now_ms()).await.map_err(|error| {
                StoreError::Unavailable(format!(
                    "the change is stored, but who has acknowledged it cannot be read: {error}"
                ))
            })?;
            let acknowledged = gateways.iter().filter(|g| context.store.is_at(&g.position, position)).count();
            let within_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            if acknowledged > 0 && acknowledged == gateways.len() {
                return Ok(Some(Acknowledged { acknowledged, gateways: gateways.len(), within_ms }));
            }
            if started.elapsed() >= Duration::from_secs(self.wait_timeout) {
                if gateways.is_empty() {
                    return Err(Failure::Refused(format!(
                        "the change is stored, but no gateway has acknowledged it within {within_ms} ms: none is heard of on this store"
                    )));
                }
                let silent: Vec<&str> = gateways
                    .iter()
                    .filter(|g| !context.store.is_at(&g.position, position))
                    .map(|g| g.id.as_str())
                    .collect();
                return Err(Failure::Refused(format!(
                    "the change is stored, but after {within_ms} ms only {acknowledged} of {} gateways have acknowledged it; missing: {}",
                    gateways.len(),
                    silent.join(", ")
                )));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Keys {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Keys::Create(create) => create.run(context).await,
            Keys::Import(import) => import.run(context).await,
            Keys::Rotate(rotate) => rotate.run(context).await,
            Keys::List(list) => list.run(context).await,
            Keys::ClearExposure { id, reason } => clear_exposure(context, &id, reason).await,
            Keys::Show { id } => show(context, &context.store.key(&id).await?),
            Keys::Suspend(ending) => ended(context, context.keys().suspend(&ending.id).await?, &ending).await,
            Keys::Resume(ending) => ended(context, context.keys().resume(&ending.id).await?, &ending).await,
            Keys::Revoke(ending) => ended(context, context.keys().revoke(&ending.id).await?, &ending).await,
        }
    }
}

async fn ended(context: &Context, (key, position): (KeyRecord, Position), ending: &Ending) -> Result<(), Failure> {
    let waited = ending.wait.run(context, &position).await?;
    if context.json {
        let mut value = view(&key);
        if let (Some(map), Some(waited)) = (value.as_object_mut(), &waited) {
            map.insert("wait".into(), serde_json::to_value(waited).map_err(std::io::Error::from)?);
        }
        return print::json(&value);
    }
    let state = key.state(System.now_ms());
    print::line(&match waited {
        Some(waited) => format!("{} is {state}; {waited}", key.id),
        None => format!("{} is {state}", key.id),
    })
}

async fn clear_exposure(context: &Context, id: &str, reason: String) -> Result<(), Failure> {
    let key = context.keys().clear_exposure(id, reason).await?;
    if context.json {
        print::json(&view(&key))
    } else {
        print::line(&format!("{id} is not marked as exposed any more"))
    }
}

/// A key as JSON, as it is now.
pub(super) fn view(key: &KeyRecord) -> serde_json::Value {
    crate::registry::views::key(key, System.now_ms())
}

fn show(context: &Context, key: &KeyRecord) -> Result<(), Failure> {
    if context.json {
        return print::json(&view(key));
    }
    let time = |ms: Option<u64>| ms.map(rfc3339).unwrap_or_default();
    let exposed = key.exposure().map(|(ms, how)| {
        let how = match how {
            Exposure::PlainHttp => "sent over plain HTTP",
            Exposure::Browser => "used from a browser",
        };
        format!("{how} at {}: replace it, or `tollgate keys clear-exposure`", rfc3339(ms))
    });
    let used = key.last_use.as_ref().map(|u| format!("{} on {} from {}", rfc3339(u.ms), u.route, u.address));
    let cleared = key.exposure_cleared.as_ref().map(|c| format!("{} by {}: {}", rfc3339(c.ms), c.by, c.reason));
    print::fields(&[
        ("id", key.id.clone()),
        ("state", key.state(System.now_ms()).into()),
        ("api", key.api.clone()),
        ("organization", key.organization.clone()),
        ("name", key.name.clone()),
        ("class", key.class.as_str().into()),
        ("environment", key.environment.as_str().into()),
        ("key", key.display.clone()),
        ("scopes", key.scopes.join(" ")),
        ("created", format!("{} by {}", rfc3339(key.created_ms), key.created_by)),
        ("expires", time(key.not_after_ms)),
        ("suspended", time(key.suspended_ms)),
        ("revoked", time(key.revoked_ms)),
        ("replaced by", key.replaced_by.clone().unwrap_or_default()),
        ("addresses", key.networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")),
        ("origins", key.origins.join(" ")),
        ("limit", key.limit.clone().unwrap_or_else(|| "(plan)".into())),
        ("last used", used.unwrap_or_else(|| "never".into())),
        ("exposed", exposed.unwrap_or_default()),
        ("exposure cleared", cleared.unwrap_or_default()),
    ])
}
