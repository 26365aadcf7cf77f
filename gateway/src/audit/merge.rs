//! Puts small blocks together. A quiet gateway seals a block a second, of which most is what every block has: an hour
//! of them becomes one.

use rusqlite::{Transaction, TransactionBehavior};

use super::block::{Block, BlockFault, Builder, RECORDS_MAX};
use super::day_file::{BlockRow, DayFile, insert_block, read_blocks};

/// Blocks with fewer records than this are small.
const SMALL: u64 = 2_048;
/// Fewest blocks that are worth the work.
const RUN_MIN: usize = 4;

impl DayFile {
    /// Puts small blocks that follow each other together; says how many have gone. What cannot be read stays.
    pub fn merge(&mut self) -> rusqlite::Result<usize> {
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut gone = 0;
        let small = "last_seq - first_seq + 1 < ? ORDER BY boot, lane, first_seq";
        for run in runs(read_blocks(&transaction, small, [SMALL])?) {
            gone += merge_run(&transaction, &run)?;
        }
        transaction.commit()?;
        Ok(gone)
    }
}

/// Runs of blocks that follow each other without a hole and fit into one.
fn runs(blocks: Vec<BlockRow>) -> Vec<Vec<BlockRow>> {
    let mut runs: Vec<Vec<BlockRow>> = Vec::new();
    for block in blocks {
        let follows = |run: &Vec<BlockRow>| {
            run.first().zip(run.last()).is_some_and(|(first, last)| {
                (last.boot == block.boot && last.lane == block.lane && last.last_seq + 1 == block.first_seq)
                    && block.last_seq + 1 - first.first_seq <= RECORDS_MAX as u64
            })
        };
        match runs.last_mut() {
            Some(run) if follows(run) => run.push(block),
            Some(_) | None => runs.push(vec![block]),
        }
    }
    runs.retain(|run| run.len() >= RUN_MIN);
    runs
}

fn merge_run(transaction: &Transaction<'_>, run: &[BlockRow]) -> rusqlite::Result<usize> {
    let Some(first) = run.first() else { return Ok(0) };
    let mut builder = Builder::default();
    for row in run {
        let data: Vec<u8> =
            transaction.query_row("SELECT data FROM blocks WHERE rowid = ?", [row.rowid], |row| row.get(0))?;
        if add(&mut builder, &data, row.records()).is_err() {
            return Ok(0);
        }
    }
    let Some((row, data)) = BlockRow::seal(&mut builder, (&first.boot, first.lane, first.first_seq)) else {
        return Ok(0);
    };
    for row in run {
        transaction.execute("DELETE FROM blocks WHERE rowid = ?", [row.rowid])?;
    }
    insert_block(transaction, &row, &data)?;
    Ok(run.len() - 1)
}

fn add(builder: &mut Builder, data: &[u8], records: u64) -> Result<(), BlockFault> {
    let unpacked = Block::read(data)?.unpack()?;
    if unpacked.records() as u64 != records {
        return Err(BlockFault::Changed);
    }
    (0..unpacked.records()).for_each(|at| builder.push(&unpacked.record(at)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::files::Files;
    use super::super::reader::{Filter, search};
    use super::super::tests::{block, boot, row};
    use super::super::verify::verify;
    use super::*;

    const AT_MS: u64 = 1_790_000_000_000;

    #[test]
    fn small_blocks_become_one_and_every_record_is_found_as_before() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = DayFile::open(&folder.path().join("2026-09-21.db")).unwrap();
        // A hole behind 20, and another lane.
        let spans = [(0, 1, 3), (0, 4, 4), (0, 5, 9), (0, 10, 20), (0, 22, 25), (1, 1, 2)];
        let rows: Vec<_> = spans.iter().map(|(lane, first, last)| row(*lane, (*first, *last), AT_MS)).collect();
        let blocks: Vec<_> = rows.iter().map(|row| (row.clone(), block(row))).collect();
        file.write(&boot(), &blocks, &[]).unwrap();
        let files = Files::new(folder.path());
        let found = || {
            let page = search(&files, &Filter::default(), None, 100).unwrap();
            page.hits.iter().map(|hit| (hit.position.clone(), format!("{:?}", hit.line()))).collect::<Vec<_>>()
        };
        let before = (found(), verify(&files, None).unwrap());
        assert_eq!((before.0.len(), file.merge().unwrap()), (26, 3));
        assert_eq!(file.blocks(0, u64::MAX).unwrap().len(), 3);
        assert_eq!((found(), verify(&files, None).unwrap()), before);
        assert_eq!(file.merge().unwrap(), 0, "what was put together stays");
    }

    #[test]
    fn what_cannot_be_read_stays_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = DayFile::open(&folder.path().join("2026-09-21.db")).unwrap();
        let rows: Vec<_> = (1..=5).map(|seq| row(0, (seq, seq), AT_MS)).collect();
        let mut blocks: Vec<_> = rows.iter().map(|row| (row.clone(), block(row))).collect();
        blocks[2].1[30] ^= 1;
        file.write(&boot(), &blocks, &[]).unwrap();
        assert_eq!(file.merge().unwrap(), 0);
        assert_eq!(file.blocks(0, u64::MAX).unwrap().len(), 5);
    }
}
