//! Every change that a person may make: of keys and organizations, of applications, users, grants and
//! signing keys. What a record must satisfy stands here, and nowhere else; so does what is shown of one
//! ([`views`]).
//!
//! A change is made by an [`Actor`], and refused with a stable [`change::Code`]. It is a pure step on one record,
//! written back by compare-and-set and announced with it. Nothing here answers a request or parses
//! arguments.

pub mod access;
pub mod app;
pub mod apps;
pub mod change;
pub mod grant;
pub mod grants;
pub mod keyring;
pub mod keys;
pub mod organizations;
mod records;
pub mod secret;
pub mod signing_keys;
pub mod user;
pub mod users;
pub mod views;

pub use self::access::Registry;
pub use self::change::{Actor, By, ChangeError};
