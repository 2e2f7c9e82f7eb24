//! Why an inbox could not be opened or migrated, in one line that says what to change.
//!
//! Owns the words. They never hold the URL, as that may hold a password.

use std::path::PathBuf;
use std::time::Duration;

/// What keeps the inbox from opening. Each is one line for an operator.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is of another kind, or cannot be read.
    #[error("inbox.url must be postgres://… or sqlite://PATH: {reason}")]
    Url {
        /// What is wrong with it; without the URL.
        reason: String,
    },
    /// Nothing answers there, or not as PostgreSQL does.
    #[error("cannot reach PostgreSQL at {place} ({reason}): start it, or change inbox.url")]
    Unreachable {
        /// Host and port, or the socket's folder.
        place: String,
        /// What happened.
        reason: String,
    },
    /// The server does not let this user in.
    #[error(
        "PostgreSQL at {place} refused user {user:?} ({reason}): change the user or password in inbox.url"
    )]
    Forbidden {
        /// Host and port, or the socket's folder.
        place: String,
        /// The user.
        user: String,
        /// The server's words.
        reason: String,
    },
    /// The server has no such database.
    #[error(
        "PostgreSQL at {place} has no such database ({reason}): create it, or change inbox.url"
    )]
    NoDatabase {
        /// Host and port, or the socket's folder.
        place: String,
        /// The server's words.
        reason: String,
    },
    /// The tables are not there, or are of an older version.
    #[error("the inbox lacks {missing} of {known} migrations of its tables: run `fanfare migrate`")]
    TablesMissing {
        /// How many have to be applied.
        missing: usize,
        /// How many there are.
        known: usize,
    },
    /// The database file cannot be used.
    #[error(
        "cannot use the database file {path} ({reason}): make it and its folder writable, or change inbox.url"
    )]
    File {
        /// The file.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
    /// A migration failed; it was rolled back.
    #[error("a migration of the inbox's tables failed: {reason}")]
    Migration {
        /// What happened.
        reason: String,
    },
    /// It takes too long.
    #[error(
        "the inbox's store at {place} did not answer within {timeout:?}: see whether it is overloaded"
    )]
    Timeout {
        /// Host and port, or the file.
        place: String,
        /// How long it was waited for.
        timeout: Duration,
    },
}
