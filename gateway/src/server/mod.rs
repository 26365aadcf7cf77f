//! Constructs the gateway from its settings: the only place where everything is made and put together.

mod jobs;
pub mod reload;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pingora::connectors::ConnectorOptions;
use pingora::listeners::{L4BufferSettings, ListenerConfig, TcpSocketOptions};
use pingora::server::configuration::{Opt, ServerConf};
use pingora::server::{ExecutionPhase, RunArgs, Server};
use pingora::services::listening::Service;

use crate::admit::{self, Gate};
use crate::audit::{Audit, Keeper, KeyPrefixes};
use crate::base::clock::{Clock, System};
use crate::base::http_client::HttpClient;
use crate::base::random::{RequestIds, base62};
use crate::config::{Config, ListenKind};
use crate::downstream::Deadlines;
use crate::edge::tls::{Resolver, acceptor};
use crate::edge::{Caps, Edge};
use crate::exchange::{Exchanges, Shared};
use crate::identify::{Bounds, FailureBudget, Identities};
use crate::limit::{Embedded, Leasing, Limiter};
use crate::manage::Admin;
use crate::manage::Management;
use crate::oauth::{AuthorizationServer, Providers, Throttle};
use crate::observe::{Health, Metrics};
use crate::registry::access::Registry;
use crate::registry::user::Passwords;
use crate::server::reload::{CertificateKeeper, watch};
use crate::snapshot::PolicyKeeper;
use crate::store::{Store, StoreError};
use crate::upstream::{Connections, keepalive};
use crate::usage::UsageLog;

/// Why a gateway did not start. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Policy.
    #[error("{0}")]
    Policy(#[from] crate::snapshot::PolicyError),
    /// Certificates.
    #[error("{0}")]
    Certificates(#[from] crate::edge::tls::CertificateFault),
    /// Store.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// Metrics.
    #[error("{0}")]
    Metrics(#[from] crate::observe::MetricFault),
    /// Password hashing.
    #[error("{0}")]
    Passwords(#[from] crate::registry::user::PasswordFault),
    /// Randomness.
    #[error("{0}")]
    Randomness(#[from] crate::base::random::NoRandomness),
    /// An address or a thread.
    #[error("{what}: {cause}")]
    System {
        /// What was tried.
        what: String,
        /// Why it failed.
        cause: std::io::Error,
    },
}

fn system(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> StartError {
    let what = what.into();
    move |cause| StartError::System { what, cause }
}

/// How often a stopping gateway looks whether its last client has left.
const LOOK_FOR_END: Duration = Duration::from_millis(100);

/// How often a starting gateway looks whether its listeners accept.
const LOOK_FOR_LISTENERS: Duration = Duration::from_millis(10);

/// Longest wait of an upgrade for a limiter that may answer.
const UPGRADE_PATIENCE: Duration = Duration::from_secs(5);

/// How a process starts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Start {
    /// Take the listeners over from a running gateway with the same `state` folder.
    pub upgrade: bool,
}

/// Runs a gateway until it is told to stop.
pub fn run(config: Config, start: Start) -> Result<(), StartError> {
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("background")
        .enable_all()
        .build()
        .map_err(system("cannot start background threads"))?;
    // Pools, followers and watchers are spawned here and live as long as this runtime.
    let _entered = threads.enter();
    std::fs::create_dir_all(&config.state).map_err(system(format!("cannot make {}", config.state.display())))?;

    let clock: Arc<dyn Clock> = Arc::new(System);
    let metrics = Arc::new(Metrics::new()?);
    let health = Arc::new(Health::default());
    let store = threads.block_on(crate::store::open(&config.store, &config.redis))?;
    let conf = server_conf(&config);
    let connections = Arc::new(Connections::new(ConnectorOptions::from_server_conf(&conf)));
    let (paths, state) = (config.policy.clone(), &config.state);
    let keeper = PolicyKeeper::start(paths, state, connections.clone(), metrics.clone(), health.clone())?;
    let keeper = Arc::new(keeper);
    let (certificates, seen_certificates) = certificates(&config, &metrics, &health, &clock)?;
    let gateway_id = format!("gw_{}", base62(16)?);
    let audit = audit(&config, (&gateway_id, &keeper), (&metrics, &health), &clock)?;
    let shared = shared(&config, &keeper, &store, (&metrics, &clock), audit)?;
    let caps = Caps::new(config.bounds.connections, config.bounds.connections_per_address);

    threads.spawn(jobs::prepare(store.clone(), shared.clone(), health.clone(), gateway_id.clone()));
    threads.spawn(watch(keeper, certificates.clone(), seen_certificates));
    health.wait_for(LISTENERS, "the listeners do not accept connections yet");
    let admin = admin(&config, &shared, &health, &caps, &certificates);
    let listener = admin.bind().map_err(system(format!("cannot listen on {} (admin)", config.admin)))?;
    threads.spawn(admin.serve(listener));

    if start.upgrade {
        // The old process serves until this one takes its listeners, which it does right below.
        let ready = tokio::time::timeout(UPGRADE_PATIENCE, shared.admit.limiter.ready());
        let _ = threads.block_on(ready);
    } else {
        check_listeners(&config)?;
    }
    let server = server(&config, (conf, start), &shared, connections, &certificates.resolver, &caps)?;
    let (phases, has_stopped_accepting) = (server.watch_execution_phase(), Arc::new(AtomicBool::new(false)));
    threads.spawn(watch_phases(phases, health.clone(), has_stopped_accepting.clone()));
    threads.spawn(accepting(config.listen.iter().map(|listen| listen.address).collect(), health.clone()));
    let pingora = std::thread::Builder::new().name("pingora".into()).spawn(move || server.run(RunArgs::default()));
    let pingora = pingora.map_err(system("cannot start Pingora"))?;
    // After a stop Pingora sleeps for the whole drain time; we leave when the last client has.
    let is_over = || pingora.is_finished() || has_stopped_accepting.load(Ordering::Acquire) && caps.open() == 0;
    while !is_over() {
        std::thread::sleep(LOOK_FOR_END);
    }

    threads.block_on(async {
        shared.admit.limiter.leave().await;
        shared.admit.usage.flush(&*store, &*shared.admit.limiter, shared.admit.clock.now_ms()).await;
        if let Err(error) = store.leave(&gateway_id).await {
            tracing::warn!(target: "tollgate::store", "this gateway could not take itself off the list: {error}");
        }
    });
    threads.shutdown_timeout(Duration::from_secs(2));
    shared.audit.stop(shared.admit.metrics.requests_counted());
    Ok(())
}

/// What keeps the certificates, with those of the configuration read, and the fingerprint of
/// the files before they were read: a change in between is seen as one.
fn certificates(
    config: &Config,
    metrics: &Arc<Metrics>,
    health: &Arc<Health>,
    clock: &Arc<dyn Clock>,
) -> Result<(Arc<CertificateKeeper>, blake3::Hash), StartError> {
    let certificates = Arc::new(CertificateKeeper {
        paths: config.certificates.clone(),
        resolver: Arc::new(Resolver::default()),
        metrics: metrics.clone(),
        health: health.clone(),
        clock: clock.clone(),
        retry_at_ms: std::sync::atomic::AtomicU64::new(u64::MAX),
    });
    let seen = certificates.fingerprint();
    if !config.certificates.is_empty() {
        certificates.start()?;
    }
    Ok((certificates, seen))
}

/// Pingora would only panic; a person wants to know which address is taken.
fn check_listeners(config: &Config) -> Result<(), StartError> {
    for listen in &config.listen {
        std::net::TcpListener::bind(listen.address).map_err(system(format!("cannot listen on {}", listen.address)))?;
    }
    Ok(())
}

/// What keeps records of requests, and the ids that it knows them by.
fn audit(
    config: &Config,
    (gateway, policies): (&str, &Arc<PolicyKeeper>),
    told: (&Arc<Metrics>, &Arc<Health>),
    clock: &Arc<dyn Clock>,
) -> Result<(Audit, RequestIds), StartError> {
    let ids = RequestIds::new()?;
    let policies = policies.clone();
    let key_prefixes: KeyPrefixes = Arc::new(move || policies.load().policy.key_prefixes().map(Into::into).collect());
    let keeper = Keeper { boot: ids.prefix(), gateway, threads: config.threads, key_prefixes };
    let audit = Audit::start(&config.audit, config.access_log, &keeper, told, clock);
    Ok((audit.map_err(system("cannot start the threads of the audit"))?, ids))
}

fn shared(
    config: &Config,
    keeper: &Arc<PolicyKeeper>,
    store: &Arc<dyn Store>,
    (metrics, clock): (&Arc<Metrics>, &Arc<dyn Clock>),
    (audit, request_ids): (Audit, RequestIds),
) -> Result<Arc<Shared>, StartError> {
    let issuer_ca = config.issuer_ca.as_ref();
    let http_client = HttpClient::new(issuer_ca, config.folder.clone()).map_err(system("cannot read `issuer_ca`"))?;
    let http_client = Arc::new(http_client);
    let bounds =
        Bounds { keys_max: config.bounds.cached_keys, stale_for: config.bounds.stale_for, ..Bounds::default() };
    let peppers = config.peppers.clone();
    let identities = Identities::new(store.clone(), peppers.clone(), bounds, clock.clone(), http_client.clone());
    let identities = Arc::new(identities);
    identities.live.count_in(metrics.oauth.ended_streams.clone());
    let authorization = AuthorizationServer {
        registry: Registry::new(store.clone()),
        peppers,
        identities: identities.clone(),
        metrics: metrics.clone(),
        clock: clock.clone(),
        passwords: Passwords::new(config.threads)?,
        logins: Throttle::default(),
        failures: FailureBudget::new(config.bounds.failures_per_minute),
        providers: Providers::default(),
        http_client,
    };
    let admit = admit::Shared {
        identities,
        limiter: limiter(config, metrics, clock)?,
        failures: FailureBudget::new(config.bounds.failures_per_minute),
        clock: clock.clone(),
        metrics: metrics.clone(),
        usage: Arc::new(UsageLog::new(metrics.clone())),
        store_kind: store.kind(),
        bounds: config.bounds.requests,
    };
    Ok(Arc::new(Shared {
        admit: Arc::new(admit),
        keeper: keeper.clone(),
        authorization: Arc::new(authorization),
        audit,
        request_ids,
        trusted_proxies: config.trusted_proxies.clone(),
        drain: config.bounds.drain,
    }))
}

/// Limits are kept where the keys are: in this process, or in the Redis that gateways share.
fn limiter(config: &Config, metrics: &Metrics, clock: &Arc<dyn Clock>) -> Result<Arc<dyn Limiter>, StartError> {
    let most = config.bounds.buckets;
    if config.store.starts_with("sqlite://") {
        return Ok(Arc::new(Embedded::new(most)));
    }
    Ok(Leasing::start(&config.store, &config.redis, most, clock.clone(), metrics.limits.clone())?)
}

fn admin(
    config: &Config,
    shared: &Arc<Shared>,
    health: &Arc<Health>,
    caps: &Arc<Caps>,
    certificates: &Arc<CertificateKeeper>,
) -> Admin {
    let (shared, caps, certificates) = (shared.clone(), caps.clone(), certificates.clone());
    let (authorization, keeper) = (shared.authorization.clone(), shared.keeper.clone());
    let management = config.management_key.map(|key| Management { authorization, keeper, key });
    let (metrics, limiter, clock) =
        (shared.admit.metrics.clone(), shared.admit.limiter.clone(), shared.admit.clock.clone());
    let refresh = move || {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        shared.admit.metrics.cached_keys.set(count(shared.admit.identities.cached()));
        shared.admit.metrics.limit_buckets.set(count(shared.admit.limiter.buckets()));
        shared.admit.limiter.refresh_metrics();
        shared.admit.metrics.open_connections.set(count(caps.open()));
        certificates.refresh_days();
    };
    Admin {
        address: config.admin,
        management,
        metrics,
        health: health.clone(),
        limiter,
        clock,
        refresh: Arc::new(refresh),
    }
}

fn server_conf(config: &Config) -> ServerConf {
    ServerConf {
        threads: config.threads,
        upgrade_sock: config.state.join("upgrade.sock").display().to_string(),
        pid_file: config.state.join("tollgate.pid").display().to_string(),
        ca_file: config.upstream_ca.as_ref().map(|p| p.display().to_string()),
        grace_period_seconds: Some(config.bounds.drain.as_secs()),
        graceful_shutdown_timeout_seconds: Some(1),
        upstream_keepalive_pool_size: 1_024,
        ..ServerConf::default()
    }
}

fn server(
    config: &Config,
    (conf, start): (ServerConf, Start),
    shared: &Arc<Shared>,
    connections: Arc<Connections>,
    resolver: &Arc<Resolver>,
    caps: &Arc<Caps>,
) -> Result<Server, StartError> {
    let opt = Opt { upgrade: start.upgrade, ..Opt::default() };
    let mut server = Server::new_with_opt_and_conf(Some(opt), conf);
    server.bootstrap();
    for listen in &config.listen {
        let gate = Gate { shared: shared.admit.clone(), listener: listen.kind.clone() };
        let is_h2c = matches!(listen.kind, ListenKind::Trusted { .. });
        let acceptor = match listen.kind {
            ListenKind::Tls => Some(acceptor(resolver.clone())?),
            ListenKind::Plain | ListenKind::Trusted { .. } => None,
        };
        let exchanges = Exchanges {
            shared: shared.clone(),
            gate,
            connections: connections.clone(),
            is_h2c,
            deadlines: Deadlines {
                head: config.bounds.head,
                idle: config.bounds.idle,
                body_rate: config.bounds.body_rate,
            },
        };
        let edge = Edge {
            app: Arc::new(exchanges),
            acceptor,
            handshake: config.bounds.handshake,
            caps: caps.clone(),
            metrics: shared.admit.metrics.clone(),
        };
        let mut service = Service::new(format!("edge {}", listen.address), edge);
        let mut socket = TcpSocketOptions::default();
        socket.tcp_keepalive = Some(keepalive());
        // What came is read into the buffers of its connection, or those of TLS. One more would double what an idle
        // connection over TLS takes (31 KiB instead of 15).
        let buffers = L4BufferSettings::unbuffered();
        let address = ListenerConfig::tcp(listen.address.to_string());
        service.add_listener(address.tcp_socket_options(socket).l4_buffer(buffers));
        server.add_service(service);
        tracing::info!(target: "tollgate::start", "listening on {} ({:?})", listen.address, listen.kind);
    }
    Ok(server)
}

/// Under which readiness speaks of them.
const LISTENERS: &str = "listeners";

/// Makes sure, from outside, that every listener accepts: traffic sent before that is refused.
async fn accepting(addresses: Vec<SocketAddr>, health: Arc<Health>) {
    for mut address in addresses {
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            IpAddr::V4(_) | IpAddr::V6(_) => {}
        }
        accepts(address).await;
    }
    health.arrived(LISTENERS);
}

/// Waits until somebody accepts connections at an address.
pub(crate) async fn accepts(address: SocketAddr) {
    while tokio::net::TcpStream::connect(address).await.is_err() {
        tokio::time::sleep(LOOK_FOR_LISTENERS).await;
    }
}

async fn watch_phases(
    mut phases: tokio::sync::broadcast::Receiver<ExecutionPhase>,
    health: Arc<Health>,
    has_stopped_accepting: Arc<AtomicBool>,
) {
    while let Ok(phase) = phases.recv().await {
        if matches!(phase, ExecutionPhase::ShutdownGracePeriod) {
            // Listeners notice the stop within moments; what they accept until then is served.
            tokio::time::sleep(LOOK_FOR_END).await;
            has_stopped_accepting.store(true, Ordering::Release);
        }
        if matches!(phase, ExecutionPhase::GracefulTerminate | ExecutionPhase::ShutdownStarted) {
            health.drain();
        }
    }
}
