//! Bounds on failed logins in a minute: for an account from one network, for a network, and for an account.
//!
//! The first bound stops somebody who guesses one person's password, the second somebody who tries many people,
//! the third somebody who guesses from many networks. The third is far above the first, so that nobody can
//! easily lock a person out by failing in their name. A try is counted before the password is checked, and
//! given back when it was right: many tries at once do not pass together.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use policy::limit::stable_number;
use policy::window::{Period, Tally};
use quick_cache::sync::Cache as Map;

/// Failures a minute of one account from one network.
const PER_NETWORK: u32 = 10;
/// Failures a minute of one network, whoever they are tried on.
const OF_NETWORK: u32 = 100;
/// Failures a minute of one account.
const PER_ACCOUNT: u32 = 500;
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

fn buckets(account: &str, address: IpAddr) -> [(u128, u32); 3] {
    let network = crate::base::network::network(address).to_string();
    [
        (stable_number(&["login", account, &network]), PER_NETWORK),
        (stable_number(&["login of", &network]), OF_NETWORK),
        (stable_number(&["login", account]), PER_ACCOUNT),
    ]
}

impl Throttle {
    fn word(&self, bucket: u128) -> Arc<AtomicU64> {
        let made = self.seen.get_or_insert_with::<_, std::convert::Infallible>(&bucket, || Ok(Arc::default()));
        let Ok(word) = made;
        word
    }

    /// Takes a try; `false` when there is none left in this minute.
    pub fn take(&self, account: &str, address: IpAddr, now_ms: u64) -> bool {
        let window = Period::Minute.window(now_ms, 0).index;
        let all = buckets(account, address);
        let taken = all.iter().take_while(|(bucket, most)| {
            let charge = |word| Tally::from_word(word).charge(window, *most, 1).ok().map(Tally::word);
            self.word(*bucket).fetch_update(Ordering::Relaxed, Ordering::Relaxed, charge).is_ok()
        });
        let taken = taken.count();
        if taken < all.len() {
            all.iter().take(taken).for_each(|(bucket, _)| self.refund(*bucket, window));
        }
        taken == all.len()
    }

    /// Gives a try back that was no failure.
    pub fn give_back(&self, account: &str, address: IpAddr, now_ms: u64) {
        let window = Period::Minute.window(now_ms, 0).index;
        buckets(account, address).iter().for_each(|(bucket, _)| self.refund(*bucket, window));
    }

    fn refund(&self, bucket: u128, window: u32) {
        let _ = self.word(bucket).fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let tally = Tally::from_word(word);
            let used = tally.used.checked_sub(1).filter(|_| tally.window == window)?;
            Some(Tally { used, ..tally }.word())
        });
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
            assert!(throttle.take("jo@a.b", here, now_ms));
        }
        assert!(!throttle.take("jo@a.b", here, now_ms));
        assert!(throttle.take("jo@a.b", there, now_ms) && throttle.take("mo@a.b", here, now_ms));
        assert!(throttle.take("jo@a.b", here, now_ms + 60_000));
    }

    #[test]
    fn one_network_that_tries_everybody_stops_and_success_costs_nothing() {
        let (throttle, now_ms, here) = (Throttle::default(), 600_000, "10.0.0.1".parse().unwrap());
        for n in 0..10 * OF_NETWORK {
            assert!(throttle.take(&n.to_string(), here, now_ms));
            throttle.give_back(&n.to_string(), here, now_ms);
        }
        for n in 0..OF_NETWORK {
            assert!(throttle.take(&n.to_string(), here, now_ms));
        }
        assert!(!throttle.take("another", here, now_ms));
    }
}
