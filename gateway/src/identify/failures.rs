//! A budget of failed authentications per address, so that guessing keys stays slow and cheap.
//!
//! It is asked only when the store would have to be: a cached key works from any address, however
//! many failures its neighbours had. IPv6 addresses count by /64, the smallest network a customer
//! gets.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use policy::window::{Period, Tally};
use quick_cache::sync::Cache as Map;

use crate::base::network::network;

/// Most addresses remembered; the least used are forgotten first.
const ADDRESSES_MAX: usize = 100_000;

/// Failures allowed per address and minute.
pub struct FailureBudget {
    per_minute: u32,
    seen: Map<IpAddr, Arc<AtomicU64>>,
}

impl FailureBudget {
    /// A budget of so many failures per minute; 0 for no bound.
    pub fn new(per_minute: u32) -> Self {
        FailureBudget { per_minute, seen: Map::new(ADDRESSES_MAX) }
    }

    /// Seconds to wait if the address has used up its budget.
    pub fn is_spent(&self, address: IpAddr, now_ms: u64) -> Option<u64> {
        let tally = Tally::from_word(self.seen.get(&network(address))?.load(Ordering::Relaxed));
        let window = Period::Minute.window(now_ms, 0);
        let spent = self.per_minute > 0 && tally.remaining(window.index, self.per_minute) == 0;
        spent.then(|| window.seconds_left(now_ms))
    }

    /// Counts one failure.
    pub fn count(&self, address: IpAddr, now_ms: u64) {
        let made =
            self.seen.get_or_insert_with::<_, std::convert::Infallible>(&network(address), || Ok(Arc::default()));
        let Ok(word) = made;
        let window = Period::Minute.window(now_ms, 0).index;
        let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            Tally::from_word(word).charge(window, u32::MAX, 1).ok().map(Tally::word)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_refused_after_its_budget_and_welcome_in_the_next_minute() {
        let budget = FailureBudget::new(3);
        let (one, other): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        for _ in 0..3 {
            assert_eq!(budget.is_spent(one, 60_000), None);
            budget.count(one, 60_000);
        }
        assert_eq!(budget.is_spent(one, 61_000), Some(59));
        assert_eq!(budget.is_spent(other, 61_000), None);
        assert_eq!(budget.is_spent(one, 120_000), None);
    }

    #[test]
    fn an_ipv6_customer_is_one_address() {
        let budget = FailureBudget::new(1);
        budget.count("2001:db8::1".parse().unwrap(), 0);
        assert!(budget.is_spent("2001:db8::ffff:2".parse().unwrap(), 0).is_some());
        assert!(budget.is_spent("2001:db8:0:1::1".parse().unwrap(), 0).is_none());
    }
}
