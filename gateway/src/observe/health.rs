//! Readiness: whether this gateway should get traffic, and what an operator should know.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// What is known of this process's state.
#[derive(Debug, Default)]
pub struct Health {
    /// Conditions that make it degraded: what, and why in words. Still ready.
    degraded: Mutex<BTreeMap<&'static str, String>>,
    /// Conditions that must be met before it is ready at all.
    waiting_for: Mutex<BTreeMap<&'static str, String>>,
    is_draining: AtomicBool,
}

/// The answer of `/readyz`.
#[derive(Debug, serde::Serialize)]
pub struct Readiness {
    /// `ready`, `degraded`, `starting` or `draining`.
    pub status: &'static str,
    /// Why, by subject.
    pub reasons: BTreeMap<&'static str, String>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Health {
    /// Says that something is wrong that traffic can live with.
    pub fn degrade(&self, subject: &'static str, why: String) {
        lock(&self.degraded).insert(subject, why);
    }

    /// Says that it is right again.
    pub fn restore(&self, subject: &'static str) {
        lock(&self.degraded).remove(subject);
    }

    /// Says that traffic must wait for something.
    pub fn wait_for(&self, subject: &'static str, why: &str) {
        lock(&self.waiting_for).insert(subject, why.to_owned());
    }

    /// Says that it is there.
    pub fn arrived(&self, subject: &'static str) {
        lock(&self.waiting_for).remove(subject);
    }

    /// Says that the process is stopping.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::Release);
    }

    /// How things stand.
    pub fn readiness(&self) -> Readiness {
        let waiting = lock(&self.waiting_for).clone();
        let degraded = lock(&self.degraded).clone();
        let status = match (self.is_draining.load(Ordering::Acquire), waiting.is_empty(), degraded.is_empty()) {
            (true, _, _) => "draining",
            (false, false, _) => "starting",
            (false, true, false) => "degraded",
            (false, true, true) => "ready",
        };
        Readiness { status, reasons: waiting.into_iter().chain(degraded).collect() }
    }
}
