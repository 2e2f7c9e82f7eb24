//! The inbox's contract: every case runs against SQLite and PostgreSQL.

mod append;
mod cancel;
mod collapse;
mod devices;
mod erase;
mod faults;
mod idempotency;
mod killed;
mod lookups;
mod open;
mod outbox;
mod races;
mod read;
mod reads;
mod receipts;
mod retention;
mod revocations;
mod schedules;
mod store;
mod upkeep;

/// Runs cases (functions that take a fresh [`store::Store`]) against both stores.
macro_rules! cases {
    ($($case:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case(&super::Store::sqlite().await).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case(&super::Store::postgres().await).await;
            })*
        }
    };
}
pub(super) use cases;
