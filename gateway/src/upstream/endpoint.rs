//! One address of a pool, and whether a request may go there now.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::idle::IdlePool;
use super::shared::SharedConnections;

/// How long an address is passed over after no connection to it could be made, in microseconds;
/// doubled each time that one request tried it again in vain.
pub(super) const EJECTED_US: u64 = 2_000_000;
/// While a connection to an address has been under way for so long, others go elsewhere if they can.
/// Where all addresses are that far away, all are used as ever.
pub(super) const STUCK_US: u64 = 50_000;
/// Most doublings of that: half a minute.
const DOUBLINGS_MAX: u32 = 4;

/// One address of a pool.
#[derive(Debug)]
pub struct Endpoint {
    /// Where.
    pub address: SocketAddr,
    /// Idle connections to it that speak HTTP/1.1.
    pub idle: IdlePool,
    /// Connections to it that speak HTTP/2.
    pub shared: SharedConnections,
    is_healthy: AtomicBool,
    /// Until when it is passed over, on the steady clock; 0 when it is not.
    ejected_until_us: AtomicU64,
    /// Since when a connection is being made; 0 while none is. The first of several counts.
    connecting_since_us: AtomicU64,
    /// Connections in a row that could not be made.
    failures: AtomicU32,
}

impl Endpoint {
    /// An address of which nothing bad is known.
    pub(super) fn new(address: SocketAddr) -> Self {
        Endpoint {
            address,
            idle: IdlePool::default(),
            shared: SharedConnections::default(),
            is_healthy: AtomicBool::new(true),
            ejected_until_us: AtomicU64::new(0),
            connecting_since_us: AtomicU64::new(0),
            failures: AtomicU32::new(0),
        }
    }

    /// Notes what a health check has found; whether that is news.
    pub(super) fn set_healthy(&self, is_healthy: bool) -> bool {
        self.is_healthy.swap(is_healthy, Ordering::Relaxed) != is_healthy
    }

    /// No connection could be made: passes the address over for a while.
    pub fn eject(&self, now_us: u64) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).min(DOUBLINGS_MAX);
        self.ejected_until_us.store(now_us + (EJECTED_US << failures), Ordering::Relaxed);
    }

    /// A connection was made.
    pub fn connected(&self) {
        if self.ejected_until_us.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.ejected_until_us.store(0, Ordering::Relaxed);
        }
    }

    /// A connection is being made, until what is given is dropped.
    pub(super) fn connect(&self, now_us: u64) -> Connecting<'_> {
        let since_us = now_us.max(1);
        let is_first =
            self.connecting_since_us.compare_exchange(0, since_us, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        Connecting(is_first.then_some(self))
    }

    /// Whether a connection to it has been under way for long.
    pub(super) fn is_stuck(&self, now_us: u64) -> bool {
        let since = self.connecting_since_us.load(Ordering::Relaxed);
        since != 0 && now_us.saturating_sub(since) >= STUCK_US
    }

    /// Whether a request may go there. Of an address that was passed over, one request at a time
    /// finds out whether it is back.
    pub(super) fn is_usable(&self, now_us: u64) -> bool {
        let until = self.ejected_until_us.load(Ordering::Relaxed);
        let is_probe = || {
            let claim = now_us + EJECTED_US;
            self.ejected_until_us.compare_exchange(until, claim, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        };
        self.is_healthy.load(Ordering::Relaxed) && (until == 0 || now_us >= until && is_probe())
    }
}

/// A connection that is being made.
pub(super) struct Connecting<'m>(Option<&'m Endpoint>);

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        if let Some(endpoint) = self.0 {
            endpoint.connecting_since_us.store(0, Ordering::Relaxed);
        }
    }
}
