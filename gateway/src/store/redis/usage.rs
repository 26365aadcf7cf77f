//! Writes when keys and grants were last used, in records of their own.

use std::collections::HashMap;

use redis::cmd;

use super::super::{Document, Documents as _, KeyRecord, Kind, Sighting, StoreError, Usage, json, text};
use super::RedisStore;
use super::names::{EXPOSED, usage_by_id};

impl RedisStore {
    pub(super) async fn with_usage(&self, mut key: KeyRecord) -> Result<KeyRecord, StoreError> {
        let seen: HashMap<String, String> = self.ask(cmd("HGETALL").arg(usage_by_id(&key.id))).await?;
        key.last_use = seen.get("last_use").map(|t| json(t)).transpose()?;
        key.exposed = seen.get("exposed").map(|t| json(t)).transpose()?;
        Ok(key)
    }

    pub(super) async fn note_usage(&self, seen: &Usage) -> Result<(), StoreError> {
        match &seen.sighting {
            Sighting::Used(last) => {
                let mut set = cmd("HSET");
                set.arg(usage_by_id(&seen.key)).arg("last_use").arg(text(last)?);
                self.ask::<i64>(&set).await.map(|_| ())
            }
            Sighting::GrantUsed(at_ms, drop_ms) => {
                let (kind, id) = (Kind::GrantUse, seen.key.clone());
                let record = at_ms.to_string();
                let document = Document { kind, id, lists: Vec::new(), record, expires_ms: Some(*drop_ms) };
                self.put_document(&document).await
            }
            Sighting::Exposed(ms, how) => {
                let mut set = cmd("EVAL");
                set.arg(EXPOSED).arg(1).arg(usage_by_id(&seen.key)).arg(*ms).arg(text(&(ms, how))?);
                self.ask::<i64>(&set).await.map(|_| ())
            }
        }
    }
}
