//! The inbox in PostgreSQL, for any number of nodes.
//!
//! Owns connections and their settings. Every write is one autocommit statement: no lock
//! outlives a statement, so a node that freezes holds nobody up. Statements that lock several
//! rows lock them in one order (ids sorted as bytes), so none wait for each other in a circle.

mod append;
mod connect;
mod epoch;
mod outbox;
mod reads;
mod receipts;
mod schedules;
mod start;
mod streams;
mod upkeep;

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres};

use super::Settings;
use super::calls::Calls;
use super::failure::Failure;
use super::open_error::OpenError;
use crate::clock::Clock;
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
}

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
        })
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
