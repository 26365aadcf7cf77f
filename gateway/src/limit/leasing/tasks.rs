//! What goes on behind requests: conversations of buckets with Redis, recalls, reports, sweeping.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::cmd;
use tokio::sync::mpsc;

use super::Leasing;
use super::bucket::Bucket;
use super::ledger::{Next, Reason};
use super::node::{Event, LEARN, Node, RECALLS, State, micros};

/// Time between two sweeps of buckets whose window has ended.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// An answer not older than this is not asked for again by someone who only looks.
const FRESH: Duration = Duration::from_millis(250);
/// Longest wait at a stop for the return of tokens held.
const LEAVE: Duration = Duration::from_secs(2);
/// How often a stop or a start looks whether it is done.
const LOOK: Duration = Duration::from_millis(10);

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
        let nodes = Arc::clone(&self.nodes);
        self.runtime.spawn(async move { nodes.follow().await });
    }

    /// Speaks with Redis for a bucket until there is nothing left to say.
    pub(super) async fn converse(&self, bucket: &Bucket) {
        let metrics = &self.metrics;
        loop {
            let look = self.common.redis_clock.look(self.common.clock.steady_us());
            let now_us = self.common.clock.steady_us();
            let grants = match self.state(bucket, now_us) {
                State::Up => true,
                State::Away { .. } => false,
                State::Learning { since_us } => look.is_some_and(|look| {
                    let began = bucket.window(bucket.index(look.lo_ms)).start_ms;
                    now_us.saturating_sub(look.lo_ms.saturating_sub(began) * 1_000) >= since_us
                }),
            };
            let message = match bucket.next(look, now_us, grants) {
                Next::Idle => return,
                Next::Send(message) => message,
            };
            metrics.calls.inc();
            let Ok(reply) = self.nodes.call(&message).await else {
                bucket.lost();
                return;
            };
            metrics.granted.inc_by(u64::from(reply.granted));
            let Some(look) = self.common.redis_clock.look(self.common.clock.steady_us()) else {
                bucket.lost();
                return;
            };
            if reply.is_stale {
                metrics.stale.inc();
            }
            if reply.has_forgotten
                && grants
                && !message.is_share
                && let Some(node) = self.nodes.of(bucket.id)
            {
                self.forgotten(&node);
            }
            let settled = bucket.settle(&message, &reply, look);
            if let Some(error) = settled.error {
                metrics.remaining_error.observe(error);
            }
            if let (Some(window), Some(node)) = (settled.recall, self.nodes.of(bucket.id)) {
                metrics.recalls.inc();
                node.tell(cmd("PUBLISH").arg(RECALLS).arg(format!("{:032x} {window}", bucket.id))).await;
            }
            if let Some(pause) = settled.pause {
                tokio::time::sleep(pause).await;
            }
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
    fn forgotten(&self, node: &Node) {
        let now_us = self.common.clock.steady_us();
        let last_us = self.forgotten_us.swap(now_us, Ordering::Relaxed);
        if now_us.saturating_sub(last_us) < micros(LEARN) {
            return;
        }
        let name = &node.name;
        log::warn!(target: "tollgate::limit", "limits at {name}: buckets were lost without a restart; set maxmemory-policy noeviction");
        node.learn();
        self.report(name, true);
    }

    /// Tells a server what is held of its buckets: of all, or of shares taken while it was away.
    fn report(&self, name: &Arc<str>, of_all: bool) {
        let Some(look) = self.common.redis_clock.look(self.common.clock.steady_us()) else { return };
        if of_all {
            self.metrics.learns.inc();
        }
        for bucket in self.buckets.pin().values() {
            let is_its = self.nodes.of(bucket.id).is_some_and(|node| node.name == *name);
            let is_live = bucket.index(look.lo_ms) <= bucket.word().window;
            if is_its && is_live && (of_all || bucket.word().is_share) {
                self.start_conversation(bucket, Reason::Report);
            }
        }
    }

    /// Learns how a bucket stands without taking anything from it.
    ///
    /// A report grants nothing, so it may also go to a server that is still learning.
    pub(super) async fn ask_after(&self, bucket: &Arc<Bucket>) {
        let now_us = self.common.clock.steady_us();
        let is_away = matches!(self.nodes.state(bucket.id, now_us), State::Away { .. });
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
        let Some(look) = self.common.redis_clock.look(self.common.clock.steady_us()) else { return };
        let buckets = self.buckets.pin();
        for (id, bucket) in buckets.iter() {
            if bucket.is_over(look.lo_ms) && buckets.remove(id).is_some() {
                self.held.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Returns when every server answers and has heard what there is to report.
    pub(super) async fn until_learned(&self) {
        loop {
            let now_us = self.common.clock.steady_us();
            let nodes = self.nodes.all();
            if !nodes.is_empty() && nodes.iter().all(|node| node.state(now_us) == State::Up) {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Returns every token held, so that the next gateway can have them.
    pub(super) async fn return_all(&self) {
        for bucket in self.buckets.pin_owned().values() {
            if bucket.word().tokens > 0 {
                self.start_conversation(bucket, Reason::Return);
            }
        }
        let _ = tokio::time::timeout(LEAVE, async {
            while self.buckets.pin_owned().values().any(|bucket| bucket.is_running()) {
                tokio::time::sleep(LOOK).await;
            }
        })
        .await;
    }

    /// Brings gauges up to date.
    pub(super) fn refresh_gauges(&self) {
        let tokens: u64 = self.buckets.pin().values().map(|bucket| u64::from(bucket.word().tokens)).sum();
        self.metrics.held_tokens.set(i64::try_from(tokens).unwrap_or(i64::MAX));
        let now_us = self.common.clock.steady_us();
        self.metrics.alone.set(i64::from(self.company().1 <= now_us));
        let [mut up, mut learning, mut away] = [0; 3];
        for node in self.nodes.all() {
            match node.state(now_us) {
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
