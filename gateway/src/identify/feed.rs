//! Follows the store's list of changes and acknowledges them.

use std::sync::Arc;
use std::time::Duration;

use super::Identities;
use crate::base::clock::Clock;
use crate::observe::Health;
use crate::store::{Change, ChangeFeed, GatewaySeen, Position, Store, StoreError};

/// Pause after the store could not answer.
const PAUSE: Duration = Duration::from_millis(200);
/// A gateway that has nothing to acknowledge still says that it is there this often.
const SIGN_OF_LIFE_MS: u64 = 3_000;

/// Where a gateway's following stands.
struct Follower {
    gateway: String,
    position: Position,
    /// Changes that could not be forgotten yet; they are not told again.
    unforgotten: Vec<Change>,
    /// What was acknowledged last, and when. An acknowledgement counts once it is written.
    said: Option<(Position, u64)>,
}

/// Runs until it is dropped: forgets what changes, and says how far it has come. While the store
/// cannot be reached, the cache is told that nobody pushes changes, and readiness says why.
pub async fn follow(
    gateway: String,
    identities: Arc<Identities>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    health: Arc<Health>,
) {
    let mut follower = Follower { gateway, position: Position::default(), unforgotten: Vec::new(), said: None };
    let mut was_away = true;
    loop {
        match follower.step(was_away, &identities, &*store, &*clock).await {
            Ok(()) => {
                identities.set_following(true);
                health.restore(SUBJECT);
                was_away = false;
            }
            Err(error) => {
                identities.set_following(false);
                let why = format!("changes of keys cannot be followed: {error}");
                if !was_away {
                    tracing::warn!(target: "tollgate::store", "{why}");
                }
                health.degrade(SUBJECT, why);
                was_away = true;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Under which readiness speaks of this.
const SUBJECT: &str = "changes";

impl Follower {
    async fn step(
        &mut self,
        was_away: bool,
        identities: &Identities,
        store: &dyn Store,
        clock: &dyn Clock,
    ) -> Result<(), StoreError> {
        if was_away && self.position == Position::default() {
            // Nothing is cached from before this position: it was taken at the start.
            self.position = store.position().await?;
            self.unforgotten = vec![Change::Everything];
        }
        if self.unforgotten.is_empty() {
            let changes = store.changes(&self.position).await?;
            (self.unforgotten, self.position) = (changes.list, changes.position);
        }
        if !self.unforgotten.is_empty() {
            identities.forget(&self.unforgotten).await?;
            self.unforgotten.clear();
        }
        let is_due = self.said.as_ref().is_none_or(|(position, at_ms)| {
            *position != self.position || clock.now_ms().abs_diff(*at_ms) >= SIGN_OF_LIFE_MS
        });
        if is_due {
            self.acknowledge(store, clock).await?;
        }
        Ok(())
    }

    async fn acknowledge(&mut self, store: &dyn ChangeFeed, clock: &dyn Clock) -> Result<(), StoreError> {
        let (position, seen_ms) = (self.position.clone(), clock.now_ms());
        let seen = GatewaySeen { id: self.gateway.clone(), position: position.0.clone(), seen_ms };
        store.acknowledge(&seen).await?;
        self.said = Some((position, seen_ms));
        Ok(())
    }
}
