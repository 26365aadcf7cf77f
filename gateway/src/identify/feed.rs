//! Follows the store's list of changes and acknowledges them.

use std::sync::Arc;
use std::time::Duration;

use super::Identities;
use crate::clock::Clock;
use crate::store::{Change, GatewaySeen, Position, Store, StoreError};

/// Pause after the store could not answer.
const PAUSE: Duration = Duration::from_millis(200);
/// A gateway that has nothing to acknowledge still says that it is there this often.
const SIGN_OF_LIFE_MS: u64 = 3_000;

/// Where a gateway's following stands.
struct Follower {
    gateway: String,
    position: Position,
    said_ms: u64,
}

/// Runs until it is dropped: forgets what changes, and says how far it has come. While the store
/// cannot be reached, the cache is told that nobody pushes changes.
pub async fn follow(gateway: String, identities: Arc<Identities>, store: Arc<dyn Store>, clock: Arc<dyn Clock>) {
    let mut follower = Follower { gateway, position: Position::default(), said_ms: 0 };
    let mut was_away = true;
    loop {
        match follower.step(was_away, &identities, &*store, &*clock).await {
            Ok(()) => {
                identities.set_following(true);
                was_away = false;
            }
            Err(error) => {
                identities.set_following(false);
                if !was_away {
                    log::warn!(target: "tollgate::store", "changes cannot be followed: {error}");
                }
                was_away = true;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

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
            identities.forget(&[Change::Everything]).await?;
            self.acknowledge(store, clock).await?;
        }
        let changes = store.changes(&self.position).await?;
        if !changes.list.is_empty() {
            identities.forget(&changes.list).await?;
        }
        let moved = changes.position != self.position;
        self.position = changes.position;
        if moved || clock.now_ms().saturating_sub(self.said_ms) >= SIGN_OF_LIFE_MS {
            self.acknowledge(store, clock).await?;
        }
        Ok(())
    }

    async fn acknowledge(&mut self, store: &dyn Store, clock: &dyn Clock) -> Result<(), StoreError> {
        self.said_ms = clock.now_ms();
        let position = self.position.0.clone();
        store.acknowledge(&GatewaySeen { id: self.gateway.clone(), position, seen_ms: self.said_ms }).await
    }
}
