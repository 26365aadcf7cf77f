//! Records of the authorization server in Redis: a key each, and a sorted set for each list. The
//! score only says in which order members are looked at to see whether they are still there.

use async_trait::async_trait;
use futures_util::future::try_join_all;
use redis::cmd;

use super::super::documents::{Document, Documents, Kind, Swap, Swapped};
use super::super::{Listed, Page, StoreError, announced};
use super::{Order, READ_AT_ONCE, RedisStore};

/// Adds a record that is not there, and says when it ends. One key.
const INSERT: &str = "if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end \
    redis.call('SET', KEYS[1], ARGV[1]) \
    if ARGV[2] ~= '' then redis.call('PEXPIREAT', KEYS[1], ARGV[2]) end return 1";
/// Adds or replaces a record, and says when it ends. One key.
const PUT: &str = "redis.call('SET', KEYS[1], ARGV[1]) \
    if ARGV[2] ~= '' then redis.call('PEXPIREAT', KEYS[1], ARGV[2]) end return 1";
/// Score of records that do not end.
const FOR_GOOD: &str = "+inf";
/// Members of a list looked at when one is added: two for one, so that a list of records that end
/// by themselves stays as long as what is there.
const LOOKED_AT: isize = 2;

fn key(kind: Kind, id: &str) -> String {
    format!("tollgate:doc:{{{}/{id}}}", kind.as_str())
}

fn list_key(kind: Kind, list: &str) -> String {
    format!("tollgate:docs:{{{}/{list}}}", kind.as_str())
}

fn at(expires_ms: Option<u64>) -> String {
    expires_ms.map(|ms| ms.to_string()).unwrap_or_default()
}

impl RedisStore {
    /// Listed before it is there: a failure in between leaves an entry that lists nothing.
    async fn list(&self, document: &Document) -> Result<(), StoreError> {
        let score = document.expires_ms.map_or_else(|| FOR_GOOD.to_owned(), |ms| ms.to_string());
        for list in &document.lists {
            let list = list_key(document.kind, list);
            let oldest: Vec<String> = self.ask(cmd("ZRANGE").arg(&list).arg(0).arg(LOOKED_AT - 1)).await?;
            self.ask::<i64>(cmd("ZADD").arg(&list).arg(&score).arg(&document.id)).await?;
            for id in oldest.iter().filter(|id| **id != document.id && document.expires_ms.is_some()) {
                if self.ask::<i64>(cmd("EXISTS").arg(key(document.kind, id))).await? == 0 {
                    self.ask::<i64>(cmd("ZREM").arg(&list).arg(id)).await?;
                } else {
                    self.ask::<i64>(cmd("ZADD").arg(&list).arg("XX").arg(&score).arg(id)).await?;
                }
            }
        }
        Ok(())
    }

    async fn store(&self, script: &str, document: &Document) -> Result<bool, StoreError> {
        self.list(document).await?;
        let mut command = cmd("EVAL");
        command.arg(script).arg(1).arg(key(document.kind, &document.id));
        command.arg(&document.record).arg(at(document.expires_ms));
        let stored = self.ask::<i64>(&command).await? == 1;
        // Once more: whoever looked at the list in between found nothing there and took it out.
        self.list(document).await?;
        Ok(stored)
    }
}

#[async_trait]
impl Documents for RedisStore {
    async fn document(&self, kind: Kind, id: &str) -> Result<Option<String>, StoreError> {
        self.get(&key(kind, id)).await
    }

    async fn insert_document(&self, document: &Document) -> Result<bool, StoreError> {
        self.store(INSERT, document).await
    }

    async fn put_document(&self, document: &Document) -> Result<(), StoreError> {
        self.store(PUT, document).await.map(|_| ())
    }

    async fn swap_document(&self, swap: &Swap<'_>) -> Result<Swapped, StoreError> {
        let told = swap.tells.map(announced);
        let told = told.as_ref().map(|(word, subject)| (*word, subject.as_str()));
        self.swap((&key(swap.kind, swap.id), swap.before, swap.after), &at(swap.expires_ms), told).await
    }

    async fn remove_document(&self, kind: Kind, id: &str) -> Result<bool, StoreError> {
        Ok(self.ask::<i64>(cmd("DEL").arg(key(kind, id))).await? == 1)
    }

    async fn documents(&self, kind: Kind, list: &str, page: &Page) -> Result<Listed<String>, StoreError> {
        let set = list_key(kind, list);
        let Listed { list, next } = self.members(&set, page, Order::LowestFirst).await?;
        let mut records = Vec::with_capacity(list.len());
        for places in list.chunks(READ_AT_ONCE) {
            let found = try_join_all(places.iter().map(|place| self.document(kind, &place.id))).await?;
            for (place, record) in places.iter().zip(found) {
                match record {
                    Some(record) => records.push(record),
                    // It ended, or was removed: the list need not name it any more.
                    None => {
                        self.ask::<i64>(cmd("ZREM").arg(&set).arg(&place.id)).await?;
                    }
                }
            }
        }
        Ok(Listed { list: records, next })
    }

    async fn sweep(&self, _now_ms: u64) -> Result<usize, StoreError> {
        // Redis drops records by itself, and lists are cleaned as they are read.
        Ok(0)
    }
}
