//! The body of a request, as it comes: in pieces, and not too slowly.

use std::pin::pin;

use bytes::{Buf as _, Bytes};
use tokio::io::AsyncReadExt as _;
use tokio::time::Instant;

use super::Http1;
use crate::base::scratch::SCRATCH_BYTES;
use crate::downstream::ClientFault;
use crate::downstream::rate::TooSlow;

/// Room for a read of a body that is larger than what comes with a head.
const BODY_ROOM: usize = 64 * 1024;
/// A piece of a body that is no larger is copied out of the buffer: a view of it would hold all of the buffer.
const COPIED_MAX: usize = 4 * 1024;

impl Http1 {
    /// The next piece of the body; `None` at its end.
    pub async fn read_body(&mut self) -> Result<Option<Bytes>, ClientFault> {
        loop {
            if self.body.is_done() {
                return Ok(None);
            }
            let found = self.body.decode(&self.input).map_err(|_| ClientFault::BodyMalformed)?;
            let length = found.data.len();
            if length > 0 {
                let behind = found.used - found.data.end;
                self.input.advance(found.data.start);
                let piece = match self.input.get(..length) {
                    Some(small) if length <= COPIED_MAX => {
                        let piece = Bytes::copy_from_slice(small);
                        self.input.advance(length);
                        piece
                    }
                    Some(_) | None => self.input.split_to(length).freeze(),
                };
                self.input.advance(behind);
                self.bytes_in += length;
                return Ok(Some(piece));
            }
            self.input.advance(found.used);
            if !self.body.is_done() {
                self.receive_body().await?;
            }
        }
    }

    async fn receive_body(&mut self) -> Result<(), ClientFault> {
        // One that has filled what it was given has more.
        self.input.reserve(if self.bytes_in >= SCRATCH_BYTES { BODY_ROOM } else { SCRATCH_BYTES });
        let mut read = pin!(self.stream.read_buf(&mut self.input));
        let came = match self.rate.watch(&mut self.timer, |cx| read.as_mut().poll(cx)).await {
            None => 0,
            Some(Ok(came @ 1..)) => came,
            Some(Ok(0) | Err(_)) => return Err(ClientFault::BodyCut),
        };
        self.rate.came(came, self.deadlines.body_rate, Instant::now).map_err(|TooSlow| ClientFault::BodySlow)
    }
}
