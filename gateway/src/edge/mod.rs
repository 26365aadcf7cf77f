//! Where clients connect: connection caps, TLS with its own deadline, then the exchanges.
//!
//! Pingora's listener accepts (so that listeners can be handed to a successor process) and
//! gives each connection to [`Edge`], which counts it, ends TLS if that is what the listener
//! speaks, and passes it on. A connection over a cap is closed at once.

pub mod tls;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::listeners::tls::Acceptor;
use pingora::protocols::Stream;
use pingora::protocols::l4::stream::Stream as L4Stream;
use pingora::server::ShutdownWatch;

use crate::base::network::network;
use crate::observe::Metrics;

/// Caps on connections, shared by all listeners.
pub struct Caps {
    connections_max: usize,
    per_address_max: u32,
    open: AtomicUsize,
    by_address: Mutex<HashMap<IpAddr, u32>>,
}

impl Caps {
    /// Caps: in all, and for one address.
    pub fn new(connections_max: usize, per_address_max: u32) -> Arc<Self> {
        Arc::new(Caps { connections_max, per_address_max, open: AtomicUsize::new(0), by_address: Mutex::default() })
    }

    /// Counts a connection in; `None` when a cap is reached. Dropping it counts it out.
    pub fn count_in(self: &Arc<Self>, address: IpAddr) -> Option<CountedConnection> {
        let address = network(address);
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.connections_max {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_address.entry(address).or_default();
        if *count >= self.per_address_max {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        *count += 1;
        Some(CountedConnection { caps: self.clone(), address })
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

/// A connection that was counted in.
pub struct CountedConnection {
    caps: Arc<Caps>,
    address: IpAddr,
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.caps.open.fetch_sub(1, Ordering::Relaxed);
        let mut by_address = self.caps.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

/// One listener's way from a connection to its exchanges.
pub struct Edge<App> {
    /// The exchanges.
    pub app: Arc<App>,
    /// Ends TLS; `None` on plain listeners.
    pub acceptor: Option<Acceptor>,
    /// Longest time for a TLS handshake.
    pub handshake: Duration,
    /// Caps.
    pub caps: Arc<Caps>,
    /// Where refused connections are counted.
    pub metrics: Arc<Metrics>,
}

#[async_trait]
impl<App: ServerApp + Send + Sync + 'static> ServerApp for Edge<App> {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let address = stream.get_socket_digest().and_then(|d| d.peer_addr().and_then(|a| a.as_inet().map(|a| a.ip())));
        let Some(counted) = address.and_then(|address| self.caps.count_in(address)) else {
            self.metrics.refused_connections.with_label_values(&["cap"]).inc();
            return None;
        };
        // In a task of its own: that of the listener is as large as all that a listener can do, and ends here.
        let (edge, shutdown) = (self.clone(), shutdown.clone());
        tokio::spawn(async move {
            let stream = match &edge.acceptor {
                // Boxed: a connection lives long behind its handshake, and need not be as large.
                Some(acceptor) => Box::pin(edge.end_tls(acceptor, stream)).await,
                None => Some(stream),
            };
            if let Some(stream) = stream {
                // Pingora only gives a connection back when it wants to be called again; ours never does.
                let _ = edge.app.process_new(stream, &shutdown).await;
            }
            drop(counted);
        });
        None
    }

    async fn cleanup(&self) {
        self.app.cleanup().await;
    }
}

impl<App> Edge<App> {
    async fn end_tls(&self, acceptor: &Acceptor, stream: Stream) -> Option<Stream> {
        let Ok(plain) = stream.into_any().downcast::<L4Stream>() else { return None };
        match tokio::time::timeout(self.handshake, acceptor.tls_handshake(*plain)).await {
            Ok(Ok(stream)) => Some(Box::new(stream)),
            Ok(Err(error)) => {
                tracing::debug!(target: "tollgate::edge", "TLS handshake failed: {}", error.etype().as_str());
                self.metrics.refused_connections.with_label_values(&["handshake"]).inc();
                None
            }
            Err(_) => {
                self.metrics.refused_connections.with_label_values(&["handshake_timeout"]).inc();
                None
            }
        }
    }
}
