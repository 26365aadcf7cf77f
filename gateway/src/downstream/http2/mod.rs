//! A client's connection over HTTP/2: each of its streams carries one request and its answer (RFC 9113).
//!
//! Every stream is judged, answered and recorded like a connection's request. The library (h2) has the frames, and the
//! `meter` counts them. What always holds: a client has only so many streams under way, with those that it has
//! reset; frames that ask for nothing are paid for by requests, bodies and answers; a head that is too large is
//! refused with 431, and forgotten at once.

mod meter;
mod stream;
mod tunnel;

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http1::Fault;
use http1::head::Bounds;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;

use self::meter::{Metered, Tally};
pub use self::stream::Http2;
pub use self::tunnel::StreamTunnel;
use super::{Deadlines, LEAVE, peer_address};
use crate::base::timer::Timer;

/// First bytes of an HTTP/2 connection (RFC 9113 section 3.4).
pub const H2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Most streams that a client may have at a time.
const STREAMS_MAX: u32 = 100;
/// Most that are under way, with those that it has reset: a client that has more is sent away.
const STREAMS_UNDER_WAY_MAX: usize = 300;
/// Bytes that the streams of a connection may send before they are read; one that is not read must not
/// hold up the others. The library also counts small frames against it.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Largest head that the library reads, in bytes as RFC 9113 section 6.5.2 counts them. More than we take, so that the
/// answer to a larger one is ours.
const HEAD_READ_MAX: u32 = 256 * 1024;
/// How often a connection with streams under way is looked at though nothing happens on it.
const BUSY: Duration = Duration::from_secs(60);

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// As connections do.
    Well,
    /// Its client was sent away for what it sent.
    Flooded,
}

/// What a connection may do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Deadlines.
    pub deadlines: Deadlines,
    /// Bounds of a head.
    pub head: Bounds,
}

fn options() -> Builder {
    let mut options = Builder::new();
    options
        .max_header_list_size(HEAD_READ_MAX)
        .max_concurrent_streams(STREAMS_MAX)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .enable_connect_protocol();
    options
}

/// Serves a connection until it ends: its client leaves, nothing happens for a while, or it has
/// answered everything after a stop. `on_stream` gets each stream, and whether its head is a faulty one.
///
/// Its streams run in this task, and the connection is looked at behind them: so all answers that are ready leave in
/// one flush. What its client has begun is ended, and recorded, also when the client is gone.
pub async fn serve<F>(
    stream: Stream,
    limits: Limits,
    shutdown: ShutdownWatch,
    on_stream: impl Fn(Http2, Option<Fault>) -> F,
) -> Ended
where
    F: Future<Output = ()> + Send + 'static,
{
    let peer = peer_address(&stream);
    let (stream, tally) = Metered::new(stream);
    // The client's preface is in it.
    let handshake = tokio::time::timeout(limits.deadlines.head, options().handshake(stream)).await;
    let Ok(Ok(connection)) = handshake else { return Ended::Well };
    let mut accepting = Accepting { connection, tally: tally.clone(), deadlines: limits.deadlines };
    let mut streams = FuturesUnordered::new();
    let ended = accepting
        .run(&mut streams, shutdown, |request, respond| {
            let (stream, fault) = Http2::new(request, respond, (peer, limits, tally.clone()));
            Box::pin(on_stream(stream, fault))
        })
        .await;
    // They learn from it that their client is gone.
    drop(accepting);
    while streams.next().await.is_some() {}
    ended
}

/// A connection that takes requests.
struct Accepting {
    connection: Connection<Metered<Stream>, Bytes>,
    tally: Arc<Tally>,
    deadlines: Deadlines,
}

impl Accepting {
    async fn run<F: Future<Output = ()>>(
        &mut self,
        streams: &mut FuturesUnordered<F>,
        mut shutdown: ShutdownWatch,
        on_stream: impl Fn(http::Request<RecvStream>, SendResponse<Bytes>) -> F,
    ) -> Ended {
        let mut timer = Timer::default();
        let mut stop = pin!(shutdown.wait_for(|is_stopping| *is_stopping));
        let (mut is_stopping, mut is_leaving, mut ended) = (false, false, Ended::Well);
        loop {
            let idle = match (is_leaving, streams.is_empty()) {
                (true, _) => LEAVE,
                (false, true) => self.deadlines.idle,
                (false, false) => BUSY,
            };
            let accepted = tokio::select! {
                biased;
                _ = stop.as_mut(), if !is_stopping => {
                    is_stopping = true;
                    self.connection.graceful_shutdown();
                    continue;
                }
                Some(()) = streams.next() => continue,
                accepted = async { timer.within(idle, pin!(self.accept(ended))).await } => accepted,
            };
            match accepted {
                // What is reset makes room for more, and what it began ends a little later.
                Some(Ok(_)) if streams.len() >= STREAMS_UNDER_WAY_MAX => ended = self.send_away(),
                Some(Ok((request, respond))) => streams.push(on_stream(request, respond)),
                Some(Err(Stop::Flood)) => ended = self.send_away(),
                Some(Err(Stop::End)) => return ended,
                None if is_leaving => return ended,
                None if streams.is_empty() => {
                    // What its client sends in this moment was not processed, and it learns that.
                    self.connection.abrupt_shutdown(Reason::NO_ERROR);
                    is_leaving = true;
                }
                None => {}
            }
        }
    }

    /// Says goodbye to a client that asks too much; what it has begun is over.
    fn send_away(&mut self) -> Ended {
        self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        Ended::Flooded
    }

    /// The next request.
    async fn accept(&mut self, ended: Ended) -> Result<(http::Request<RecvStream>, SendResponse<Bytes>), Stop> {
        std::future::poll_fn(|cx| {
            if ended == Ended::Well && self.tally.is_flooded() {
                return Poll::Ready(Err(Stop::Flood));
            }
            let accepted = self.connection.poll_accept(cx);
            if accepted.is_pending() {
                self.tally.caught_up();
            }
            accepted.map(|accepted| accepted.and_then(Result::ok).ok_or(Stop::End))
        })
        .await
    }
}

/// Why no request comes.
enum Stop {
    Flood,
    End,
}

#[cfg(test)]
mod tests;
