//! All integration tests, one binary.

mod contract;
mod support;
