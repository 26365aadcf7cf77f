//! Tollgate's I/O: the gateway itself, as a library so that tests and benches can call it.
//!
//! Read [`exchange`] first: the story of one request. Then [`admit`]: how it is decided.
//!
//! Rooms, in the order of a request: [`edge`] (a client connects: caps, TLS) → [`downstream`] (its messages) →
//! [`exchange`] (one request from its head to its record) → [`admit`] (the decision) → [`identify`]
//! (who asks) → [`limit`] → [`upstream`] (where it goes) →
//! [`mod@audit`] (one record). Around them: [`observe`] (metrics, health), [`store`] (organizations, keys, documents), [`registry`] (what
//! records must satisfy, and every change of them), [`oauth`] (the authorization server), [`manage`] (the
//! admin listener and the management API), [`mod@usage`] (what is written behind), [`snapshot`] (the
//! policy in force), [`server`] (construction, jobs, reload), [`config`], [`cli`]. All of them stand on
//! [`base`].

pub mod admit;
pub mod audit;
pub mod base;
pub mod cli;
pub mod config;
pub mod downstream;
pub mod edge;
pub mod exchange;
pub mod identify;
pub mod limit;
pub mod manage;
pub mod oauth;
pub mod observe;
pub mod registry;
pub mod server;
pub mod snapshot;
pub mod store;
pub mod upstream;
pub mod usage;
