//! Heads into spans (RFC 9112 sections 2 to 5): where the parts of a head stand in its bytes.
//!
//! A head is read line by line as its lines come, each once. Names of fields are put into lower case where they
//! stand: they mean the same in any case (RFC 9110 section 5.1), and whoever compares them compares bytes.

use std::ops::Range;

use memchr::memchr;

use crate::Fault;
use crate::bytes::{Class, has_control};

/// Longest method, in bytes.
pub const METHOD_BYTES_MAX: usize = 32;
/// Longest name of a field, in bytes.
pub const NAME_BYTES_MAX: usize = 256;

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
    /// Its name.
    pub name: Range<usize>,
    /// Its value, without the white space around it.
    pub value: Range<usize>,
}

/// Which names the fields of a head may have: a name that is not in the set is none of them. So that asking for a
/// field that is not there does not take a walk over those that are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameSet {
    bits: u64,
    are_plain: bool,
}

impl Default for NameSet {
    fn default() -> Self {
        NameSet { bits: 0, are_plain: true }
    }
}

impl NameSet {
    fn add(&mut self, name: &[u8]) {
        self.bits |= Self::bit(name);
    }

    /// Whether all names have only letters in lower case, digits and `-`, which all programs read alike.
    pub fn are_plain(self) -> bool {
        self.are_plain
    }

    /// Whether a name in lower case may be one of them.
    pub fn may_have(self, name: &[u8]) -> bool {
        self.bits & Self::bit(name) != 0
    }

    /// The length and the bytes at both ends tell common names apart well enough.
    fn bit(name: &[u8]) -> u64 {
        let first = name.first().copied().unwrap_or_default();
        let last = name.last().copied().unwrap_or_default();
        1 << ((name.len() as u64 * 7 + u64::from(first) * 3 + u64::from(last) * 5) & 63)
    }
}

/// Version of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    #[default]
    Http11,
}

/// A request's head as spans. It is made once for a connection and used for each head on it.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    version: Version,
    method: Range<usize>,
    target: Range<usize>,
    lines: Lines,
}

impl RequestHead {
    /// Reads a head at the start of `input`: how many bytes it has, or `None` while it is not whole. After
    /// `None`, the next call must give the same bytes and more. One empty line before it is ignored: some
    /// clients send one behind a body (section 2.2).
    ///
    /// # Errors
    /// A head that is larger than `bounds`, or has more than one reading.
    pub fn read(&mut self, input: &mut [u8], bounds: Bounds) -> Result<Option<usize>, Fault> {
        let RequestHead { version, method, target, lines } = self;
        if lines.is_at_first() {
            // That of the head before is not that of one which cannot be read.
            *method = 0..0;
        }
        lines.read(input, bounds, |input, line| {
            if line == (0..0) {
                return Ok(false);
            }
            (*version, *method, *target) = request_line(input, &line)?;
            Ok(true)
        })
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Its method in the bytes that were read, a token; empty when none could be read.
    pub fn method(&self) -> Range<usize> {
        self.method.clone()
    }

    /// Its target in the bytes that were read: visible ASCII, not empty.
    pub fn target(&self) -> Range<usize> {
        self.target.clone()
    }

    /// Its fields, in order.
    pub fn fields(&self) -> &[FieldSpan] {
        &self.lines.fields
    }

    /// Which names they may have.
    pub fn names(&self) -> NameSet {
        self.lines.names
    }
}

/// A response's head as spans. It is made once for a connection and used for each head on it.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    version: Version,
    status: u16,
    reason: Range<usize>,
    lines: Lines,
}

impl ResponseHead {
    /// Reads a head at the start of `input`: how many bytes it has, or `None` while it is not whole. After
    /// `None`, the next call must give the same bytes and more.
    ///
    /// # Errors
    /// A head that is larger than `bounds`, or has more than one reading.
    pub fn read(&mut self, input: &mut [u8], bounds: Bounds) -> Result<Option<usize>, Fault> {
        let ResponseHead { version, status, reason, lines } = self;
        lines.read(input, bounds, |input, line| {
            (*version, *status, *reason) = status_line(input, &line)?;
            Ok(true)
        })
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
        &self.lines.fields
    }

    /// Which names they may have.
    pub fn names(&self) -> NameSet {
        self.lines.names
    }
}

/// Fields as names and values, out of the bytes that were read.
pub fn pairs<'b>(fields: &'b [FieldSpan], input: &'b [u8]) -> impl Iterator<Item = (&'b [u8], &'b [u8])> + Clone {
    let part = |range: &Range<usize>| input.get(range.clone()).unwrap_or_default();
    fields.iter().map(move |field| (part(&field.name), part(&field.value)))
}

/// The lines of a head as they come.
#[derive(Clone, Debug, Default)]
struct Lines {
    /// Where the line begins that is not whole yet.
    at: usize,
    /// Bytes that were searched for its end.
    searched: usize,
    /// Whether the first line was read.
    has_first: bool,
    is_whole: bool,
    fields: Vec<FieldSpan>,
    names: NameSet,
}

impl Lines {
    /// Whether the first line of a head is what comes next.
    fn is_at_first(&self) -> bool {
        self.is_whole || !self.has_first
    }

    /// Forgets the head before, if that was whole.
    fn begin(&mut self) {
        if self.is_whole {
            (self.at, self.searched, self.has_first, self.is_whole) = (0, 0, false, false);
        }
        if !self.has_first {
            self.fields.clear();
            self.names = NameSet::default();
        }
    }

    /// Reads lines up to the blank one: how many bytes they have, or `None` while they are not whole. `first`
    /// takes the first line, or says that this was none.
    fn read(
        &mut self,
        input: &mut [u8],
        bounds: Bounds,
        mut first: impl FnMut(&[u8], Range<usize>) -> Result<bool, Fault>,
    ) -> Result<Option<usize>, Fault> {
        self.begin();
        loop {
            let Some(line) = self.next(input, bounds)? else { return Ok(None) };
            if !self.has_first {
                self.has_first = first(input, line)?;
            } else if line.is_empty() {
                self.is_whole = true;
                return Ok(Some(self.at));
            } else {
                self.take_field(input, line, bounds.fields)?;
            }
        }
    }

    /// The next whole line, without its CRLF. It has no control character but HTAB.
    fn next(&mut self, input: &[u8], bounds: Bounds) -> Result<Option<Range<usize>>, Fault> {
        let Some(found) = memchr(b'\n', input.get(self.searched..).unwrap_or_default()) else {
            self.searched = input.len();
            return if input.len() >= bounds.bytes { Err(Fault::TooLarge) } else { Ok(None) };
        };
        let feed = self.searched + found;
        if feed >= bounds.bytes {
            return Err(Fault::TooLarge);
        }
        // Without the CR it is a fault at once: waiting for more would not help.
        let line = input.get(self.at..feed).and_then(|line| line.strip_suffix(b"\r")).ok_or(Fault::Line)?;
        if has_control(line) {
            return Err(Fault::Line);
        }
        let range = self.at..self.at + line.len();
        (self.at, self.searched) = (feed + 1, feed + 1);
        Ok(Some(range))
    }

    fn take_field(&mut self, input: &mut [u8], line: Range<usize>, fields_max: usize) -> Result<(), Fault> {
        if self.fields.len() >= fields_max {
            return Err(Fault::TooManyFields);
        }
        let text = input.get_mut(line.clone()).unwrap_or_default();
        let name = take_name(text)?;
        self.names.add(text.get(..name.length).unwrap_or_default());
        self.names.are_plain &= name.is_plain;
        let value = text.get(name.length + 1..).unwrap_or_default();
        let is_white = |byte: &u8| matches!(byte, b' ' | b'\t');
        let before = value.iter().take_while(|byte| is_white(byte)).count();
        let after = value.iter().rev().take_while(|byte| is_white(byte)).count();
        let start = line.start + name.length + 1 + before;
        let value = start..start.max(line.end - after);
        self.fields.push(FieldSpan { name: line.start..line.start + name.length, value });
        Ok(())
    }
}

/// `GET /path HTTP/1.1` (section 3).
fn request_line(input: &[u8], line: &Range<usize>) -> Result<(Version, Range<usize>, Range<usize>), Fault> {
    let text = input.get(line.clone()).unwrap_or_default();
    let (rest, version) = text.split_at_checked(text.len().saturating_sub(9)).ok_or(Fault::RequestLine)?;
    let version = match version {
        b" HTTP/1.1" => Version::Http11,
        b" HTTP/1.0" => Version::Http10,
        _ => return Err(Fault::RequestLine),
    };
    let space = memchr(b' ', rest).ok_or(Fault::RequestLine)?;
    let (method, target) = (rest.get(..space).unwrap_or_default(), rest.get(space + 1..).unwrap_or_default());
    let is_method = (1..=METHOD_BYTES_MAX).contains(&method.len()) && Class::TOKEN.has_all(method);
    if !is_method || target.is_empty() || !target.iter().all(|byte| matches!(byte, 0x21..=0x7e)) {
        return Err(Fault::RequestLine);
    }
    let start = line.start;
    Ok((version, start..start + space, start + space + 1..start + rest.len()))
}

/// `HTTP/1.1 200 OK`; the reason may be absent, with its space or without (section 4).
fn status_line(input: &[u8], range: &Range<usize>) -> Result<(Version, u16, Range<usize>), Fault> {
    let line = input.get(range.clone()).unwrap_or_default();
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
        None => Ok((version, status, range.end..range.end)),
        Some(b' ') => Ok((version, status, range.start + 13..range.end)),
        Some(_) => Err(Fault::StatusLine),
    }
}

/// Reads the fields of trailers, up to the blank line.
pub(crate) fn read_trailers(input: &mut [u8], bounds: Bounds, fields: &mut Vec<FieldSpan>) -> Result<(), Fault> {
    let mut lines = Lines { has_first: true, ..Lines::default() };
    lines.read(input, bounds, |_, _| Ok(true))?.ok_or(Fault::Line)?;
    *fields = lines.fields;
    Ok(())
}

/// The name at the start of a line.
struct Name {
    length: usize,
    /// Whether it has only letters, digits and `-`.
    is_plain: bool,
}

/// For each byte what it is in a name: itself in lower case, or 0 where no token has it.
const IN_NAME: [u8; 256] = in_name();
/// Added to a byte of a name that not all programs read alike.
const ODD: u8 = 0x80;

#[expect(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "a byte is an index of 256")]
const fn in_name() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < table.len() {
        if Class::TOKEN.has(byte as u8) {
            let lower = (byte as u8).to_ascii_lowercase();
            let is_plain = lower.is_ascii_lowercase() || lower.is_ascii_digit() || lower == b'-';
            table[byte] = if is_plain { lower } else { lower | ODD };
        }
        byte += 1;
    }
    table
}

/// Reads a name up to its colon, and puts it into lower case: all in one walk over its bytes.
#[expect(clippy::indexing_slicing, reason = "a byte is an index of 256")]
fn take_name(line: &mut [u8]) -> Result<Name, Fault> {
    let mut seen = 0;
    for (length, byte) in line.iter_mut().enumerate() {
        let known = IN_NAME[usize::from(*byte)];
        if known == 0 {
            let is_end = *byte == b':' && (1..=NAME_BYTES_MAX).contains(&length);
            return if is_end { Ok(Name { length, is_plain: seen < ODD }) } else { Err(Fault::Field) };
        }
        seen |= known;
        *byte = known & !ODD;
    }
    Err(Fault::Field)
}
