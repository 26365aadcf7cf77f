//! How a column is packed.
//!
//! A column is one byte that says whether it is compressed, its length in the block and unpacked (u32 each), and its
//! bytes: as they are, or one zstd frame.
//!
//! A column of numbers is a base (u64), a width (u8, 0 to 8) and then, for each of the lowest `width` bytes, that
//! byte of all values minus the base: bytes that resemble each other stand together. In a column that grows, each
//! value behind the first is its difference to the one before, zigzagged. Width 0: all are equal.
//!
//! A column of texts is how many different ones there are (u32), each with its length (u16) before it, and a column
//! of numbers: which text each record has.

use super::Texts;

/// Columns shorter than this are not worth compressing.
const COMPRESS_FROM: usize = 64;
/// The fastest of zstd's levels that still finds most of what repeats (AUDIT: 1.6 to 2 million records/s).
const LEVEL: i32 = -1;
/// Most that a text can have.
const TEXT_BYTES_MAX: usize = u16::MAX as usize;
/// Bytes of a number at most.
const WIDTH_MAX: usize = 8;

/// Takes bytes from the front.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'b>(pub(super) &'b [u8]);

impl<'b> Reader<'b> {
    pub(super) fn take(&mut self, bytes: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn chunk<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn number(&mut self) -> Option<usize> {
        usize::try_from(u32::from_le_bytes(self.chunk()?)).ok()
    }

    /// The next column, as it is packed.
    pub(super) fn column(&mut self) -> Option<&'b [u8]> {
        let mut ahead = *self;
        ahead.take(1)?;
        let stored = ahead.number()?;
        self.take(1 + 4 + 4 + stored)
    }
}

/// Packs columns, with buffers that it keeps.
pub(super) struct Packer {
    zstd: Option<zstd::bulk::Compressor<'static>>,
    raw: Vec<u8>,
}

impl Packer {
    pub(super) fn new() -> Self {
        Packer { zstd: zstd::bulk::Compressor::new(LEVEL).ok(), raw: Vec::new() }
    }

    pub(super) fn numbers(&mut self, values: &[u64], grows: bool, out: &mut Vec<u8>) {
        self.raw.clear();
        put_numbers(values, grows, &mut self.raw);
        self.put(out);
    }

    pub(super) fn texts<'t>(&mut self, names: impl ExactSizeIterator<Item = &'t str>, rows: &[u64], out: &mut Vec<u8>) {
        self.raw.clear();
        self.raw.extend_from_slice(&length(names.len()));
        for name in names {
            let name = name.get(..name.floor_char_boundary(TEXT_BYTES_MAX)).unwrap_or_default();
            self.raw.extend_from_slice(&u16::try_from(name.len()).unwrap_or_default().to_le_bytes());
            self.raw.extend_from_slice(name.as_bytes());
        }
        put_numbers(rows, false, &mut self.raw);
        self.put(out);
    }

    fn put(&mut self, out: &mut Vec<u8>) {
        let zstd = self.zstd.as_mut().filter(|_| self.raw.len() >= COMPRESS_FROM);
        let packed = zstd.and_then(|zstd| zstd.compress(&self.raw).ok()).filter(|packed| packed.len() < self.raw.len());
        let stored = packed.as_deref().unwrap_or(&self.raw);
        out.push(packed.is_some().into());
        out.extend_from_slice(&length(stored.len()));
        out.extend_from_slice(&length(self.raw.len()));
        out.extend_from_slice(stored);
    }
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes()
}

fn zigzag(difference: i64) -> u64 {
    ((difference << 1) ^ (difference >> 63)).cast_unsigned()
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

fn put_numbers(values: &[u64], grows: bool, out: &mut Vec<u8>) {
    let first = values.first().copied().unwrap_or_default();
    let base = if grows { first } else { values.iter().copied().min().unwrap_or_default() };
    let packed: Vec<u64> = if grows {
        let before = std::iter::once(&first).chain(values);
        values.iter().zip(before).map(|(value, before)| zigzag(value.wrapping_sub(*before).cast_signed())).collect()
    } else {
        values.iter().map(|value| value - base).collect()
    };
    let widest = packed.iter().copied().max().unwrap_or_default();
    let width = (u64::BITS - widest.leading_zeros()).div_ceil(8);
    out.extend_from_slice(&base.to_le_bytes());
    out.push(u8::try_from(width).unwrap_or_default());
    for byte in 0..width {
        out.extend(packed.iter().map(|value| (value >> (8 * byte)) as u8));
    }
}

/// What a packed column was, if it is no longer than `most`.
fn unpacked(column: &[u8], most: usize) -> Option<Vec<u8>> {
    let mut reader = Reader(column);
    let is_compressed = reader.chunk::<1>()?;
    let (stored, raw) = (reader.number()?, reader.number()?);
    let bytes = reader.take(stored)?;
    if raw > most {
        return None;
    }
    match is_compressed {
        [0] => (stored == raw).then(|| bytes.to_vec()),
        [1] => zstd::bulk::decompress(bytes, raw).ok().filter(|bytes| bytes.len() == raw),
        [_] => None,
    }
}

fn numbers_max(records: usize) -> usize {
    8 + 1 + records * WIDTH_MAX
}

fn read_numbers(reader: &mut Reader<'_>, records: usize, grows: bool) -> Option<Vec<u64>> {
    let base = u64::from_le_bytes(reader.chunk()?);
    let width = reader.chunk::<1>().map(|[width]| usize::from(width)).filter(|width| *width <= WIDTH_MAX)?;
    let mut values = vec![0u64; records];
    for byte in 0..width {
        for (value, low) in values.iter_mut().zip(reader.take(records)?) {
            *value |= u64::from(*low) << (8 * byte);
        }
    }
    let mut last = base;
    for value in &mut values {
        *value = if grows { last.wrapping_add_signed(unzigzag(*value)) } else { base.checked_add(*value)? };
        last = *value;
    }
    reader.0.is_empty().then_some(values)
}

/// Unpacks a column of numbers.
pub(super) fn unpack_numbers(column: &[u8], records: usize, grows: bool) -> Option<Vec<u64>> {
    let raw = unpacked(column, numbers_max(records))?;
    read_numbers(&mut Reader(&raw), records, grows)
}

/// Unpacks a column of texts.
pub(super) fn unpack_texts(column: &[u8], records: usize) -> Option<Texts> {
    let raw = unpacked(column, 4 + records * (2 + TEXT_BYTES_MAX) + numbers_max(records))?;
    let mut reader = Reader(&raw);
    let different = reader.number().filter(|different| *different <= records)?;
    let mut names = Vec::with_capacity(different);
    for _ in 0..different {
        let length = u16::from_le_bytes(reader.chunk()?);
        names.push(std::str::from_utf8(reader.take(length.into())?).ok()?.to_owned());
    }
    let rows = read_numbers(&mut reader, records, false)?;
    let rows = rows.into_iter().map(|row| u32::try_from(row).ok().filter(|row| (*row as usize) < different));
    Some(Texts { names, rows: rows.collect::<Option<_>>()? })
}
