//! The contract of presence, on the embedded twin and on Redis.

#![expect(
    clippy::unwrap_used,
    clippy::cloned_ref_to_slice_refs,
    reason = "a test that cannot go on fails at that line; a list of one is written as a list"
)]

mod subject;

/// Runs each case on both.
macro_rules! on_both {
    ($($case:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test] async fn $case() { super::$case(super::Subject::embedded().await).await; })*
        }
        mod redis {
            $(#[tokio::test] async fn $case() { super::$case(super::Subject::redis().await).await; })*
        }
    };
}

mod faults;
mod keys;
mod leases;
mod members;
mod own_redis;
mod start;
