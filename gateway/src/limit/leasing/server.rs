//! One Redis server that holds buckets: connected in the background, never waited for.
//!
//! A request that needs a server that is away hears so at once. A keeper task connects, pings, and
//! notices when the server is not the one it was: its data may be older than what we were told
//! then, so for a while no tokens are granted in windows that began before, while every gateway
//! reports what it holds.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, ErrorKind, PushInfo, PushKind, RedisError, ServerErrorKind, Value, cmd};
use tokio::sync::{Notify, mpsc};

use super::clock::RedisClock;
use super::leads::{connect_limit, epoch_of, leads_elsewhere};
use super::message::{Call, Message, Reply, SCRIPT};
use super::shard_error::{ShardError, is_about_the_bucket};
use crate::base::clock::{Clock, micros};
use crate::store::topology::{Topology, describe, untimed};

/// Time between two pings of a server that was not otherwise heard of.
const PING_EVERY: Duration = Duration::from_millis(100);
/// Pause between two attempts to connect.
const RECONNECT_EVERY: Duration = Duration::from_millis(50);
/// Least time for which a server that may have forgotten something is only told, see [`learn_time`].
const LEARN_MIN: Duration = Duration::from_secs(1);
/// Time between two complaints about buckets that cannot be used.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);
/// What the user of the store URL must be allowed, as `ACL SETUSER` takes it.
const PERMISSIONS: &str =
    "~tollgate:* &tollgate:* +@read +@write +@stream +@pubsub +@scripting +@connection +info +time +cluster|slots";
/// Where gateways ask each other to return tokens.
pub const RECALLS: &str = "tollgate:recall";

/// Whether a server can grant tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It answers.
    Up,
    /// It answers, but may have forgotten windows that began before this instant of our steady clock.
    Learning {
        /// That instant, microseconds.
        since_us: u64,
    },
    /// It has not answered since this instant of our steady clock.
    Away {
        /// That instant, microseconds; when we began to look for it, if it never did.
        since_us: u64,
    },
}

/// What all servers of a limiter share.
pub struct Common {
    /// Our clock.
    pub clock: Arc<dyn Clock>,
    /// Theirs.
    pub redis_clock: RedisClock,
    /// Longest wait for an answer.
    pub timeout: Duration,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// How long a server that may have forgotten something is only told what is held.
    pub learn: Duration,
    /// Wakes whoever keeps the table of a cluster.
    pub topology: Notify,
    /// The mark of this process in every bucket.
    pub process: String,
    /// SHA-1 of the script, as Redis names it.
    pub digest: String,
    /// What the servers have to say.
    pub events: mpsc::Sender<Event>,
}

/// What a server has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Gateways need the tokens of this bucket and window.
    Recall(u128, u32),
    /// A server is back. `true`: it may have forgotten what it knew.
    Back(Arc<str>, bool),
}

struct Up {
    connection: MultiplexedConnection,
    heard_us: AtomicU64,
    /// Which connection it is; see [`Server::serial`].
    serial: u64,
    arrived_us: u64,
    /// It has answered a message about a bucket, so it does take writes.
    is_proved: AtomicBool,
}

/// One server.
pub struct Server {
    /// `host:port`, or `master` for the one that Sentinel names.
    pub name: Arc<str>,
    topology: Topology,
    common: Arc<Common>,
    up: ArcSwapOption<Up>,
    /// Run id and replication id of the server we spoke to last.
    epoch: Mutex<Option<String>>,
    away_since_us: AtomicU64,
    serial: AtomicU64,
    /// When a bucket was last found to be unusable, microseconds.
    complained_us: AtomicU64,
    /// 0 while there is nothing to learn.
    learning_since_us: AtomicU64,
    failed: Notify,
}

impl Server {
    /// A server; connected to by [`Server::keep`].
    pub fn new(name: &str, topology: Topology, common: Arc<Common>) -> Self {
        let now_us = common.clock.steady_us().max(1);
        Server {
            name: name.into(),
            topology,
            common,
            up: ArcSwapOption::empty(),
            epoch: Mutex::default(),
            away_since_us: AtomicU64::new(now_us),
            serial: AtomicU64::new(0),
            complained_us: AtomicU64::new(0),
            learning_since_us: AtomicU64::new(0),
            failed: Notify::new(),
        }
    }

    /// Whether it can grant tokens now.
    pub fn state(&self, now_us: u64) -> State {
        if self.up.load().is_none() {
            return State::Away { since_us: self.away_since_us.load(Ordering::Relaxed) };
        }
        let since_us = self.learning_since_us.load(Ordering::Relaxed);
        let is_learning = since_us != 0 && now_us.saturating_sub(since_us) < micros(self.common.learn);
        if is_learning { State::Learning { since_us } } else { State::Up }
    }

    /// Number of the connection in use. Whoever looks at it, then at the state, and then calls with
    /// it, speaks to the server whose state that was, or to nobody.
    pub fn serial(&self) -> u64 {
        self.serial.load(Ordering::Acquire)
    }

    /// Starts to learn: the server may have forgotten what it knew.
    pub fn learn(&self) {
        self.learning_since_us.store(self.common.clock.steady_us().max(1), Ordering::Relaxed);
    }

    /// Asks a bucket. An answer takes at most the timeout; no answer means that the server is away.
    pub async fn call(&self, message: &Message, serial: u64, is_asking: bool) -> Result<Reply, ShardError> {
        let up = self.up.load_full().filter(|up| up.serial == serial).ok_or(ShardError::Away)?;
        let mut connection = up.connection.clone();
        let sent_us = self.common.clock.steady_us();
        let (digest, process) = (&*self.common.digest, &*self.common.process);
        let answer = tokio::time::timeout(self.common.timeout, async {
            let command = message.command(Call::Digest(digest), process);
            match ask(&mut connection, &command, is_asking).await {
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                    // It was not run, so it is the same message that goes again.
                    let command = message.command(Call::Text(SCRIPT), process);
                    ask(&mut connection, &command, is_asking).await
                }
                answer => answer,
            }
        });
        match answer.await {
            Ok(Ok(list)) => {
                let reply = Reply::read(&list).ok_or(ShardError::Broken)?;
                let received_us = self.common.clock.steady_us();
                up.heard_us.store(received_us, Ordering::Relaxed);
                up.is_proved.store(true, Ordering::Relaxed);
                self.common.redis_clock.observe(&self.name, reply.now_ms, sent_us, received_us);
                Ok(reply)
            }
            Ok(Err(error)) => Err(self.shard_error(&up, &error)),
            Err(_) => {
                self.fail(&up, "no answer in time");
                Err(ShardError::Away)
            }
        }
    }

    fn shard_error(&self, up: &Arc<Up>, error: &RedisError) -> ShardError {
        if let Some((address, _)) = error.redirect_node() {
            let address = address.to_owned();
            return match error.kind() == ErrorKind::Server(ServerErrorKind::Ask) {
                true => ShardError::Ask(address),
                false => ShardError::Moved(address),
            };
        }
        if is_about_the_bucket(error) {
            let now_us = self.common.clock.steady_us();
            let last_us = self.complained_us.load(Ordering::Relaxed);
            if last_us == 0 || now_us.saturating_sub(last_us) > micros(COMPLAIN_EVERY) {
                self.complained_us.store(now_us, Ordering::Relaxed);
                tracing::warn!(target: "tollgate::limit", "a bucket at {} cannot be used: {}", self.name, describe(error));
            }
            return ShardError::Broken;
        }
        self.fail(up, &describe(error));
        ShardError::Away
    }

    /// Drops the connection, if it is still the one in use. One that failed soon and never answered
    /// about a bucket was no return from an outage: that one goes on.
    fn fail(&self, up: &Arc<Up>, why: &str) {
        let has_lasted = self.common.clock.steady_us().saturating_sub(up.arrived_us) > micros(LEARN_MIN);
        let is_news = (has_lasted || up.is_proved.load(Ordering::Relaxed)) && self.up.load().is_some();
        if is_news {
            self.away_since_us.store(self.common.clock.steady_us().max(1), Ordering::Relaxed);
        }
        let was_up = self.up.rcu(|now| match now {
            Some(now) if Arc::ptr_eq(now, up) => None,
            other => other.clone(),
        });
        if was_up.is_some_and(|was| Arc::ptr_eq(&was, up)) {
            if is_news {
                tracing::warn!(target: "tollgate::limit", "limits at {}: {why}; their outage rules hold until it is back", self.name);
            }
            self.common.redis_clock.forget(&self.name);
            self.failed.notify_one();
            self.common.topology.notify_one();
        }
    }

    /// Sends a command without caring for the answer.
    pub async fn tell(&self, command: &Cmd) {
        if let Some(up) = self.up.load_full() {
            let mut connection = up.connection.clone();
            let _ = tokio::time::timeout(self.common.timeout, connection.req_packed_command(command)).await;
        }
    }

    /// Asks something about the server itself.
    pub async fn query(&self, command: &Cmd) -> Option<Value> {
        let up = self.up.load_full()?;
        let mut connection = up.connection.clone();
        tokio::time::timeout(self.common.timeout, connection.req_packed_command(command)).await.ok()?.ok()
    }

    /// Keeps the server connected, until it is dropped.
    pub async fn keep(self: Arc<Self>) {
        let mut last_failure = String::new();
        loop {
            match self.connect().await {
                Ok((up, epoch)) => {
                    last_failure.clear();
                    self.arrived(up.clone(), epoch.clone()).await;
                    tokio::select! {
                        () = self.watch(&up) => {}
                        why = leads_elsewhere(&self.topology, &epoch, self.common.connect_timeout) => self.fail(&up, why),
                    }
                }
                Err(why) => {
                    if why != last_failure {
                        tracing::warn!(target: "tollgate::limit", "limits at {}: {why}", self.name);
                        last_failure = why;
                    }
                }
            }
            tokio::time::sleep(RECONNECT_EVERY).await;
        }
    }

    /// Connects, makes sure that this is a master, and gives it the script.
    async fn connect(&self) -> Result<(Arc<Up>, String), String> {
        let events = self.common.events.clone();
        let config = untimed().set_push_sender(move |push: PushInfo| {
            // A full queue loses a recall: the bucket stays tight and others wait a little longer.
            recall(&push).map_or(Ok(()), |event| events.try_send(event))
        });
        let limit = connect_limit(&self.topology, self.common.connect_timeout);
        let connecting = tokio::time::timeout(limit, async {
            let mut connection = self.topology.connect(&config).await?;
            // In one go: a server that is 50 ms away must not take a quarter of a second to begin with.
            let mut questions = redis::pipe();
            questions.cmd("INFO").arg("server").cmd("INFO").arg("replication").cmd("PING").ignore();
            questions.cmd("SCRIPT").arg("LOAD").arg(SCRIPT).ignore();
            let (server, replication): (String, String) = questions.query_async(&mut connection).await?;
            let () = cmd("SUBSCRIBE").arg(RECALLS).query_async(&mut connection).await?;
            Ok::<_, RedisError>((connection, server + &replication))
        });
        let (connection, text) = match connecting.await {
            Ok(done) => done.map_err(|error| {
                let may_not = error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm);
                if may_not { format!("the user lacks permissions; give it {PERMISSIONS}") } else { describe(&error) }
            })?,
            Err(_) => return Err(format!("no connection within {} ms", limit.as_millis())),
        };
        let epoch = epoch_of(&text).ok_or("it is not a master")?;
        let arrived_us = self.common.clock.steady_us();
        let heard_us = AtomicU64::new(arrived_us);
        let serial = self.serial.load(Ordering::Relaxed) + 1;
        Ok((Arc::new(Up { connection, heard_us, serial, arrived_us, is_proved: AtomicBool::new(false) }), epoch))
    }

    async fn arrived(&self, up: Arc<Up>, epoch: String) {
        let before = self.epoch.lock().unwrap_or_else(PoisonError::into_inner).replace(epoch.clone());
        let is_other = before.is_none_or(|before| before != epoch);
        if is_other {
            self.learn();
        }
        self.serial.store(up.serial, Ordering::Release);
        self.up.store(Some(up));
        tracing::info!(target: "tollgate::limit", "limits at {}: connected", self.name);
        let _ = self.common.events.send(Event::Back(self.name.clone(), is_other)).await;
    }

    /// Returns when the connection is no good any more.
    async fn watch(&self, up: &Arc<Up>) {
        loop {
            tokio::select! {
                () = self.failed.notified() => {}
                () = tokio::time::sleep(PING_EVERY) => {}
            }
            if self.up.load().as_ref().is_none_or(|now| !Arc::ptr_eq(now, up)) {
                return;
            }
            let silent_us = self.common.clock.steady_us().saturating_sub(up.heard_us.load(Ordering::Relaxed));
            if silent_us < micros(PING_EVERY) {
                continue;
            }
            let mut connection = up.connection.clone();
            let (time, sent_us) = (cmd("TIME"), self.common.clock.steady_us());
            let asked = time.query_async::<(u64, u64)>(&mut connection);
            match tokio::time::timeout(self.common.timeout, asked).await {
                Ok(Ok((seconds, micros))) => {
                    // Its clock, so that what is known of it does not grow old.
                    let received_us = self.common.clock.steady_us();
                    up.heard_us.store(received_us, Ordering::Relaxed);
                    let now_ms = seconds * 1_000 + micros / 1_000;
                    self.common.redis_clock.observe(&self.name, now_ms, sent_us, received_us);
                }
                Ok(Err(error)) => self.fail(up, &describe(&error)),
                Err(_) => self.fail(up, "no answer to a ping in time"),
            }
        }
    }
}

/// How long gateways are given to report what they hold to a server that may have forgotten it:
/// longer than it takes the last of them to notice and to connect.
pub fn learn_time(topology: &Topology, timeout: Duration, connect_timeout: Duration) -> Duration {
    LEARN_MIN.max(PING_EVERY + timeout + connect_limit(topology, connect_timeout) + RECONNECT_EVERY * 2)
}

async fn ask(connection: &mut MultiplexedConnection, command: &Cmd, is_asking: bool) -> Result<Vec<i64>, RedisError> {
    if !is_asking {
        return command.query_async(connection).await;
    }
    let mut both = redis::pipe();
    both.cmd("ASKING").ignore().add_command(command.clone());
    let (list,): (Vec<i64>,) = both.query_async(connection).await?;
    Ok(list)
}

/// The recall that a pushed message is, if it is one: `<bucket> <window>`.
fn recall(push: &PushInfo) -> Option<Event> {
    let (PushKind::Message, [_, Value::BulkString(text)]) = (&push.kind, &push.data[..]) else { return None };
    let (bucket, window) = std::str::from_utf8(text).ok()?.split_once(' ')?;
    Some(Event::Recall(u128::from_str_radix(bucket, 16).ok()?, window.parse().ok()?))
}
