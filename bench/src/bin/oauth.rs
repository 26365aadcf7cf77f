//! What the authorization server costs: refreshes a second on one core, and grants in a store.
//! `cargo run --release -p bench --bin oauth [redis://…]`; without a URL, an SQLite file.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench that cannot be set up should stop")]

use std::sync::Arc;
use std::time::Instant;

use gateway::base::clock::{Clock as _, System};
use gateway::base::digest::{Pepper, Peppers};
use gateway::base::http_client::HttpClient;
use gateway::base::random::base62;
use gateway::identify::{Bounds, FailureBudget, Identities};
use gateway::oauth::http::Request;
use gateway::oauth::{AuthorizationServer, Providers, Throttle};
use gateway::observe::Metrics;
use gateway::registry::access::Registry;
use gateway::registry::apps::{NewApp, register};
use gateway::registry::grant::{GrantRecord, REFRESH_LIFE_MS, Refresh};
use gateway::registry::secret::refresh_token;
use gateway::registry::user::{Membership, Passwords, Role, UserRecord};
use gateway::registry::{Actor, By};
use gateway::store::{RedisSettings, conformance, open};
use policy::Source;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const GRANTS: usize = 20_000;
const APPS: usize = 1_200;
const REFRESHES: usize = 2_000;

fn policy() -> policy::Policy {
    let text = include_str!("../../../deploy/examples/iconflow.yaml").to_owned();
    policy::compile(vec![Source { name: "bench".into(), text }]).unwrap()
}

fn grant(id: String, app: &str) -> GrantRecord {
    let now_ms = System.now_ms();
    GrantRecord {
        id,
        api: "iconflow".into(),
        app: app.to_owned(),
        user: "usr_MHv15Pw5CtacrUic".into(),
        organization: "acme".into(),
        scopes: vec!["packs:read".into(), "downloads:read".into()],
        created_ms: now_ms,
        expires_ms: now_ms + REFRESH_LIFE_MS,
        code: None,
        refresh: Some(Refresh { salt: base62(22).unwrap(), generation: 0, rotated_ms: now_ms }),
        dead: None,
        not_before_s: 0,
        revoked: Vec::new(),
    }
}

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bench.db");
    let url = std::env::args().nth(1).unwrap_or_else(|| format!("sqlite://{}", file.display()));
    let server = server(&url, folder.path()).await;
    let policy = policy();
    let user = people(&server).await;
    let apps = applications(&server, &policy).await;
    let before = size(&file);
    let tokens = grants(&server, &apps, &user).await;
    if url.starts_with("sqlite") {
        println!("SQLite: {:.0} bytes a grant", (size(&file) - before) as f64 / GRANTS as f64);
    }
    refreshes(&server, policy.api("iconflow").unwrap(), &tokens).await;
}

async fn server(url: &str, folder: &std::path::Path) -> AuthorizationServer {
    let store = open(url, &RedisSettings::default()).await.unwrap();
    let peppers = Peppers { current: Pepper::from_hex(&"1".repeat(64)).unwrap(), previous: None };
    let (clock, metrics) = (Arc::new(System), Arc::new(Metrics::new().unwrap()));
    let http_client = Arc::new(HttpClient::new(None, folder.to_owned()).unwrap());
    let bounds = Bounds::default();
    let identities = Identities::new(store.clone(), peppers.clone(), bounds, clock.clone(), http_client.clone());
    AuthorizationServer {
        registry: Registry::new(store),
        peppers,
        identities: Arc::new(identities),
        metrics,
        clock,
        passwords: Passwords::new(2).unwrap(),
        logins: Throttle::default(),
        failures: FailureBudget::new(0),
        http_client,
        providers: Providers::default(),
    }
}

async fn people(server: &AuthorizationServer) -> String {
    server.registry.store().insert_organization(&conformance::organization("acme")).await.unwrap();
    let user = UserRecord {
        id: "usr_MHv15Pw5CtacrUic".into(),
        email: "jo@example.com".into(),
        name: "Jo".into(),
        password: None,
        memberships: vec![Membership { organization: "acme".into(), role: Role::Member }],
        created_ms: 0,
        sessions_from_ms: 0,
        disabled_ms: None,
    };
    server.registry.insert_user(&user).await.unwrap();
    user.id
}

async fn applications(server: &AuthorizationServer, policy: &policy::Policy) -> Vec<String> {
    let (mut apps, started) = (Vec::new(), Instant::now());
    for n in 0..APPS {
        let new = NewApp {
            name: format!("Application {n}"),
            organization: "acme".into(),
            redirect_uris: vec!["https://pixelforge.design/callback/iconflow".into()],
            scopes: vec!["packs:read".into(), "downloads:read".into()],
            api: None,
            confidential: false,
        };
        let by = By { actor: Actor::cli("bench"), now_ms: 0 };
        let (app, _) = register(&server.registry, &server.peppers, policy, &new, &by).await.unwrap();
        apps.push(app.id);
    }
    println!("{APPS} applications registered in {:.1} s", started.elapsed().as_secs_f64());
    apps
}

/// Makes grants, one for each of many users; of the first ones, which are of one user, returns
/// application and refresh token.
async fn grants(server: &AuthorizationServer, apps: &[String], user: &str) -> Vec<(String, String)> {
    let (mut tokens, started) = (Vec::new(), Instant::now());
    for n in 0..GRANTS {
        let mut grant = grant(base62(22).unwrap(), apps.get(n % APPS).unwrap());
        if n < REFRESHES {
            let salt = &grant.refresh.as_ref().unwrap().salt;
            tokens.push((grant.app.clone(), refresh_token(&server.peppers, &grant.id, salt, 0)));
            grant.user = user.to_owned();
        } else {
            grant.user = format!("usr_{n:016}");
        }
        server.registry.insert_grant(&grant).await.unwrap();
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("{GRANTS} grants: {:.0} us each, one after the other", seconds * 1e6 / GRANTS as f64);
    tokens
}

async fn refreshes(server: &AuthorizationServer, api: &policy::Api, tokens: &[(String, String)]) {
    server.maintain().await;
    let headers: http::HeaderMap =
        [(http::header::CONTENT_TYPE, "application/x-www-form-urlencoded".parse().unwrap())].into_iter().collect();
    let (cpu, started) = (cpu_ms(), Instant::now());
    for (app, token) in tokens {
        let body = format!("grant_type=refresh_token&client_id={app}&refresh_token={token}");
        let request = Request {
            api,
            oauth: api.oauth.as_ref().unwrap(),
            method: "POST",
            path: "/oauth/token",
            query: "",
            headers: &headers,
            body: body.as_bytes(),
            address: std::net::IpAddr::from([127, 0, 0, 1]),
            now_ms: 0,
        };
        let reply = server.answer(request).await;
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    let (cpu, wall) = (cpu_ms() - cpu, started.elapsed().as_millis() as f64);
    let each = REFRESHES as f64;
    println!(
        "refresh: {:.2} ms of CPU, {:.0} a second per core; {:.2} ms from end to end, one after the other",
        cpu / each,
        each / cpu * 1e3,
        wall / each
    );
}

fn size(file: &std::path::Path) -> u64 {
    let wal = file.with_extension("db-wal");
    [file, &wal].iter().filter_map(|path| std::fs::metadata(path).ok()).map(|m| m.len()).sum()
}

/// CPU time of this process, user and system, milliseconds.
fn cpu_ms() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|t| t.parse::<f64>().ok()).unwrap();
    (ticks(11) + ticks(12)) * 10.0
}
