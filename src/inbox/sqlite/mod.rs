//! The inbox in a SQLite file, for one node.
//!
//! Owns the file's connections: one that writes and a few that read. Every write is one
//! transaction that takes the write lock first, so it never has to be rolled back for
//! having read something old. WAL, so readers see the last commit and wait for nobody.
//!
//! Statements say `limit ?1 + 0` and never `limit ?1`: the planner looks at the value of a bare parameter there
//! (`sqlite3ExprIsInteger`), and a statement planned by a value is compiled anew for each other one.

#[macro_use]
mod fragments;

mod append;
mod cancel;
mod connect;
mod entries;
mod epoch;
mod erase;
mod keys;
mod look;
mod outbox;
mod reads;
mod receipts;
mod retention;
mod revocations;
mod schedules;
mod start;
mod streams;
mod tell;
mod unread;
mod unused;
mod upkeep;

use std::time::Duration;

use serde::Serialize;
use sqlx::sqlite::Sqlite;
use sqlx::{SqlitePool, Transaction};

use super::Settings;
use super::calls::Calls;
use super::failure::Failure;
use super::open_error::OpenError;
use crate::clock::Clock;
use crate::domain::Epoch;
use crate::metrics::inbox::InboxMetrics;

pub(super) use connect::connect_to_migrate;
pub(super) use epoch::new_epoch;

/// The inbox in a SQLite file. Clones share its connections.
#[derive(Debug, Clone)]
pub struct SqliteInbox {
    /// Of one connection.
    writer: SqlitePool,
    readers: SqlitePool,
    calls: Calls,
    clock: Clock,
    max_devices: u32,
    receipt_events: bool,
    undelivered_after: Option<Duration>,
}

impl SqliteInbox {
    /// Opens the file, made with its folder if missing, and sees that the tables are there.
    ///
    /// # Errors
    /// What to change; [`OpenError::TablesMissing`] for a file that was never migrated.
    pub async fn open(settings: &Settings, clock: Clock, metrics: InboxMetrics) -> Result<Self, OpenError> {
        let (writer, readers) = connect::pools(settings).await?;
        Ok(Self {
            writer,
            readers,
            calls: Calls { timeout: settings.timeout, metrics },
            clock,
            max_devices: settings.max_devices,
            receipt_events: settings.receipt_events,
            undelivered_after: settings.undelivered_after,
        })
    }

    /// A transaction that holds the write lock. Dropped before its commit it changes nothing.
    async fn write(&self) -> Result<Transaction<'static, Sqlite>, Failure> {
        let begun = self.writer.begin_with("begin immediate").await;
        begun.map_err(|error| self.failure(error))
    }

    async fn commit(&self, transaction: Transaction<'static, Sqlite>) -> Result<(), Failure> {
        let committed = transaction.commit().await;
        committed.map_err(|error| self.failure(error))
    }

    /// Commits what was done, or, if it failed, drops all of it.
    async fn finish<T>(
        &self,
        transaction: Transaction<'static, Sqlite>,
        done: Result<T, sqlx::Error>,
    ) -> Result<T, Failure> {
        let done = done.map_err(|error| self.failure(error))?;
        self.commit(transaction).await?;
        Ok(done)
    }

    /// A transaction that reads: all of it of one snapshot.
    async fn snapshot(&self) -> Result<Transaction<'static, Sqlite>, Failure> {
        let begun = self.readers.begin().await;
        begun.map_err(|error| self.failure(error))
    }

    fn failure(&self, error: sqlx::Error) -> Failure {
        Failure::of_sqlite(error, self.calls.timeout)
    }
}

/// Epochs are written as 64-bit integers from `u32`s.
fn epoch_of(column: i64) -> Epoch {
    Epoch(u32::try_from(column).unwrap_or_default())
}

/// Rows to be written, as the JSON array that `json_each` takes: one statement for all of them.
fn rows<T: Serialize>(rows: Vec<T>) -> String {
    serde_json::to_string(&rows).expect("numbers, texts and ids are JSON")
}

/// Counts are never negative.
fn count_of(column: i64) -> u64 {
    u64::try_from(column).unwrap_or_default()
}
