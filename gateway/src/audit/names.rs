//! A small set of the names in a block, by which a reader skips blocks that cannot have what it looks for.
//!
//! A Bloom filter: it may say that a name is there when it is not (about one time in a hundred), never the other way
//! round. It is written into files, so its hash is one that stays: BLAKE3.

use super::block::{Builder, Text};

/// Columns whose names are in the set.
const COLUMNS: [Text; 7] =
    [Text::Key, Text::Grant, Text::Client, Text::User, Text::Organization, Text::RequestId, Text::Address];
/// Bits for each name.
const BITS: usize = 10;
/// Bits that a name sets.
const PROBES: u64 = 7;

/// The set for a block that is about to be sealed.
pub(super) fn names_of(builder: &Builder) -> Vec<u8> {
    let names = || COLUMNS.into_iter().flat_map(|column| builder.names(column).map(move |name| (column, name)));
    let names = || names().filter(|(_, name)| !name.is_empty());
    let mut set = vec![0u8; (names().count() * BITS).div_ceil(8).max(1)];
    for (column, name) in names() {
        for (byte, bit) in probes(column, name, set.len()) {
            if let Some(byte) = set.get_mut(byte) {
                *byte |= bit;
            }
        }
    }
    set
}

/// Whether a block with this set may have a name in a column. Columns that are in no set may have every name.
pub(super) fn may_have(set: &[u8], column: Text, name: &str) -> bool {
    !COLUMNS.contains(&column)
        || set.is_empty()
        || probes(column, name, set.len()).all(|(byte, bit)| set.get(byte).is_some_and(|byte| byte & bit != 0))
}

fn probes(column: Text, name: &str, bytes: usize) -> impl Iterator<Item = (usize, u8)> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[column as u8]).update(name.as_bytes());
    let mut words = [[0u8; 8]; 2];
    for (word, chunk) in words.iter_mut().zip(hasher.finalize().as_bytes().chunks_exact(8)) {
        word.copy_from_slice(chunk);
    }
    let [first, step] = words.map(u64::from_le_bytes);
    let bits = (bytes * 8).max(1) as u64;
    (0..PROBES).map(move |probe| {
        let bit = first.wrapping_add(probe.wrapping_mul(step | 1)) % bits;
        (usize::try_from(bit / 8).unwrap_or_default(), 1 << (bit % 8))
    })
}

#[cfg(test)]
mod tests {
    use super::super::record::Record;
    use super::super::record::tests::sample;
    use super::*;

    #[test]
    fn every_name_of_a_block_is_found_and_few_others_are() {
        let mut builder = Builder::default();
        for number in 0..2_000 {
            builder.push(&Record { key: &format!("key_{number}"), ..sample(number + 1) });
        }
        let set = names_of(&builder);
        assert!((0..2_000).all(|number| may_have(&set, Text::Key, &format!("key_{number}"))));
        assert!(may_have(&set, Text::Organization, "acme") && may_have(&set, Text::Path, "/anything"));
        let wrong = (2_000..12_000).filter(|number| may_have(&set, Text::Key, &format!("key_{number}"))).count();
        assert!(wrong < 200, "{wrong} of 10,000 names that are not there were found");
        assert!(!may_have(&set, Text::Organization, "key_1"), "a name is one of its column");
    }
}
