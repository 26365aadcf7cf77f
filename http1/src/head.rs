//! Heads into spans (RFC 9112 sections 2 to 5): where the parts of a head stand in its bytes.

use std::ops::Range;

use memchr::memchr;

use crate::Fault;

/// Bounds of a head.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most bytes, the blank line included.
    pub bytes: usize,
    /// Most fields.
    pub fields: usize,
}

/// Where a field stands in the bytes of its head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldSpan {
    /// Its name, in the case in which it was sent.
    pub name: Range<usize>,
    /// Its value, without the white space around it.
    pub value: Range<usize>,
}

/// Version of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// A response's head as spans. It is made once for a connection and used for each head on it.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    version: Version,
    status: u16,
    reason: Range<usize>,
    fields: Vec<FieldSpan>,
    /// Bytes of the input that are known to hold no blank line.
    looked_at: usize,
}

impl Default for ResponseHead {
    fn default() -> Self {
        ResponseHead { version: Version::Http11, status: 0, reason: 0..0, fields: Vec::new(), looked_at: 0 }
    }
}

impl ResponseHead {
    /// Reads a head at the start of `input`: how many bytes it has, or `None` while it is not whole. After
    /// `None`, the next call must give the same bytes and more.
    ///
    /// # Errors
    /// A head that is larger than `bounds`, or has more than one reading.
    pub fn read(&mut self, input: &[u8], bounds: Bounds) -> Result<Option<usize>, Fault> {
        let Some(length) = self.length(input, bounds)? else { return Ok(None) };
        self.looked_at = 0;
        let head = input.get(..length).unwrap_or_default();
        let (line, mut at) = line(head, 0)?;
        (self.version, self.status, self.reason) = status_line(head.get(line).unwrap_or_default())?;
        self.fields.clear();
        read_fields(head, &mut at, bounds.fields, &mut self.fields)?;
        Ok(Some(length))
    }

    /// Where the head ends: behind the first blank line.
    fn length(&mut self, input: &[u8], bounds: Bounds) -> Result<Option<usize>, Fault> {
        let within = input.get(..bounds.bytes).unwrap_or(input);
        // A blank line may have begun in what was looked at.
        let from = self.looked_at.saturating_sub(3);
        let found = memchr::memmem::find(within.get(from..).unwrap_or_default(), b"\r\n\r\n");
        match found {
            Some(at) => Ok(Some(from + at + 4)),
            None if input.len() >= bounds.bytes => Err(Fault::TooLarge),
            // Waiting would not help: no blank line follows where lines do not end in CRLF.
            None if has_bare_line_feed(within, self.looked_at) => Err(Fault::Line),
            None => {
                self.looked_at = input.len();
                Ok(None)
            }
        }
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Its status, 100 to 999.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Its reason phrase in the bytes that were read.
    pub fn reason(&self) -> Range<usize> {
        self.reason.clone()
    }

    /// Its fields, in order.
    pub fn fields(&self) -> &[FieldSpan] {
        &self.fields
    }

    /// Its fields as names and values, out of the bytes that were read.
    pub fn pairs<'b>(&'b self, input: &'b [u8]) -> impl Iterator<Item = (&'b [u8], &'b [u8])> + Clone {
        pairs(&self.fields, input)
    }
}

/// Whether a line feed at or behind a place stands without its carriage return.
fn has_bare_line_feed(input: &[u8], from: usize) -> bool {
    let feeds = memchr::memchr_iter(b'\n', input.get(from..).unwrap_or_default()).map(|at| from + at);
    feeds.into_iter().any(|at| at == 0 || input.get(at - 1) != Some(&b'\r'))
}

/// Fields as names and values.
pub(crate) fn pairs<'b>(
    fields: &'b [FieldSpan],
    input: &'b [u8],
) -> impl Iterator<Item = (&'b [u8], &'b [u8])> + Clone {
    let part = |range: &Range<usize>| input.get(range.clone()).unwrap_or_default();
    fields.iter().map(move |field| (part(&field.name), part(&field.value)))
}

/// The line that begins at a place, and where the next one begins. It ends in CRLF and has no control
/// character but HTAB.
fn line(head: &[u8], from: usize) -> Result<(Range<usize>, usize), Fault> {
    let rest = head.get(from..).unwrap_or_default();
    let end = memchr(b'\n', rest).ok_or(Fault::Line)?;
    let text = rest.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(Fault::Line)?;
    if text.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return Err(Fault::Line);
    }
    Ok((from..from + text.len(), from + end + 1))
}

/// `HTTP/1.1 200 OK`; the reason may be absent, with its space or without (RFC 9112 section 4).
fn status_line(line: &[u8]) -> Result<(Version, u16, Range<usize>), Fault> {
    let version = match line.get(..8) {
        Some(b"HTTP/1.1") => Version::Http11,
        Some(b"HTTP/1.0") => Version::Http10,
        Some(_) | None => return Err(Fault::StatusLine),
    };
    let (Some(b' '), Some(digits)) = (line.get(8), line.get(9..12)) else { return Err(Fault::StatusLine) };
    if !digits.iter().all(u8::is_ascii_digit) || digits.first() == Some(&b'0') {
        return Err(Fault::StatusLine);
    }
    let status = digits.iter().fold(0u16, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    match line.get(12) {
        None => Ok((version, status, line.len()..line.len())),
        Some(b' ') => Ok((version, status, 13..line.len())),
        Some(_) => Err(Fault::StatusLine),
    }
}

/// Reads fields up to the blank line; `at` moves behind it.
pub(crate) fn read_fields(
    head: &[u8],
    at: &mut usize,
    fields_max: usize,
    fields: &mut Vec<FieldSpan>,
) -> Result<(), Fault> {
    loop {
        let (range, next) = line(head, *at)?;
        *at = next;
        if range.is_empty() {
            return Ok(());
        }
        if fields.len() >= fields_max {
            return Err(Fault::TooManyFields);
        }
        fields.push(field(head, range)?);
    }
}

fn field(head: &[u8], line: Range<usize>) -> Result<FieldSpan, Fault> {
    let text = head.get(line.clone()).unwrap_or_default();
    let colon = memchr(b':', text).ok_or(Fault::Field)?;
    let (name, rest) = text.split_at(colon);
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return Err(Fault::Field);
    }
    let value = rest.get(1..).unwrap_or_default();
    let is_white = |byte: &u8| matches!(byte, b' ' | b'\t');
    let before = value.iter().take_while(|byte| is_white(byte)).count();
    let after = value.iter().rev().take_while(|byte| is_white(byte)).count();
    let start = line.start + colon + 1 + before;
    Ok(FieldSpan { name: line.start..line.start + colon, value: start..start.max(line.end - after) })
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
