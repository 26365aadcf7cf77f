//! The shared store: Redis or Valkey, alone, behind Sentinel, or as a cluster.
//!
//! On a cluster every command touches one key (hash tags keep it happy). Every call has a deadline, and
//! a breaker answers at once while the server is known to be away. Records change by compare-and-set
//! in a script, which announces the change too (`changes.rs`). The announcements are a capped stream,
//! which gateways read blocking: pushed within milliseconds, and nothing is lost over a reconnect.

mod begun;
mod change_feed;
mod changes;
mod client;
mod counters;
mod documents;
mod keys;
mod master;
mod names;
pub(crate) mod topology;
mod usage;

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use redis::{Cmd, FromRedisValue, Value, cmd};

use self::begun::Begun;
use self::changes::Looked;
use self::client::RedisClient;
use self::master::Master;
use self::names::{PAGE, WAIT_MS, texts};
pub use self::topology::RedisSettings;
use super::{Cursor, Listed, Page, Store, StoreError};

/// Entries of a stream: id and fields.
type Entries = Vec<(String, HashMap<String, String>)>;

/// In which order the members of a sorted set are listed.
#[derive(Clone, Copy)]
enum Order {
    LowestFirst,
    HighestFirst,
}

/// Records of a page that are read at the same time.
const READ_AT_ONCE: usize = 64;

/// A store in Redis.
pub struct RedisStore {
    commands: RedisClient,
    feed: RedisClient,
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
            commands: RedisClient::new(url, settings, settings.timeout, master.clone())?,
            feed: RedisClient::new(url, settings, patience, master.clone())?,
            master,
            forgotten: AtomicU64::new(0),
            looked: Mutex::default(),
            begun: Mutex::default(),
        })
    }

    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        self.commands.ask(command).await
    }

    /// A page of the members of a sorted set.
    async fn members(&self, set: &str, page: &Page, order: Order) -> Result<Listed<Cursor>, StoreError> {
        let mut read = cmd("EVAL");
        read.arg(PAGE).arg(1).arg(set);
        match page.after() {
            Some(Cursor { at: u64::MAX, id }) => read.arg("+inf").arg(id),
            Some(Cursor { at, id }) => read.arg(*at).arg(id),
            None => read.arg("").arg(""),
        };
        read.arg(page.count_and_one()).arg(match order {
            Order::LowestFirst => "",
            Order::HighestFirst => "rev",
        });
        let found: Vec<(String, String)> = self.ask(&read).await?;
        let places = found.into_iter().map(|(id, score)| Cursor { at: score.parse().unwrap_or(u64::MAX), id });
        Ok(page.listed(places.collect(), Cursor::clone))
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

    async fn now_ms(&self, _local_ms: u64) -> Result<u64, StoreError> {
        let (seconds, micros): (u64, u64) = self.ask(&cmd("TIME")).await?;
        Ok(seconds * 1_000 + micros / 1_000)
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
}
