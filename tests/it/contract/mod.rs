//! The contracts of the outer parts: the same cases run against each implementation.

pub mod broker;
