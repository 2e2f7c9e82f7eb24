//! The inbox in PostgreSQL, for any number of nodes.
//!
//! Owns connections and their settings. Every write is one autocommit statement: no lock
//! outlives a statement, so a node that freezes holds nobody up. Statements that lock several
//! rows lock them in one order (ids sorted as bytes), so none wait for each other in a circle.

#[macro_use]
mod sql;

mod append;
mod cancel;
mod connect;
mod epoch;
mod erase;
mod insert;
mod look;
mod outbox;
mod reads;
mod receipts;
mod retention;
mod revocations;
mod schedules;
mod start;
mod streams;
mod unused;
mod upkeep;

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{PgConnection, PgPool, Postgres, Row};

use super::Settings;
use super::calls::Calls;
use super::failure::Failure;
use super::open_error::OpenError;
use crate::clock::Clock;
use crate::domain::{Epoch, UnixMillis};
use crate::metrics::inbox::InboxMetrics;

pub(super) use connect::connect_to_migrate;
pub(super) use epoch::new_epoch;

/// The inbox in PostgreSQL. Clones share its connections.
#[derive(Debug, Clone)]
pub struct PostgresInbox {
    pool: PgPool,
    calls: Calls,
    clock: Clock,
    max_devices: u32,
    receipt_events: bool,
    undelivered_after: Option<Duration>,
}

/// A statement with what it is given.
type Query<'q> = sqlx::query::Query<'q, Postgres, PgArguments>;

impl PostgresInbox {
    /// Connects, and sees that the tables are there.
    ///
    /// # Errors
    /// What to change; [`OpenError::TablesMissing`] names `fanfare migrate`.
    pub async fn open(settings: &Settings, clock: Clock, metrics: InboxMetrics) -> Result<Self, OpenError> {
        let pool = connect::pool(settings).await?;
        Ok(Self {
            pool,
            calls: Calls { timeout: settings.timeout, metrics },
            clock,
            max_devices: settings.max_devices,
            receipt_events: settings.receipt_events,
            undelivered_after: settings.undelivered_after,
        })
    }

    /// All rows that a statement returns.
    async fn rows(&self, call: &'static str, query: Query<'_>) -> Result<Vec<PgRow>, Failure> {
        self.calls
            .within(call, async {
                let mut lease = self.lease().await?;
                let result = query.fetch_all(lease.connection()).await;
                lease.end(result).map_err(|error| self.failure(error))
            })
            .await
    }

    /// The only row that a statement returns.
    async fn row(&self, call: &'static str, query: Query<'_>) -> Result<PgRow, Failure> {
        self.calls
            .within(call, async {
                let mut lease = self.lease().await?;
                let result = query.fetch_one(lease.connection()).await;
                lease.end(result).map_err(|error| self.failure(error))
            })
            .await
    }

    /// How many rows a statement wrote.
    async fn written(&self, call: &'static str, query: Query<'_>) -> Result<u64, Failure> {
        self.calls
            .within(call, async {
                let mut lease = self.lease().await?;
                let result = query.execute(lease.connection()).await;
                lease.end(result).map_err(|error| self.failure(error))
            })
            .await
            .map(|done| done.rows_affected())
    }

    /// Reads what was returned.
    fn read_row<T>(&self, read: Result<T, sqlx::Error>) -> Result<T, Failure> {
        read.map_err(|error| self.failure(error))
    }

    async fn lease(&self) -> Result<Lease, Failure> {
        let connection = self.pool.acquire().await;
        Ok(Lease { connection: Some(connection.map_err(|error| self.failure(error))?) })
    }

    fn failure(&self, error: sqlx::Error) -> Failure {
        Failure::of_postgres(error, self.timeout())
    }

    fn timeout(&self) -> Duration {
        self.calls.timeout
    }
}

/// A connection that goes back to the pool only after its statement came to an end. One that
/// is dropped in the middle (deadline passed, caller gone) is closed instead: the pool would
/// wait for the rest of the answer, and a silent network gives none.
struct Lease {
    connection: Option<PoolConnection<Postgres>>,
}

impl Lease {
    fn connection(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("a lease has its connection until it ends")
    }

    /// Ends the lease; the connection is kept if the server spoke the last word.
    fn end<T>(mut self, result: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        if matches!(result, Ok(_) | Err(sqlx::Error::Database(_))) {
            self.connection = None;
        }
        result
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(connection.detach());
        }
    }
}

/// A column that counts; null is 0.
fn count(row: &PgRow, column: &str) -> Result<u64, sqlx::Error> {
    let count: Option<i64> = row.try_get(column)?;
    Ok(u64::try_from(count.unwrap_or_default()).unwrap_or_default())
}

/// A column that is a time.
fn time(row: &PgRow, column: &str) -> Result<Option<UnixMillis>, sqlx::Error> {
    let time: Option<i64> = row.try_get(column)?;
    Ok(time.map(UnixMillis::from_i64))
}

/// An id or name that was checked before it was stored.
fn parsed<T, E>(parsed: Result<T, E>) -> Result<T, sqlx::Error>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    parsed.map_err(|error| sqlx::Error::Decode(error.into()))
}

/// Epochs are written as `bigint`s from `u32`s.
fn epoch_of(column: i64) -> Epoch {
    Epoch(u32::try_from(column).unwrap_or_default())
}
