//! Which server holds a bucket: the only one there is, or the one of its slot in a cluster.
//!
//! Every script call touches one key, so a cluster needs nothing but this table. The table is read
//! anew when a server says that it is wrong, when a server is away, and every few seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use redis::cluster_routing::Slot;
use redis::{Cmd, Value, cmd};
use tokio::task::AbortHandle;

use super::message::{Message, Reply, bucket_key};
use super::server::{Common, Event, Server, State};
use super::shard_error::ShardError;
use crate::store::topology::{Seeds, Topology, bracketed, slot_ranges, untimed};

/// Slots of a cluster.
const SLOTS: u16 = 16_384;
/// Most masters a table may name.
const SERVERS_MAX: usize = 1_000;
/// Time between two looks at the table while all is well.
const REFRESH_EVERY: Duration = Duration::from_secs(5);
/// Time between two looks while a server is away or has moved something.
const REFRESH_SOON: Duration = Duration::from_millis(200);

/// Pause before a look that something asked for: others ask for the same.
const REFRESH_AT_ONCE: Duration = Duration::from_millis(20);

type Table = HashMap<Slot, Arc<Server>>;

/// All servers.
pub enum Servers {
    /// One.
    One(Arc<Server>, AbortHandle),
    /// A cluster of them.
    Cluster(Box<Cluster>),
}

/// The servers of a cluster.
pub struct Cluster {
    seeds: Seeds,
    common: Arc<Common>,
    table: ArcSwap<Table>,
    known: Mutex<HashMap<String, (Arc<Server>, AbortHandle)>>,
}

impl Servers {
    /// Starts to connect. Must be called inside a runtime, which keeps the connections.
    pub fn start(topology: Topology, common: Arc<Common>) -> Self {
        if let Topology::Cluster(_, seeds) = topology {
            let (table, known) = (ArcSwap::default(), Mutex::default());
            return Servers::Cluster(Box::new(Cluster { seeds, common, table, known }));
        }
        let server = Arc::new(Server::new("master", topology, common));
        let keeper = tokio::spawn(server.clone().keep()).abort_handle();
        Servers::One(server, keeper)
    }

    /// The server of a bucket; `None` while no table is known.
    pub fn of(&self, bucket: u128) -> Option<Arc<Server>> {
        match self {
            Servers::One(server, _) => Some(server.clone()),
            Servers::Cluster(cluster) => cluster.table.load().get(&Slot::for_key(bucket_key(bucket))).cloned(),
        }
    }

    /// Every server.
    pub fn all(&self) -> Vec<Arc<Server>> {
        match self {
            Servers::One(server, _) => vec![server.clone()],
            Servers::Cluster(cluster) => cluster.locked().values().map(|(server, _)| server.clone()).collect(),
        }
    }

    /// Whether a bucket's server can grant tokens.
    pub fn state(&self, bucket: u128, now_us: u64) -> State {
        self.of(bucket).map_or(State::Away { since_us: now_us }, |server| server.state(now_us))
    }

    /// Asks a bucket, wherever it is. `server` and `serial` are those whose state allowed to ask; a
    /// redirection is followed once, to a server that is surely up.
    pub async fn call(&self, message: &Message, server: &Server, serial: u64) -> Result<Reply, ShardError> {
        let first = server.call(message, serial, false).await;
        let Servers::Cluster(cluster) = self else { return first };
        let (address, is_asking) = match first {
            Ok(reply) => return Ok(reply),
            Err(ShardError::Moved(address)) => (address, false),
            Err(ShardError::Ask(address)) => (address, true),
            Err(error) => return Err(error),
        };
        if !is_asking {
            cluster.common.topology.notify_one();
        }
        let server = cluster.at(&address)?;
        let serial = server.serial();
        let is_up = server.state(cluster.common.clock.steady_us()) == State::Up;
        if is_up || (message.need == 0 && message.want == 0) {
            return server.call(message, serial, is_asking).await;
        }
        Err(ShardError::Away)
    }

    /// Looks at the table of a cluster once, and waits until it is time to look again. `false`: there
    /// is no table to keep.
    pub async fn follow(&self) -> bool {
        let Servers::Cluster(cluster) = self else { return false };
        let is_whole = cluster.refresh().await;
        let pause = if is_whole { REFRESH_EVERY } else { REFRESH_SOON };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = cluster.common.topology.notified() => tokio::time::sleep(REFRESH_AT_ONCE).await,
        }
        true
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        match self {
            Servers::One(_, keeper) => keeper.abort(),
            Servers::Cluster(cluster) => cluster.locked().values().for_each(|(_, keeper)| keeper.abort()),
        }
    }
}

impl Cluster {
    fn locked(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Arc<Server>, AbortHandle)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server at an address, known from the table or from a redirection.
    fn at(&self, address: &str) -> Result<Arc<Server>, ShardError> {
        let address = &bracketed(address);
        let mut known = self.locked();
        if let Some((server, _)) = known.get(address) {
            return Ok(server.clone());
        }
        if known.len() >= SERVERS_MAX {
            return Err(ShardError::Away);
        }
        let client = self.seeds.client(address).map_err(|_| ShardError::Away)?;
        let server = Arc::new(Server::new(address, Topology::Alone(client), self.common.clone()));
        let keeper = tokio::spawn(server.clone().keep()).abort_handle();
        known.insert(address.to_owned(), (server.clone(), keeper));
        Ok(server)
    }

    /// Reads the table. `true`: it names a server for every slot, and all of them answer.
    async fn refresh(&self) -> bool {
        let Some(value) = self.ask_any(cmd("CLUSTER").arg("SLOTS")).await else { return false };
        let ranges = slot_ranges(&value);
        let mut table = Table::with_capacity(usize::from(SLOTS));
        for range in &ranges {
            let Some(Ok(server)) = range.address.as_deref().map(|address| self.at(address)) else { continue };
            for slot in (range.first..=range.last).filter_map(Slot::new) {
                table.insert(slot, server.clone());
            }
        }
        let is_named = |name: &str| ranges.iter().any(|range| range.address.as_deref() == Some(name));
        self.locked().retain(|name, (_, keeper)| {
            let stays = is_named(name);
            if !stays {
                keeper.abort();
            }
            stays
        });
        self.common.redis_clock.keep(is_named);
        let now_us = self.common.clock.steady_us();
        let answers = |server: &Arc<Server>| !matches!(server.state(now_us), State::Away { .. });
        let is_whole = table.len() == usize::from(SLOTS) && table.values().all(answers);
        let table = Arc::new(table);
        let before = self.table.swap(table.clone());
        // A server that came to hold more buckets may have an older state of them, and nobody has
        // told it yet what is held.
        let is_new = |slot: &Slot, server: &Arc<Server>| before.get(slot).is_none_or(|was| was.name != server.name);
        let gained: HashMap<&str, &Arc<Server>> = table
            .iter()
            .filter(|(slot, server)| is_new(slot, server))
            .map(|(_, server)| (&*server.name, server))
            .collect();
        for server in gained.into_values() {
            server.learn();
            let _ = self.common.events.send(Event::Back(server.name.clone(), true)).await;
        }
        is_whole
    }

    /// Asks any server that answers: those we know, then the seeds.
    async fn ask_any(&self, question: &Cmd) -> Option<Value> {
        let known: Vec<Arc<Server>> = self.locked().values().map(|(server, _)| server.clone()).collect();
        for server in known {
            if let Some(answer) = server.query(question).await {
                return Some(answer);
            }
        }
        for seed in &self.seeds.hosts {
            let Ok(client) = self.seeds.client(seed) else { continue };
            let config = untimed();
            let asked = tokio::time::timeout(self.common.connect_timeout, async {
                let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
                question.query_async::<Value>(&mut connection).await
            });
            if let Ok(Ok(answer)) = asked.await {
                return Some(answer);
            }
        }
        None
    }
}
