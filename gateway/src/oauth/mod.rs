//! The authorization server (OAuth 2.0, RFC 6749 with RFC 9700): it issues codes and tokens.
//!
//! What always holds: nothing that would let somebody in is stored as it is presented; each step of
//! a grant is one compare-and-set of one record ([`grant`]); nobody is redirected before client and
//! redirect URI are proven; every answer of the token endpoint, errors too, has the form of RFC 6749
//! and is not to be stored; what an attacker sends is answered with a 4xx.

mod account;
pub mod app;
mod authorize;
mod consent;
pub mod error;
pub mod grant;
mod handoff;
pub mod http;
pub mod keyring;
pub mod keys;
mod login;
mod pages;
mod records;
pub mod registration;
pub mod registry;
pub mod secret;
mod server;
mod throttle;
mod token;
pub mod user;

pub use self::account::Connection;
pub use self::handoff::{Accepted, Providers};
pub use self::server::{AuthorizationServer, resource_metadata};
pub use self::throttle::Throttle;
