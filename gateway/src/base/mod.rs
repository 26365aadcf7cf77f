//! What everything stands on: time, randomness, hashes, heads and fields, answers, a client for HTTP.
//!
//! Nothing here knows a request, a key or a policy.

pub mod answer;
pub mod clock;
pub mod digest;
pub mod field_names;
pub mod field_sink;
pub mod http_client;
pub mod line_writer;
pub mod message;
pub mod network;
pub mod random;
pub mod scratch;
pub mod timer;
