//! Bodies as they come (RFC 9112 sections 6 and 7): which of the bytes received are the body's, and where it
//! ends.

use std::ops::Range;

use memchr::memchr;

use crate::Fault;
use crate::framing::Framing;
use crate::head::{self, Bounds, FieldSpan};

/// Most bytes of all chunk extensions of a body. They mean nothing to anybody (section 7.1.1).
pub const EXTENSION_BYTES_MAX: usize = 4 * 1024;
/// Most bytes of trailers, the blank line included.
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;
/// Most trailers.
pub const TRAILERS_MAX: usize = 64;
/// Most digits of a chunk's size. Chunks of a million terabytes do not occur.
const SIZE_DIGITS_MAX: u8 = 15;

/// What was found in a piece of input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Bytes of the body.
    pub data: Range<usize>,
    /// Bytes of the input that were used up; what follows them comes with the next call.
    pub used: usize,
}

/// Reads one body.
#[derive(Clone, Debug)]
pub struct Decoder {
    state: State,
    extension_bytes: usize,
    trailers: Vec<u8>,
    spans: Vec<FieldSpan>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes to come.
    Length(u64),
    UntilClose,
    /// Inside a chunk's size: what was read of it, in how many digits.
    Size(u64, u8),
    /// Inside an extension, of a chunk of that size.
    Extension(u64),
    /// The CR of a chunk's first line was read.
    SizeEnd(u64),
    /// So many bytes of the chunk to come.
    Data(u64),
    /// Behind a chunk's data: its CR, its LF.
    DataCr,
    DataLf,
    /// Behind the last chunk: trailers, or the blank line.
    Trailers,
    Done,
}

impl Decoder {
    /// For a body that is delimited so.
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size(0, 0),
            Framing::UntilClose => State::UntilClose,
        };
        Decoder { state, extension_bytes: 0, trailers: Vec::new(), spans: Vec::new() }
    }

    /// Whether the body has ended.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Looks at the next bytes. Gives at most one run of the body's bytes, and uses up what frames it on both
    /// sides: a body whose end is here is done. Call again with what is left of the input, until there is
    /// none or [`Decoder::is_done`].
    ///
    /// # Errors
    /// A malformed chunk or trailer, or one beyond its bound.
    pub fn decode(&mut self, input: &[u8]) -> Result<Found, Fault> {
        let mut found: Option<Range<usize>> = None;
        let mut at = 0;
        while let Some(byte) = input.get(at) {
            let (left, behind, midway): (u64, State, fn(u64) -> State) = match self.state {
                State::Done => break,
                State::Length(left) => (left, State::Done, State::Length),
                State::Data(left) => (left, State::DataCr, State::Data),
                State::UntilClose => (u64::MAX, State::UntilClose, |_| State::UntilClose),
                State::Extension(_) => {
                    at += self.extension(input.get(at..).unwrap_or_default())?;
                    continue;
                }
                State::Trailers => {
                    at += self.trailer(input.get(at..).unwrap_or_default())?;
                    continue;
                }
                State::Size(..) | State::SizeEnd(_) | State::DataCr | State::DataLf => {
                    self.state = framing_byte(self.state, *byte)?;
                    at += 1;
                    continue;
                }
            };
            if found.is_some() {
                break;
            }
            let data = run(input, at, left);
            let left = left - data.len() as u64;
            self.state = if left == 0 { behind } else { midway(left) };
            at = data.end;
            found = Some(data);
        }
        Ok(Found { data: found.unwrap_or(at..at), used: at })
    }

    /// Reads over an extension; how many bytes that were.
    fn extension(&mut self, input: &[u8]) -> Result<usize, Fault> {
        let State::Extension(size) = self.state else { return Ok(0) };
        let end = input.iter().position(|byte| byte.is_ascii_control() && *byte != b'\t').unwrap_or(input.len());
        self.extension_bytes += end;
        if self.extension_bytes > EXTENSION_BYTES_MAX {
            return Err(Fault::Chunk);
        }
        match input.get(end) {
            None => Ok(end),
            Some(b'\r') => {
                self.state = State::SizeEnd(size);
                Ok(end + 1)
            }
            // A bare LF, too: some programs take it for the end of the line.
            Some(_) => Err(Fault::Chunk),
        }
    }

    /// Takes a line of the trailers, or a part of one; how many bytes that were.
    fn trailer(&mut self, input: &[u8]) -> Result<usize, Fault> {
        let end = memchr(b'\n', input).map_or(input.len(), |at| at + 1);
        let line = input.get(..end).unwrap_or_default();
        if self.trailers.len() + line.len() > TRAILER_BYTES_MAX {
            return Err(Fault::TooLarge);
        }
        self.trailers.extend_from_slice(line);
        if self.trailers == b"\r\n" || self.trailers.ends_with(b"\n\r\n") {
            let bounds = Bounds { bytes: TRAILER_BYTES_MAX + 1, fields: TRAILERS_MAX };
            head::read_trailers(&mut self.trailers, bounds, &mut self.spans)?;
            self.state = State::Done;
        }
        Ok(end)
    }

    /// The connection has ended.
    ///
    /// # Errors
    /// The body had not: it is not whole.
    pub fn end_of_input(&mut self) -> Result<(), Fault> {
        match self.state {
            State::Done => Ok(()),
            State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            State::Length(_)
            | State::Size(..)
            | State::Extension(_)
            | State::SizeEnd(_)
            | State::Data(_)
            | State::DataCr
            | State::DataLf
            | State::Trailers => Err(Fault::Incomplete),
        }
    }

    /// The trailers, once the body is done: names in lower case, and values.
    pub fn trailers(&self) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        head::pairs(&self.spans, &self.trailers)
    }
}

/// The bytes of a body from a place on, at most so many.
fn run(input: &[u8], at: usize, left: u64) -> Range<usize> {
    let there = input.len() - at;
    at..at + usize::try_from(left).map_or(there, |left| left.min(there))
}

/// One byte of the lines around chunks.
fn framing_byte(state: State, byte: u8) -> Result<State, Fault> {
    match (state, byte) {
        (State::Size(size, digits), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < SIZE_DIGITS_MAX => {
            let digit = char::from(byte).to_digit(16).unwrap_or_default();
            Ok(State::Size(size * 16 + u64::from(digit), digits + 1))
        }
        (State::Size(size, 1..), b';') => Ok(State::Extension(size)),
        (State::Size(size, 1..), b'\r') => Ok(State::SizeEnd(size)),
        (State::SizeEnd(0), b'\n') => Ok(State::Trailers),
        (State::SizeEnd(size), b'\n') => Ok(State::Data(size)),
        (State::DataCr, b'\r') => Ok(State::DataLf),
        (State::DataLf, b'\n') => Ok(State::Size(0, 0)),
        (_, _) => Err(Fault::Chunk),
    }
}
