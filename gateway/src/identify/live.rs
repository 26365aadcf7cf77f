//! Exchanges that outlast their request: WebSockets, event streams, gRPC calls. When their
//! credential ends, so do they, also when no byte is moving.
//!
//! On a route that allows such protocols, an exchange is on a list while it runs. When a gateway learns of
//! changes, the caches forget first; then each exchange on the list that a change may touch has its
//! credential looked up again. Whoever runs an exchange waits for its [`EndSignal`] beside everything else,
//! and ends it as its protocol does.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use prometheus::IntCounterVec;
use tokio::sync::Notify;

use crate::base::digest::Digest;
use crate::identify::Caller;
use crate::store::Change;

/// Tells one exchange that its credential has ended.
#[derive(Debug, Default)]
pub struct EndSignal {
    has_ended: AtomicBool,
    ended: Notify,
}

impl EndSignal {
    /// Waits until the credential has ended.
    pub async fn ended(&self) {
        while !self.has_ended() {
            self.ended.notified().await;
        }
    }

    /// Whether the credential has ended.
    pub fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    /// Ends the exchange; `false` when that was done before.
    fn end(&self) -> bool {
        let is_first = !self.has_ended.swap(true, Ordering::AcqRel);
        if is_first {
            self.ended.notify_one();
        }
        is_first
    }
}

/// One exchange on the list.
struct Entry {
    caller: Caller,
    /// Hashes under which a key may be stored.
    digests: Option<(Digest, Option<Digest>)>,
    protocol: &'static str,
    /// When the credential ends by itself, Unix milliseconds.
    ends_ms: u64,
    signal: Weak<EndSignal>,
}

/// The exchanges under way that outlast their request.
#[derive(Default)]
pub struct Live {
    entries: Mutex<HashMap<u64, Entry>>,
    next: AtomicU64,
    /// Counts changes, so that whoever begins can tell whether one came in between.
    changes: AtomicU64,
    /// Counts what was ended, by protocol.
    ended: OnceLock<IntCounterVec>,
}

/// What is known of an exchange that goes on the list.
pub struct LiveExchange {
    /// Whose it is.
    pub caller: Caller,
    /// Hashes under which a key may be stored.
    pub digests: Option<(Digest, Option<Digest>)>,
    /// When the credential ends by itself, Unix milliseconds.
    pub ends_ms: u64,
    /// Its protocol, for the metric and the log.
    pub protocol: &'static str,
}

/// Takes an exchange off the list when it is over.
pub struct Registered {
    live: Arc<Live>,
    number: u64,
}

impl Registered {
    /// Its number, by which it can be ended.
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.live.entries().remove(&self.number);
    }
}

impl Live {
    fn entries(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many exchanges are on the list.
    pub fn count(&self) -> usize {
        self.entries().len()
    }

    /// How many changes there have been.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Says where to count.
    pub fn count_in(&self, ended: IntCounterVec) {
        let _ = self.ended.set(ended);
    }

    /// Puts an exchange on the list: its signal is given when its credential ends.
    pub fn register(self: &Arc<Self>, exchange: LiveExchange, signal: &Arc<EndSignal>) -> Registered {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let LiveExchange { caller, digests, ends_ms, protocol } = exchange;
        let signal = Arc::downgrade(signal);
        self.entries().insert(number, Entry { caller, digests, protocol, ends_ms, signal });
        Registered { live: self.clone(), number }
    }

    /// The credentials of exchanges that changes may touch.
    pub fn touched(&self, changes: &[Change]) -> Vec<(u64, Caller)> {
        self.changes.fetch_add(1, Ordering::AcqRel);
        let entries = self.entries();
        let touched = entries.iter().filter(|(_, entry)| changes.iter().any(|change| entry.is_touched(change)));
        touched.map(|(number, entry)| (*number, entry.caller.clone())).collect()
    }

    /// The credentials of all exchanges.
    pub fn all(&self) -> Vec<(u64, Caller)> {
        self.entries().iter().map(|(number, entry)| (*number, entry.caller.clone())).collect()
    }

    /// Says when the credential of an exchange ends by itself: a rotation may have changed that.
    pub fn set_end(&self, number: u64, ends_ms: u64) {
        if let Some(entry) = self.entries().get_mut(&number) {
            entry.ends_ms = ends_ms;
        }
    }

    /// Ends an exchange.
    pub fn end(&self, number: u64) {
        if let Some(entry) = self.entries().get(&number) {
            self.end_entry(entry);
        }
    }

    /// Ends the exchanges whose credentials' time is over.
    pub fn end_expired(&self, now_ms: u64) {
        for entry in self.entries().values().filter(|entry| now_ms >= entry.ends_ms) {
            self.end_entry(entry);
        }
    }

    fn end_entry(&self, entry: &Entry) {
        let Some(signal) = entry.signal.upgrade() else { return };
        if !signal.end() {
            return;
        }
        tracing::info!(target: "tollgate::live", "ended a live {} exchange with its {}", entry.protocol, entry.credential());
        if let Some(ended) = self.ended.get() {
            ended.with_label_values(&[entry.protocol]).inc();
        }
    }
}

impl Entry {
    /// The credential, by the name that one can look up.
    fn credential(&self) -> String {
        match &self.caller {
            Caller::Key(key) => format!("key {}", key.facts.id),
            Caller::Token(token, Some(_)) => format!("grant {}", token.facts.grant),
            Caller::Token(_, None) => "token of another issuer".to_owned(),
        }
    }

    /// Whether a change may be about the credential of this exchange.
    fn is_touched(&self, change: &Change) -> bool {
        match (change, &self.caller) {
            (Change::Doubt(_) | Change::Everything, _) | (Change::Keyring, Caller::Token(..)) => true,
            (Change::Key(digest), Caller::Key(_)) => {
                self.digests.is_some_and(|(now, before)| now == *digest || before == Some(*digest))
            }
            (Change::Grant(id), Caller::Token(token, _)) => *token.facts.grant == **id,
            (Change::App(id), Caller::Token(token, _)) => *token.facts.client == **id,
            (Change::User(id), Caller::Token(token, _)) => *token.facts.user == **id,
            (Change::Organization(_), Caller::Key(_) | Caller::Token(..))
            | (Change::Key(_), Caller::Token(..))
            | (Change::Keyring, Caller::Key(_))
            | (Change::Grant(_) | Change::App(_) | Change::User(_), Caller::Key(_)) => false,
        }
    }
}
