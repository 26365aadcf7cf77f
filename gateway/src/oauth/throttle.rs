//! Failed logins: so many a minute for an account from one network, and so many for an account.
//!
//! The first bound stops somebody who guesses; the second somebody who guesses from everywhere. It
//! is far above the first, so that nobody can lock out a person by failing in their name.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use policy::limit::stable_number;
use policy::window::{Period, Tally};
use quick_cache::sync::Cache as Map;

use super::server::network;

/// Failures a minute of one account from one network.
const PER_NETWORK: u32 = 10;
/// Failures a minute of one account.
const PER_ACCOUNT: u32 = 100;
/// Accounts and networks remembered; the least used are forgotten first.
const REMEMBERED_MAX: usize = 100_000;

/// Counts failed logins.
pub struct Throttle {
    seen: Map<u128, Arc<AtomicU64>>,
}

impl Default for Throttle {
    fn default() -> Self {
        Throttle { seen: Map::new(REMEMBERED_MAX) }
    }
}

fn buckets(account: &str, address: IpAddr) -> [(u128, u32); 2] {
    let network = network(address).to_string();
    [(stable_number(&["login", account, &network]), PER_NETWORK), (stable_number(&["login", account]), PER_ACCOUNT)]
}

impl Throttle {
    /// Whether no more failures of an account are looked at in this minute.
    pub fn is_spent(&self, account: &str, address: IpAddr, now_ms: u64) -> bool {
        let window = Period::Minute.window(now_ms, 0);
        buckets(account, address).iter().any(|(bucket, most)| {
            let word = self.seen.get(bucket).map_or(0, |word| word.load(Ordering::Relaxed));
            Tally::from_word(word).remaining(window.index, *most) == 0
        })
    }

    /// Counts one failure.
    pub fn count(&self, account: &str, address: IpAddr, now_ms: u64) {
        let window = Period::Minute.window(now_ms, 0).index;
        for (bucket, _) in buckets(account, address) {
            let made = self.seen.get_or_insert_with::<_, std::convert::Infallible>(&bucket, || Ok(Arc::default()));
            let Ok(word) = made;
            let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
                Tally::from_word(word).charge(window, u32::MAX, 1).ok().map(Tally::word)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guessing_one_account_stops_and_others_go_on() {
        let (throttle, now_ms) = (Throttle::default(), 600_000);
        let (here, there): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.9.9.9".parse().unwrap());
        for _ in 0..PER_NETWORK {
            assert!(!throttle.is_spent("jo@a.b", here, now_ms));
            throttle.count("jo@a.b", here, now_ms);
        }
        assert!(throttle.is_spent("jo@a.b", here, now_ms));
        assert!(!throttle.is_spent("jo@a.b", there, now_ms) && !throttle.is_spent("mo@a.b", here, now_ms));
        assert!(!throttle.is_spent("jo@a.b", here, now_ms + 60_000));
    }
}
