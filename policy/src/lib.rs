//! Tollgate's pure core: decides what is allowed, from values.
//!
//! No sockets, no files, no clock, no randomness, no async. Every function is total: the same
//! values give the same answer, in the proxy, in `tollgate explain`, in tests and under a fuzzer.
//!
//! Code map, in the order of a request:
//! [`head`] (raw HTTP/1 heads) → [`target`] and [`path`] (what is asked) → [`fields`] (headers that
//! are ours) → [`credential`] (form of a key), [`jws`] (form of a token) → [`identity`] (who asks) → [`mod@destination`] (whose business it is) → [`route`] and [`router`]
//! (what it needs, and the decision) → [`limit`] and [`window`] (what it costs).
//! The policy file: [`tree`] → [`shape`] → [`mod@file`] → [`mod@compile`], with [`problem`] for everything
//! that is wrong with it. [`RefusalCode`] is the status and code of a refusal. [`explain`] prints what these
//! same functions return.

mod bounds;
pub mod compile;
pub mod cors;
pub mod credential;
pub mod destination;
pub mod explain;
pub mod fields;
pub mod file;
pub mod form;
pub mod head;
pub mod hide;
pub mod identity;
pub mod jws;
pub mod limit;
pub mod oauth;
pub mod path;
mod policy;
pub mod problem;
mod refusal_code;
pub mod route;
pub mod router;
pub mod shape;
pub mod span;
pub mod target;
pub mod tree;
pub mod units;
pub mod upstream;
pub mod window;

pub use bounds::Bounds;
pub use compile::compile;
pub use destination::Destination;
pub use identity::{Environment, Identity, Key, KeyClass, KeyFault, Organization, Scope, Scopes, Token};
pub use policy::Policy;
pub use problem::{Problem, Problems, Source};
pub use refusal_code::RefusalCode;
pub use route::{Access, Api, Circumstances, Grant, Refusal, Route};
pub use target::{Method, Target, TargetFault};
