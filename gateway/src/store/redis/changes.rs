//! Changes of records and the stream that tells of them.
//!
//! A change and its announcement are one step: one script, which touches the record and the stream. On a
//! cluster these two have different slots. There a writer says first what it is about to do, then does
//! it, then says that it is done: whoever reads the stream forgets the record again and again until then
//! (`begun.rs`).

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::time::Instant;

use redis::cmd;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::begun::{BEGUN, Begun};
use super::names::{CHANGES, CHANGES_KEPT, TRIES_MAX, WAIT_MS};
use super::topology::LOOK_EVERY;
use super::{Entries, RedisStore};
use crate::store::documents::Swapped;
use crate::store::{Change, Changes, Position, StoreError, json, text};

/// Replaces a record that is still what was read, says when it ends, and announces the change where a
/// second key is named; one key otherwise.
const SWAP: &str = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return false end \
    redis.call('SET', KEYS[1], ARGV[2]) \
    if ARGV[3] ~= '' then redis.call('PEXPIREAT', KEYS[1], ARGV[3]) end \
    if not KEYS[2] then return 'done' end \
    return redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', ARGV[5], ARGV[6])";

/// The last look at who answers.
#[derive(Default)]
pub(super) struct Looked {
    /// When it succeeded; none after one that failed.
    at: Option<Instant>,
    /// How many failed since.
    failures: u32,
}

/// After so many looks in a row that failed, whoever is connected still is given up: where the name
/// leads now, we are not let in.
const LOOKS_FAILED_MAX: u32 = 3;

/// Stream ids as numbers: milliseconds and sequence.
pub(super) fn stream_id(id: &str) -> (u64, u64) {
    let (ms, n) = id.split_once('-').unwrap_or((id, "0"));
    (ms.parse().unwrap_or(0), n.parse().unwrap_or(0))
}

impl RedisStore {
    fn begun(&self) -> MutexGuard<'_, Begun> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an entry to the stream.
    pub(super) async fn announce(&self, kind: &str, subject: &str) -> Result<Position, StoreError> {
        let mut add = cmd("XADD");
        add.arg(CHANGES).arg("MAXLEN").arg("~").arg(CHANGES_KEPT).arg("*").arg(kind).arg(subject);
        self.ask::<String>(&add).await.map(Position)
    }

    /// Replaces a record (key, before, after) if it is still what was read, and tells of it: kind and
    /// subject.
    pub(super) async fn swap(
        &self,
        (key, before, after): (&str, &str, &str),
        expires_ms: &str,
        told: Option<(&str, &str)>,
    ) -> Result<Swapped, StoreError> {
        let is_one_step = !self.commands.has_slots();
        if let Some((kind, subject)) = told.filter(|_| !is_one_step) {
            self.announce(&format!("{BEGUN}{kind}"), subject).await?;
        }
        let mut swap = cmd("EVAL");
        match told.filter(|_| is_one_step) {
            Some((kind, subject)) => {
                swap.arg(SWAP).arg(2).arg(key).arg(CHANGES).arg(before).arg(after).arg(expires_ms);
                swap.arg(CHANGES_KEPT).arg(kind).arg(subject);
            }
            None => {
                swap.arg(SWAP).arg(1).arg(key).arg(before).arg(after).arg(expires_ms);
            }
        }
        let Some(done) = self.ask::<Option<String>>(&swap).await? else { return Ok(Swapped::Conflict) };
        Ok(Swapped::Done(match told {
            None => None,
            Some(_) if is_one_step => Some(Position(done)),
            Some((kind, subject)) => Some(self.announce(kind, subject).await?),
        }))
    }

    /// Reads, changes and writes a record until nobody else wrote in between, and tells of it.
    pub(super) async fn change<T, F>(
        &self,
        (key, what): (&str, &str),
        told: (&str, &str),
        change: F,
    ) -> Result<(T, Position), StoreError>
    where
        T: DeserializeOwned + Serialize + Send,
        F: Fn(&mut T) -> Result<(), StoreError> + Send,
    {
        for _ in 0..TRIES_MAX {
            let before = self.get(key).await?.ok_or_else(|| StoreError::NotFound(what.to_owned()))?;
            let mut record: T = json(&before)?;
            change(&mut record)?;
            let swapped = self.swap((key, &before, &text(&record)?), "", Some(told)).await?;
            if let Swapped::Done(Some(position)) = swapped {
                return Ok((record, position));
            }
        }
        Err(StoreError::Unavailable(format!("{what} is being changed by too many writers at once")))
    }

    async fn look_who_answers(&self) -> Result<(), StoreError> {
        let looked = || self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked().at.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return Ok(());
        }
        let answered = self.feed.look_who_answers().await;
        let mut looked = looked();
        if answered.is_ok() {
            *looked = Looked { at: Some(Instant::now()), failures: 0 };
        } else {
            // What is connected still may not be who should be asked: it does not count as followed.
            *looked = Looked { at: None, failures: looked.failures + 1 };
            if looked.failures == LOOKS_FAILED_MAX {
                self.master.turn();
            }
        }
        answered
    }

    /// Whether the stream still holds everything after a position.
    async fn is_gapless(&self, after: &Position) -> Result<bool, StoreError> {
        let (first, last): (Entries, Entries) = (
            self.feed.ask(cmd("XRANGE").arg(CHANGES).arg("-").arg("+").arg("COUNT").arg(1)).await?,
            self.feed.ask(cmd("XREVRANGE").arg(CHANGES).arg("+").arg("-").arg("COUNT").arg(1)).await?,
        );
        let at = stream_id(&after.0);
        Ok(match (first.first(), last.first()) {
            (Some((first, _)), Some((last, _))) => {
                let was_trimmed = stream_id(first) > at && at != (0, 0);
                stream_id(last) >= at && !was_trimmed
            }
            (_, _) => at == (0, 0),
        })
    }

    pub(super) async fn last_position(&self) -> Result<Position, StoreError> {
        let last: Entries = self.ask(cmd("XREVRANGE").arg(CHANGES).arg("+").arg("-").arg("COUNT").arg(1)).await?;
        Ok(Position(last.first().map_or_else(|| "0-0".to_owned(), |(id, _)| id.clone())))
    }

    pub(super) async fn changes_after(&self, after: &Position) -> Result<Changes, StoreError> {
        self.look_who_answers().await?;
        let is_gapless = self.is_gapless(after).await?;
        // What was read from the server before may be older than what its successor knows.
        let replaced = self.master.replaced();
        let is_replaced = replaced != self.forgotten.load(Ordering::Acquire);
        if is_replaced && is_gapless && self.commands.is_cluster() {
            // Not all shards need to be able to answer now: known keys go on.
            self.forgotten.store(replaced, Ordering::Release);
            return Ok(Changes { list: vec![Change::Doubt(replaced)], position: after.clone() });
        }
        if is_replaced || !is_gapless {
            let position = self.last_position().await?;
            self.forgotten.store(replaced, Ordering::Release);
            return Ok(Changes { list: vec![Change::Everything], position });
        }
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(10_000).arg("BLOCK").arg(WAIT_MS).arg("STREAMS").arg(CHANGES).arg(&after.0);
        let streams: Option<HashMap<String, Entries>> = self.feed.ask(&read).await?;
        let mut changes = Changes { list: Vec::new(), position: after.clone() };
        for (id, fields) in streams.into_iter().flat_map(HashMap::into_values).flatten() {
            let mut begun = self.begun();
            changes.list.extend(fields.iter().map(|(kind, subject)| begun.note(kind, subject, Instant::now())));
            changes.position = Position(id);
        }
        // Data that was lost and written to again while we waited shows only what came after.
        if !changes.list.is_empty() && !self.is_gapless(after).await? {
            changes.list = vec![Change::Everything];
        }
        changes.list.extend(self.begun().under_way(Instant::now()));
        changes.list.dedup();
        Ok(changes)
    }
}
