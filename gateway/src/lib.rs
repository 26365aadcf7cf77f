//! Tollgate's I/O: the gateway itself.
pub mod clock;
pub mod digest;
pub mod random;
pub mod store;
pub mod identify;
pub mod limit;
