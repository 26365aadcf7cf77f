//! One connection to Redis in whatever arrangement the URL names, with deadlines and a breaker.
//!
//! A call never waits longer than its deadline. After a failure the connection is dropped, so that
//! the next call finds the new master or topology, and for a moment calls fail at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, RedisError};
use tokio::sync::Mutex;

use super::super::StoreError;
use super::way::{RedisSettings, Way, describe, way};

/// After a failure, calls fail at once for this long.
const BREAKER: Duration = Duration::from_millis(100);

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
                Way::Cluster(client, _) => client.get_async_connection().await.map(Connection::Cluster),
                one @ (Way::Alone(_) | Way::Sentinel(_)) => one.connect(&config).await.map(Connection::Alone),
            }
        };
        // Several nodes may have to be tried, some of them dark.
        let limit = match self.way {
            Way::Alone(_) => self.connect_timeout,
            Way::Cluster(..) | Way::Sentinel(_) => self.connect_timeout * 4,
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

/// Whether an error means "this server cannot serve us now", as opposed to "this value is wrong".
fn is_about_the_server(error: &RedisError) -> bool {
    !matches!(error.kind(), ErrorKind::UnexpectedReturnType | ErrorKind::Parse)
        && !matches!(error.code(), Some("WRONGTYPE"))
}
