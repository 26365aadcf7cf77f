//! Policy and certificates, taken over from disk while running.
//!
//! Files are looked at twice a second and on SIGHUP, by content: symbolic links that are swapped
//! (Kubernetes) and files that are replaced need no special care. What is bad changes nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::base::clock::Clock;
use crate::config::CertificatePaths;
use crate::edge::tls::{Certificates, Resolver};
use crate::observe::{Health, Metrics};
use crate::snapshot::PolicyKeeper;

/// Time between two looks.
const EVERY: Duration = Duration::from_millis(500);

/// Certificate files of a gateway.
pub struct CertificateKeeper {
    /// The files.
    pub paths: Vec<CertificatePaths>,
    /// Where they come into force.
    pub resolver: Arc<Resolver>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Readiness.
    pub health: Arc<Health>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// When refused certificates are looked at again, Unix milliseconds.
    pub retry_at_ms: AtomicU64,
}

/// Time after which refused certificates are looked at again.
const RETRY_MS: u64 = 60_000;

impl CertificateKeeper {
    /// Whether refused certificates should be looked at again: time alone may mend them.
    fn is_retry_due(&self) -> bool {
        self.clock.now_ms() >= self.retry_at_ms.load(Ordering::Relaxed)
    }

    /// Content of all files, hashed; a file that cannot be read counts by its error.
    pub fn fingerprint(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for path in self.paths.iter().flat_map(|pair| [&pair.certificate, &pair.key]) {
            match std::fs::read(path) {
                Ok(bytes) => hasher.update(&bytes),
                Err(error) => hasher.update(error.kind().to_string().as_bytes()),
            };
        }
        hasher.finalize()
    }

    /// Loads, proves and puts in force, or says why not.
    pub fn load(&self) -> Result<(), crate::edge::tls::CertificateFault> {
        self.put(self.resolver.judge(Certificates::load(&self.paths, self.now_s())?)?);
        Ok(())
    }

    /// Puts the first certificates in force. One that has expired is better than none: it is said,
    /// and looked at again.
    pub fn start(&self) -> Result<(), crate::edge::tls::CertificateFault> {
        self.put(Certificates::load(&self.paths, self.now_s())?);
        Ok(())
    }

    fn now_s(&self) -> i64 {
        i64::try_from(self.clock.now_ms() / 1_000).unwrap_or(i64::MAX)
    }

    fn put(&self, certificates: Certificates) {
        let fault = certificates.out_of_date().cloned();
        self.resolver.replace(certificates);
        self.refresh_days();
        self.health.restore("certificates");
        self.retry_at_ms.store(u64::MAX, Ordering::Relaxed);
        self.metrics.in_force.with_label_values(&["certificates"]).set(i64::from(fault.is_none()));
        if let Some(fault) = fault {
            let line = format!("a certificate in use is out of date: {fault}");
            tracing::error!(target: "tollgate::reload", "{line}");
            self.health.degrade("certificates", line);
            self.retry_at_ms.store(self.clock.now_ms() + RETRY_MS, Ordering::Relaxed);
        }
    }

    /// Brings the days-to-expiry metric up to date.
    pub fn refresh_days(&self) {
        if let Some(end_s) = self.resolver.not_after_s() {
            let days = f64::from(i32::try_from((end_s - self.now_s()) / 3_600).unwrap_or(i32::MAX)) / 24.0;
            self.metrics.certificate_days.set(days);
        }
    }

    fn look(&self, seen: Option<blake3::Hash>) -> Option<blake3::Hash> {
        let now = Some(self.fingerprint());
        if now == seen {
            return seen;
        }
        match self.load() {
            Ok(()) => {
                tracing::info!(target: "tollgate::reload", "certificates were reloaded");
                self.metrics.reloads.with_label_values(&["certificates", "ok"]).inc();
            }
            Err(error) => {
                let line = format!("the certificates on disk were not accepted, those in force stay: {error}");
                tracing::error!(target: "tollgate::reload", "{line}");
                self.metrics.reloads.with_label_values(&["certificates", "failed"]).inc();
                self.metrics.in_force.with_label_values(&["certificates"]).set(0);
                self.health.degrade("certificates", line);
                self.retry_at_ms.store(self.clock.now_ms() + RETRY_MS, Ordering::Relaxed);
            }
        }
        now
    }
}

/// Looks at the files until it is dropped. `seen_certificates` was taken before they were loaded.
pub async fn watch(
    policy: Arc<PolicyKeeper>,
    certificates: Arc<CertificateKeeper>,
    seen_certificates: blake3::Hash,
) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut seen_policy = None;
    let mut seen_certificates = Some(seen_certificates);
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            _ = hangup.recv() => {
                tracing::info!(target: "tollgate::reload", "SIGHUP: looking at policy and certificates");
                (seen_policy, seen_certificates) = (None, None);
            }
        }
        if certificates.is_retry_due() {
            seen_certificates = None;
        }
        let (policy, certificates) = (policy.clone(), certificates.clone());
        let look = move || (policy.look(seen_policy), certificates.look(seen_certificates));
        if let Ok((policy, certificates)) = tokio::task::spawn_blocking(look).await {
            (seen_policy, seen_certificates) = (policy, certificates);
        }
    }
}
