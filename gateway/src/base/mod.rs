//! What everything stands on: time, randomness, hashes, header values, answers, a client for HTTP.
//!
//! Nothing here knows a request, a key or a policy.

pub mod answer;
pub mod clock;
pub mod digest;
pub mod field_names;
pub(crate) mod header_values;
pub mod http_client;
pub mod line_writer;
pub mod network;
pub mod random;
