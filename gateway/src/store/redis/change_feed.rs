//! The feed of changes in Redis.

use std::collections::HashMap;

use async_trait::async_trait;
use redis::cmd;

use super::RedisStore;
use super::changes::stream_id;
use super::names::GATEWAYS;
use crate::store::{
    Change, ChangeFeed, Changes, GATEWAY_SILENCE_MS, GatewaySeen, Position, StoreError, announced, json, text,
};

#[async_trait]
impl ChangeFeed for RedisStore {
    async fn position(&self) -> Result<Position, StoreError> {
        self.last_position().await
    }

    async fn changes(&self, after: &Position) -> Result<Changes, StoreError> {
        self.changes_after(after).await
    }

    async fn announce_change(&self, change: &Change) -> Result<Position, StoreError> {
        let (word, subject) = announced(change);
        self.announce(word, &subject).await
    }

    async fn acknowledge(&self, gateway: &GatewaySeen) -> Result<(), StoreError> {
        self.ask::<i64>(cmd("HSET").arg(GATEWAYS).arg(&gateway.id).arg(text(gateway)?)).await.map(|_| ())
    }

    async fn gateways(&self, now_ms: u64) -> Result<Vec<GatewaySeen>, StoreError> {
        let all: HashMap<String, String> = self.ask(cmd("HGETALL").arg(GATEWAYS)).await?;
        let mut list = Vec::new();
        for (id, seen) in all {
            let seen: GatewaySeen = json(&seen)?;
            if seen.seen_ms + GATEWAY_SILENCE_MS >= now_ms {
                list.push(seen);
            } else if seen.seen_ms + 10 * GATEWAY_SILENCE_MS < now_ms {
                self.leave(&id).await?;
            }
        }
        list.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(list)
    }

    async fn leave(&self, gateway: &str) -> Result<(), StoreError> {
        self.ask::<i64>(cmd("HDEL").arg(GATEWAYS).arg(gateway)).await.map(|_| ())
    }

    fn is_at(&self, a: &str, b: &Position) -> bool {
        stream_id(a) >= stream_id(&b.0)
    }
}
