//! Bounds of the process, as written and ready to run.

use std::ops::RangeInclusive;
use std::time::Duration;

use policy::Problem;
use policy::file::Text;
use policy::span::Spanned;
use schemars::JsonSchema;
use serde::Deserialize;

use super::duration;

/// Bounds of the process.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BoundsFile {
    /// Most connections at once. Absent: 20000.
    pub connections: Option<Spanned<u32>>,
    /// Most connections of one address at once. Absent: 1000.
    pub connections_per_address: Option<Spanned<u32>>,
    /// Most keys cached. Absent: 1000000.
    pub cached_keys: Option<Spanned<u32>>,
    /// Most limit buckets held. Absent: 4000000.
    pub buckets: Option<Spanned<u32>>,
    /// Failed authentications per address and minute. Absent: 120; 0 for no bound.
    pub failures_per_minute: Option<Spanned<u32>>,
    /// How long the last known record of a key serves while the store cannot answer. Absent: 10m.
    pub stale_for: Option<Text>,
    /// Longest time for a TLS handshake. Absent: 5s.
    pub handshake: Option<Text>,
    /// Longest time for a request head, first byte to last. Absent: 10s.
    pub head: Option<Text>,
    /// Longest idle time of a kept connection. Absent: 60s.
    pub idle: Option<Text>,
    /// Slowest acceptable request body, in bytes per second. Absent: 500.
    pub body_rate: Option<Spanned<u32>>,
    /// Longest time that requests under way are given at a stop. Absent: 30s.
    pub drain: Option<Text>,
    /// Most fields in a request head, 10 to 256. Absent: 100.
    pub head_fields: Option<Spanned<u32>>,
    /// Longest request target (path and query), in bytes, 1024 to 30000. Absent: 8192.
    pub target_bytes: Option<Spanned<u32>>,
    /// Longest path, in bytes, 256 to 30000. Absent: 2048.
    pub path_bytes: Option<Spanned<u32>>,
    /// Most segments in a path, 8 to 256. Absent: 64.
    pub path_segments: Option<Spanned<u32>>,
}

/// Bounds, ready to run. Each is named where it is used.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "documented on BoundsFile, field by field")]
pub struct Bounds {
    pub connections: usize,
    pub connections_per_address: u32,
    pub cached_keys: usize,
    pub buckets: usize,
    pub failures_per_minute: u32,
    pub stale_for: Duration,
    pub handshake: Duration,
    pub head: Duration,
    pub idle: Duration,
    pub body_rate: u32,
    pub drain: Duration,
    pub requests: policy::Bounds,
}

pub(super) fn bounds(file: &BoundsFile, problems: &mut Vec<Problem>) -> Bounds {
    let number = |n: &Option<Spanned<u32>>, default: u32| n.as_ref().map_or(default, |n| **n);
    let seconds = Duration::from_secs;
    Bounds {
        connections: number(&file.connections, 20_000) as usize,
        connections_per_address: number(&file.connections_per_address, 1_000),
        cached_keys: number(&file.cached_keys, 1_000_000) as usize,
        buckets: number(&file.buckets, 4_000_000) as usize,
        failures_per_minute: number(&file.failures_per_minute, 120),
        stale_for: duration(file.stale_for.as_ref(), seconds(600), problems),
        handshake: duration(file.handshake.as_ref(), seconds(5), problems),
        head: duration(file.head.as_ref(), seconds(10), problems),
        idle: duration(file.idle.as_ref(), seconds(60), problems),
        body_rate: number(&file.body_rate, 500),
        drain: duration(file.drain.as_ref(), seconds(30), problems),
        requests: requests(file, problems),
    }
}

fn requests(file: &BoundsFile, problems: &mut Vec<Problem>) -> policy::Bounds {
    let usual = policy::Bounds::DEFAULT;
    let mut within = |number: &Option<Spanned<u32>>, usual: usize, fits: RangeInclusive<u32>| {
        let Some(number) = number else { return usual };
        if !fits.contains(&**number) {
            problems.push(Problem::at(number.span, format!("this must be {} to {}", fits.start(), fits.end())));
        }
        **number as usize
    };
    policy::Bounds {
        fields: within(&file.head_fields, usual.fields, 10..=256),
        target_bytes: within(&file.target_bytes, usual.target_bytes, 1_024..=30_000),
        path_bytes: within(&file.path_bytes, usual.path_bytes, 256..=30_000),
        segments: within(&file.path_segments, usual.segments, 8..=256),
    }
}
