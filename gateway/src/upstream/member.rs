//! One address of a pool, and whether a request may go there now.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::kept::Kept;

/// How long an address is passed over after no connection to it could be made; doubled each time
/// that one request tried it again in vain.
pub(super) const EJECTED_MS: u64 = 2_000;
/// Most doublings of that: half a minute.
const DOUBLINGS_MAX: u32 = 4;

/// One address of a pool.
#[derive(Debug)]
pub struct Member {
    /// Where.
    pub address: SocketAddr,
    /// Idle connections to it.
    pub kept: Kept,
    is_healthy: AtomicBool,
    /// Until when it is passed over, Unix milliseconds; 0 when it is not.
    ejected_until_ms: AtomicU64,
    /// Connections in a row that could not be made.
    failures: AtomicU32,
}

impl Member {
    /// An address of which nothing bad is known.
    pub(super) fn new(address: SocketAddr) -> Self {
        Member {
            address,
            kept: Kept::default(),
            is_healthy: AtomicBool::new(true),
            ejected_until_ms: AtomicU64::new(0),
            failures: AtomicU32::new(0),
        }
    }

    /// Notes what a health check has found; whether that is news.
    pub(super) fn set_healthy(&self, is_healthy: bool) -> bool {
        self.is_healthy.swap(is_healthy, Ordering::Relaxed) != is_healthy
    }

    /// No connection could be made: passes the address over for a while.
    pub fn eject(&self, now_ms: u64) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).min(DOUBLINGS_MAX);
        self.ejected_until_ms.store(now_ms + (EJECTED_MS << failures), Ordering::Relaxed);
    }

    /// A connection was made.
    pub fn connected(&self) {
        if self.ejected_until_ms.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.ejected_until_ms.store(0, Ordering::Relaxed);
        }
    }

    /// Whether a request may go there. Of an address that was passed over, one request at a time
    /// finds out whether it is back.
    pub(super) fn is_usable(&self, now_ms: u64) -> bool {
        let until = self.ejected_until_ms.load(Ordering::Relaxed);
        let is_probe = || {
            let claim = now_ms + EJECTED_MS;
            self.ejected_until_ms.compare_exchange(until, claim, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        };
        self.is_healthy.load(Ordering::Relaxed) && (until == 0 || now_ms >= until && is_probe())
    }
}
