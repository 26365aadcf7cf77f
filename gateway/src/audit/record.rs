//! What is kept of one request.

use std::net::{IpAddr, SocketAddr};

use serde::ser::{Serialize, SerializeStruct as _, Serializer};

use crate::base::clock::rfc3339;
use crate::base::random::request_id;

/// The id of a request on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordedId<'a> {
    /// One of ours: the number of the request in its boot.
    Ours(u64),
    /// The client's own.
    Theirs(&'a str),
}

/// Words from closed lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Labels<'l> {
    /// `forwarded`, or the code of the denial, or how it ended.
    pub outcome: &'l str,
    /// `http/1.1` or `h2`.
    pub protocol: &'l str,
    /// Environment of the credential; empty without one.
    pub environment: &'l str,
    /// How limits were counted: `exact`, or `local_share` or `open` while their server was away.
    pub limits: &'l str,
    /// How the key was found: `cached`, `stored`, `stale` or nothing.
    pub found: &'l str,
}

/// What is kept of one request: who, what, how it ended. No query, no body, no field of a message, never a
/// credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a, 'l> {
    /// When it began, Unix milliseconds.
    pub began_ms: u64,
    /// Its id.
    pub id: RecordedId<'a>,
    /// API, when the host is known.
    pub api: &'a str,
    /// Route id, when one matched and the caller may know.
    pub route: &'a str,
    /// Method, when it is a short one.
    pub method: &'a str,
    /// Path as matched; never the query.
    pub path: &'a str,
    /// Caller's address, as far as it is kept.
    pub address: Option<IpAddr>,
    /// Key id; never the key. Of a key that was refused for its state too.
    pub key: &'a str,
    /// Grant of the token; empty for keys.
    pub grant: &'a str,
    /// Application that holds the token.
    pub client: &'a str,
    /// User who granted it.
    pub user: &'a str,
    /// Organization.
    pub organization: &'a str,
    /// Words from closed lists.
    pub labels: Labels<'l>,
    /// Whether missing scopes were only shadowed.
    pub shadowed: bool,
    /// Status sent; 0 when none was.
    pub status: u16,
    /// Bytes of body received.
    pub bytes_in: u64,
    /// Bytes of body sent.
    pub bytes_out: u64,
    /// Microseconds until the decision.
    pub decision_us: u64,
    /// Microseconds waiting for the upstream's first byte; 0 when not forwarded.
    pub upstream_us: u64,
    /// Microseconds in all.
    pub total_us: u64,
    /// Address of the upstream, when one was chosen.
    pub upstream: Option<SocketAddr>,
}

impl Record<'_, '_> {
    /// When it ended, Unix milliseconds. Records stand in this order.
    pub fn ended_ms(&self) -> u64 {
        self.began_ms.saturating_add(self.total_us / 1_000)
    }
}

/// A record as JSON: one line of the access log, one row of `tollgate audit requests --json`.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// The record.
    pub record: Record<'a, 'a>,
    /// The boot that it is of: what its own ids of requests begin with.
    pub boot: &'a str,
}

impl Line<'_> {
    /// The request's id in words.
    pub fn request_id(&self) -> String {
        match self.record.id {
            RecordedId::Ours(number) => request_id(self.boot, number),
            RecordedId::Theirs(id) => id.to_owned(),
        }
    }
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Record { labels, .. } = &self.record;
        let record = &self.record;
        let text = |value: Option<String>| value.unwrap_or_default();
        let mut line = serializer.serialize_struct("Record", 25)?;
        line.serialize_field("time", &rfc3339(record.began_ms))?;
        line.serialize_field("request_id", &self.request_id())?;
        line.serialize_field("api", record.api)?;
        line.serialize_field("route", record.route)?;
        line.serialize_field("environment", labels.environment)?;
        line.serialize_field("method", record.method)?;
        line.serialize_field("path", record.path)?;
        line.serialize_field("protocol", labels.protocol)?;
        line.serialize_field("address", &text(record.address.map(|a| a.to_string())))?;
        line.serialize_field("key", record.key)?;
        for (name, value) in [("grant", record.grant), ("client", record.client), ("user", record.user)] {
            if value.is_empty() {
                line.skip_field(name)?;
            } else {
                line.serialize_field(name, value)?;
            }
        }
        line.serialize_field("organization", record.organization)?;
        line.serialize_field("outcome", labels.outcome)?;
        line.serialize_field("shadowed", &record.shadowed)?;
        line.serialize_field("limits", labels.limits)?;
        line.serialize_field("status", &record.status)?;
        line.serialize_field("bytes_in", &record.bytes_in)?;
        line.serialize_field("bytes_out", &record.bytes_out)?;
        line.serialize_field("found", labels.found)?;
        line.serialize_field("decision_us", &record.decision_us)?;
        line.serialize_field("upstream_us", &record.upstream_us)?;
        line.serialize_field("total_us", &record.total_us)?;
        line.serialize_field("upstream", &text(record.upstream.map(|a| a.to_string())))?;
        line.end()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A request with a key that was forwarded.
    pub(in crate::audit) fn sample(number: u64) -> Record<'static, 'static> {
        Record {
            began_ms: 1_790_000_000_000 + number,
            id: RecordedId::Ours(number),
            api: "items",
            route: "items.list",
            method: "GET",
            path: "/items/1",
            address: Some(IpAddr::from([203, 0, 113, 7])),
            key: "key_1",
            grant: "",
            client: "",
            user: "",
            organization: "acme",
            labels: Labels {
                outcome: "forwarded",
                protocol: "h2",
                environment: "live",
                limits: "exact",
                found: "cached",
            },
            shadowed: false,
            status: 200,
            bytes_in: 0,
            bytes_out: 200,
            decision_us: 7,
            upstream_us: 900,
            total_us: 1_000,
            upstream: Some(SocketAddr::from(([10, 0, 0, 1], 80))),
        }
    }

    #[test]
    fn a_line_names_the_request_by_its_boot_and_number() {
        let line = serde_json::to_value(Line { record: sample(255), boot: "abcdefghijkl" }).unwrap();
        assert_eq!(line["request_id"], "abcdefghijkl0000000000ff");
        assert_eq!(line["time"], "2026-09-21T14:13:20.255Z");
        assert_eq!((&line["address"], &line["upstream"]), (&"203.0.113.7".into(), &"10.0.0.1:80".into()));
        assert!(line.get("grant").is_none(), "what is not there has no field");
    }
}
