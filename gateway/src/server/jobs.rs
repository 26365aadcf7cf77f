//! Background jobs of a gateway, for as long as it runs.

use std::sync::Arc;
use std::time::Duration;

use policy::window::Tally;

use crate::exchange::Shared;
use crate::identify::follow;
use crate::limit::Limiter;
use crate::observe::Health;
use crate::store::{ChangeFeed, Counter, Counters, Store};
use crate::usage::write_behind;

/// Follows changes and writes behind from the start, and restores quotas as soon as the store
/// answers. Until the quotas are back the gateway is not ready.
pub(super) async fn prepare(store: Arc<dyn Store>, shared: Arc<Shared>, health: Arc<Health>, gateway_id: String) {
    health.wait_for("store", "the store has not answered yet");
    health.wait_for("signing keys", "the signing keys have not been read yet");
    health.wait_for("limits", "the server of the limits has not answered yet, or is not yet sure of what it holds");
    let limiter: Arc<dyn Limiter> = shared.admit.limiter.clone();
    let (usage, clock) = (shared.admit.usage.clone(), shared.admit.clock.clone());
    tokio::join!(
        follow(gateway_id.clone(), shared.admit.identities.clone(), store.clone(), clock.clone(), health.clone()),
        async {
            restore_quotas(&*store, &shared).await;
            health.arrived("store");
            // A limiter that cannot tell yet whether its Redis was just restarted takes no requests.
            limiter.ready().await;
            health.arrived("limits");
            match store.warnings().await {
                Ok(warnings) => warnings.iter().for_each(|w| tracing::warn!(target: "tollgate::store", "{w}")),
                Err(error) => tracing::warn!(target: "tollgate::store", "{error}"),
            }
            write_behind(usage, store.clone(), limiter, clock).await;
        },
        count_gateways(&*store, &shared, &gateway_id),
        keep_keys(&shared, &health),
        end_expired(&shared)
    );
}

/// How often live exchanges are looked at for a credential whose time is over.
const EXPIRY_EVERY: Duration = Duration::from_millis(500);

/// How often all live exchanges are looked at again, in case an announcement was lost: looks of
/// [`EXPIRY_EVERY`].
const RECHECK_EVERY: u32 = 120;

async fn end_expired(shared: &Shared) {
    let mut looks = 0u32;
    loop {
        looks += 1;
        if looks.is_multiple_of(RECHECK_EVERY)
            && let Err(error) = shared.admit.identities.recheck_all().await
        {
            tracing::warn!(target: "tollgate::store", "live exchanges could not be looked at again: {error}");
        }
        shared.admit.identities.live.end_expired(shared.admit.clock.now_ms());
        tokio::time::sleep(EXPIRY_EVERY).await;
    }
}

/// How often signing keys are looked at and ended records dropped.
const HOUSEKEEPING_EVERY: Duration = Duration::from_secs(60);

/// Keeps the signing keys in order, if the policy has an authorization server, and drops what has
/// ended. The gateway is not ready before it can verify tokens.
async fn keep_keys(shared: &Shared, health: &Health) {
    let mut has_keys = false;
    loop {
        let issues = shared.keeper.load().policy.apis.iter().any(|api| api.oauth.is_some());
        if issues {
            shared.authorization.maintain().await;
        }
        if !has_keys && (!issues || shared.admit.identities.tokens.keys.ring().is_some()) {
            health.arrived("signing keys");
            has_keys = true;
        }
        tokio::time::sleep(if has_keys { HOUSEKEEPING_EVERY } else { COUNT_EVERY }).await;
    }
}

/// How often the gateways that share the limits are counted: more than once in the time between a
/// gateway's first sign of life and its first request.
const COUNT_EVERY: Duration = Duration::from_millis(400);

/// Gateways whose wall clocks differ by less than this do not overlook each other.
const CLOCKS_APART_MS: u64 = 80_000;

/// Tells the limiter how many other gateways there are. While the store is away the last count stays.
async fn count_gateways(store: &dyn ChangeFeed, shared: &Shared, myself: &str) {
    loop {
        if let Ok(gateways) = store.gateways(shared.admit.clock.now_ms().saturating_sub(CLOCKS_APART_MS)).await {
            shared.admit.limiter.set_others(gateways.iter().filter(|gateway| gateway.id != myself).count());
        }
        tokio::time::sleep(COUNT_EVERY).await;
    }
}

async fn restore_quotas(store: &dyn Counters, shared: &Shared) {
    let counters = loop {
        match store.counters().await {
            Ok(counters) => break counters,
            Err(error) => {
                tracing::warn!(target: "tollgate::store", "waiting for the store: {error}");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    };
    let now_ms = shared.admit.clock.now_ms();
    let is_over = |c: &Counter| c.period.window(now_ms, 0).index > Tally::from_word(c.word).window;
    let (ended, current): (Vec<Counter>, Vec<Counter>) = counters.into_iter().partition(is_over);
    shared.admit.limiter.merge(&[], &current, now_ms);
    if let Err(error) = store.drop_counters(&ended).await {
        tracing::warn!(target: "tollgate::store", "ended quota counters could not be dropped: {error}");
    }
}
