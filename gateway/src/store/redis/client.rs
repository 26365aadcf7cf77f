//! One connection to Redis in whatever arrangement the URL names, with deadlines and a breaker.
//!
//! A call never waits longer than its deadline. After a failure the connection is dropped, so that
//! the next call finds the new master or topology, and for a moment calls fail at once. A server that
//! answers that it cannot serve us is such a failure: over RESP3 that comes as a value, not as an
//! error of the connection.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::{Cmd, ErrorKind, FromRedisValue, RedisError, Value, cmd};
use tokio::sync::Mutex;

use super::super::StoreError;
use super::master::Master;
use super::topology::{RedisSettings, Topology, code, describe, info, info_field, slot_ranges, topology, untimed};

/// After a failure, calls fail at once for this long.
const BREAKER: Duration = Duration::from_millis(100);

#[derive(Clone)]
enum Connection {
    Alone(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// A connection in use.
#[derive(Clone)]
struct Current {
    /// Tells it from those before it.
    generation: u64,
    /// Which turn of the master it belongs to, see [`Master`].
    turn: u64,
    connection: Connection,
}

/// A connection that comes back.
pub(super) struct RedisClient {
    topology: Topology,
    timeout: Duration,
    connect_timeout: Duration,
    master: Arc<Master>,
    connection: Mutex<Option<Current>>,
    generation: AtomicU64,
    /// Connections of generations below this one are given up.
    forgotten: AtomicU64,
    started: Instant,
    closed_until_ms: AtomicU64,
    /// A server that is spoken to alone says that it is a part of a cluster.
    has_slots: AtomicBool,
}

impl RedisClient {
    pub(super) fn new(
        url: &str,
        settings: &RedisSettings,
        timeout: Duration,
        master: Arc<Master>,
    ) -> Result<Self, StoreError> {
        Ok(RedisClient {
            topology: topology(url, &RedisSettings { timeout, ..settings.clone() })?,
            timeout,
            connect_timeout: settings.connect_timeout,
            master,
            connection: Mutex::new(None),
            generation: AtomicU64::new(0),
            forgotten: AtomicU64::new(0),
            started: Instant::now(),
            closed_until_ms: AtomicU64::new(0),
            has_slots: AtomicBool::new(false),
        })
    }

    /// Whether a script may touch one slot only: on a cluster, also one that is spoken to like a single
    /// server.
    pub(super) fn has_slots(&self) -> bool {
        self.is_cluster() || self.has_slots.load(Ordering::Relaxed)
    }

    /// Whether it leads to a cluster, node by node.
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.topology, Topology::Cluster(..))
    }

    /// Sends one command.
    pub(super) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        let now = self.elapsed_ms();
        if now < self.closed_until_ms.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("it did not answer a moment ago".to_owned()));
        }
        let Current { generation, turn, mut connection } = self.connected().await?;
        let answer = tokio::time::timeout(self.timeout, async {
            let answer = match &mut connection {
                Connection::Alone(c) => c.req_packed_command(command).await,
                Connection::Cluster(c) => c.req_packed_command(command).await,
            };
            answer.and_then(Value::extract_error)
        });
        let answer = tokio::select! {
            biased;
            answer = answer => answer,
            // What the server before says does not count any more.
            () = self.master.turned(turn) => {
                self.forget(generation);
                return Err(StoreError::Unavailable("another server is the master now".to_owned()));
            }
        };
        let error = match answer {
            Ok(Ok(value)) => return T::from_redis_value(value).map_err(|e| StoreError::Corrupt(e.to_string())),
            Ok(Err(error)) => match (meaning(&error), &self.topology) {
                (Meaning::BadValue, _) => return Err(StoreError::Corrupt(describe(&error))),
                // One shard of a cluster says nothing of the others, and the library follows them.
                (Meaning::NotYet, Topology::Cluster(..)) => return Err(StoreError::Unavailable(describe(&error))),
                (Meaning::CannotNow, _) | (Meaning::NoMaster, Topology::Cluster(..)) => {
                    if code(&error) == Some("CROSSSLOT") {
                        self.has_slots.store(true, Ordering::Relaxed);
                    }
                    self.forget(generation);
                    return Err(StoreError::Unavailable(describe(&error)));
                }
                (Meaning::NoMaster | Meaning::NotYet, Topology::Alone(_) | Topology::Sentinel(_)) => {
                    self.master.turn();
                    describe(&error)
                }
                (Meaning::Broken, _) => describe(&error),
            },
            Err(_) => format!("no answer within {} ms", self.timeout.as_millis()),
        };
        self.open_breaker();
        self.forget(generation);
        Err(StoreError::Unavailable(error))
    }

    /// Makes sure that whoever would be connected to now is the server that is spoken to: a name may
    /// have moved, or Sentinel may have chosen another, without the server before saying a word.
    pub(super) async fn look_who_answers(&self) -> Result<(), StoreError> {
        if !self.is_cluster() {
            return self.connect().await.map(|_| ());
        }
        let slots = self.ask::<Value>(cmd("CLUSTER").arg("SLOTS")).await?;
        // One that took over from another begins a turn, as one server after another does. A slot that
        // only moves between them does not: whoever gave it away says so.
        self.master.met(masters(&slots).as_deref());
        Ok(())
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn open_breaker(&self) {
        let until = self.elapsed_ms() + u64::try_from(BREAKER.as_millis()).unwrap_or(0);
        self.closed_until_ms.store(until, Ordering::Relaxed);
    }

    /// Gives a connection up, without waiting for one who connects.
    fn forget(&self, generation: u64) {
        self.forgotten.fetch_max(generation + 1, Ordering::AcqRel);
    }

    fn is_good(&self, current: &Current) -> bool {
        current.turn == self.master.now() && current.generation >= self.forgotten.load(Ordering::Acquire)
    }

    async fn connected(&self) -> Result<Current, StoreError> {
        // Whoever finds another connecting waits no longer than for an answer.
        let waited = tokio::time::timeout(self.timeout, self.connection.lock()).await;
        let mut slot = waited.map_err(|_| StoreError::Unavailable("it is being connected to".to_owned()))?;
        if let Some(known) = slot.as_ref().filter(|current| self.is_good(current)) {
            return Ok(known.clone());
        }
        if self.elapsed_ms() < self.closed_until_ms.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("it did not answer a moment ago".to_owned()));
        }
        *slot = None;
        let made = self.connect().await;
        let (connection, turn) = made.inspect_err(|_| self.open_breaker())?;
        let generation = self.generation.fetch_add(1, Ordering::Relaxed);
        let current = Current { generation, turn, connection };
        *slot = Some(current.clone());
        Ok(current)
    }

    /// A new connection to the master, and the turn it belongs to.
    async fn connect(&self) -> Result<(Connection, u64), StoreError> {
        let config = untimed();
        let connecting = async {
            match &self.topology {
                Topology::Cluster(client, _) => {
                    client.get_async_connection().await.map(|c| (Connection::Cluster(c), None))
                }
                one @ (Topology::Alone(_) | Topology::Sentinel(_)) => {
                    let mut connection = one.connect(&config).await?;
                    // A user that may not ask this is not stopped by it.
                    match info(&mut connection).await {
                        Ok(info) => Ok((Connection::Alone(connection), Some(info))),
                        Err(error) if matches!(error.code(), Some("NOPERM")) => {
                            Ok((Connection::Alone(connection), None))
                        }
                        Err(error) => Err(error),
                    }
                }
            }
        };
        // Several nodes may have to be tried, some of them dark. Those of a cluster are tried at once: the
        // ones that we know, then the ones that those know, each connected to and asked something.
        let limit = match self.topology {
            Topology::Alone(_) => self.connect_timeout,
            Topology::Sentinel(_) => self.connect_timeout * 4,
            Topology::Cluster(..) => (self.connect_timeout + self.timeout) * 2 + self.connect_timeout,
        };
        let (connection, info) = match tokio::time::timeout(limit, connecting).await {
            Ok(Ok(made)) => made,
            Ok(Err(error)) => return Err(StoreError::Unavailable(describe(&error))),
            Err(_) => return Err(StoreError::Unavailable(format!("no connection within {} ms", limit.as_millis()))),
        };
        if info.as_deref().and_then(|info| info_field(info, "redis_mode")) == Some("cluster") {
            self.has_slots.store(true, Ordering::Relaxed);
        }
        let turn = match info.as_deref().map(|info| (info_field(info, "role"), info_field(info, "run_id"))) {
            Some((Some("master") | None, id)) => self.master.met(id),
            Some((Some(_), _)) => {
                return Err(StoreError::Unavailable("it is a replica, not a master".to_owned()));
            }
            None => self.master.now(),
        };
        Ok((connection, turn))
    }
}

/// The masters of a cluster by their ids, as `CLUSTER SLOTS` names them; `None` when it names none.
fn masters(slots: &Value) -> Option<String> {
    let ids: BTreeSet<String> = slot_ranges(slots).into_iter().filter_map(|range| range.id).collect();
    (!ids.is_empty()).then(|| ids.into_iter().collect::<Vec<_>>().join(" "))
}

/// What an error means for the connection that it came over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// The value is not what the command wants: the server is all right.
    BadValue,
    /// The server cannot do this now; it may do other things.
    CannotNow,
    /// The server is not the one that should be asked.
    NoMaster,
    /// The server is not ready, or not whole.
    NotYet,
    /// The connection does not work.
    Broken,
}

fn meaning(error: &RedisError) -> Meaning {
    match (error.kind(), code(error)) {
        (_, Some("READONLY" | "UNBLOCKED")) => Meaning::NoMaster,
        (_, Some("MASTERDOWN" | "LOADING" | "CLUSTERDOWN")) => Meaning::NotYet,
        // What stands between us and Redis says `ERR` of whatever ails it.
        (_, Some("OOM" | "MISCONF" | "NOREPLICAS" | "BUSY" | "TRYAGAIN" | "NOPERM" | "CROSSSLOT" | "ERR")) => {
            Meaning::CannotNow
        }
        (ErrorKind::UnexpectedReturnType, _) | (_, Some("WRONGTYPE")) => Meaning::BadValue,
        (_, _) => Meaning::Broken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_known_by_its_masters_whatever_slots_they_hold() {
        let text = |s: &str| Value::BulkString(s.as_bytes().to_vec());
        let node = |id| Value::Array(vec![text("127.0.0.1"), Value::Int(7000), text(id)]);
        let range =
            |first, last, id| Value::Array(vec![Value::Int(first), Value::Int(last), node(id), node("replica")]);
        let before = masters(&Value::Array(vec![range(0, 99, "b"), range(100, 16_383, "a")]));
        assert_eq!(before.as_deref(), Some("a b"));
        let moved = Value::Array(vec![range(0, 9, "a"), range(10, 99, "b"), range(100, 16_383, "a")]);
        assert_eq!(masters(&moved), before);
        assert_eq!(masters(&Value::Array(vec![range(0, 99, "b"), range(100, 16_383, "c")])).as_deref(), Some("b c"));
        assert_eq!(masters(&Value::Nil), None);
    }

    #[test]
    fn what_a_server_says_of_itself_is_not_taken_for_a_bad_value() {
        for (line, expected) in [
            ("READONLY You can't write against a read only replica.", Meaning::NoMaster),
            ("MASTERDOWN RedisClient with MASTER is down", Meaning::NotYet),
            ("LOADING Redis is loading the dataset in memory", Meaning::NotYet),
            ("UNBLOCKED force unblock from blocking operation", Meaning::NoMaster),
            ("CLUSTERDOWN Hash slot not served", Meaning::NotYet),
            ("ERR Error running script (call to f_00): @user_script:1: -READONLY You can't write.", Meaning::NoMaster),
            ("ERR Error running script (call to f_00): @user_script:1: -OOM command not allowed.", Meaning::CannotNow),
            ("ERR Error running script (call to f_00): @user_script:1: WRONGTYPE Operation.", Meaning::BadValue),
            ("ERR unspecified server error", Meaning::CannotNow),
            ("NOAUTH Authentication required.", Meaning::Broken),
            ("WRONGPASS invalid username-password pair", Meaning::Broken),
            ("OOM command not allowed when used memory > 'maxmemory'.", Meaning::CannotNow),
            ("MISCONF Redis is configured to save RDB snapshots", Meaning::CannotNow),
            ("NOREPLICAS Not enough good replicas to write.", Meaning::CannotNow),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", Meaning::BadValue),
        ] {
            let answer = redis::parse_redis_value(format!("-{line}\r\n").as_bytes());
            let error = answer.and_then(Value::extract_error).unwrap_err();
            assert_eq!(meaning(&error), expected, "{line}");
        }
    }
}
