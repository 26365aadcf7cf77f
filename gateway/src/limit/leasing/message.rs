//! What a gateway and a bucket in Redis say to each other: see `lease.lua`.

use policy::window::Period;
use redis::{Cmd, cmd};

/// The script. One key, no key derived inside it, nothing newer than Redis 6 or Valkey 7.
pub const SCRIPT: &str = include_str!("../lease.lua");

/// The divisor of what may be leased ahead: a gateway gets at most its share of what is free,
/// divided by this, so that leases shrink towards the end of a window.
const AHEAD_DIVISOR_PERCENT: u32 = 200;

/// The name of a bucket in Redis.
pub fn bucket_key(bucket: u128) -> String {
    format!("tollgate:limit:{{{bucket:032x}}}")
}

/// Everything a gateway says of a bucket: absolute numbers, never differences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The bucket.
    pub bucket: u128,
    /// Length of its windows.
    pub period: Period,
    /// Tokens in a window.
    pub limit: u32,
    /// How new that limit is.
    pub version: u64,
    /// Which of the gateway's ledgers speaks.
    pub ledger: u64,
    /// Grows with every message of a ledger.
    pub seq: u64,
    /// The window it is about; 0 for none.
    pub window: u32,
    /// Tokens held or used in that window.
    pub held: u32,
    /// Tokens used.
    pub used: u32,
    /// Tokens that waiting requests need beyond those held.
    pub need: u32,
    /// What the first of them needs.
    pub unit: u32,
    /// Tokens wanted ahead.
    pub want: u32,
    /// Demand assumed of a gateway that has said nothing yet.
    pub prior: u32,
    /// What is held was taken without asking. Not sent.
    pub is_share: bool,
}

impl Message {
    /// The message as a command; `call` names the script by its digest or holds it whole.
    pub fn command(&self, call: Call<'_>, process: &str) -> Cmd {
        let mut command = match call {
            Call::Digest(digest) => {
                let mut command = cmd("EVALSHA");
                command.arg(digest);
                command
            }
            Call::Text(text) => {
                let mut command = cmd("EVAL");
                command.arg(text);
                command
            }
        };
        let window = if self.window == 0 { -1 } else { i64::from(self.window) };
        command
            .arg(1)
            .arg(bucket_key(self.bucket))
            .arg(self.period.fixed_ms().unwrap_or(0))
            .arg(self.period.phase_ms(self.bucket))
            .arg(self.limit)
            .arg(self.version)
            .arg(format!("{process}.{:x}", self.ledger))
            .arg(self.seq)
            .arg(window)
            .arg(self.held)
            .arg(self.used)
            .arg(self.need)
            .arg(self.unit)
            .arg(self.want)
            .arg(AHEAD_DIVISOR_PERCENT)
            .arg(self.prior);
        command
    }
}

/// How the script is named.
#[derive(Clone, Copy, Debug)]
pub enum Call<'a> {
    /// By its SHA-1, once the server knows it.
    Digest(&'a str),
    /// Whole.
    Text(&'a str),
}

/// What the bucket answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// A newer message of the same ledger was there first; nothing was done.
    pub is_stale: bool,
    /// The bucket did not know of the tokens that the message says are held.
    pub has_forgotten: bool,
    /// The window that tokens were granted in.
    pub window: u32,
    /// The server's clock, Unix milliseconds.
    pub now_ms: u64,
    /// Tokens granted.
    pub granted: u32,
    /// Those of them that waiting requests needed.
    pub for_need: u32,
    /// Tokens still free after that.
    pub free: u32,
    /// Tokens used by all gateways, as far as reported.
    pub used: u32,
    /// Tokens that other gateways hold unused, as far as reported.
    pub others: u32,
    /// The bucket has run dry while others held tokens: nobody leases ahead any more.
    pub is_tight: bool,
    /// The newest limit the bucket knows.
    pub limit: u32,
}

impl Reply {
    /// Reads the script's list; `None` when it is not one.
    pub fn read(list: &[i64]) -> Option<Self> {
        let &[status, window, _end, now, granted, for_need, free, used, others, _gateways, tight, limit] = list else {
            return None;
        };
        let count = |n: i64| u32::try_from(n.max(0)).unwrap_or(u32::MAX);
        Some(Reply {
            is_stale: status < 0,
            has_forgotten: status > 0,
            window: count(window),
            now_ms: u64::try_from(now).ok()?,
            granted: count(granted),
            for_need: count(for_need),
            free: count(free),
            used: count(used),
            others: count(others),
            is_tight: tight != 0,
            limit: count(limit),
        })
    }
}
