//! Tollgate's I/O: the gateway itself, as a library so that tests and benches can call it.
//!
//! Code map, in the order of a request: [`edge`] and [`guarded`] (connections) → [`front`] and
//! [`http2`] (one head after the other) → [`hooks`] (one request from head to record) → [`request`]
//! (one head, one reading) → [`proxy`] (the decision) → [`identify`] and [`store`] (who asks) →
//! [`limit`] → [`upstream`] and [`forward`] (where it goes, what is seen there) → [`live`] (what
//! outlasts its request) → [`answer`] and [`deny`] (what we say ourselves) → [`observe`] (one record).
//! Around it: [`config`], [`snapshot`], [`reload`], [`tls`], [`server`] (wiring), [`cli`].

pub mod answer;
pub mod cli;
pub mod clock;
pub mod config;
pub mod deny;
pub mod digest;
pub mod edge;
pub mod forward;
pub mod front;
pub mod guarded;
pub mod hooks;
pub mod http2;
pub mod identify;
pub mod inspect;
pub mod limit;
pub mod live;
pub mod oauth;
pub mod observe;
pub mod outgoing;
pub mod proxy;
pub mod random;
pub mod reload;
pub mod request;
pub mod server;
pub mod snapshot;
pub mod store;
pub mod tls;
pub mod upstream;
mod values;
