//! The shared store: Redis or Valkey, alone, behind Sentinel, or as a cluster.
//!
//! On a cluster every command touches one key (hash tags keep it happy). Every call has a deadline, and
//! a breaker answers at once while the server is known to be away. Records change by compare-and-set
//! in a script, which announces the change too (`changes.rs`). The announcements are a capped stream,
//! which gateways read blocking: pushed within milliseconds, and nothing is lost over a reconnect.

mod begun;
mod changes;
mod documents;
mod link;
mod master;
mod names;
mod usage;
pub(crate) mod way;

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use policy::window::Tally;
use redis::{Cmd, FromRedisValue, Value, cmd};

use self::begun::Begun;
use self::changes::{Looked, stream_id};
use self::link::Link;
use self::master::Master;
use self::names::{
    ADD, ALL_KEYS, COUNTERS, COUNTERS_AT_ONCE, DROP, GATEWAYS, ORGANIZATIONS, WAIT_MS, counter_field, digest_by_id,
    key_by_digest, keys_of, organization_by_id, texts,
};
pub use self::way::RedisSettings;
use super::{
    Changes, Counter, GATEWAY_SILENCE_MS, GatewaySeen, KeyChange, KeyRecord, LIST_MAX, OrganizationChange,
    OrganizationRecord, Position, Store, StoreError, Usage, json, text,
};
use crate::base::digest::Digest;

/// Entries of a stream: id and fields.
type Entries = Vec<(String, HashMap<String, String>)>;

/// Uses of keys written at the same time.
const NOTES_AT_ONCE: usize = 64;

/// A store in Redis.
pub struct RedisStore {
    commands: Link,
    feed: Link,
    master: Arc<Master>,
    /// After how many replacements of the master everything was last said to be forgotten.
    forgotten: AtomicU64,
    /// When it was last made sure who the master is.
    looked: Mutex<Looked>,
    /// Changes that others have begun.
    begun: Mutex<Begun>,
}

impl RedisStore {
    /// Reads the URL; connects on first use.
    pub fn open(url: &str, settings: &RedisSettings) -> Result<Self, StoreError> {
        let master = Arc::<Master>::default();
        let patience = Duration::from_millis(WAIT_MS) + settings.connect_timeout;
        Ok(RedisStore {
            commands: Link::new(url, settings, settings.timeout, master.clone())?,
            feed: Link::new(url, settings, patience, master.clone())?,
            master,
            forgotten: AtomicU64::new(0),
            looked: Mutex::default(),
            begun: Mutex::default(),
        })
    }

    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        self.commands.ask(command).await
    }

    async fn get(&self, key: &str) -> Result<Option<String>, StoreError> {
        self.ask(cmd("GET").arg(key)).await
    }
}

#[async_trait]
impl Store for RedisStore {
    fn kind(&self) -> &'static str {
        "redis"
    }

    async fn find_key(&self, digest: &Digest) -> Result<Option<KeyRecord>, StoreError> {
        let found = self.get(&key_by_digest(&digest.to_hex())).await?;
        let key: Option<KeyRecord> = found.as_deref().map(json).transpose()?;
        Ok(key.filter(|key| key.digest.matches(digest)))
    }

    async fn key(&self, id: &str) -> Result<KeyRecord, StoreError> {
        let missing = || StoreError::NotFound(format!("key {id}"));
        let digest = self.get(&digest_by_id(id)).await?.ok_or_else(missing)?;
        let record = self.get(&key_by_digest(&digest)).await?.ok_or_else(missing)?;
        self.with_usage(json(&record)?).await
    }

    async fn keys(&self, organization: Option<&str>) -> Result<Vec<KeyRecord>, StoreError> {
        let list = organization.map_or_else(|| ALL_KEYS.to_owned(), keys_of);
        let ids: Vec<String> = self.ask(cmd("ZREVRANGE").arg(list).arg(0).arg(LIST_MAX - 1)).await?;
        let mut keys = Vec::with_capacity(ids.len());
        for id in ids {
            match self.key(&id).await {
                Ok(key) => keys.push(key),
                Err(StoreError::NotFound(_)) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(keys)
    }

    async fn insert_key(&self, key: &KeyRecord) -> Result<Position, StoreError> {
        if self.organization(&key.organization).await?.is_none() {
            return Err(StoreError::NotFound(format!("organization {}", key.organization)));
        }
        let hex = key.digest.to_hex();
        let taken = || StoreError::Exists("this key".to_owned());
        let new_id: Option<String> = self.ask(cmd("SET").arg(digest_by_id(&key.id)).arg(&hex).arg("NX")).await?;
        new_id.ok_or_else(taken)?;
        // Listed before it works: a failure in between leaves an entry that lists nothing, never a
        // working key that no list shows.
        for list in [ALL_KEYS.to_owned(), keys_of(&key.organization)] {
            self.ask::<i64>(cmd("ZADD").arg(list).arg(key.created_ms).arg(&key.id)).await?;
        }
        let mut set = cmd("SET");
        set.arg(key_by_digest(&hex)).arg(text(key)?).arg("NX");
        if self.ask::<Option<String>>(&set).await?.is_none() {
            self.ask::<i64>(cmd("DEL").arg(digest_by_id(&key.id))).await?;
            return Err(taken());
        }
        self.announce("key", &hex).await
    }

    async fn change_key(&self, id: &str, change: KeyChange) -> Result<(KeyRecord, Position), StoreError> {
        let what = format!("key {id}");
        let digest = self.get(&digest_by_id(id)).await?.ok_or_else(|| StoreError::NotFound(what.clone()))?;
        self.change((&key_by_digest(&digest), &what), ("key", &digest), |key| change.apply(key)).await
    }

    async fn organization(&self, id: &str) -> Result<Option<OrganizationRecord>, StoreError> {
        self.get(&organization_by_id(id)).await?.as_deref().map(json).transpose()
    }

    async fn organizations(&self) -> Result<Vec<OrganizationRecord>, StoreError> {
        let mut ids: Vec<String> = self.ask(cmd("SMEMBERS").arg(ORGANIZATIONS)).await?;
        ids.sort();
        ids.truncate(LIST_MAX);
        let mut list = Vec::with_capacity(ids.len());
        for id in ids {
            list.extend(self.organization(&id).await?);
        }
        Ok(list)
    }

    async fn insert_organization(&self, organization: &OrganizationRecord) -> Result<Position, StoreError> {
        let id = &organization.id;
        let mut set = cmd("SET");
        set.arg(organization_by_id(id)).arg(text(organization)?).arg("NX");
        if self.ask::<Option<String>>(&set).await?.is_none() {
            return Err(StoreError::Exists(format!("organization {id}")));
        }
        self.ask::<i64>(cmd("SADD").arg(ORGANIZATIONS).arg(id)).await?;
        self.announce("organization", id).await
    }

    async fn change_organization(
        &self,
        id: &str,
        change: OrganizationChange,
    ) -> Result<(OrganizationRecord, Position), StoreError> {
        let apply = |organization: &mut OrganizationRecord| {
            change.apply(organization);
            Ok(())
        };
        let what = format!("organization {id}");
        self.change((&organization_by_id(id), &what), ("organization", id), apply).await
    }

    async fn record_usage(&self, usage: &[Usage]) -> Result<(), StoreError> {
        let mut under_way = FuturesUnordered::new();
        for seen in usage {
            if under_way.len() == NOTES_AT_ONCE {
                under_way.next().await.transpose()?;
            }
            under_way.push(self.note_usage(seen));
        }
        while under_way.next().await.transpose()?.is_some() {}
        Ok(())
    }

    async fn add_counters(&self, added: &[Counter]) -> Result<Vec<Counter>, StoreError> {
        let mut totals = Vec::with_capacity(added.len());
        for chunk in added.chunks(COUNTERS_AT_ONCE) {
            let mut add = cmd("EVAL");
            add.arg(ADD).arg(1).arg(COUNTERS);
            for counter in chunk {
                let tally = Tally::from_word(counter.word);
                add.arg(counter_field(counter)).arg(tally.window).arg(tally.used);
            }
            let answers: Vec<(u32, u32)> = self.ask(&add).await?;
            totals.extend(
                chunk
                    .iter()
                    .zip(answers)
                    .map(|(counter, (window, used))| Counter { word: Tally { window, used }.word(), ..*counter }),
            );
        }
        Ok(totals)
    }

    async fn counters(&self) -> Result<Vec<Counter>, StoreError> {
        // Over the patient connection: there may be many.
        let saved: HashMap<String, String> = self.feed.ask(cmd("HGETALL").arg(COUNTERS)).await?;
        let read = |(field, value): (&String, &String)| {
            let (bucket, period) = field.split_once('/')?;
            let (window, used) = value.split_once(':')?;
            let tally = Tally { window: window.parse().ok()?, used: used.parse().ok()? };
            super::counter(u128::from_str_radix(bucket, 16).ok()?, period, tally.word())
        };
        Ok(saved.iter().filter_map(read).collect())
    }

    async fn drop_counters(&self, ended: &[Counter]) -> Result<(), StoreError> {
        for chunk in ended.chunks(COUNTERS_AT_ONCE) {
            let mut delete = cmd("EVAL");
            delete.arg(DROP).arg(1).arg(COUNTERS);
            for counter in chunk {
                let tally = Tally::from_word(counter.word);
                delete.arg(counter_field(counter)).arg(format!("{}:{}", tally.window, tally.used));
            }
            self.ask::<i64>(&delete).await?;
        }
        Ok(())
    }

    async fn position(&self) -> Result<Position, StoreError> {
        self.last_position().await
    }

    async fn changes(&self, after: &Position) -> Result<Changes, StoreError> {
        self.changes_after(after).await
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

    async fn warnings(&self) -> Result<Vec<String>, StoreError> {
        // A cluster answers with one text for each node. An ACL user may not be let read the settings.
        let info = texts(&self.ask::<Value>(cmd("INFO").arg("persistence")).await?);
        let appends = info.iter().filter(|text| text.contains("aof_enabled:"));
        let appends = appends.clone().count() > 0 && appends.into_iter().all(|text| text.contains("aof_enabled:1"));
        let config =
            self.ask::<Value>(cmd("CONFIG").arg("GET").arg("save")).await.map_or_else(|_| Vec::new(), |v| texts(&v));
        let snapshots =
            config.windows(2).any(|pair| matches!(pair, [name, value] if name == "save" && !value.is_empty()));
        if appends || snapshots {
            return Ok(Vec::new());
        }
        Ok(vec![
            "this Redis keeps nothing on disk, and it is the record of organizations and keys: \
             a restart of Redis loses them; set `appendonly yes`"
                .to_owned(),
        ])
    }

    fn is_at(&self, a: &str, b: &Position) -> bool {
        stream_id(a) >= stream_id(&b.0)
    }
}
