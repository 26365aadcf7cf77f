//! Connections to backends: made, taken from those that wait, and given back.

use std::time::Duration;

use pingora::connectors::{ConnectorOptions, TransportConnector};
use pingora::protocols::{ALPN, Stream};

use super::backend::Backend;
use super::connection::BackendConnection;
use super::fault::BackendFault;
use super::http1::Http1;
use super::http2::Http2;
use super::{Endpoint, Pool};
use crate::base::message::Fields;

/// How an exchange leaves its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Both messages were whole: it can be used again.
    Whole,
    /// In the middle of one.
    Midway,
    /// Its backend takes no more requests on it (RFC 9113 section 6.8), or did not answer: nothing new is begun.
    GoingAway,
}

impl Left {
    /// After an exchange that failed.
    pub fn after(fault: &BackendFault) -> Self {
        match fault {
            BackendFault::Http2(error) if error.is_go_away() => Left::GoingAway,
            BackendFault::Silent => Left::GoingAway,
            BackendFault::Connect(_)
            | BackendFault::Closed
            | BackendFault::TakesNothing
            | BackendFault::Malformed(_)
            | BackendFault::Nonsense(_)
            | BackendFault::Http2(_)
            | BackendFault::Ours(_) => Left::Midway,
        }
    }
}

/// Makes connections; shared by all listeners and pools.
pub struct Connections {
    connector: TransportConnector,
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
        Connections { connector: TransportConnector::new(Some(options)) }
    }

    /// A connection to an address, or a stream of one. `is_http1` rules HTTP/2 out; `now_us` is on
    /// the steady clock.
    pub async fn reach(
        &self,
        pool: &Pool,
        endpoint: &Endpoint,
        is_http1: bool,
        now_us: u64,
    ) -> Result<Backend, BackendFault> {
        // Only connections that speak HTTP/1.1 are kept there.
        if let Some(connection) = endpoint.idle.take(now_us) {
            return Ok(Backend::Http1(connection));
        }
        let making = match is_http1 {
            true => None,
            false => match endpoint.shared.take_or_wait(now_us).await {
                Ok(stream) => return Ok(Backend::Http2(Box::new(Http2::new(stream)))),
                Err(making) => making,
            },
        };
        let _connecting = endpoint.connect(now_us);
        // Seldom, and large: it must not make every exchange as large.
        let made = Box::pin(self.make(pool, endpoint, is_http1, now_us)).await;
        drop(making);
        made
    }

    /// A new connection, or a stream of one. `now_us` is on the steady clock.
    pub async fn make(
        &self,
        pool: &Pool,
        endpoint: &Endpoint,
        is_http1: bool,
        now_us: u64,
    ) -> Result<Backend, BackendFault> {
        let peer = pool.peer(endpoint, is_http1);
        let stream = self.connector.new_stream(&peer).await.map_err(BackendFault::Connect)?;
        let is_http2 = match stream.selected_alpn_proto() {
            Some(agreed) => agreed == ALPN::H2,
            None => pool.begins_with_http2() && !is_http1,
        };
        if !is_http2 {
            return Ok(http1(stream));
        }
        let stream = endpoint.shared.begin(stream, now_us).await.map_err(BackendFault::Http2)?;
        Ok(Backend::Http2(Box::new(Http2::new(stream))))
    }

    /// Gives a connection back, if its backend keeps it too. A stream is over in any case; its
    /// connection is not.
    pub fn give_back(&self, endpoint: &Endpoint, backend: Backend, left: Left, now_us: u64) {
        match backend {
            Backend::Http1(session) if left == Left::Whole && session.is_kept() => {
                let most = session.head().and_then(|head| keep_alive_timeout(head.fields));
                endpoint.idle.put(session, most, now_us);
            }
            Backend::Http1(..) => {}
            // What is not over is reset when it is dropped.
            Backend::Http2(session) => {
                session.stream().used(now_us);
                if left == Left::GoingAway {
                    session.stream().leave();
                }
            }
        }
    }
}

/// A new connection that speaks HTTP/1.1.
fn http1(stream: Stream) -> Backend {
    Backend::Http1(Box::new(Http1::new(BackendConnection::new(stream))))
}

/// The parameter `timeout` of `Keep-Alive` (RFC 2068 section 19.7.1), which many backends send.
fn keep_alive_timeout(fields: Fields<'_>) -> Option<Duration> {
    let values = fields.all("keep-alive").filter_map(|value| std::str::from_utf8(value).ok());
    let timeout = values.flat_map(|value| value.split(',')).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("timeout").then(|| value.trim().trim_matches('"').parse().ok())?
    });
    timeout.map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    #[test]
    fn a_backend_says_how_long_it_keeps_a_connection() {
        let timeout = |value: &str| {
            let mut fields = HeaderMap::new();
            fields.insert("keep-alive", value.parse().unwrap());
            keep_alive_timeout(Fields::Map(&fields)).map(|timeout| timeout.as_secs())
        };
        assert_eq!(timeout("timeout=5"), Some(5));
        assert_eq!(timeout("max=100, Timeout = 0"), Some(0));
        assert_eq!(timeout("timeout=\"7\""), Some(7));
        assert_eq!(timeout("max=1"), None);
        assert_eq!(timeout("timeout=x"), None);
    }
}
