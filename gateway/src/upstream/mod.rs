//! Backends: which address a request goes to.
//!
//! A pool is made for each upstream of the policy and lives as long as its description does not
//! change, over reloads. Names are resolved again in the background, health is checked actively
//! where the policy says so and passively always: an address that refused a connection is passed
//! over for a while. When nothing looks healthy, addresses are tried all the same, because a wrong
//! guess about health must not make an outage.

pub mod backend;
pub mod connection;
mod connections;
mod endpoint;
pub mod fault;
mod health;
pub mod http1;
pub mod http2;
mod idle;
pub mod outbound;
pub mod request;
pub mod shared;

use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use pingora::protocols::TcpKeepalive;
use pingora::upstreams::peer::{HttpPeer, Peer as _};
use policy::Policy;
use policy::route::{HttpVersion, Route, Upstream};
use tokio::task::JoinHandle;

pub use self::connections::{Connections, Left};
pub use self::endpoint::Endpoint;
use crate::base::clock::{Clock as _, System};

/// Longest silence on a route that allows streams.
pub const STREAM_SILENCE: Duration = Duration::from_secs(3_600);
/// Time between two looks at idle connections.
const TIDY_EVERY: Duration = Duration::from_secs(10);

/// The addresses of one upstream.
#[derive(Debug)]
pub struct Pool {
    upstream: Upstream,
    /// The host that clients name, where no other one is sent to the backend.
    host: Box<str>,
    connections: Arc<Connections>,
    endpoints: ArcSwap<Vec<Arc<Endpoint>>>,
    next: AtomicUsize,
}

impl Pool {
    fn new(upstream: Upstream, host: &str, connections: Arc<Connections>) -> Self {
        let pool =
            Pool { upstream, host: host.into(), connections, endpoints: ArcSwap::default(), next: AtomicUsize::new(0) };
        // Looked up before the pool is used: a reload must not put an empty pool in force. This
        // waits, and is called where that is allowed: at the start and on a blocking thread.
        let resolve = |name: &str| name.to_socket_addrs().map(Iterator::collect).unwrap_or_else(|_| Vec::new());
        pool.set(pool.upstream.addresses.iter().flat_map(|name| resolve(name)).collect());
        pool
    }

    /// Takes new addresses; what is known of those that stay is kept.
    fn set(&self, addresses: Vec<SocketAddr>) {
        let known = self.endpoints.load();
        let keep = |address: SocketAddr| {
            known.iter().find(|m| m.address == address).cloned().unwrap_or_else(|| Arc::new(Endpoint::new(address)))
        };
        self.endpoints.store(Arc::new(addresses.into_iter().map(keep).collect()));
    }

    /// The next address in turn, one that looks healthy if there is one; none of `failed`, to which
    /// this request could not connect. `now_us` is on the steady clock.
    pub fn pick(&self, now_us: u64, failed: &[SocketAddr]) -> Option<Arc<Endpoint>> {
        let endpoints = self.endpoints.load();
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let in_turn = || {
            let all = (0..endpoints.len()).filter_map(|i| endpoints.get((start.wrapping_add(i)) % endpoints.len()));
            all.filter(|endpoint| !failed.contains(&endpoint.address))
        };
        let prompt = in_turn().find(|m| !m.is_stuck(now_us) && m.is_usable(now_us));
        // One that takes long is better than one that is known to be bad.
        let usable = prompt.or_else(|| in_turn().find(|m| m.is_usable(now_us)));
        usable.or_else(|| in_turn().next()).cloned()
    }

    async fn resolve(&self) {
        let mut addresses = Vec::new();
        for name in &self.upstream.addresses {
            match tokio::net::lookup_host(&**name).await {
                Ok(found) => addresses.extend(found),
                Err(error) => {
                    tracing::warn!(target: "tollgate::upstream", "{name} could not be resolved: {error}");
                }
            }
        }
        addresses.sort_unstable();
        addresses.dedup();
        // A resolver that fails does not empty a pool that works.
        if !addresses.is_empty() && !self.endpoints.load().iter().map(|m| m.address).eq(addresses.iter().copied()) {
            self.set(addresses);
        }
    }

    async fn check(&self, path: Option<&str>) {
        for endpoint in self.endpoints.load().iter() {
            let is_healthy = health::is_healthy(self, endpoint, path).await;
            if endpoint.set_healthy(is_healthy) {
                let now = if is_healthy { "healthy again" } else { "unhealthy" };
                tracing::warn!(target: "tollgate::upstream", "{} is {now}", endpoint.address);
            }
        }
    }

    /// Keeps addresses and health up to date until it is dropped.
    async fn watch(self: Arc<Self>) {
        tokio::join!(self.watch_backends(), self.tidy());
    }

    async fn watch_backends(&self) {
        let health = self.upstream.health.as_ref();
        let needs_names = self.upstream.addresses.iter().any(|a| a.parse::<SocketAddr>().is_err());
        let every = health.map_or(self.upstream.resolve_every, |h| h.every);
        if !needs_names && health.is_none() {
            return;
        }
        loop {
            if needs_names {
                self.resolve().await;
            }
            if let Some(health) = health {
                self.check(health.path.as_deref()).await;
            }
            tokio::time::sleep(every.min(self.upstream.resolve_every)).await;
        }
    }

    async fn tidy(&self) {
        loop {
            tokio::time::sleep(TIDY_EVERY).await;
            let now_us = System.steady_us();
            for endpoint in self.endpoints.load().iter() {
                endpoint.idle.tidy(now_us);
                endpoint.shared.tidy(now_us);
            }
        }
    }

    /// Whether it is certain, before there is a connection, that HTTP/1.1 will be spoken on it.
    pub fn is_http1(&self) -> bool {
        match self.upstream.http {
            HttpVersion::H1 => true,
            HttpVersion::H2 => false,
            HttpVersion::Auto => self.upstream.tls.is_none(),
        }
    }

    /// Whether HTTP/2 is spoken on a connection on which nothing was agreed (RFC 9113 section 3.3).
    fn begins_with_http2(&self) -> bool {
        self.upstream.http == HttpVersion::H2 && !self.is_tls()
    }

    /// Longest silence of a backend on a route: until the head of its answer has come (and while it
    /// takes a request), and after that.
    pub fn silence(&self, route: &Route) -> (Duration, Duration) {
        let silence = route.timeout.unwrap_or(self.upstream.timeout);
        let streams = route.protocols.sse || route.protocols.websocket || route.protocols.grpc;
        (silence, if streams { STREAM_SILENCE } else { silence })
    }

    /// Whether TLS is spoken to it.
    pub fn is_tls(&self) -> bool {
        self.upstream.tls.is_some()
    }

    /// The peer for a connection to an address of this pool. `is_http1` rules HTTP/2 out.
    pub fn peer(&self, endpoint: &Endpoint, is_http1: bool) -> HttpPeer {
        let upstream = &self.upstream;
        let name = upstream.tls.as_ref().map_or_else(String::new, |tls| tls.name.to_string());
        let mut peer = HttpPeer::new(endpoint.address, upstream.tls.is_some(), name);
        if let Some(options) = peer.get_mut_peer_options() {
            options.connection_timeout = Some(upstream.connect_timeout);
            options.total_connection_timeout = Some(upstream.connect_timeout * 2);
            options.tcp_keepalive = Some(keepalive());
            let verify = upstream.tls.as_ref().is_none_or(|tls| tls.verify);
            options.verify_cert = verify;
            options.verify_hostname = verify;
            match upstream.http {
                _ if is_http1 => options.set_http_version(1, 1),
                HttpVersion::H1 => options.set_http_version(1, 1),
                HttpVersion::H2 => options.set_http_version(2, 2),
                HttpVersion::Auto if upstream.tls.is_some() => options.set_http_version(2, 1),
                HttpVersion::Auto => options.set_http_version(1, 1),
            }
        }
        peer
    }
}

/// Looks whether the other side of a quiet connection is still there, also where it vanished without
/// a word: after a minute, then every ten seconds, five times.
pub fn keepalive() -> TcpKeepalive {
    TcpKeepalive {
        idle: Duration::from_secs(60),
        interval: Duration::from_secs(10),
        count: 5,
        #[cfg(target_os = "linux")]
        user_timeout: Duration::ZERO,
    }
}

/// Pools of an API: live and test.
pub type ApiPools = (Arc<Pool>, Option<Arc<Pool>>);

struct Watched {
    pool: Arc<Pool>,
    task: Option<JoinHandle<()>>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// All pools, kept over reloads.
pub struct Pools {
    connections: Arc<Connections>,
    by_name: Mutex<HashMap<String, Watched>>,
}

impl Pools {
    /// None yet; connections to backends are made by these.
    pub fn new(connections: Arc<Connections>) -> Self {
        Pools { connections, by_name: Mutex::default() }
    }

    /// The pools of a policy, API by API. Pools whose description changed are made anew, those no
    /// longer named are dropped; requests under way keep the pool they have.
    pub fn of(&self, policy: &Policy) -> Vec<ApiPools> {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        let mut take = |name: String, upstream: &Upstream, host: &str| {
            let is_same = |pool: &Pool| pool.upstream == *upstream && *pool.host == *host;
            let known = by_name.get(&name).filter(|w| is_same(&w.pool)).map(|w| w.pool.clone());
            known.unwrap_or_else(|| {
                let pool = Arc::new(Pool::new(upstream.clone(), host, self.connections.clone()));
                let task = tokio::runtime::Handle::try_current().ok().map(|h| h.spawn(pool.clone().watch()));
                by_name.insert(name, Watched { pool: pool.clone(), task });
                pool
            })
        };
        let mut named = HashSet::new();
        let mut pools = Vec::with_capacity(policy.apis.len());
        for api in &policy.apis {
            let (live, test) = (format!("{}/live", api.name), format!("{}/test", api.name));
            named.extend([live.clone(), test.clone()]);
            let host = api.hosts.first().map_or("localhost", |host| host);
            pools.push((take(live, &api.live, host), api.test.as_ref().map(|upstream| take(test, upstream, host))));
        }
        by_name.retain(|name, _| named.contains(name));
        pools
    }
}

#[cfg(test)]
mod tests {
    use pingora::connectors::ConnectorOptions;

    use super::endpoint::{EJECTED_US, STUCK_US};
    use super::*;

    fn pool(addresses: &[&str]) -> Pool {
        let upstream = Upstream {
            addresses: addresses.iter().map(|a| (*a).into()).collect(),
            tls: None,
            http: HttpVersion::H1,
            resolve_every: Duration::from_secs(1),
            health: None,
            connect_timeout: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            retries: 1,
            host: None,
        };
        Pool::new(upstream, "api.example", Arc::new(Connections::new(ConnectorOptions::new(1))))
    }

    #[test]
    fn addresses_are_used_in_turn_and_a_failed_one_is_passed_over_for_a_while() {
        let pool = pool(&["127.0.0.1:1", "127.0.0.1:2"]);
        let ports = |now| (0..4).map(|_| pool.pick(now, &[]).unwrap().address.port()).collect::<Vec<_>>();
        assert_eq!(ports(0), [1, 2, 1, 2]);
        pool.pick(0, &[]).unwrap().eject(0);
        assert_eq!(ports(0), [2, 2, 2, 2]);
        assert!(ports(EJECTED_US).contains(&1));
    }

    #[test]
    fn one_request_at_a_time_finds_out_whether_an_address_is_back() {
        let pool = pool(&["127.0.0.1:1", "127.0.0.1:2"]);
        let dark = pool.pick(0, &[]).unwrap();
        dark.eject(0);
        let ports = |now| (0..4).map(|_| pool.pick(now, &[]).unwrap().address.port()).collect::<Vec<_>>();
        let first = ports(EJECTED_US);
        assert_eq!(first.iter().filter(|port| **port == 1).count(), 1, "one probe: {first:?}");
        dark.eject(EJECTED_US);
        assert_eq!(ports(2 * EJECTED_US), [2; 4], "the second time it is passed over for longer");
        assert!(ports(3 * EJECTED_US).contains(&1));
        dark.connected();
        assert_eq!(ports(3 * EJECTED_US).iter().filter(|port| **port == 1).count(), 2, "it is one of two again");
    }

    #[test]
    fn nobody_else_waits_for_an_address_that_does_not_answer() {
        let pool = pool(&["127.0.0.1:1", "127.0.0.1:2"]);
        let ports = |now| (0..4).map(|_| pool.pick(now, &[]).unwrap().address.port()).collect::<Vec<_>>();
        let dark = pool.pick(0, &[]).unwrap();
        let (first, second) = (dark.connect(1), dark.connect(2));
        assert!(ports(STUCK_US).contains(&1), "a connection may take a moment");
        assert_eq!(ports(STUCK_US + 1), [2; 4]);
        drop(second);
        assert_eq!(ports(STUCK_US + 1), [2; 4]);
        drop(first);
        assert!(ports(STUCK_US + 1).contains(&1));
        // One that takes long is still better than one that is passed over.
        let (_slow, other) = (dark.connect(1), pool.pick(0, &[dark.address]).unwrap());
        other.eject(0);
        assert_eq!(ports(STUCK_US + 1), [1; 4]);
    }

    #[test]
    fn an_address_that_this_request_could_not_reach_is_not_tried_twice() {
        let pool = pool(&["127.0.0.1:1", "127.0.0.1:2"]);
        let mut failed = Vec::new();
        while let Some(endpoint) = pool.pick(0, &failed) {
            endpoint.eject(0);
            failed.push(endpoint.address);
        }
        failed.sort_unstable();
        assert_eq!(failed.iter().map(SocketAddr::port).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn when_all_have_failed_they_are_tried_all_the_same() {
        let pool = pool(&["127.0.0.1:1"]);
        pool.pick(0, &[]).unwrap().eject(0);
        assert!(pool.pick(0, &[]).is_some());
    }
}
