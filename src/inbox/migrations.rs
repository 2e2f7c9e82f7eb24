//! The tables, and bringing them up to date.
//!
//! Owns the list of migrations, which are part of the program. A migration that was released
//! is never edited: databases remember its checksum.

use std::collections::HashSet;
use std::time::Duration;

use sqlx::Connection;
use sqlx::migrate::{Migrate, MigrateError, Migration, MigrationType, Migrator};
use sqlx::{PgConnection, SqlSafeStr, SqliteConnection};

use super::open_error::OpenError;
use super::{postgres, sqlite};

/// How long all migrations together may take: they may rewrite large tables.
const DEADLINE: Duration = Duration::from_secs(3600);

/// What a migration is called and what it does.
type Source = (i64, &'static str, &'static str);

const POSTGRES: &[Source] = &[
    (1, "inbox", include_str!("../../migrations/postgres/0001_inbox.sql")),
    (2, "receipts", include_str!("../../migrations/postgres/0002_receipts.sql")),
    (3, "revocations", include_str!("../../migrations/postgres/0003_revocations.sql")),
    (4, "cursor_use", include_str!("../../migrations/postgres/0004_cursor_use.sql")),
    (5, "erased", include_str!("../../migrations/postgres/0005_erased.sql")),
    (6, "replaceable", include_str!("../../migrations/postgres/0006_replaceable.sql")),
];
const SQLITE: &[Source] = &[
    (1, "inbox", include_str!("../../migrations/sqlite/0001_inbox.sql")),
    (2, "receipts", include_str!("../../migrations/sqlite/0002_receipts.sql")),
    (3, "revocations", include_str!("../../migrations/sqlite/0003_revocations.sql")),
    (4, "cursor_use", include_str!("../../migrations/sqlite/0004_cursor_use.sql")),
];

/// What [`migrate`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrateReport {
    /// The migrations that were applied now, such as `0001_inbox`, in order.
    pub applied: Vec<String>,
    /// How many had been applied before.
    pub before: usize,
}

/// Creates the inbox's tables at `url`, or brings them up to date. Does nothing if they are.
/// Several at once are safe: the later wait for the first. A SQLite file and its folder are
/// created if missing.
///
/// # Errors
/// What to change. A migration that fails is rolled back; those before it stay.
pub async fn migrate(url: &str) -> Result<MigrateReport, OpenError> {
    let work = async {
        if is_sqlite(url) {
            let mut connection = sqlite::connect_to_migrate(url).await?;
            let report = run(&mut connection, SQLITE).await;
            // What was applied is committed, however the connection ends.
            let _ = connection.close().await;
            report
        } else {
            let mut connection = postgres::connect_to_migrate(url).await?;
            let report = run(&mut connection, POSTGRES).await;
            // What was applied is committed, however the connection ends.
            let _ = connection.close().await;
            report
        }
    };
    let timed_out = OpenError::Migration { reason: format!("it took longer than {DEADLINE:?}") };
    tokio::time::timeout(DEADLINE, work).await.unwrap_or(Err(timed_out))
}

/// Whether `url` names a SQLite file; else it should be PostgreSQL's.
pub fn is_sqlite(url: &str) -> bool {
    url.starts_with("sqlite:")
}

async fn run<C: Migrate>(connection: &mut C, sources: &[Source]) -> Result<MigrateReport, OpenError> {
    let mut migrator = Migrator::with_migrations(sources.iter().map(migration).collect());
    // A newer node may have added some; they keep what older nodes need (expand, then contract).
    migrator.set_ignore_missing(true);
    let before = applied(connection).await.unwrap_or_default();
    migrator.run_direct(None, connection, false).await.map_err(failed)?;
    let is_new = |source: &&Source| !before.contains(&source.0);
    Ok(MigrateReport {
        applied: sources
            .iter()
            .filter(is_new)
            .map(|(version, name, _)| format!("{version:04}_{name}"))
            .collect(),
        before: before.len(),
    })
}

fn migration((version, name, sql): &Source) -> Migration {
    Migration::new(*version, (*name).into(), MigrationType::Simple, sql.into_sql_str(), false)
}

fn failed(error: MigrateError) -> OpenError {
    let reason = match &error {
        MigrateError::VersionMismatch(version) => {
            format!("migration {version} is not the one that this database was made with")
        }
        MigrateError::ExecuteMigration(cause, version) => format!("migration {version}: {cause}"),
        other => other.to_string(),
    };
    OpenError::Migration { reason }
}

/// The versions that are there. Fails where no migration ever ran.
async fn applied<C: Migrate>(connection: &mut C) -> Result<HashSet<i64>, MigrateError> {
    let applied = connection.list_applied_migrations(&Migrator::DEFAULT.table_name).await?;
    Ok(applied.into_iter().map(|migration| migration.version).collect())
}

/// Refuses tables that are missing or old. Whether the store works at all was seen before.
pub(super) async fn require_postgres(connection: &mut PgConnection) -> Result<(), OpenError> {
    require(connection, POSTGRES).await
}

/// Refuses tables that are missing or old. Whether the store works at all was seen before.
pub(super) async fn require_sqlite(connection: &mut SqliteConnection) -> Result<(), OpenError> {
    require(connection, SQLITE).await
}

async fn require<C: Migrate>(connection: &mut C, sources: &[Source]) -> Result<(), OpenError> {
    let applied = applied(connection).await.unwrap_or_default();
    let is_missing = |source: &&Source| !applied.contains(&source.0);
    match sources.iter().filter(is_missing).count() {
        0 => Ok(()),
        missing => Err(OpenError::TablesMissing { missing, known: sources.len() }),
    }
}
