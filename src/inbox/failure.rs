//! What went wrong, in the contract's words.
//!
//! Owns the one reading of the drivers' errors: whose fault it was, and whether trying again
//! may help. It must never decide what to do about it.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use super::InboxError;

/// An [`InboxError`] that can be given to every item of a group.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// The store's fault: try later.
    Unavailable(Arc<dyn Error + Send + Sync>),
    /// It took longer than this.
    Timeout(Duration),
    /// An item's fault: trying again is in vain.
    Refused(Arc<dyn Error + Send + Sync>),
}

/// Something that only this module found wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Complaint(String);

impl Failure {
    /// The item is wrong, whatever the store says.
    pub(super) fn refused(why: impl Into<String>) -> Self {
        Self::Refused(Arc::new(Complaint(why.into())))
    }

    /// The store did something that only trying later can help.
    pub(super) fn unavailable(why: impl Into<String>) -> Self {
        Self::Unavailable(Arc::new(Complaint(why.into())))
    }

    /// Reads an error of PostgreSQL by its SQLSTATE (PostgreSQL 15, appendix A).
    pub(super) fn of_postgres(error: sqlx::Error, timeout: Duration) -> Self {
        let code = match &error {
            sqlx::Error::Database(database) => database.code().unwrap_or_default().into_owned(),
            sqlx::Error::Encode(_) => return Self::Refused(Arc::new(error)),
            _ => return Self::Unavailable(Arc::new(error)),
        };
        match (code.as_str(), code.get(..2)) {
            // query_canceled (by statement_timeout), lock_not_available (by lock_timeout).
            ("57014" | "55P03", _) => Self::Timeout(timeout),
            // Data exceptions, integrity constraints, program limits: the item's fault.
            (_, Some("22" | "23" | "54")) => Self::Refused(Arc::new(error)),
            // Shutting down (57P..), out of resources (53), deadlocks (40), read-only (25006), ...
            _ => Self::Unavailable(Arc::new(error)),
        }
    }

    /// Reads an error of SQLite by its result code (sqlite.org/rescode.html).
    pub(super) fn of_sqlite(error: sqlx::Error, timeout: Duration) -> Self {
        let code = match &error {
            sqlx::Error::Database(database) => database.code().unwrap_or_default().into_owned(),
            sqlx::Error::Encode(_) => return Self::Refused(Arc::new(error)),
            _ => return Self::Unavailable(Arc::new(error)),
        };
        // The low byte of an extended code is the primary one.
        match code.parse::<u32>().map(|code| code & 0xff) {
            // SQLITE_BUSY, SQLITE_LOCKED: another process held the file for all of busy_timeout.
            Ok(5 | 6) => Self::Timeout(timeout),
            // SQLITE_TOOBIG, SQLITE_CONSTRAINT, SQLITE_MISMATCH.
            Ok(18..=20) => Self::Refused(Arc::new(error)),
            _ => Self::Unavailable(Arc::new(error)),
        }
    }

    /// Whether only one item of a group may be to blame, so that the others deserve another try.
    pub(super) fn is_of_the_item(&self) -> bool {
        matches!(self, Self::Refused(_))
    }

    /// Whether the statement saw what is out of date by now and changed nothing: it is right the next time.
    pub(super) fn is_outdated(&self) -> bool {
        let Self::Unavailable(error) = self else { return false };
        let database = error.downcast_ref::<sqlx::Error>().and_then(sqlx::Error::as_database_error);
        // serialization_failure (PostgreSQL 15, appendix A).
        database.and_then(|database| database.code()).is_some_and(|code| code == "40001")
    }

    /// As the contract has it.
    pub(super) fn to_error(&self) -> InboxError {
        match self {
            Self::Unavailable(source) => InboxError::Unavailable(Box::new(Arc::clone(source))),
            Self::Timeout(timeout) => InboxError::Timeout(*timeout),
            Self::Refused(source) => InboxError::Refused(Box::new(Arc::clone(source))),
        }
    }
}
