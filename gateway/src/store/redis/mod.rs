//! The shared store: Redis or Valkey, alone, behind Sentinel, or as a cluster.
//!
//! Every command touches one key (hash tags keep a cluster happy), every call has a deadline, and
//! a breaker answers at once while the server is known to be away. Records change by
//! compare-and-set in a one-key script. Changes are announced in a capped stream, which gateways
//! read blocking: pushed within milliseconds, and nothing is lost over a reconnect.

mod documents;
mod link;
mod master;
mod names;
mod usage;
pub(crate) mod way;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use policy::window::Tally;
use redis::{Cmd, FromRedisValue, Value, cmd};

use self::link::Link;
use self::master::Master;
use self::names::{
    ADD, ALL_KEYS, CHANGES, CHANGES_KEPT, COUNTERS, COUNTERS_AT_ONCE, DROP, GATEWAYS, ORGANIZATIONS, SWAP, TRIES_MAX,
    WAIT_MS, counter_field, digest_by_id, key_by_digest, keys_of, organization_by_id, texts,
};
pub use self::way::RedisSettings;
use super::{
    Change, Changes, Counter, GATEWAY_SILENCE_MS, GatewaySeen, KeyChange, KeyRecord, LIST_MAX, OrganizationChange,
    OrganizationRecord, Position, Store, StoreError, Usage, json, text,
};
use crate::base::digest::Digest;

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
}

/// The last look at who answers.
#[derive(Default)]
struct Looked {
    /// When it succeeded; none after one that failed.
    at: Option<Instant>,
    /// How many failed since.
    failures: u32,
}

/// After so many looks in a row that failed, whoever is connected still is given up: where the name
/// leads now, we are not let in.
const LOOKS_FAILED_MAX: u32 = 3;

/// How often it is made sure that the master is still the one that is spoken to.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Stream ids as numbers: milliseconds and sequence.
fn stream_id(id: &str) -> (u64, u64) {
    let (ms, n) = id.split_once('-').unwrap_or((id, "0"));
    (ms.parse().unwrap_or(0), n.parse().unwrap_or(0))
}

type Entries = Vec<(String, HashMap<String, String>)>;

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
        })
    }

    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        self.commands.ask(command).await
    }

    async fn get(&self, key: &str) -> Result<Option<String>, StoreError> {
        self.ask(cmd("GET").arg(key)).await
    }

    async fn announce(&self, kind: &str, subject: &str) -> Result<Position, StoreError> {
        let mut add = cmd("XADD");
        add.arg(CHANGES).arg("MAXLEN").arg("~").arg(CHANGES_KEPT).arg("*").arg(kind).arg(subject);
        self.ask::<String>(&add).await.map(Position)
    }

    /// Reads, changes and writes a record until nobody else wrote in between.
    async fn swap<T, F>(&self, key: &str, what: &str, change: F) -> Result<T, StoreError>
    where
        T: serde::de::DeserializeOwned + serde::Serialize + Send,
        F: Fn(&mut T) -> Result<(), StoreError> + Send,
    {
        for _ in 0..TRIES_MAX {
            let before = self.get(key).await?.ok_or_else(|| StoreError::NotFound(what.to_owned()))?;
            let mut record: T = json(&before)?;
            change(&mut record)?;
            let mut swap = cmd("EVAL");
            swap.arg(SWAP).arg(1).arg(key).arg(&before).arg(text(&record)?);
            if self.ask::<i64>(&swap).await? == 1 {
                return Ok(record);
            }
        }
        Err(StoreError::Unavailable(format!("{what} is being changed by too many writers at once")))
    }

    async fn look_who_answers(&self) -> Result<(), StoreError> {
        let looked = || self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked().at.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return Ok(());
        }
        let answered = self.feed.look_who_answers().await;
        let mut looked = looked();
        if answered.is_ok() {
            *looked = Looked { at: Some(Instant::now()), failures: 0 };
        } else {
            // What is connected still may not be who should be asked: it does not count as followed.
            *looked = Looked { at: None, failures: looked.failures + 1 };
            if looked.failures == LOOKS_FAILED_MAX {
                self.master.turn();
            }
        }
        answered
    }

    /// Whether the stream still holds everything after a position.
    async fn is_gapless(&self, after: &Position) -> Result<bool, StoreError> {
        let (first, last): (Entries, Entries) = (
            self.feed.ask(cmd("XRANGE").arg(CHANGES).arg("-").arg("+").arg("COUNT").arg(1)).await?,
            self.feed.ask(cmd("XREVRANGE").arg(CHANGES).arg("+").arg("-").arg("COUNT").arg(1)).await?,
        );
        let at = stream_id(&after.0);
        Ok(match (first.first(), last.first()) {
            (Some((first, _)), Some((last, _))) => {
                let was_trimmed = stream_id(first) > at && at != (0, 0);
                stream_id(last) >= at && !was_trimmed
            }
            (_, _) => at == (0, 0),
        })
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
        let key = self.swap(&key_by_digest(&digest), &what, |key| change.apply(key)).await?;
        let position = self.announce("key", &digest).await?;
        Ok((key, position))
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
        let organization = self.swap(&organization_by_id(id), &format!("organization {id}"), apply).await?;
        let position = self.announce("organization", id).await?;
        Ok((organization, position))
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
        let last: Entries = self.ask(cmd("XREVRANGE").arg(CHANGES).arg("+").arg("-").arg("COUNT").arg(1)).await?;
        Ok(Position(last.first().map_or_else(|| "0-0".to_owned(), |(id, _)| id.clone())))
    }

    async fn changes(&self, after: &Position) -> Result<Changes, StoreError> {
        self.look_who_answers().await?;
        let is_gapless = self.is_gapless(after).await?;
        // What was read from the server before may be older than what its successor knows.
        let replaced = self.master.replaced();
        if replaced != self.forgotten.load(Ordering::Acquire) || !is_gapless {
            let position = self.position().await?;
            self.forgotten.store(replaced, Ordering::Release);
            return Ok(Changes { list: vec![Change::Everything], position });
        }
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(10_000).arg("BLOCK").arg(WAIT_MS).arg("STREAMS").arg(CHANGES).arg(&after.0);
        let streams: Option<HashMap<String, Entries>> = self.feed.ask(&read).await?;
        let mut changes = Changes { list: Vec::new(), position: after.clone() };
        for (id, fields) in streams.into_iter().flat_map(HashMap::into_values).flatten() {
            changes.list.extend(fields.iter().map(|(kind, subject)| super::record_change(kind, subject)));
            changes.position = Position(id);
        }
        // Data that was lost and written to again while we waited shows only what came after.
        if !changes.list.is_empty() && !self.is_gapless(after).await? {
            changes.list = vec![Change::Everything];
        }
        Ok(changes)
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
