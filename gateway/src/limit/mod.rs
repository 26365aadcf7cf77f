//! Limits at work: taking tokens from buckets.
//!
//! The question "may this request pass?" is answered by a [`Limiter`]. [`Embedded`] answers in
//! process and is exact for one gateway; [`Leasing`] is shared through Redis and exact for all of
//! them together. Both are held to one list of tests (`conformance.rs`). A limiter never lets more
//! through than the limit, and when it cannot tell it says so.

pub mod conformance;
mod embedded;
pub mod leasing;

use async_trait::async_trait;
use policy::limit::{Charge, Charges};
use policy::route::Outage;
use policy::window::Window;

pub use self::embedded::Embedded;
pub use self::leasing::Leasing;
use crate::base::clock::Moment;
use crate::observe::LimitMetrics;
use crate::store::Counter;

/// A request's question.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The buckets, and what to take from each.
    pub charges: &'a Charges<'a>,
    /// How new the limits are: the highest version wins where gateways differ.
    pub version: u64,
    /// What holds while the limiter cannot tell.
    pub outage: Outage,
    /// When.
    pub now: Moment,
}

/// Where a bucket stands after a request: what the limit headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Tokens in a window.
    pub limit: u32,
    /// Tokens left in this window; never rises inside it.
    pub remaining: u32,
    /// The window.
    pub window: Window,
    /// The instant it is about, by the clock that counts the windows, Unix milliseconds.
    pub now_ms: u64,
}

/// How an admission came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Certainty {
    /// Counted by everyone: the limit holds exactly.
    Exact,
    /// The bucket's server is away; this gateway spent its own share of the limit.
    LocalShare,
    /// The bucket's server is away, and the route lets requests pass uncounted then.
    Open,
}

impl Certainty {
    /// Counts an admission that was not counted by everyone.
    fn count(self, metrics: &LimitMetrics) {
        match self {
            Certainty::Exact => {}
            Certainty::LocalShare => metrics.local_share.inc(),
            Certainty::Open => metrics.open.inc(),
        }
    }

    /// Its word in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Certainty::Exact => "exact",
            Certainty::LocalShare => "local_share",
            Certainty::Open => "open",
        }
    }
}

/// The answer for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All tokens were taken.
    Admitted {
        /// Where the documented limit stands now.
        standing: Standing,
        /// How sure that is.
        certainty: Certainty,
    },
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
    fn admit_now(&self, ask: &Ask<'_>) -> Option<Verdict>;

    /// Answers, asking others where it must. All charges are taken or none.
    async fn admit(&self, ask: &Ask<'_>) -> Result<Verdict, CannotTell>;

    /// Where a bucket stands as far as is known here, without taking anything.
    fn peek(&self, charge: &Charge<'_>, now: Moment) -> Standing;

    /// Where all buckets stand, asking others where that helps, without taking anything. `version` is
    /// that of the limits, see [`Ask`]; without one it is an onlooker who asks, whose idea of the
    /// limits counts for nothing.
    async fn inspect(&self, charges: &[Charge<'_>], version: Option<u64>, now: Moment) -> Vec<Standing>;

    /// What was taken from quotas since it was last saved, bucket by bucket.
    fn unsaved(&self) -> Vec<Counter>;

    /// Takes note that `added` was saved and what the totals are now: tokens that others took from
    /// the same quota (before a restart, or during an upgrade) count here too.
    fn merge(&self, added: &[Counter], totals: &[Counter], now_ms: u64);

    /// How many buckets are held.
    fn buckets(&self) -> usize;

    /// Says how many other gateways share the limits.
    fn set_others(&self, known: usize);

    /// Returns when requests can be answered.
    async fn ready(&self);

    /// Returns what is held for this process alone, before it ends.
    async fn leave(&self);

    /// Brings gauges up to date before they are read.
    fn refresh_metrics(&self);
}

impl Verdict {
    /// The standing to show: that of the documented limit, or of the one that was violated.
    pub fn standing(&self) -> Standing {
        match self {
            Verdict::Admitted { standing, .. } | Verdict::Over { standing, .. } => *standing,
        }
    }
}
