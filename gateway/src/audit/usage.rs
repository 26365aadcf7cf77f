//! How much is used: requests by hour, organization, caller, route and class of outcome.
//!
//! The sealer counts every record that it takes, also those that are lost later. Counts are written once a minute, in
//! the same transaction as the blocks, together with how far they go. So whoever reads them counts what is in blocks
//! behind that point, and the sum is exact to the last block; the same is done for a gateway that was killed.

use std::collections::HashMap;

use super::record::Record;

/// Milliseconds of an hour.
pub const HOUR_MS: u64 = 3_600_000;

/// How a request ended, as its caller sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Answered below 400.
    Ok,
    /// The backend said that the request is wrong, or the client went away.
    ClientError,
    /// Refused here.
    Denied,
    /// Over a limit.
    Limited,
    /// The backend failed, or could not be reached.
    UpstreamError,
    /// We could not tell.
    Unavailable,
}

impl Class {
    /// All of them.
    pub const ALL: [Class; 6] =
        [Class::Ok, Class::ClientError, Class::Denied, Class::Limited, Class::UpstreamError, Class::Unavailable];

    /// Its name in files and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Ok => "ok",
            Class::ClientError => "client_error",
            Class::Denied => "denied",
            Class::Limited => "limited",
            Class::UpstreamError => "upstream_error",
            Class::Unavailable => "unavailable",
        }
    }

    /// The class with a name.
    pub fn named(name: &str) -> Option<Self> {
        Class::ALL.into_iter().find(|class| class.as_str() == name)
    }

    /// The class of a record.
    pub fn of(record: &Record<'_, '_>) -> Self {
        match (record.labels.outcome, record.status) {
            ("limit_exceeded", _) => Class::Limited,
            ("temporarily_unavailable" | "internal_error", _) => Class::Unavailable,
            ("upstream_unreachable" | "upstream_timeout" | "upstream_broke_off", _) => Class::UpstreamError,
            ("client_gone" | "cut_off", _) => Class::ClientError,
            (_, ..400) => Class::Ok,
            ("forwarded", 500..) => Class::UpstreamError,
            ("forwarded", _) => Class::ClientError,
            (_, 500..) => Class::Unavailable,
            (_, _) => Class::Denied,
        }
    }
}

/// What requests are counted together by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group {
    /// Hours since 1970.
    pub hour: u64,
    /// API; empty for nobody's host.
    pub api: Box<str>,
    /// Organization; empty for anonymous callers.
    pub organization: Box<str>,
    /// Key.
    pub key: Box<str>,
    /// Application.
    pub client: Box<str>,
    /// Route.
    pub route: Box<str>,
    /// How they ended.
    pub class: Class,
}

impl Group {
    fn of(record: &Record<'_, '_>) -> Self {
        Group {
            hour: record.ended_ms() / HOUR_MS,
            api: record.api.into(),
            organization: record.organization.into(),
            key: record.key.into(),
            client: record.client.into(),
            route: record.route.into(),
            class: Class::of(record),
        }
    }
}

/// Sums over requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// How many.
    pub requests: u64,
    /// Bytes of bodies received.
    pub bytes_in: u64,
    /// Bytes of bodies sent.
    pub bytes_out: u64,
    /// Microseconds in all.
    pub total_us: u64,
    /// Microseconds of the longest.
    pub longest_us: u64,
}

impl Sums {
    fn of(record: &Record<'_, '_>) -> Self {
        let Record { bytes_in, bytes_out, total_us, .. } = *record;
        Sums { requests: 1, bytes_in, bytes_out, total_us, longest_us: total_us }
    }

    /// Both together.
    pub fn add(&mut self, other: &Sums) {
        self.requests += other.requests;
        self.bytes_in = self.bytes_in.saturating_add(other.bytes_in);
        self.bytes_out = self.bytes_out.saturating_add(other.bytes_out);
        self.total_us = self.total_us.saturating_add(other.total_us);
        self.longest_us = self.longest_us.max(other.longest_us);
    }
}

/// Counts, by group. There are at most as many groups as records.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    sums: HashMap<Group, Sums, foldhash::fast::RandomState>,
    /// The group of the record before, which often is that of the next.
    last: Option<(Group, Sums)>,
}

impl Counts {
    /// Counts a record.
    pub fn count(&mut self, record: &Record<'_, '_>) {
        let hour = record.ended_ms() / HOUR_MS;
        if let Some((group, sums)) = &mut self.last {
            let is_same = group.hour == hour
                && *group.key == *record.key
                && *group.route == *record.route
                && *group.client == *record.client
                && *group.organization == *record.organization
                && *group.api == *record.api
                && group.class == Class::of(record);
            if is_same {
                return sums.add(&Sums::of(record));
            }
        }
        self.settle();
        self.last = Some((Group::of(record), Sums::of(record)));
    }

    /// Adds sums of a group.
    pub fn add(&mut self, group: Group, sums: &Sums) {
        self.sums.entry(group).or_default().add(sums);
    }

    fn settle(&mut self) {
        if let Some((group, sums)) = self.last.take() {
            self.add(group, &sums);
        }
    }

    /// What was counted; nothing is left.
    pub fn take(&mut self) -> Vec<(Group, Sums)> {
        self.settle();
        self.sums.drain().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::sample;
    use super::super::record::{Labels, Record};
    use super::*;

    fn with(outcome: &'static str, status: u16) -> Record<'static, 'static> {
        Record { status, labels: Labels { outcome, ..sample(1).labels }, ..sample(1) }
    }

    #[test]
    fn every_outcome_has_the_class_that_its_caller_sees() {
        for (outcome, status, class) in [
            ("forwarded", 200, Class::Ok),
            ("forwarded", 304, Class::Ok),
            ("forwarded", 404, Class::ClientError),
            ("forwarded", 503, Class::UpstreamError),
            ("limit_exceeded", 429, Class::Limited),
            ("invalid_credential", 401, Class::Denied),
            ("insufficient_scope", 403, Class::Denied),
            ("no_such_route", 404, Class::Denied),
            ("temporarily_unavailable", 503, Class::Unavailable),
            ("upstream_unreachable", 502, Class::UpstreamError),
            ("upstream_broke_off", 200, Class::UpstreamError),
            ("client_gone", 0, Class::ClientError),
            ("preflight", 204, Class::Ok),
        ] {
            assert_eq!(Class::of(&with(outcome, status)), class, "{outcome} {status}");
        }
        assert!(Class::ALL.into_iter().all(|class| Class::named(class.as_str()) == Some(class)));
    }

    #[test]
    fn what_is_counted_is_summed_by_group_whatever_its_order() {
        let mut counts = Counts::default();
        for key in ["a", "a", "b", "a", "b"] {
            counts.count(&Record { key, total_us: key.len() as u64 * 10, ..sample(1) });
        }
        counts.count(&Record { key: "a", total_us: 99, ..sample(1) });
        let mut sums: Vec<_> =
            counts.take().into_iter().map(|(group, sums)| (group.key, sums.requests, sums.longest_us)).collect();
        sums.sort();
        assert_eq!(sums, [("a".into(), 4, 99), ("b".into(), 2, 10)]);
        assert!(counts.take().is_empty());
    }
}
