//! Limits at work: taking tokens from buckets.
//!
//! The question "may this request pass?" is answered by a [`Limiter`]. [`Embedded`] answers in
//! process and is exact for one gateway; a limiter shared through Redis stands behind the same
//! trait. A limiter never lets more through than the limit, and when it cannot tell it says so.

mod embedded;

use async_trait::async_trait;
use policy::limit::{Charge, Charges};
use policy::window::Window;

pub use self::embedded::Embedded;
use crate::store::Counter;

/// Where a bucket stands after a request: what the limit headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Tokens in a window.
    pub limit: u32,
    /// Tokens left in this window; never rises inside it.
    pub remaining: u32,
    /// The window.
    pub window: Window,
}

/// The answer for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All tokens were taken. Where the documented limit stands now.
    Admitted(Standing),
    /// Nothing was taken.
    Over {
        /// Which charge did not fit, as an index into the charges.
        index: usize,
        /// Where that bucket stands.
        standing: Standing,
    },
}

/// The limiter cannot tell; the route's outage rule has been applied and says no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CannotTell;

/// Takes tokens.
#[async_trait]
pub trait Limiter: Send + Sync {
    /// Answers at once where no one else need be asked; `None` means: await [`Limiter::admit`].
    fn admit_now(&self, charges: &Charges<'_>, now_ms: u64) -> Option<Verdict>;

    /// Answers, asking others where it must. All charges are taken or none.
    async fn admit(&self, charges: &Charges<'_>, now_ms: u64) -> Result<Verdict, CannotTell>;

    /// Where a bucket stands, without taking anything.
    fn peek(&self, charge: &Charge<'_>, now_ms: u64) -> Standing;

    /// What was taken from quotas since it was last saved, bucket by bucket.
    fn unsaved(&self) -> Vec<Counter>;

    /// Takes note that `added` was saved and what the totals are now: tokens that others took from
    /// the same quota (before a restart, or during an upgrade) count here too.
    fn merge(&self, added: &[Counter], totals: &[Counter], now_ms: u64);

    /// How many buckets are held.
    fn buckets(&self) -> usize;
}

impl Verdict {
    /// The standing to show: that of the documented limit, or of the one that was violated.
    pub fn standing(&self) -> Standing {
        match self {
            Verdict::Admitted(standing) | Verdict::Over { standing, .. } => *standing,
        }
    }
}
