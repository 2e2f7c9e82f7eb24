//! What tests stand on.

pub mod backends;
