//! One connection to Redis in whatever arrangement the URL names, with deadlines and a breaker.
//!
//! A call never waits longer than its deadline. After a failure the connection is dropped, so that
//! the next call finds the new master or topology, and for a moment calls fail at once.

use std::path::PathBuf;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo, RedisError, TlsCertificates,
};
use tokio::sync::Mutex;

use super::super::StoreError;

/// After a failure, calls fail at once for this long.
const BREAKER: Duration = Duration::from_millis(100);

/// How to reach Redis, beside the URL.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// Longest wait for an answer.
    pub timeout: Duration,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Certificate authority of a server that speaks TLS; the system's when absent.
    pub ca: Option<PathBuf>,
}

impl Default for RedisSettings {
    fn default() -> Self {
        RedisSettings { timeout: Duration::from_millis(50), connect_timeout: Duration::from_millis(250), ca: None }
    }
}

enum Way {
    Alone(Client),
    Cluster(ClusterClient),
    Sentinel(Mutex<SentinelClient>),
}

#[derive(Clone)]
enum Connection {
    Alone(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// A connection that comes back.
pub(super) struct Link {
    way: Way,
    timeout: Duration,
    connect_timeout: Duration,
    connection: Mutex<Option<(u64, Connection)>>,
    generation: AtomicU64,
    started: Instant,
    closed_until_ms: AtomicU64,
}

fn bad_url(error: impl std::fmt::Display) -> StoreError {
    StoreError::Refused(format!(
        "the store URL cannot be used: {error}; write sqlite:///path, redis://host:6379, rediss://…, \
         redis+cluster://host:port,host:port or redis+sentinel://host:port,host:port/master-name"
    ))
}

impl Link {
    pub(super) fn new(url: &str, settings: &RedisSettings, timeout: Duration) -> Result<Self, StoreError> {
        Ok(Link {
            way: way(url, settings)?,
            timeout,
            connect_timeout: settings.connect_timeout,
            connection: Mutex::new(None),
            generation: AtomicU64::new(0),
            started: Instant::now(),
            closed_until_ms: AtomicU64::new(0),
        })
    }

    /// Sends one command.
    pub(super) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        let now = self.elapsed_ms();
        if now < self.closed_until_ms.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("it did not answer a moment ago".to_owned()));
        }
        let (generation, mut connection) = self.connected().await?;
        let answer = tokio::time::timeout(self.timeout, async {
            match &mut connection {
                Connection::Alone(c) => c.req_packed_command(command).await,
                Connection::Cluster(c) => c.req_packed_command(command).await,
            }
        });
        let error = match answer.await {
            Ok(Ok(value)) => {
                return T::from_redis_value(value).map_err(|e| StoreError::Corrupt(e.to_string()));
            }
            Ok(Err(error)) if !is_about_the_server(&error) => {
                return Err(StoreError::Corrupt(describe(&error)));
            }
            Ok(Err(error)) => describe(&error),
            Err(_) => format!("no answer within {} ms", self.timeout.as_millis()),
        };
        self.fail(generation).await;
        Err(StoreError::Unavailable(error))
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn open_breaker(&self) {
        let until = self.elapsed_ms() + u64::try_from(BREAKER.as_millis()).unwrap_or(0);
        self.closed_until_ms.store(until, Ordering::Relaxed);
    }

    async fn fail(&self, generation: u64) {
        self.open_breaker();
        let mut slot = self.connection.lock().await;
        if slot.as_ref().is_some_and(|(g, _)| *g == generation) {
            *slot = None;
        }
    }

    async fn connected(&self) -> Result<(u64, Connection), StoreError> {
        // Whoever finds another connecting waits no longer than for an answer.
        let waited = tokio::time::timeout(self.timeout, self.connection.lock()).await;
        let mut slot = waited.map_err(|_| StoreError::Unavailable("it is being connected to".to_owned()))?;
        if let Some(known) = slot.as_ref() {
            return Ok(known.clone());
        }
        if self.elapsed_ms() < self.closed_until_ms.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("it did not answer a moment ago".to_owned()));
        }
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let connecting = async {
            match &self.way {
                Way::Alone(client) => {
                    client.get_multiplexed_async_connection_with_config(&config).await.map(Connection::Alone)
                }
                Way::Cluster(client) => client.get_async_connection().await.map(Connection::Cluster),
                Way::Sentinel(client) => {
                    client.lock().await.get_async_connection_with_config(&config).await.map(Connection::Alone)
                }
            }
        };
        // Several nodes may have to be tried, some of them dark.
        let limit = match self.way {
            Way::Alone(_) => self.connect_timeout,
            Way::Cluster(_) | Way::Sentinel(_) => self.connect_timeout * 4,
        };
        let connection = match tokio::time::timeout(limit, connecting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                self.open_breaker();
                return Err(StoreError::Unavailable(describe(&error)));
            }
            Err(_) => {
                self.open_breaker();
                return Err(StoreError::Unavailable(format!("no connection within {} ms", limit.as_millis())));
            }
        };
        let generation = self.generation.fetch_add(1, Ordering::Relaxed);
        *slot = Some((generation, connection.clone()));
        Ok((generation, connection))
    }
}

/// The error without what the server echoed of our command: it could hold record data.
fn describe(error: &RedisError) -> String {
    match error.code() {
        Some(code) => format!("Redis says {code}"),
        None => error.category().to_owned(),
    }
}

/// Whether an error means "this server cannot serve us now", as opposed to "this value is wrong".
fn is_about_the_server(error: &RedisError) -> bool {
    !matches!(error.kind(), ErrorKind::UnexpectedReturnType | ErrorKind::Parse)
        && !matches!(error.code(), Some("WRONGTYPE"))
}

fn way(url: &str, settings: &RedisSettings) -> Result<Way, StoreError> {
    let ca = settings.ca.as_ref().map(std::fs::read).transpose();
    let ca = ca.map_err(|e| bad_url(format!("cannot read the certificate authority: {e}")))?;
    let certificates = || ca.clone().map(|root_cert| TlsCertificates { client_tls: None, root_cert: Some(root_cert) });
    let (scheme, rest) = url.split_once("://").ok_or_else(|| bad_url("there is no `://`"))?;
    let (plain, arrangement) = scheme.split_once('+').unwrap_or((scheme, ""));
    if plain != "redis" && plain != "rediss" {
        return Err(bad_url(format!("`{plain}` is not a kind of store")));
    }
    let (login, rest) = rest.rsplit_once('@').map_or(("", rest), |(login, rest)| (login, rest));
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    let login = if login.is_empty() { String::new() } else { format!("{login}@") };
    let node = |host: &str, path: &str| {
        let protocol = if path.contains('?') { "&protocol=resp3" } else { "?protocol=resp3" };
        format!("{plain}://{login}{host}/{path}{protocol}")
    };
    match arrangement {
        "" => {
            let info = node(hosts, path).into_connection_info().map_err(|e| bad_url(describe(&e)))?;
            let client = match certificates() {
                Some(tls) => Client::build_with_tls(info, tls),
                None => Client::open(info),
            };
            client.map(Way::Alone).map_err(|e| bad_url(describe(&e)))
        }
        "cluster" => {
            let nodes: Vec<String> = hosts.split(',').map(|host| node(host, "")).collect();
            let mut builder = ClusterClientBuilder::new(nodes)
                .connection_timeout(settings.connect_timeout)
                .max_connection_attempts(std::num::NonZeroUsize::MIN)
                .response_timeout(Duration::from_secs(2))
                .retries(2);
            if let Some(tls) = certificates() {
                builder = builder.certs(tls);
            }
            builder.build().map(Way::Cluster).map_err(|e| bad_url(describe(&e)))
        }
        "sentinel" => sentinel(hosts, path, plain == "rediss", &login, certificates())
            .map(|client| Way::Sentinel(Mutex::new(client))),
        other => Err(bad_url(format!("`{other}` is not an arrangement of Redis"))),
    }
}

fn sentinel(
    hosts: &str,
    path: &str,
    tls: bool,
    login: &str,
    certificates: Option<TlsCertificates>,
) -> Result<SentinelClient, StoreError> {
    let mut addresses = Vec::new();
    for host in hosts.split(',') {
        let (name, port) = host.rsplit_once(':').unwrap_or((host, "26379"));
        let port = port.parse().map_err(|_| bad_url(format!("`{host}` has no usable port")))?;
        addresses.push(redis::ConnectionAddr::Tcp(name.to_owned(), port));
    }
    let master = path.split(['/', '?']).next().filter(|name| !name.is_empty());
    let master = master.ok_or_else(|| bad_url("a Sentinel URL ends in the master's name"))?;
    let mut builder = SentinelClientBuilder::new(addresses, master, SentinelServerType::Master)
        .map_err(|e| bad_url(describe(&e)))?
        .set_client_to_redis_protocol(redis::ProtocolVersion::RESP3);
    let (user, password) = login.trim_end_matches('@').split_once(':').unwrap_or_default();
    if !password.is_empty() {
        builder = builder.set_client_to_redis_password(password);
    }
    if !user.is_empty() {
        builder = builder.set_client_to_redis_username(user);
    }
    if tls {
        builder = builder.set_client_to_redis_tls_mode(redis::TlsMode::Secure);
    }
    if let Some(certificates) = certificates {
        builder = builder.set_client_to_redis_certificates(certificates);
    }
    builder.build().map_err(|e| bad_url(describe(&e)))
}
