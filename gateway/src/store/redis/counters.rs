//! Counters of quotas in Redis.

use std::collections::HashMap;

use async_trait::async_trait;
use policy::window::Tally;
use redis::cmd;

use super::RedisStore;
use super::names::{ADD, COUNTERS, COUNTERS_AT_ONCE, DROP, counter_field};
use crate::store::counters::counter;
use crate::store::{Counter, Counters, StoreError};

#[async_trait]
impl Counters for RedisStore {
    async fn add_counters(&self, added: &[Counter]) -> Result<Vec<Counter>, StoreError> {
        let mut totals = Vec::with_capacity(added.len());
        for chunk in added.chunks(COUNTERS_AT_ONCE) {
            let mut add = cmd("EVAL");
            add.arg(ADD).arg(1).arg(COUNTERS);
            for counter in chunk {
                let tally = Tally::from_word(counter.word);
                add.arg(counter_field(counter)).arg(tally.window).arg(tally.used);
            }
            let answers: Vec<(u32, u32)> = self.ask(&add).await?;
            totals.extend(
                chunk
                    .iter()
                    .zip(answers)
                    .map(|(counter, (window, used))| Counter { word: Tally { window, used }.word(), ..*counter }),
            );
        }
        Ok(totals)
    }

    async fn counters(&self) -> Result<Vec<Counter>, StoreError> {
        // Over the patient connection: there may be many.
        let saved: HashMap<String, String> = self.feed.ask(cmd("HGETALL").arg(COUNTERS)).await?;
        let read = |(field, value): (&String, &String)| {
            let (bucket, period) = field.split_once('/')?;
            let (window, used) = value.split_once(':')?;
            let tally = Tally { window: window.parse().ok()?, used: used.parse().ok()? };
            counter(u128::from_str_radix(bucket, 16).ok()?, period, tally.word())
        };
        Ok(saved.iter().filter_map(read).collect())
    }

    async fn drop_counters(&self, ended: &[Counter]) -> Result<(), StoreError> {
        for chunk in ended.chunks(COUNTERS_AT_ONCE) {
            let mut delete = cmd("EVAL");
            delete.arg(DROP).arg(1).arg(COUNTERS);
            for counter in chunk {
                let tally = Tally::from_word(counter.word);
                delete.arg(counter_field(counter)).arg(format!("{}:{}", tally.window, tally.used));
            }
            self.ask::<i64>(&delete).await?;
        }
        Ok(())
    }
}
