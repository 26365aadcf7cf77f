//! Requests as a busy gateway sees them, made of numbers: the same number gives the same request.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use gateway::audit::{Labels, Record, RecordedId};

/// Routes, with what their paths look like, and how many of 100 requests go there.
const ROUTES: [(&str, &str, &str, u64); 8] = [
    ("packs.list", "GET", "/v2/packs", 30),
    ("packs.get", "GET", "/v2/packs/{}", 30),
    ("icons.search", "GET", "/v2/icons", 20),
    ("downloads", "GET", "/v2/downloads/{}", 10),
    ("packs.create", "POST", "/v2/packs", 4),
    ("packs.change", "PATCH", "/v2/packs/{}", 3),
    ("team.list", "GET", "/v2/team/members", 2),
    ("events.track", "POST", "/v2/events", 1),
];

/// Traffic of so many keys, of which some are used far more often than others.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    keys: u64,
}

/// A record with texts of its own.
#[derive(Clone, Debug)]
pub struct Owned {
    began_ms: u64,
    number: u64,
    route: usize,
    path: String,
    key: String,
    organization: String,
    address: IpAddr,
    outcome: &'static str,
    status: u16,
    bytes: (u64, u64),
    times_us: (u64, u64, u64),
}

/// A number that looks random (splitmix64).
fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Traffic {
    /// Traffic of so many keys.
    pub fn new(keys: u64) -> Self {
        Traffic { keys }
    }

    /// The name of key number `n`.
    pub fn key(n: u64) -> String {
        format!("key_{:016x}", mixed(n))
    }

    /// Request number `number`, which began at that instant.
    pub fn record(&self, number: u64, began_ms: u64) -> Owned {
        let dice = |which: u64| mixed(number.wrapping_mul(16) + which);
        let mut of_100 = dice(0) % 100;
        let route = ROUTES.iter().position(|(.., share)| {
            let is_it = of_100 < *share;
            of_100 = of_100.wrapping_sub(*share);
            is_it
        });
        let route = route.unwrap_or_default();
        // The square of a fraction: a quarter of the keys make half of the requests.
        let fraction = dice(1) % 1_000;
        let key = self.keys * fraction * fraction / 1_000_000;
        let (outcome, status) = match dice(2) % 200 {
            0 => ("insufficient_scope", 403),
            1..=4 => ("limit_exceeded", 429),
            5..=8 => ("forwarded", 404),
            _ => ("forwarded", 200),
        };
        let pattern = ROUTES.get(route).map_or("", |(_, _, path, _)| path);
        let upstream_us = if outcome == "forwarded" { 2_000 + dice(3) % 4_000 + dice(4) % 4_000 } else { 0 };
        let decision_us = 8 + dice(5) % 16;
        Owned {
            began_ms,
            number,
            route,
            path: pattern.replace("{}", &format!("{:06}", dice(6) % 50_000)),
            key: Traffic::key(key),
            organization: format!("org_{:08x}", mixed(key / 4) >> 32),
            address: IpAddr::V4(Ipv4Addr::from_bits(0xcb00_0000 | u32::try_from(mixed(key) % 40_000).unwrap_or(0))),
            outcome,
            status,
            bytes: (if route == 4 { 300 } else { 0 }, 300 + dice(7) % 64 * 16),
            times_us: (decision_us, upstream_us, decision_us + upstream_us + 60 + dice(8) % 64),
        }
    }
}

impl Owned {
    /// As the gateway keeps it.
    pub fn record(&self) -> Record<'_, 'static> {
        let (route, method) = ROUTES.get(self.route).map_or(("", ""), |(route, method, ..)| (*route, *method));
        let is_forwarded = self.outcome == "forwarded";
        Record {
            began_ms: self.began_ms,
            id: RecordedId::Ours(self.number),
            api: "iconflow",
            route,
            method,
            path: &self.path,
            address: Some(self.address),
            key: &self.key,
            grant: "",
            client: "",
            user: "",
            organization: &self.organization,
            labels: Labels {
                outcome: self.outcome,
                protocol: "h2",
                environment: "live",
                limits: "exact",
                found: "cached",
            },
            shadowed: false,
            status: self.status,
            bytes_in: self.bytes.0,
            bytes_out: self.bytes.1,
            decision_us: self.times_us.0,
            upstream_us: self.times_us.1,
            total_us: self.times_us.2,
            upstream: is_forwarded.then(|| SocketAddr::from(([10, 0, 0, 1 + (self.number % 3) as u8], 8080))),
        }
    }
}
