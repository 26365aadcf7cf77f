//! A client's connection, request by request: each head is read, judged and answered or forwarded,
//! and leaves one record.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http1::Fault;
use http1::head::Bounds;
use pingora::apps::ServerApp;
use pingora::protocols::{ALPN, Stream};
use pingora::server::ShutdownWatch;
use policy::head::{HEAD_BYTES_MAX, HeadFault};

use super::record::Facts;
use super::state::Exchange;
use super::{Exchanges, Then};
use crate::admit::denial::Denial;
use crate::admit::head::{caller_address, is_grpc, request_id};
use crate::downstream::http1::Incoming;
use crate::downstream::http2::{Ended, H2_PREFACE, Limits, serve};
use crate::downstream::{Http1, Http2, Session};
use crate::exchange::tunnel::{self, GOING_AWAY, POLICY_VIOLATION};
use crate::upstream::STREAM_SILENCE;
use crate::upstream::backend::Backend;

/// How long before the end of a drain WebSockets are told to go.
const LAST_WORDS: Duration = Duration::from_secs(2);

#[async_trait]
impl ServerApp for Exchanges {
    async fn process_new(self: &Arc<Self>, mut stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        if !self.speaks_http2(&mut stream).await? {
            self.serve_http1(stream, shutdown).await;
            return None;
        }
        let on_stream = |stream: Http2, fault: Option<Fault>| {
            let (exchanges, shutdown) = (self.clone(), shutdown.clone());
            async move {
                let mut session = Session::Http2(Box::new(stream));
                let unread = fault.map(|fault| Denial::Head(HeadFault::from(fault)));
                match exchanges.exchange(&mut session, unread).await {
                    Then::Finish => {}
                    Then::Tunnel(backend, exchange) => {
                        Box::pin(exchanges.run_tunnel(session, backend, &exchange, &shutdown)).await;
                    }
                }
            }
        };
        let limits = Limits { deadlines: self.deadlines, head: self.head_bounds() };
        match Box::pin(serve(stream, limits, shutdown.clone(), on_stream)).await {
            Ended::Well => {}
            Ended::Flooded => {
                self.gate.shared.metrics.refused_connections.with_label_values(&["flood"]).inc();
            }
        }
        None
    }
}

impl Exchanges {
    /// Which protocol a connection speaks; `None` when it ends before that is known.
    async fn speaks_http2(&self, stream: &mut Stream) -> Option<bool> {
        if stream.get_ssl_digest().is_some() || !self.is_h2c {
            return Some(stream.selected_alpn_proto() == Some(ALPN::H2));
        }
        let mut begin = [0u8; H2_PREFACE.len()];
        let peeked = tokio::time::timeout(self.deadlines.head, stream.try_peek(&mut begin)).await;
        Some(peeked.ok()?.ok()? && begin == *H2_PREFACE)
    }

    fn head_bounds(&self) -> Bounds {
        Bounds { bytes: HEAD_BYTES_MAX, fields: self.gate.shared.bounds.fields }
    }

    async fn serve_http1(&self, stream: Stream, shutdown: &ShutdownWatch) {
        let mut session = Session::Http1(Box::new(Http1::new(stream, self.deadlines, self.head_bounds())));
        let mut stop = pin!(stopped(shutdown.clone()));
        loop {
            let Session::Http1(client) = &mut session else { return };
            let unread = match client.read_head(stop.as_mut()).await {
                Incoming::Request => None,
                Incoming::Faulty(fault) => Some(Denial::Head(HeadFault::from(fault))),
                Incoming::End => return client.cut().await,
            };
            if *shutdown.borrow() {
                client.close_after();
            }
            match Box::pin(self.exchange(&mut session, unread)).await {
                Then::Finish => {}
                Then::Tunnel(backend, exchange) => {
                    return Box::pin(self.run_tunnel(session, backend, &exchange, shutdown)).await;
                }
            }
            let Session::Http1(client) = &mut session else { return };
            if !client.finish().await {
                return;
            }
            // A client that always has another request ready must not keep a thread for itself.
            tokio::task::consume_budget().await;
        }
    }

    /// Begins an exchange whose head has come.
    pub(super) fn begin(&self, session: &Session) -> Exchange {
        let (shared, head) = (&self.shared, session.head());
        let address = caller_address(session.peer(), head.fields, &shared.trusted_proxies);
        let mut exchange = Exchange::begin(shared, address);
        exchange.known.request_id = request_id(head.fields).unwrap_or_else(|| shared.request_ids.next());
        exchange.known.is_grpc = is_grpc(&head);
        exchange.changes = shared.admit.identities.live.changes();
        exchange
    }

    /// Passes the bytes of a WebSocket until it ends.
    async fn run_tunnel(&self, session: Session, backend: Backend, exchange: &Exchange, shutdown: &ShutdownWatch) {
        let Some((answered_ahead, connection)) = backend.into_tunnel() else { return };
        let stop = async {
            tokio::select! {
                () = exchange.credential_ended() => POLICY_VIOLATION,
                () = self.drained(shutdown) => GOING_AWAY,
            }
        };
        let (passed, protocol) = match session {
            Session::Http1(client) => {
                let (stream, ahead) = client.into_tunnel();
                (tunnel::run(stream, connection, (ahead, answered_ahead), stop, STREAM_SILENCE).await, "http/1.1")
            }
            Session::Http2(client) => {
                let Some(stream) = client.into_tunnel() else { return };
                (tunnel::run(stream, connection, (Vec::new(), answered_ahead), stop, STREAM_SILENCE).await, "h2")
            }
        };
        self.record(&Facts::of_tunnel(protocol, passed), exchange);
    }

    /// Waits until a stopping gateway's time is nearly over.
    async fn drained(&self, shutdown: &ShutdownWatch) {
        stopped(shutdown.clone()).await;
        tokio::time::sleep(self.shared.drain.saturating_sub(LAST_WORDS)).await;
    }
}

/// Waits until the gateway stops.
async fn stopped(mut shutdown: ShutdownWatch) {
    if shutdown.wait_for(|is_stopping| *is_stopping).await.is_err() {
        std::future::pending().await
    }
}
