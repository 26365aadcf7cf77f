//! Connections to backends: made, taken from those that wait, and given back.

use std::time::Duration;

use pingora::connectors::http::Connector;
use pingora::connectors::{ConnectorOptions, TransportConnector};
use pingora::protocols::http::client::HttpSession;
use pingora::{Error, ErrorType};

use super::backend::Backend;
use super::connection::BackendConnection;
use super::idle::IDLE;
use super::{Endpoint, Pool};

/// How an exchange leaves its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Both messages were whole: it can be used again.
    Whole,
    /// In the middle of one.
    Midway,
    /// Its backend takes no more requests on it (RFC 9113 section 6.8).
    GoingAway,
}

impl Left {
    /// After an exchange that failed.
    pub fn after(error: &Error) -> Self {
        let cause = error.root_cause().downcast_ref::<h2::Error>();
        if cause.is_some_and(h2::Error::is_go_away) { Left::GoingAway } else { Left::Midway }
    }
}

/// Makes connections; shared by all listeners and pools.
pub struct Connections {
    http1: TransportConnector,
    http2: Connector,
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connections").finish_non_exhaustive()
    }
}

/// Connects without options of its own: for a policy that is only looked at.
impl Default for Connections {
    fn default() -> Self {
        Connections::new(ConnectorOptions::new(1))
    }
}

impl Connections {
    /// Connects as the options say.
    pub fn new(options: ConnectorOptions) -> Self {
        Connections { http1: TransportConnector::new(Some(options.clone())), http2: Connector::new(Some(options)) }
    }

    /// A connection to an address, or a stream of one. `is_http1` rules HTTP/2 out; `now_us` is on
    /// the steady clock.
    pub async fn reach(
        &self,
        pool: &Pool,
        endpoint: &Endpoint,
        is_http1: bool,
        now_us: u64,
    ) -> pingora::Result<Backend> {
        // Only connections that speak HTTP/1.1 are kept there.
        if let Some(connection) = endpoint.idle.take(now_us) {
            return Ok(Backend::http1(connection));
        }
        let _connecting = endpoint.connect(now_us);
        self.make(pool, endpoint, is_http1).await
    }

    /// A new connection, or a stream of one.
    pub async fn make(&self, pool: &Pool, endpoint: &Endpoint, is_http1: bool) -> pingora::Result<Backend> {
        let peer = pool.peer(endpoint, is_http1);
        if is_http1 {
            return Ok(Backend::http1(BackendConnection::new(self.http1.new_stream(&peer).await?)));
        }
        match self.http2.get_http_session(&peer).await? {
            (HttpSession::H2(stream), _) => Ok(Backend::Http2(Box::new(stream), Box::new(peer))),
            (HttpSession::H1(session), _) => Ok(Backend::http1(BackendConnection::new(session.into_inner()))),
            (HttpSession::Custom(()), _) => Error::e_explain(ErrorType::InternalError, "a protocol of nobody"),
        }
    }

    /// Gives a connection back, if its backend keeps it too. A stream is over in any case; its
    /// connection is not.
    pub async fn give_back(&self, endpoint: &Endpoint, backend: Backend, left: Left, now_us: u64) {
        match backend {
            Backend::Http1(session) if left == Left::Whole => {
                if let Some((connection, most)) = Backend::release(session) {
                    endpoint.idle.put(connection, most, now_us);
                }
            }
            Backend::Http1(..) => {}
            Backend::Http2(mut stream, peer) => {
                if left != Left::Whole {
                    stream.shutdown();
                }
                if left == Left::GoingAway {
                    // What it has begun is ended there; nothing new is.
                    stream.conn.mark_shutdown();
                }
                let idle: Option<Duration> = Some(IDLE);
                self.http2.release_http_session(HttpSession::H2(*stream), &*peer, idle).await;
            }
        }
    }
}
