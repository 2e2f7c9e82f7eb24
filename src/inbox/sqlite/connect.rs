//! Opening the SQLite file.
//!
//! Owns its settings and the words for what keeps it from opening.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqliteConnection, SqlitePool};

use crate::inbox::{OpenError, Settings, migrations};

/// How long another process may hold the file while migrating.
const MIGRATE_TIMEOUT: Duration = Duration::from_secs(60);

/// A pool of the one writer and a pool of readers, on tables that are up to date.
pub(super) async fn pools(settings: &Settings) -> Result<(SqlitePool, SqlitePool), OpenError> {
    let options = options(&settings.url, settings.timeout)?;
    let mut first = connect(&options).await?;
    let checked = migrations::require_sqlite(&mut first).await;
    let writable = match checked {
        Ok(()) => sqlx::query("update store set epoch = epoch")
            .execute(&mut first)
            .await
            .map_err(|error| unusable(&options, &error))
            .map(drop),
        Err(error) => Err(error),
    };
    // Both answers are known; how the connection ends changes nothing.
    let _ = first.close().await;
    writable?;
    let pool = |connections| {
        SqlitePoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(settings.timeout)
            // Nothing can happen to a connection to a file while it is idle.
            .test_before_acquire(false)
            .idle_timeout(None)
            .max_lifetime(None)
    };
    let readers = options.clone().pragma("query_only", "on");
    Ok((pool(1).connect_lazy_with(options), pool(settings.max_connections.max(1)).connect_lazy_with(readers)))
}

/// The file, created with its folder if missing.
pub(in crate::inbox) async fn connect_to_migrate(url: &str) -> Result<SqliteConnection, OpenError> {
    connect(&options(url, MIGRATE_TIMEOUT)?).await
}

/// The file, which must be there.
pub(super) async fn connect_existing(url: &str) -> Result<SqliteConnection, OpenError> {
    let options = options(url, MIGRATE_TIMEOUT)?.create_if_missing(false);
    options.connect().await.map_err(|error| unusable(&options, &error))
}

/// A file that did not do what was asked.
pub(super) fn unusable_at(url: &str, error: &sqlx::Error) -> OpenError {
    match options(url, MIGRATE_TIMEOUT) {
        Ok(options) => unusable(&options, error),
        Err(refusal) => refusal,
    }
}

fn options(url: &str, busy_timeout: Duration) -> Result<SqliteConnectOptions, OpenError> {
    if url.contains(":memory:") || url.contains("mode=memory") {
        let reason = "the inbox needs a file, as what it answers for has to outlive it".to_owned();
        return Err(OpenError::Url { reason });
    }
    let options: SqliteConnectOptions = url.parse().map_err(|error: sqlx::Error| {
        let reason = error.to_string();
        OpenError::Url { reason }
    })?;
    Ok(options
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // What was answered survives a power cut, not only a crash of this process.
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(busy_timeout)
        // What a statement of many rows would undo if it failed is kept as it runs: in memory, not in a file.
        .pragma("temp_store", "memory")
        // What was deleted is gone from the file, too, not only from the tables. Appends write as much as without;
        // removing writes a tenth more where notifications are small, and as much as appending did where each has
        // pages of its own.
        .pragma("secure_delete", "on")
        // At debug level the driver would log every statement.
        .disable_statement_logging())
}

async fn connect(options: &SqliteConnectOptions) -> Result<SqliteConnection, OpenError> {
    let file = options.get_filename();
    let folder = file.parent().unwrap_or(Path::new(""));
    if !folder.as_os_str().is_empty()
        && let Err(error) = tokio::fs::create_dir_all(folder).await
    {
        let (path, reason) = (file.to_owned(), error.to_string());
        return Err(OpenError::File { path, reason });
    }
    let connected = options.connect().await;
    connected.map_err(|error| unusable(options, &error))
}

fn unusable(options: &SqliteConnectOptions, error: &sqlx::Error) -> OpenError {
    OpenError::File { path: PathBuf::from(options.get_filename()), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A power cut cannot be had in a test: killing a process leaves what the kernel has. So the settings that
    /// outlive one are looked at, as the connections have them that are used.
    #[tokio::test]
    async fn what_is_committed_is_on_the_disk_before_it_is_answered() {
        let folder = tempfile::tempdir().expect("a folder for the file");
        let settings = Settings {
            url: format!("sqlite://{}/inbox.db", folder.path().display()),
            max_connections: 1,
            timeout: Duration::from_secs(20),
            max_devices: 1,
            receipt_events: false,
            undelivered_after: None,
        };
        crate::inbox::migrate(&settings.url).await.expect("tables are made");
        let (writer, readers) = pools(&settings).await.expect("it opens");
        let journal: String =
            sqlx::query_scalar("pragma journal_mode").fetch_one(&writer).await.expect("a word");
        // 2 is FULL: the write-ahead log is synchronised with each commit.
        let synchronous: i64 =
            sqlx::query_scalar("pragma synchronous").fetch_one(&writer).await.expect("a number");
        assert_eq!((journal.as_str(), synchronous), ("wal", 2));
        readers.close().await;
        writer.close().await;
    }
}
