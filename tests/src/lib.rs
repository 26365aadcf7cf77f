//! A world for black-box tests: gateways as real processes, a real redis-server, real upstreams
//! that record the bytes they receive, and a client that sends exactly the bytes it is given.
//!
//! Everything is on loopback, in folders of its own, and ends with the test. A missing program
//! fails the test; nothing is skipped.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::disallowed_methods,
    missing_docs,
    reason = "this is test code: a panic is a failed test, names say what things are"
)]

mod backends;
mod browser;
mod bucket;
mod client;
mod cluster;
mod fleet;
mod gateway;
mod issuer;
mod name;
mod policy_text;
mod redis;
mod streams;
mod upstream;
mod waiting;
mod world;

pub use backends::{Dark, Http2Backend, Manners, TagServer, both_ways};
pub use browser::{
    AUTH, App, Browser, CALLBACK, CHALLENGE, PASSWORD, Tokens, VERIFIER, challenge, form, hidden, parameter, part, post,
};
pub use bucket::{BucketServer, Dice};
pub use client::{Connection, Response, Trust};
pub use cluster::{Cluster, Sentinel};
pub use fleet::{Fleet, Seen, caller};
pub use gateway::Gateway;
pub use issuer::{Issuer, Signer, b64, now_s};
pub use name::MovingName;
pub use policy_text::{Policies, PolicyText};
pub use redis::Redis;
pub use streams::{Answer, Http2, send, whole};
pub use upstream::{Received, Upstream};
pub use waiting::{free_port, until};
pub use world::{ICODRIP, ICONFLOW, Key, StoreKind, World, binary, clients};

/// Makes one test for each store out of a function that takes a [`StoreKind`].
#[macro_export]
macro_rules! on_both_stores {
    ($($name:ident),* $(,)?) => {
        mod on_sqlite { $(#[test] fn $name() { super::$name($crate::StoreKind::Sqlite); })* }
        mod on_redis { $(#[test] fn $name() { super::$name($crate::StoreKind::Redis); })* }
    };
}
