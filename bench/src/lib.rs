//! Fixtures of the benches: policies of a size, and a gate with keys in its cache.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench that cannot be set up should stop")]

pub mod traffic;

use std::sync::Arc;

use gateway::admit::{Decision, Gate, Permit, Shared};
use gateway::base::clock::Manual;
use gateway::base::digest::{Digest, Pepper, Peppers};
use gateway::base::http_client::HttpClient;
use gateway::config::ListenKind;
use gateway::identify::{Bounds, FailureBudget, GrantFacts, Identities, KnownOrganization};
use gateway::limit::Embedded;
use gateway::observe::Metrics;
use gateway::snapshot::PolicyKeeper;
use gateway::store::{SqliteStore, Store};
use gateway::usage::UsageLog;
use policy::credential::{Secret, mint};
use policy::identity::{Environment, KeyClass};
use policy::{Key, Organization, Policy, Scopes, Source};

/// The instant of every bench.
pub const NOW_MS: u64 = 1_790_000_000_000;

/// Source text of a policy with so many routes; the first is `GET /v2/packs`.
pub fn policy_text(routes: usize) -> String {
    let mut text = String::from(
        "version: 1\napis:\n  - name: iconflow\n    hosts: [api.iconflow.dev]\n    keys: { live: ifk_live_ }\n    upstreams: { live: { addresses: [\"127.0.0.1:9101\"] } }\n    scopes: { \"packs:read\": Reading packs }\n    plans: { standard: { per_key: 1000000000/min } }\n    routes:\n",
    );
    for n in 0..routes {
        let path = if n == 0 { "/v2/packs".to_owned() } else { format!("/v2/area{}/things/*/parts{n}", n % 100) };
        text.push_str(&format!(
            "      - {{ id: r{n}, methods: [GET], paths: [\"{path}\"], access: {{ scopes: [\"packs:read\"] }} }}\n"
        ));
    }
    text
}

/// That policy, compiled.
pub fn policy(routes: usize) -> Policy {
    policy::compile(vec![Source { name: "bench".into(), text: policy_text(routes) }]).unwrap()
}

/// The pepper of the benches.
pub fn pepper() -> Pepper {
    Pepper::from_hex(&"5".repeat(64)).unwrap()
}

/// The secret of key number `n`.
pub fn secret(n: u64) -> String {
    let random: Vec<u8> =
        (0..64u64).map(|i| ((n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (i % 57)) % 248) as u8).collect();
    mint("ifk_live_", &random).unwrap()
}

/// Key number `n`, as the cache holds it. Keys share their set of scopes, as keys do.
pub fn key(n: u64, scopes: &Arc<Scopes>, api: &Arc<str>) -> Key {
    Key {
        id: format!("key_{n:016}").into(),
        api: api.clone(),
        class: KeyClass::Read,
        environment: Environment::Live,
        scopes: scopes.clone(),
        not_after_ms: None,
        fault: None,
        places: None,
        limit_override: None,
        subject: policy::limit::stable_number(&["key", &n.to_string()]),
    }
}

/// An organization that its keys share.
pub fn organization() -> Arc<KnownOrganization> {
    Arc::new(KnownOrganization::new(Organization {
        id: "acme".into(),
        plan: "".into(),
        permissions: Scopes::parse("packs:read").unwrap(),
        subject: 7,
        changed_ms: 0,
    }))
}

/// A gate over a policy with so many keys in its cache, and a runtime that its store needs.
pub struct Bench {
    /// The gate.
    pub gate: Gate,
    /// Its policy.
    pub keeper: Arc<PolicyKeeper>,
    /// Ends the store's threads when dropped.
    pub runtime: tokio::runtime::Runtime,
    _folder: tempfile::TempDir,
}

/// Sets a gate up.
pub fn gate(policy: Policy, keys: u64) -> Bench {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = runtime.block_on(SqliteStore::open(&folder.path().join("bench.db"))).unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    let clock = Arc::new(Manual::at(NOW_MS));
    let metrics = Arc::new(Metrics::new().unwrap());
    let peppers = Peppers { current: pepper(), previous: None };
    let http_client = Arc::new(HttpClient::new(None, folder.path().to_owned()).unwrap());
    let identities = Identities::new(store, peppers, Bounds::default(), clock.clone(), http_client);
    let identities = Arc::new(identities);
    warm(&identities, keys);
    let shared = Shared {
        identities,
        limiter: Arc::new(Embedded::new(4_000_000)),
        failures: FailureBudget::new(0),
        clock,
        usage: Arc::new(UsageLog::new(metrics.clone())),
        metrics: metrics.clone(),
        store_kind: "sqlite",
        bounds: policy::Bounds::DEFAULT,
    };
    let keeper = Arc::new(PolicyKeeper::fixed(policy, metrics));
    let gate = Gate { shared: Arc::new(shared), listener: ListenKind::Tls };
    Bench { gate, keeper, runtime, _folder: folder }
}

/// Puts keys into a cache.
pub fn warm(identities: &Identities, keys: u64) {
    let (scopes, api, organization) =
        (Arc::new(Scopes::parse("packs:read").unwrap()), Arc::<str>::from("iconflow"), organization());
    for n in 0..keys {
        let digest: Digest = pepper().digest(Secret::new(&secret(n)));
        identities.warm(digest, key(n, &scopes, &api), organization.clone());
    }
}

/// The permit of a request that must be forwarded.
pub fn permit(decision: Decision) -> Permit {
    match decision {
        Decision::Forward(permit) => permit,
        Decision::Refuse(_) | Decision::Answer(_) | Decision::Issuer => unreachable!("it is allowed"),
    }
}

/// Polls a future that never waits.
pub fn now<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => unreachable!("nothing here waits"),
    }
}

/// An API with an authorization server, its tokens, and one of them.
pub struct TokenBench {
    /// The gate.
    pub bench: Bench,
    /// A live access token.
    pub token: String,
}

/// Sets up a gate whose policy has an authorization server, with one grant in its cache.
pub fn tokens() -> TokenBench {
    let oauth = "    oauth: { issuer: https://auth.iconflow.dev }\n    upstreams:";
    let text = policy_text(10).replace("    upstreams:", oauth);
    let policy = policy::compile(vec![Source { name: "bench".into(), text }]).unwrap();
    let bench = gate(policy, 1);
    let keys = bench.gate.shared.identities.tokens.keys.clone();
    let claims = serde_json::json!({
        "iss": "https://auth.iconflow.dev", "sub": "usr_MHv15Pw5CtacrUic", "aud": "https://api.iconflow.dev",
        "client_id": "cf_9aB3dE7fGh2iJk", "scope": "packs:read downloads:read", "iat": NOW_MS / 1_000,
        "exp": NOW_MS / 1_000 + 3_600, "jti": "abcdefghijklmnopqrstuv", "gid": "0123456789abcdefghijkl",
    });
    let token = bench.runtime.block_on(async {
        keys.maintain().await.unwrap();
        keys.sign(&claims, NOW_MS).await.unwrap()
    });
    let facts = GrantFacts::live("cf_9aB3dE7fGh2iJk", "usr_MHv15Pw5CtacrUic");
    bench.gate.shared.identities.tokens.warm("0123456789abcdefghijkl", facts, organization());
    TokenBench { bench, token: format!("iat_{token}") }
}
