//! A stream that has become a WebSocket (RFC 8441): its DATA are the bytes of the socket.

use std::io::{Error, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::meter::Tally;

/// Both directions. Dropped before both have ended, it resets the stream.
#[derive(Debug)]
pub struct StreamTunnel {
    from: RecvStream,
    to: SendStream<Bytes>,
    tally: Arc<Tally>,
    /// What came and was not read.
    ahead: Bytes,
    is_ended: bool,
}

impl StreamTunnel {
    /// On a stream whose answer has begun.
    pub(super) fn new(from: RecvStream, to: SendStream<Bytes>, tally: Arc<Tally>) -> Self {
        StreamTunnel { from, to, tally, ahead: Bytes::new(), is_ended: false }
    }
}

fn broken<E>(_: E) -> Error {
    Error::from(ErrorKind::ConnectionReset)
}

impl AsyncRead for StreamTunnel {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        while this.ahead.is_empty() {
            match ready!(this.from.poll_data(cx)) {
                Some(data) => this.ahead = data.map_err(broken)?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = this.ahead.len().min(buf.remaining());
        buf.put_slice(this.ahead.get(..count).unwrap_or_default());
        this.ahead.advance(count);
        Poll::Ready(this.from.flow_control().release_capacity(count).map_err(broken))
    }
}

impl AsyncWrite for StreamTunnel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let this = self.get_mut();
        this.to.reserve_capacity(bytes.len());
        while this.to.capacity() == 0 {
            ready!(this.to.poll_capacity(cx)).ok_or(ErrorKind::BrokenPipe)?.map_err(broken)?;
        }
        let count = bytes.len().min(this.to.capacity());
        let part = Bytes::copy_from_slice(bytes.get(..count).unwrap_or_default());
        this.tally.sent();
        Poll::Ready(this.to.send_data(part, false).map(|()| count).map_err(broken))
    }

    /// What was written leaves with the connection, which the same task looks after.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        if std::mem::replace(&mut this.is_ended, true) {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(this.to.send_data(Bytes::new(), true).map_err(broken))
    }
}
