//! Exchanges that outlast their request: WebSockets, event streams, gRPC calls. When their
//! credential ends, so do they, also when no byte is moving.
//!
//! An exchange on a route that allows such protocols is tethered to its credential while it runs.
//! Changes that a gateway learns of are looked at here after the caches have forgotten what they
//! said: whatever they may touch is asked about again. The engine polls no hook of ours while an
//! exchange is quiet, so the tether wraps the engine's own future: over HTTP/1.1 the next look at
//! the client fails, which ends the exchange with a word of farewell; over HTTP/2 the stream is
//! reset, and the other streams of the connection go on.

mod frames;

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::H2Options;
use pingora::server::ShutdownWatch;
use prometheus::IntCounterVec;
use tokio::sync::Notify;

use crate::digest::Digest;
use crate::identify::Caller;
use crate::store::Change;

pub use frames::{CLOSE_FRAME, Frames};

/// How long an exchange over HTTP/1.1 has for its farewell.
const GRACE: Duration = Duration::from_secs(3);

tokio::task_local! {
    /// The tether of the exchange that this task runs.
    static TETHER: Arc<Tether>;
}

const RUNNING: u8 = 0;
const ENDING: u8 = 1;
const FAREWELL: u8 = 2;

/// Ties one exchange to its credential.
#[derive(Default)]
pub struct Tether {
    stage: AtomicU8,
    ended: Notify,
}

impl Tether {
    /// The tether of the exchange that runs in this task.
    pub fn current() -> Option<Arc<Tether>> {
        TETHER.try_with(Arc::clone).ok()
    }

    /// Whether the client may not be listened to any more: the exchange must come to its end.
    pub fn is_cut() -> bool {
        TETHER.try_with(|tether| tether.stage.load(Ordering::Acquire) == ENDING).unwrap_or(false)
    }

    /// Whether the credential has ended.
    pub fn has_ended(&self) -> bool {
        self.stage.load(Ordering::Acquire) != RUNNING
    }

    /// Lets the last words be written.
    pub fn say_farewell(&self) {
        self.stage.store(FAREWELL, Ordering::Release);
    }

    /// Ends the exchange; `false` when that was done before.
    fn end(&self) -> bool {
        let was = self.stage.compare_exchange(RUNNING, ENDING, Ordering::AcqRel, Ordering::Acquire);
        if was.is_ok() {
            self.ended.notify_one();
        }
        was.is_ok()
    }
}

/// One tethered exchange.
struct Entry {
    caller: Caller,
    /// Hashes under which a key may be stored.
    digests: Option<(Digest, Option<Digest>)>,
    protocol: &'static str,
    /// When the credential ends by itself, Unix milliseconds.
    ends_ms: u64,
    tether: Weak<Tether>,
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

/// What is known of an exchange that is to be tethered.
pub struct Tie {
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
pub struct Seat {
    live: Arc<Live>,
    number: u64,
}

impl Seat {
    /// Its number, by which it can be ended.
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.live.entries().remove(&self.number);
    }
}

impl Live {
    fn entries(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many exchanges are tethered.
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

    /// Tethers an exchange.
    pub fn seat(self: &Arc<Self>, tie: Tie, tether: &Arc<Tether>) -> Seat {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let Tie { caller, digests, ends_ms, protocol } = tie;
        let tether = Arc::downgrade(tether);
        self.entries().insert(number, Entry { caller, digests, protocol, ends_ms, tether });
        Seat { live: self.clone(), number }
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
        let Some(tether) = entry.tether.upgrade() else { return };
        if !tether.end() {
            return;
        }
        // A stream over HTTP/2 is dropped without a record of its own.
        log::info!(target: "tollgate::live", "ended a live {} exchange with its {}", entry.protocol, entry.credential());
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
            (Change::Everything, _) | (Change::Keyring, Caller::Token(..)) => true,
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

/// The engine, with each exchange on a tether.
pub struct Tethered<App> {
    /// The engine.
    pub app: Arc<App>,
    /// Whether there is a route at all whose exchanges outlast their request.
    pub has_streams: Arc<dyn Fn() -> bool + Send + Sync>,
}

type Exchange<'a> = Pin<Box<dyn Future<Output = Option<ReusedHttpStream>> + Send + 'a>>;

impl<App: HttpServerApp + Send + Sync + 'static> HttpServerApp for Tethered<App> {
    // By hand, not by `async_trait`: a policy without streams costs nothing.
    fn process_new_http<'life0, 'life1, 'async_trait>(
        self: &'life0 Arc<Self>,
        session: ServerSession,
        shutdown: &'life1 ShutdownWatch,
    ) -> Exchange<'async_trait>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        if !(self.has_streams)() {
            return self.app.process_new_http(session, shutdown);
        }
        Box::pin(async move {
            let tether = Arc::<Tether>::default();
            let is_h2 = session.as_http2().is_some();
            let exchange = TETHER.scope(tether.clone(), self.app.process_new_http(session, shutdown));
            let mut exchange = std::pin::pin!(exchange);
            tokio::select! {
                biased;
                end = exchange.as_mut() => end,
                () = tether.ended.notified() => {
                    // An HTTP/2 stream is reset when it is dropped; a connection can say goodbye.
                    let grace = if is_h2 { Duration::ZERO } else { GRACE };
                    tokio::time::timeout(grace, exchange).await.ok().flatten()
                }
            }
        })
    }

    fn h2_options(&self) -> Option<H2Options> {
        self.app.h2_options()
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.app.server_options()
    }

    fn http_cleanup<'life0, 'async_trait>(&'life0 self) -> Pin<Box<dyn Future<Output = ()> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        self.app.http_cleanup()
    }
}
