//! Everything that a request is judged by, as one immutable value; and how a new one takes its
//! place.
//!
//! A request takes the snapshot once, at its start, and is judged by it to its end. Counters and
//! cached keys are not in it: they are keyed by stable names and survive a reload.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use policy::route::Api;
use policy::{Environment, Policy, Problems, Source};

use crate::observe::{ApiMetrics, Health, Metrics, RouteMetrics};
use crate::upstream::{ApiPools, Connections, Pool, Pools};

/// One policy in force, with what belongs to it.
pub struct Snapshot {
    /// The policy.
    pub policy: Policy,
    /// Backends, API by API.
    pools: Vec<ApiPools>,
    /// Counters, API by API and route by route.
    metrics: Vec<(ApiMetrics, Vec<RouteMetrics>)>,
    nobodys: ApiMetrics,
    /// BLAKE3 of the sources: tells whether files changed.
    pub fingerprint: blake3::Hash,
    /// When the newest source was changed, Unix milliseconds. Where gateways that share limits are
    /// on different policies, the limits of the newest one hold.
    pub version: u64,
}

impl Snapshot {
    /// Completes a compiled policy.
    pub fn new(policy: Policy, fingerprint: blake3::Hash, version: u64, pools: &Pools) -> Self {
        let metrics = policy.apis.iter().map(|api| {
            let routes = api.routes.iter().map(|_| RouteMetrics::default());
            (ApiMetrics::default(), routes.collect())
        });
        Snapshot {
            metrics: metrics.collect(),
            nobodys: ApiMetrics::default(),
            pools: pools.of(&policy),
            policy,
            fingerprint,
            version,
        }
    }

    /// The pool of an API for an environment.
    pub fn pool(&self, api: &Api, environment: Environment) -> Option<&Arc<Pool>> {
        let (live, test) = self.pools.get(api.index as usize)?;
        match environment {
            Environment::Live => Some(live),
            Environment::Test => test.as_ref(),
        }
    }

    /// The counters of a route.
    pub fn route_metrics(&self, api: u32, route: u32) -> Option<&RouteMetrics> {
        self.metrics.get(api as usize)?.1.get(route as usize)
    }

    /// The counters of an API; those of requests for nobody's host without one.
    pub fn api_metrics(&self, api: Option<u32>) -> &ApiMetrics {
        api.and_then(|index| self.metrics.get(index as usize)).map_or(&self.nobodys, |(metrics, _)| metrics)
    }
}

/// Why a policy is not in force.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A file cannot be read.
    #[error("cannot read the policy file {}: {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// It does not compile.
    #[error("{0}")]
    Wrong(Problems),
}

/// Reads policy files. Reading and hashing is all that a look for changes costs.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Source>, PolicyError> {
    paths
        .iter()
        .map(|path| {
            let text = std::fs::read_to_string(path);
            let text = text.map_err(|e| PolicyError::Unreadable { path: path.clone(), cause: e.to_string() })?;
            Ok(Source { name: path.display().to_string(), text })
        })
        .collect()
}

/// What tells two sets of sources apart.
pub fn fingerprint(sources: &[Source]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for source in sources {
        hasher.update(&(source.text.len() as u64).to_le_bytes());
        hasher.update(source.text.as_bytes());
    }
    hasher.finalize()
}

/// When the newest of some files was changed, Unix milliseconds; 0 when nobody can tell.
fn newest<'p>(paths: impl IntoIterator<Item = &'p Path>) -> u64 {
    let changed = paths.into_iter().filter_map(|path| std::fs::metadata(path).ok()?.modified().ok());
    let since = changed.filter_map(|at| at.duration_since(std::time::UNIX_EPOCH).ok()).max().unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(0)
}

/// The policy files of a gateway, and the snapshot made of them.
pub struct PolicyKeeper {
    paths: Vec<PathBuf>,
    last_good: PathBuf,
    pools: Pools,
    now: ArcSwap<Snapshot>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Saved {
    files: Vec<(String, String)>,
}

impl PolicyKeeper {
    /// Compiles the files. If they are bad and a last good policy was saved, that one is in force
    /// and readiness says so; otherwise there is nothing to start with.
    pub fn start(
        paths: Vec<PathBuf>,
        state: &Path,
        connections: Arc<Connections>,
        metrics: Arc<Metrics>,
        health: Arc<Health>,
    ) -> Result<Self, PolicyError> {
        let last_good = state.join("last-good-policy.json");
        let pools = Pools::new(connections);
        let compiled = read(&paths).and_then(|sources| {
            let print = fingerprint(&sources);
            let policy = policy::compile(sources.clone()).map_err(PolicyError::Wrong)?;
            Ok((policy, print, sources))
        });
        let (snapshot, error) = match compiled {
            Ok((policy, print, sources)) => {
                save(&last_good, &sources);
                (Snapshot::new(policy, print, newest(paths.iter().map(PathBuf::as_path)), &pools), None)
            }
            Err(error) => match load(&last_good) {
                // The fingerprint of the bad files is unknown or theirs: they are looked at again.
                Some(policy) => {
                    let version = newest([last_good.as_path()]);
                    (Snapshot::new(policy, blake3::hash(b"last good"), version, &pools), Some(error))
                }
                None => return Err(error),
            },
        };
        let keeper = PolicyKeeper { paths, last_good, pools, now: ArcSwap::from_pointee(snapshot), metrics, health };
        match error {
            Some(error) => keeper.report(&error),
            None => keeper.metrics.in_force.with_label_values(&["policy"]).set(1),
        }
        Ok(keeper)
    }

    /// The snapshot in force.
    pub fn load(&self) -> Arc<Snapshot> {
        self.now.load_full()
    }

    /// Builds a keeper around a policy that is already compiled: for tests and benches.
    pub fn fixed(policy: Policy, metrics: Arc<Metrics>) -> Self {
        let pools = Pools::new(Arc::new(Connections::default()));
        let snapshot = Snapshot::new(policy, blake3::hash(b"fixed"), 0, &pools);
        let now = ArcSwap::from_pointee(snapshot);
        PolicyKeeper { paths: Vec::new(), last_good: PathBuf::new(), pools, now, metrics, health: Arc::default() }
    }

    /// Replaces the policy by one that is already compiled.
    pub fn replace(&self, policy: Policy, fingerprint: blake3::Hash) {
        // Files may be put back with the date they had; the policy that takes effect is newer all the same.
        let version = newest(self.paths.iter().map(PathBuf::as_path)).max(self.now.load().version + 1);
        self.now.store(Arc::new(Snapshot::new(policy, fingerprint, version, &self.pools)));
    }

    /// Looks at the files. Compiles them if their content is not `seen`, and puts the result in
    /// force if it is good. Returns what was seen, to be given to the next look.
    pub fn look(&self, seen: Option<blake3::Hash>) -> Option<blake3::Hash> {
        let sources = match read(&self.paths) {
            Ok(sources) => sources,
            Err(error) => {
                // Said once: the same missing file is not news every half second.
                let unreadable = blake3::hash(error.to_string().as_bytes());
                if seen != Some(unreadable) {
                    self.report(&error);
                }
                return Some(unreadable);
            }
        };
        let print = fingerprint(&sources);
        if seen == Some(print) {
            return seen;
        }
        if self.now.load().fingerprint == print {
            self.accept();
            return Some(print);
        }
        match policy::compile(sources.clone()) {
            Ok(policy) => {
                self.replace(policy, print);
                save(&self.last_good, &sources);
                self.metrics.reloads.with_label_values(&["policy", "ok"]).inc();
                tracing::info!(target: "tollgate::reload", "the policy was reloaded");
                self.accept();
            }
            Err(problems) => self.report(&PolicyError::Wrong(problems)),
        }
        Some(print)
    }

    fn accept(&self) {
        self.health.restore("policy");
        self.metrics.in_force.with_label_values(&["policy"]).set(1);
    }

    fn report(&self, error: &PolicyError) {
        let line = match error {
            PolicyError::Wrong(problems) => problems.summary(),
            PolicyError::Unreadable { .. } => error.to_string(),
        };
        tracing::error!(target: "tollgate::reload", "the policy on disk was not accepted, the last good one stays: {line}");
        self.health.degrade("policy", format!("the policy on disk was not accepted, the last good one stays: {line}"));
        self.metrics.reloads.with_label_values(&["policy", "failed"]).inc();
        self.metrics.in_force.with_label_values(&["policy"]).set(0);
    }
}

/// Saves the sources of a good policy, whole or not at all.
fn save(path: &Path, sources: &[Source]) {
    let saved = Saved { files: sources.iter().map(|s| (s.name.clone(), s.text.clone())).collect() };
    let write = || -> std::io::Result<()> {
        let part = path.with_extension("json.part");
        std::fs::write(&part, serde_json::to_vec(&saved)?)?;
        std::fs::rename(&part, path)
    };
    if let Err(error) = write() {
        tracing::warn!(target: "tollgate::reload", "the last good policy could not be saved to {}: {error}", path.display());
    }
}

fn load(path: &Path) -> Option<Policy> {
    let saved: Saved = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let sources = saved.files.into_iter().map(|(name, text)| Source { name, text }).collect();
    policy::compile(sources).ok()
}
