//! The background tasks of the leasing limiter: messages to Redis, recalls, reports, sweeping.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::cmd;
use tokio::sync::mpsc;

use super::Leasing;
use super::bucket::Bucket;
use super::clock::Look;
use super::ledger::{Next, Reason};
use super::message::{Message, Reply};
use super::server::{Event, RECALLS, Server, State};
use super::shard_error::ShardError;
use crate::base::clock::micros;

/// Time between two sweeps of buckets whose window has ended.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// An answer not older than this is not asked for again by someone who only looks.
const FRESH: Duration = Duration::from_millis(250);
/// Longest wait at a stop for the return of tokens held.
const LEAVE: Duration = Duration::from_secs(2);
/// A server of a cluster that has not answered for this long is not waited for at a start.
const GIVE_UP: Duration = Duration::from_secs(5);
/// Buckets that report or return at once.
const SPEAKING_MAX: usize = 256;
/// How often a start looks whether it is done.
const LOOK_EVERY: Duration = Duration::from_millis(10);

impl Leasing {
    /// Starts the tasks. They end when the limiter is dropped.
    pub(super) fn run(self: &Arc<Self>, mut news: mpsc::Receiver<Event>) {
        let myself = Arc::downgrade(self);
        self.runtime.spawn(async move {
            while let Some(event) = news.recv().await {
                let Some(myself) = myself.upgrade() else { return };
                myself.on(event);
            }
        });
        let myself = Arc::downgrade(self);
        self.runtime.spawn(async move {
            loop {
                tokio::time::sleep(SWEEP_EVERY).await;
                let Some(myself) = myself.upgrade() else { return };
                myself.sweep();
            }
        });
        let servers = Arc::downgrade(&self.servers);
        self.runtime.spawn(async move {
            while let Some(servers) = servers.upgrade() {
                if !servers.follow().await {
                    return;
                }
            }
        });
    }

    /// Speaks with Redis for a bucket until there is nothing left to say.
    pub(super) async fn converse(&self, bucket: &Bucket) {
        loop {
            let now_us = self.common.clock.steady_us();
            let server = self.servers.of(bucket.id);
            let look = self.look_for(server.as_deref(), now_us);
            let serial = server.as_ref().map_or(0, |server| server.serial());
            let grants = self.may_be_granted(bucket, look, now_us);
            let message = match bucket.next(look, now_us, grants) {
                Next::Idle => return,
                Next::Send(message) => message,
            };
            self.metrics.calls.inc();
            let answer = match &server {
                Some(server) => self.servers.call(&message, server, serial).await,
                None => Err(ShardError::Away),
            };
            let look = self.look_for(server.as_deref(), self.common.clock.steady_us());
            let (Ok(reply), Some(look)) = (answer, look) else {
                // Over another connection by now, perhaps: then there is something to tell it.
                let is_back = self
                    .servers
                    .of(bucket.id)
                    .is_some_and(|now| now.serial() != serial && !matches!(now.state(now_us), State::Away { .. }));
                if bucket.lost(is_back) {
                    continue;
                }
                return;
            };
            if reply.has_forgotten
                && grants
                && !message.is_share
                && let Some(server) = &server
            {
                self.forgotten(server);
            }
            self.settle(bucket, &message, &reply, look).await;
        }
    }

    /// The clock that counts a bucket's windows: that of its server.
    fn look_for(&self, server: Option<&Server>, now_us: u64) -> Option<Look> {
        let clock = &self.common.redis_clock;
        server.map_or_else(|| clock.look(now_us), |server| clock.look_of(&server.name, now_us))
    }

    /// Whether the server of a bucket may grant tokens in the window that is now.
    fn may_be_granted(&self, bucket: &Bucket, look: Option<Look>, now_us: u64) -> bool {
        match self.state(bucket, now_us) {
            State::Up => true,
            State::Away { .. } => false,
            // What it may have forgotten began before.
            State::Learning { since_us } => look.is_some_and(|look| {
                let began_ms = bucket.window(bucket.index(look.lo_ms)).start_ms;
                now_us.saturating_sub(look.hi_ms.saturating_sub(began_ms) * 1_000) >= since_us
            }),
        }
    }

    async fn settle(&self, bucket: &Bucket, message: &Message, reply: &Reply, look: Look) {
        self.metrics.granted.inc_by(u64::from(reply.granted));
        if reply.is_stale {
            self.metrics.stale.inc();
        }
        let settled = bucket.settle(message, reply, look);
        if let Some(error) = settled.error {
            self.metrics.remaining_error.observe(error);
        }
        if let (Some(window), Some(server)) = (settled.recall, self.servers.of(bucket.id)) {
            self.metrics.recalls.inc();
            server.tell(cmd("PUBLISH").arg(RECALLS).arg(format!("{:032x} {window}", bucket.id))).await;
        }
        if let Some(pause) = settled.pause {
            tokio::time::sleep(pause).await;
        }
    }

    fn start_conversation(&self, bucket: &Arc<Bucket>, reason: Reason) {
        if bucket.start(reason) {
            self.drive(bucket.clone());
        }
    }

    fn on(&self, event: Event) {
        match event {
            Event::Recall(id, window) => {
                let Some(bucket) = self.find(id) else { return };
                if bucket.recall(window) {
                    self.metrics.returns.inc();
                    self.drive(bucket);
                }
            }
            Event::Back(name, has_forgotten) => self.report(&name, has_forgotten),
        }
    }

    /// A server holds less than we were told: it lost data without a restart.
    fn forgotten(&self, server: &Server) {
        let now_us = self.common.clock.steady_us();
        let last_us = self.forgotten_us.swap(now_us, Ordering::Relaxed);
        if now_us.saturating_sub(last_us) < micros(self.common.learn) {
            return;
        }
        let name = &server.name;
        tracing::warn!(target: "tollgate::limit", "limits at {name}: buckets were lost without a restart; set maxmemory-policy noeviction");
        server.learn();
        self.report(name, true);
    }

    /// Tells a server what is held of its buckets: of all, or of those that it cannot know of.
    fn report(&self, name: &Arc<str>, of_all: bool) {
        let Some(look) = self.look_now() else { return };
        if of_all {
            self.metrics.learns.inc();
        }
        let is_meant = |bucket: &Arc<Bucket>| {
            let word = bucket.word();
            bucket.index(look.lo_ms) <= word.window
                && (of_all || word.is_share || bucket.is_unsure())
                && self.servers.of(bucket.id).is_some_and(|server| server.name == *name)
        };
        let meant: Vec<_> = self.buckets.pin().values().filter(|bucket| is_meant(bucket)).cloned().collect();
        if let Some(myself) = self.myself.upgrade() {
            self.runtime.spawn(async move { myself.speak_for(meant, Reason::Report).await });
        }
    }

    /// Lets many buckets speak, a bounded number at once: each has only its timeout to be heard in.
    async fn speak_for(self: Arc<Self>, buckets: Vec<Arc<Bucket>>, reason: Reason) {
        let mut speaking = tokio::task::JoinSet::new();
        for bucket in buckets {
            if speaking.len() >= SPEAKING_MAX {
                speaking.join_next().await;
            }
            if bucket.start(reason) {
                let myself = self.clone();
                speaking.spawn(async move { myself.converse(&bucket).await });
            }
        }
        while speaking.join_next().await.is_some() {}
    }

    /// Learns how a bucket stands without taking anything from it.
    ///
    /// A report grants nothing, so it may also go to a server that is still learning.
    pub(super) async fn ask_after(&self, bucket: &Arc<Bucket>) {
        let now_us = self.common.clock.steady_us();
        let is_away = matches!(self.servers.state(bucket.id, now_us), State::Away { .. });
        let heard_us = bucket.heard_us();
        if is_away || (heard_us != 0 && now_us.saturating_sub(heard_us) < micros(FRESH)) {
            return;
        }
        self.start_conversation(bucket, Reason::Report);
        let deadline = self.common.timeout;
        let _ = tokio::time::timeout(deadline, async {
            while bucket.is_running() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    /// Drops buckets whose window has ended.
    fn sweep(&self) {
        let Some(look) = self.look_now() else { return };
        let buckets = self.buckets.pin();
        for (id, bucket) in buckets.iter() {
            if bucket.retire(look.lo_ms) && buckets.remove(id).is_some() {
                self.held.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Returns when the servers that answer have heard what there is to report. One of a cluster that
    /// stays away keeps nobody from starting.
    pub(super) async fn until_learned(&self) {
        self.until(|states, now_us| {
            let is_settled = |state: &State| match state {
                State::Up => true,
                State::Learning { .. } => false,
                State::Away { since_us } => now_us.saturating_sub(*since_us) > micros(GIVE_UP),
            };
            states.contains(&State::Up) && states.iter().all(is_settled)
        })
        .await;
    }

    /// Returns when the servers are as wanted; told of their states and of now.
    pub(super) async fn until(&self, is_so: impl Fn(&[State], u64) -> bool) {
        loop {
            let now_us = self.common.clock.steady_us();
            let states: Vec<State> = self.servers.all().iter().map(|server| server.state(now_us)).collect();
            if is_so(&states, now_us) {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Returns every token held, so that the next gateway can have them, and reports what was used.
    pub(super) async fn return_all(&self) {
        let Some(look) = self.look_now() else { return };
        let meant: Vec<_> = self.buckets.pin().values().filter(|bucket| bucket.has_news(look)).cloned().collect();
        if let Some(myself) = self.myself.upgrade() {
            let _ = tokio::time::timeout(LEAVE, myself.speak_for(meant, Reason::Return)).await;
        }
    }

    /// Brings gauges up to date.
    pub(super) fn refresh_gauges(&self) {
        let tokens: u64 = self.buckets.pin().values().map(|bucket| u64::from(bucket.word().tokens)).sum();
        self.metrics.held_tokens.set(i64::try_from(tokens).unwrap_or(i64::MAX));
        let now_us = self.common.clock.steady_us();
        self.metrics.alone.set(i64::from(self.company().1 <= now_us));
        let [mut up, mut learning, mut away] = [0; 3];
        for server in self.servers.all() {
            match server.state(now_us) {
                State::Up => up += 1,
                State::Learning { .. } => learning += 1,
                State::Away { .. } => away += 1,
            }
        }
        for (state, n) in [("up", up), ("learning", learning), ("away", away)] {
            self.metrics.servers.with_label_values(&[state]).set(n);
        }
    }
}
