//! A block: up to [`RECORDS_MAX`] records of one lane, column by column, packed.
//!
//! Layout, all integers little-endian: the magic `TGA1`, the number of records (u32), the columns of [`Number`] and
//! then of [`Text`] in their order, and a CRC-32 of all before it (u32). What a column looks like is told in
//! [`column`]. A block says nothing of where it belongs: boot, lane and sequence numbers stand beside it.
//!
//! Pure: no clock, no file. Reading is total: whatever the bytes are, they are a block or a [`BlockFault`], and what
//! is unpacked is never larger than the number of records allows.

mod builder;
mod column;

use std::net::{IpAddr, SocketAddr};

pub use self::builder::Builder;
use self::column::{Reader, unpack_numbers, unpack_texts};
use super::record::{Labels, Record, RecordedId};

/// Most records in a block.
pub const RECORDS_MAX: usize = 16_384;
const MAGIC: &[u8; 4] = b"TGA1";
const CRC_BYTES: usize = 4;

/// The columns of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// When it ended, Unix milliseconds.
    Ended,
    /// The number of the request's id; 0 for a client's own.
    Id,
    /// Microseconds in all.
    Total,
    /// Microseconds until the decision.
    Decision,
    /// Microseconds of the upstream.
    Upstream,
    /// Bytes of body received.
    BytesIn,
    /// Bytes of body sent.
    BytesOut,
    /// Status.
    Status,
    /// 1 where missing scopes were only shadowed.
    Shadowed,
}

impl Number {
    /// All of them, as they stand in a block.
    pub const ALL: [Number; 9] = [
        Number::Ended,
        Number::Id,
        Number::Total,
        Number::Decision,
        Number::Upstream,
        Number::BytesIn,
        Number::BytesOut,
        Number::Status,
        Number::Shadowed,
    ];

    /// Whether each value is near the one before, so that differences are kept.
    fn grows(self) -> bool {
        matches!(self, Number::Ended | Number::Id)
    }

    fn of(self, record: &Record<'_, '_>) -> u64 {
        match self {
            Number::Ended => record.ended_ms(),
            Number::Id => match record.id {
                RecordedId::Ours(number) => number,
                RecordedId::Theirs(_) => 0,
            },
            Number::Total => record.total_us,
            Number::Decision => record.decision_us,
            Number::Upstream => record.upstream_us,
            Number::BytesIn => record.bytes_in,
            Number::BytesOut => record.bytes_out,
            Number::Status => record.status.into(),
            Number::Shadowed => record.shadowed.into(),
        }
    }
}

/// The columns of texts. Each keeps every text once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "documented on Record, field by field")]
pub enum Text {
    Api,
    Route,
    Method,
    Path,
    Key,
    Grant,
    Client,
    User,
    Organization,
    RequestId,
    Outcome,
    Protocol,
    Environment,
    Limits,
    Found,
    Address,
    Backend,
}

impl Text {
    /// All of them, as they stand in a block.
    pub const ALL: [Text; 17] = [
        Text::Api,
        Text::Route,
        Text::Method,
        Text::Path,
        Text::Key,
        Text::Grant,
        Text::Client,
        Text::User,
        Text::Organization,
        Text::RequestId,
        Text::Outcome,
        Text::Protocol,
        Text::Environment,
        Text::Limits,
        Text::Found,
        Text::Address,
        Text::Backend,
    ];

    /// The text of a record; addresses are written into `scratch`.
    fn of<'t>(self, record: &Record<'t, 't>, scratch: &'t mut String) -> &'t str {
        use std::fmt::Write as _;
        match self {
            Text::Api => record.api,
            Text::Route => record.route,
            Text::Method => record.method,
            Text::Path => record.path,
            Text::Key => record.key,
            Text::Grant => record.grant,
            Text::Client => record.client,
            Text::User => record.user,
            Text::Organization => record.organization,
            Text::RequestId => match record.id {
                RecordedId::Ours(_) => "",
                RecordedId::Theirs(id) => id,
            },
            Text::Outcome => record.labels.outcome,
            Text::Protocol => record.labels.protocol,
            Text::Environment => record.labels.environment,
            Text::Limits => record.labels.limits,
            Text::Found => record.labels.found,
            Text::Address => {
                let _ = record.address.map(|address| write!(scratch, "{address}"));
                scratch
            }
            Text::Backend => {
                let _ = record.upstream.map(|address| write!(scratch, "{address}"));
                scratch
            }
        }
    }
}

/// Why bytes are no block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockFault {
    /// They begin otherwise, or with more records than a block has.
    #[error("it does not begin as a block does")]
    NoBlock,
    /// They were changed, or some are missing.
    #[error("its checksum does not fit")]
    Changed,
    /// A column is not as it must be.
    #[error("a column in it cannot be read")]
    Column,
}

/// The texts of a column: each once, and which of them each record has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Texts {
    /// The different texts.
    pub names: Vec<String>,
    /// By record, an index of `names`.
    pub rows: Vec<u32>,
}

impl Texts {
    /// The text of a record.
    pub fn get(&self, row: usize) -> &str {
        self.rows.get(row).and_then(|name| self.names.get(*name as usize)).map_or("", String::as_str)
    }
}

/// A block whose checksum fits; its columns are unpacked when they are asked for.
#[derive(Clone, Debug)]
pub struct Block<'b> {
    records: usize,
    numbers: [&'b [u8]; Number::ALL.len()],
    texts: [&'b [u8]; Text::ALL.len()],
}

impl<'b> Block<'b> {
    /// Reads the outer form.
    pub fn read(bytes: &'b [u8]) -> Result<Self, BlockFault> {
        let (content, crc) = bytes.split_last_chunk::<CRC_BYTES>().ok_or(BlockFault::NoBlock)?;
        let mut reader = Reader(content);
        let records = match (reader.take(MAGIC.len()), reader.number()) {
            (Some(magic), Some(records)) if magic == MAGIC => records,
            (Some(_) | None, Some(_) | None) => return Err(BlockFault::NoBlock),
        };
        if records > RECORDS_MAX {
            return Err(BlockFault::NoBlock);
        }
        if crc32fast::hash(content) != u32::from_le_bytes(*crc) {
            return Err(BlockFault::Changed);
        }
        let mut block = Block { records, numbers: [&[]; Number::ALL.len()], texts: [&[]; Text::ALL.len()] };
        for column in block.numbers.iter_mut().chain(&mut block.texts) {
            *column = reader.column().ok_or(BlockFault::Column)?;
        }
        Ok(block)
    }

    /// How many records it has.
    pub fn records(&self) -> usize {
        self.records
    }

    /// A column of numbers.
    pub fn numbers(&self, column: Number) -> Result<Vec<u64>, BlockFault> {
        let packed = self.numbers.get(column as usize).ok_or(BlockFault::Column)?;
        unpack_numbers(packed, self.records, column.grows()).ok_or(BlockFault::Column)
    }

    /// A column of texts.
    pub fn texts(&self, column: Text) -> Result<Texts, BlockFault> {
        let packed = self.texts.get(column as usize).ok_or(BlockFault::Column)?;
        unpack_texts(packed, self.records).ok_or(BlockFault::Column)
    }

    /// All columns.
    pub fn unpack(&self) -> Result<Unpacked, BlockFault> {
        let numbers = Number::ALL.into_iter().map(|column| self.numbers(column)).collect::<Result<_, _>>()?;
        let texts = Text::ALL.into_iter().map(|column| self.texts(column)).collect::<Result<_, _>>()?;
        Ok(Unpacked { records: self.records, numbers, texts })
    }
}

/// A block with all its columns at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpacked {
    records: usize,
    numbers: Vec<Vec<u64>>,
    texts: Vec<Texts>,
}

impl Unpacked {
    /// How many records it has.
    pub fn records(&self) -> usize {
        self.records
    }

    fn number(&self, column: Number, row: usize) -> u64 {
        self.numbers.get(column as usize).and_then(|column| column.get(row)).copied().unwrap_or_default()
    }

    fn text(&self, column: Text, row: usize) -> &str {
        self.texts.get(column as usize).map_or("", |column| column.get(row))
    }

    /// A record of it.
    pub fn record(&self, row: usize) -> Record<'_, '_> {
        let number = |column| self.number(column, row);
        let text = |column| self.text(column, row);
        let total_us = number(Number::Total);
        Record {
            began_ms: number(Number::Ended).saturating_sub(total_us / 1_000),
            id: match number(Number::Id) {
                0 => RecordedId::Theirs(text(Text::RequestId)),
                number => RecordedId::Ours(number),
            },
            api: text(Text::Api),
            route: text(Text::Route),
            method: text(Text::Method),
            path: text(Text::Path),
            address: text(Text::Address).parse::<IpAddr>().ok(),
            key: text(Text::Key),
            grant: text(Text::Grant),
            client: text(Text::Client),
            user: text(Text::User),
            organization: text(Text::Organization),
            labels: Labels {
                outcome: text(Text::Outcome),
                protocol: text(Text::Protocol),
                environment: text(Text::Environment),
                limits: text(Text::Limits),
                found: text(Text::Found),
            },
            shadowed: number(Number::Shadowed) != 0,
            status: u16::try_from(number(Number::Status)).unwrap_or_default(),
            bytes_in: number(Number::BytesIn),
            bytes_out: number(Number::BytesOut),
            decision_us: number(Number::Decision),
            upstream_us: number(Number::Upstream),
            total_us,
            upstream: text(Text::Backend).parse::<SocketAddr>().ok(),
        }
    }
}
