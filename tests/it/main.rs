//! All integration tests, one binary.
#![expect(unreachable_pub, reason = "modules of one test binary speak through pub items")]

mod contract;
mod support;
