//! Limits as data: plans, and the buckets that a request is charged to.
//!
//! A bucket's number depends on the API, the limit's name and the subject, never on the rate: a
//! changed rate, plan or reload continues the same bucket.

use std::sync::Arc;

use crate::identity::{Identity, Key, KeyClass, Organization, Token};
use crate::route::RouteClass;
use crate::units::Rate;
use crate::window::Period;

/// Most limits that one request can be charged to.
pub const CHARGES_MAX: usize = 8;

/// Whose requests a limit counts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// Those of one key, or of one user and application.
    Key,
    /// Those of one organization.
    Organization,
}

/// One limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Name shown in `RateLimit-Policy` and in problems: `minute`, `org-day`, `upload-minute`.
    pub name: Arc<str>,
    /// How much.
    pub rate: Rate,
    /// Whose requests.
    pub per: Per,
    number: u128,
}

impl Limit {
    /// A limit of an API. `stem` tells limits of the same period apart; empty for the first.
    pub fn new(api: &str, stem: &str, rate: Rate, per: Per) -> Self {
        let word = rate.period.word();
        let name: Arc<str> = if stem.is_empty() { word.into() } else { format!("{stem}-{word}").into() };
        let number = stable_number(&["limit", api, &name]);
        Limit { name, rate, per, number }
    }

    /// The same limit at another rate, as a key's own limit sets it.
    fn charge(&self, count: u32, cost: u32, subject: u128) -> Charge<'_> {
        Charge { name: &self.name, bucket: subject ^ self.number, count, period: self.rate.period, cost }
    }
}

/// Who is charged: the class whose limit applies, and the numbers of the buckets.
#[derive(Clone, Copy, Debug)]
pub struct Payer {
    class: KeyClass,
    limit_override: Option<Rate>,
    /// Of the first limit.
    first: u128,
    /// Of the others that are per key.
    own: u128,
}

impl From<&Key> for Payer {
    fn from(key: &Key) -> Self {
        Payer { class: key.class, limit_override: key.limit_override, first: key.subject, own: key.subject }
    }
}

impl Payer {
    /// A token is charged by the class of the route, and each class has a bucket of its own.
    pub fn token(token: &Token, class: RouteClass) -> Self {
        let (class, mark) = match class {
            RouteClass::Read => (KeyClass::Read, 0),
            RouteClass::Write => (KeyClass::Write, 1),
        };
        Payer { class, limit_override: None, first: token.subject ^ mark, own: token.subject }
    }

    /// The payer behind an identity, on a route of a class; nobody pays for anonymous callers.
    pub fn of(identity: Identity<'_>, class: RouteClass) -> Option<Self> {
        match identity {
            Identity::Anonymous => None,
            Identity::Key(key, _) => Some(Payer::from(key)),
            Identity::Token(token, _) => Some(Payer::token(token, class)),
        }
    }
}

/// Named limits that organizations are on.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its name.
    pub name: Box<str>,
    /// First limit of each key, by class: read, write, admin, public.
    per_key: [Limit; 4],
    /// What a key's own limit replaces the first limit with, for each period it may have.
    overrides: [Limit; 5],
    /// The other limits.
    also: Box<[Limit]>,
}

impl Plan {
    /// A plan of an API. `also` holds limits of keys and of the organization beside the first.
    pub fn new(api: &str, name: &str, per_key: [Rate; 4], also: Vec<Limit>) -> Self {
        let first = |rate| Limit::new(api, "", rate, Per::Key);
        Plan {
            name: name.into(),
            per_key: per_key.map(first),
            overrides: Period::ALL.map(|period| first(Rate { count: 1, period })),
            also: also.into(),
        }
    }

    /// The first limit of keys of a class.
    pub fn per_key(&self, class: KeyClass) -> &Limit {
        let [read, write, admin, public] = &self.per_key;
        match class {
            KeyClass::Read => read,
            KeyClass::Write => write,
            KeyClass::Admin => admin,
            KeyClass::Public => public,
        }
    }

    fn overridden(&self, period: Period) -> &Limit {
        let [second, minute, hour, day, month] = &self.overrides;
        match period {
            Period::Second => second,
            Period::Minute => minute,
            Period::Hour => hour,
            Period::Day => day,
            Period::Month => month,
        }
    }

    /// How many limits a request on this plan is charged to before those of its route.
    pub fn limits(&self) -> usize {
        1 + self.also.len()
    }

    /// The buckets a request is charged to: the documented limit first, then quotas,
    /// then the route's own. At most [`CHARGES_MAX`], which the compiler has made sure of.
    pub fn charges<'p>(
        &'p self,
        route_limits: &'p [Limit],
        cost: u32,
        payer: impl Into<Payer>,
        organization: &Organization,
    ) -> Charges<'p> {
        let payer = payer.into();
        let first = match payer.limit_override {
            Some(rate) => self.overridden(rate.period).charge(rate.count, cost, payer.first),
            None => {
                let limit = self.per_key(payer.class);
                limit.charge(limit.rate.count, cost, payer.first)
            }
        };
        let mut charges = Charges { first, others: [None; CHARGES_MAX - 1] };
        let others = self.also.iter().chain(route_limits);
        for (slot, limit) in charges.others.iter_mut().zip(others) {
            let subject = match limit.per {
                Per::Key => payer.own,
                Per::Organization => organization.subject,
            };
            *slot = Some(limit.charge(limit.rate.count, cost, subject));
        }
        charges
    }
}

/// Tokens to take from one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge<'p> {
    /// The limit's name.
    pub name: &'p Arc<str>,
    /// The bucket.
    pub bucket: u128,
    /// The limit in one window.
    pub count: u32,
    /// Length of the window.
    pub period: Period,
    /// Tokens to take.
    pub cost: u32,
}

/// Everything one request is charged to, on the stack.
#[derive(Clone, Copy, Debug)]
pub struct Charges<'p> {
    /// The limit the documentation speaks of; it is what the headers describe.
    pub first: Charge<'p>,
    others: [Option<Charge<'p>>; CHARGES_MAX - 1],
}

impl<'p> Charges<'p> {
    /// In order, the documented limit first.
    pub fn iter(&self) -> impl Iterator<Item = &Charge<'p>> {
        std::iter::once(&self.first).chain(self.others.iter().flatten())
    }
}

/// A number that names something for good: 128 bits of BLAKE3 over the parts.
pub fn stable_number(parts: &[&str]) -> u128 {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let mut number = [0u8; 16];
    hasher.finalize_xof().fill(&mut number);
    u128::from_le_bytes(number)
}
