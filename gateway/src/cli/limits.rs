//! `tollgate limits …`: where the limits of a key stand, without spending any; also what `explain`
//! says is left.

use std::time::Duration;

use clap::Subcommand;
use pingora::connectors::http::Connector;
use pingora::prelude::HttpPeer;
use pingora_http::RequestHeader;
use policy::Identity;
use policy::limit::Charge;
use serde::Deserialize;

use super::{Context, Failure, print};
use crate::admit::inspect;
use crate::base::clock::{Clock as _, System, rfc3339};
use crate::limit::{Leasing, Limiter as _, Standing};
use crate::observe::Metrics;

/// Commands about limits.
#[derive(Debug, Subcommand)]
pub(super) enum Limits {
    /// Show every limit of a key: what is left, and when it is whole again.
    Show {
        /// Id of the key.
        key: String,
    },
}

/// Longest wait for a Redis or a gateway.
const PATIENCE: Duration = Duration::from_secs(2);
/// Buckets held while looking.
const BUCKETS_MAX: usize = 1_000;

impl Limits {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let Limits::Show { key } = self;
        let policy = context.policy()?;
        let record = context.store.key(key).await?;
        let organization = context.store.organization(&record.organization).await?;
        let missing = || Failure::Refused(format!("the organization {} is missing", record.organization));
        let (key, organization) = (record.facts()?, organization.ok_or_else(missing)?.facts()?);
        let gone = || Failure::Refused(format!("the API {} is not in the policy any more", key.api));
        let api = policy.api(&key.api).ok_or_else(gone)?;
        let buckets = inspect::buckets(api, Identity::Key(&key, &organization));
        let charges: Vec<Charge<'_>> = buckets.iter().map(|bucket| bucket.charge).collect();
        let standings = standings(context, &charges).await?;
        let seen: Vec<inspect::LimitSeen> =
            buckets.iter().zip(&standings).map(|(bucket, standing)| inspect::seen(bucket, standing)).collect();
        if context.json {
            return print::json(&seen);
        }
        let rows = seen.into_iter().map(|limit| {
            vec![
                limit.name,
                limit.route.unwrap_or_else(|| "all".to_owned()),
                limit.limit.to_string(),
                limit.remaining.to_string(),
                rfc3339(limit.reset * 1_000),
            ]
        });
        print::table(&["LIMIT", "ROUTES", "OF", "LEFT", "WHOLE AGAIN"], rows)
    }
}

/// Where buckets stand: as the gateway of these settings knows, and where there is none, as Redis
/// does. What gateways hold and have not reported yet, Redis can only estimate.
pub(super) async fn standings(context: &Context, charges: &[Charge<'_>]) -> Result<Vec<Standing>, Failure> {
    let silent = match ask_gateway(context, charges).await {
        Ok(standings) => return Ok(standings),
        Err(silent) => silent,
    };
    if context.config.store.starts_with("sqlite://") {
        return Err(silent);
    }
    let metrics = Metrics::new().map_err(crate::server::StartError::from)?.limits;
    let clock = std::sync::Arc::new(System);
    let leasing = Leasing::start(&context.config.store, &context.config.redis, BUCKETS_MAX, clock, metrics)?;
    if !leasing.is_connected_within(PATIENCE).await {
        return Err(crate::store::StoreError::Unavailable("no server of the limits answers".to_owned()).into());
    }
    Ok(leasing.inspect(charges, None, System.moment()).await)
}

/// What the admin listener answers for one bucket.
#[derive(Debug, Deserialize)]
struct Answer {
    limit: u32,
    remaining: u32,
    window: u32,
    now_ms: u64,
}

/// The gateway of these settings, asked at its admin listener.
async fn ask_gateway(context: &Context, charges: &[Charge<'_>]) -> Result<Vec<Standing>, Failure> {
    let address = context.config.admin;
    let silent = || {
        Failure::Refused(format!(
            "no gateway answers at {address} (`admin` in the settings); with this store, limits are counted inside the gateway"
        ))
    };
    let mut standings = Vec::with_capacity(charges.len());
    for charge in charges {
        let path = format!("/limits/{:032x}/{}/{}", charge.bucket, charge.period.word(), charge.count);
        let body = tokio::time::timeout(PATIENCE, get(address, &path)).await;
        let body = body.map_err(|_| silent())?.map_err(|_| silent())?;
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| silent())?;
        let window = charge.period.window_at(answer.window, charge.period.phase_ms(charge.bucket));
        let Answer { limit, remaining, now_ms, .. } = answer;
        standings.push(Standing { limit, remaining, window, now_ms });
    }
    Ok(standings)
}

/// Longest answer of an admin listener to one such question.
const ANSWER_BYTES_MAX: usize = 4_096;

/// One GET to an address of ours, with Pingora's own client.
async fn get(address: std::net::SocketAddr, path: &str) -> pingora::Result<Vec<u8>> {
    let connector: Connector = Connector::new(None);
    let peer = HttpPeer::new(address, false, String::new());
    let (mut session, _) = connector.get_http_session(&peer).await?;
    let mut request = RequestHeader::build("GET", path.as_bytes(), None)?;
    request.insert_header("host", address.to_string())?;
    session.write_request_header(Box::new(request)).await?;
    session.finish_request_body().await?;
    session.read_response_header().await?;
    let mut body = Vec::new();
    while let Some(chunk) = session.read_response_body().await? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            break;
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
