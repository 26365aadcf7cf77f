//! Gathers records into a block.

use std::collections::HashMap;

use super::column::Packer;
use super::{CRC_BYTES, MAGIC, Number, RECORDS_MAX, Text};
use crate::audit::record::Record;

/// A column of texts while it grows.
#[derive(Default)]
struct Dictionary {
    names: Vec<Box<str>>,
    index: HashMap<Box<str>, u64, foldhash::fast::RandomState>,
    rows: Vec<u64>,
}

impl Dictionary {
    fn push(&mut self, text: &str) {
        // Most columns repeat themselves.
        if let Some(last) = self.rows.last().copied()
            && self.names.get(last as usize).is_some_and(|name| **name == *text)
        {
            return self.rows.push(last);
        }
        let row = match self.index.get(text) {
            Some(row) => *row,
            None => {
                let row = self.names.len() as u64;
                self.names.push(text.into());
                self.index.insert(text.into(), row);
                row
            }
        };
        self.rows.push(row);
    }

    fn clear(&mut self) {
        self.names.clear();
        self.index.clear();
        self.rows.clear();
    }
}

/// Gathers records, up to [`RECORDS_MAX`].
pub struct Builder {
    numbers: [Vec<u64>; Number::ALL.len()],
    texts: [Dictionary; Text::ALL.len()],
    records: usize,
    packer: Packer,
    scratch: String,
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            numbers: Default::default(),
            texts: Default::default(),
            records: 0,
            packer: Packer::new(),
            scratch: String::new(),
        }
    }
}

impl Builder {
    /// How many records it has.
    pub fn records(&self) -> usize {
        self.records
    }

    /// Whether no more fits.
    pub fn is_full(&self) -> bool {
        self.records >= RECORDS_MAX
    }

    /// Adds a record, if there is room.
    pub fn push(&mut self, record: &Record<'_, '_>) {
        if self.is_full() {
            return;
        }
        for (column, values) in Number::ALL.into_iter().zip(&mut self.numbers) {
            values.push(column.of(record));
        }
        for (column, dictionary) in Text::ALL.into_iter().zip(&mut self.texts) {
            let mut scratch = std::mem::take(&mut self.scratch);
            dictionary.push(column.of(record, &mut scratch));
            scratch.clear();
            self.scratch = scratch;
        }
        self.records += 1;
    }

    /// First and last of a column's numbers, by size; `None` when there is no record.
    pub fn range(&self, column: Number) -> Option<(u64, u64)> {
        let values = self.numbers.get(column as usize)?;
        Some((values.iter().copied().min()?, values.iter().copied().max()?))
    }

    /// The different texts of a column.
    pub fn names(&self, column: Text) -> impl Iterator<Item = &str> {
        self.texts.get(column as usize).into_iter().flat_map(|dictionary| dictionary.names.iter().map(|name| &**name))
    }

    /// The block; empties the builder.
    pub fn seal(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&u32::try_from(self.records).unwrap_or(u32::MAX).to_le_bytes());
        for (column, values) in Number::ALL.into_iter().zip(&mut self.numbers) {
            self.packer.numbers(values, column.grows(), &mut out);
            values.clear();
        }
        for dictionary in &mut self.texts {
            self.packer.texts(dictionary.names.iter().map(|name| &**name), &dictionary.rows, &mut out);
            dictionary.clear();
        }
        self.records = 0;
        let crc: [u8; CRC_BYTES] = crc32fast::hash(&out).to_le_bytes();
        out.extend_from_slice(&crc);
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Block, BlockFault};
    use super::*;
    use crate::audit::record::RecordedId;
    use crate::audit::record::tests::sample;

    fn block_of(records: &[Record<'_, '_>]) -> Vec<u8> {
        let mut builder = Builder::default();
        records.iter().for_each(|record| builder.push(record));
        builder.seal()
    }

    proptest! {
        #[test]
        fn what_was_put_in_comes_out(
            values in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<u16>(), "[a-z/]{0,9}", any::<bool>()), 0..200),
        ) {
            let records: Vec<_> = values.iter().map(|(a, b, status, text, flag)| Record {
                began_ms: a >> 2,
                id: if *flag { RecordedId::Theirs(text) } else { RecordedId::Ours(b | 1) },
                path: text,
                key: if *flag { "" } else { text },
                status: *status,
                shadowed: *flag,
                bytes_out: *b,
                total_us: b >> 10,
                address: flag.then(|| std::net::IpAddr::from(a.to_be_bytes().map(u16::from))),
                ..sample(1)
            }).collect();
            let bytes = block_of(&records);
            let block = Block::read(&bytes).unwrap().unpack().unwrap();
            prop_assert_eq!((0..block.records()).map(|row| block.record(row)).collect::<Vec<_>>(), records);
        }

        #[test]
        fn a_block_with_any_byte_changed_is_refused(at in any::<prop::sample::Index>(), by in 1u8..) {
            let mut bytes = block_of(&[sample(1), sample(2), sample(3)]);
            let at = at.index(bytes.len());
            bytes[at] ^= by;
            prop_assert!(Block::read(&bytes).is_err());
        }

        #[test]
        fn bytes_with_a_fitting_checksum_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut block = b"TGA1\x03\x00\x00\x00".to_vec();
            block.append(&mut bytes);
            block.extend_from_slice(&crc32fast::hash(&block).to_le_bytes());
            let _ = Block::read(&block).and_then(|block| block.unpack());
        }
    }

    #[test]
    fn a_block_that_was_cut_short_is_refused_wherever_it_was_cut() {
        let bytes = block_of(&[sample(1), sample(2)]);
        for end in 0..bytes.len() {
            assert!(Block::read(&bytes[..end]).is_err(), "cut at {end}");
        }
        assert_eq!(Block::read(b"").unwrap_err(), BlockFault::NoBlock);
    }

    #[test]
    fn a_full_block_takes_no_more() {
        let mut builder = Builder::default();
        for number in 0..RECORDS_MAX as u64 + 10 {
            builder.push(&sample(number + 1));
        }
        assert!(builder.is_full());
        let bytes = builder.seal();
        assert_eq!(Block::read(&bytes).unwrap().records(), RECORDS_MAX);
        assert!(bytes.len() < 2 * RECORDS_MAX, "{} bytes for records that differ in a number", bytes.len());
        assert_eq!(builder.records(), 0);
    }
}
