//! The authorization server (OAuth 2.0, RFC 6749 with RFC 9700): it issues codes and tokens.
//!
//! What always holds: nothing that would let somebody in is stored as it is presented; each step of
//! a grant is one compare-and-set of one record ([`crate::registry::grant`]); nobody is redirected before client and
//! redirect URI are proven; every answer of the token endpoint, errors too, has the form of RFC 6749
//! and is not to be stored; what an attacker sends is answered with a 4xx.

mod account;
mod authorize;
mod consent;
pub mod error;
mod handoff;
pub mod http;
mod login;
mod pages;
mod server;
mod throttle;
mod token;

pub use self::account::Connection;
pub use self::handoff::{Accepted, Providers};
pub use self::server::AuthorizationServer;
pub use self::throttle::Throttle;
