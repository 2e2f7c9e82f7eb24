//! Connecting to PostgreSQL.
//!
//! Owns the settings of a connection and the words for what keeps it from coming about.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};

use crate::inbox::{OpenError, Settings, migrations};

/// A connection that was idle for longer is asked whether it still lives before it is used.
/// Younger ones are not: it would cost a round trip each time.
const TRUSTED_FOR: Duration = Duration::from_secs(1);

/// How long a connection may take to come about when migrating.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A pool whose connections give up before their caller does, on tables that are up to date.
pub(super) async fn pool(settings: &Settings) -> Result<PgPool, OpenError> {
    let options = options(&settings.url)?.options(session(settings.timeout));
    // First one connection by hand: a pool only says that time passed, not why.
    let mut first = connect(&options, settings.timeout).await?;
    let checked = migrations::require_postgres(&mut first).await;
    // The check has its answer; how the connection ends changes nothing.
    let _ = tokio::time::timeout(settings.timeout, first.close()).await;
    checked?;
    Ok(PgPoolOptions::new()
        .max_connections(settings.max_connections.max(1))
        // Leaves the other half of the deadline to the statement.
        .acquire_timeout(settings.timeout / 2)
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if meta.idle_for > TRUSTED_FOR {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_lazy_with(options))
}

/// A connection without time limits, for migrations.
pub(in crate::inbox) async fn connect_to_migrate(url: &str) -> Result<PgConnection, OpenError> {
    connect(&options(url)?, CONNECT_TIMEOUT).await
}

fn options(url: &str) -> Result<PgConnectOptions, OpenError> {
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        let reason = "it starts with neither".to_owned();
        return Err(OpenError::Url { reason });
    }
    // The driver's own words may quote the URL, so they are not repeated.
    let options: PgConnectOptions = url.parse().map_err(|_| OpenError::Url {
        reason: "it cannot be read; are `@`, `/` and `:` in the password percent-encoded?".into(),
    })?;
    let options = match options.get_application_name() {
        Some(_) => options,
        None => options.application_name("fanfare"),
    };
    // At debug level the driver would log every statement.
    Ok(options.disable_statement_logging())
}

/// The server ends what takes too long before the caller stops waiting: so the caller learns
/// that it failed, and no lock is held longer.
fn session(timeout: Duration) -> [(&'static str, String); 7] {
    let share = |percent: u128| (timeout.as_millis() * percent / 100).max(1).to_string();
    [
        ("lock_timeout", share(50)),
        ("statement_timeout", share(80)),
        ("idle_in_transaction_session_timeout", share(100)),
        // A node that freezes while it is being answered.
        ("tcp_user_timeout", share(100)),
        // Compiling takes longer than any statement here.
        ("jit", "off".to_owned()),
        // So does planning the statements with many steps anew for each execution.
        ("plan_cache_mode", "force_generic_plan".to_owned()),
        // Of a table that was empty when a statement was planned the server believes that it is quickest read whole, and
        // goes on doing so until somebody analyzes it. Here everything is looked up by key.
        ("random_page_cost", "0.1".to_owned()),
    ]
}

async fn connect(options: &PgConnectOptions, timeout: Duration) -> Result<PgConnection, OpenError> {
    let place = place(options);
    match tokio::time::timeout(timeout, options.connect()).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(refused(options, place, &error)),
        Err(_) => Err(OpenError::Timeout { place, timeout }),
    }
}

fn place(options: &PgConnectOptions) -> String {
    match options.get_socket() {
        Some(folder) => folder.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    }
}

/// SQLSTATEs: class 28 is "invalid authorization", 3D000 "invalid catalog name".
fn refused(options: &PgConnectOptions, place: String, error: &sqlx::Error) -> OpenError {
    let reason = error.to_string();
    let code = error.as_database_error().and_then(|database| database.code());
    match code.as_deref() {
        Some(code) if code.starts_with("28") => {
            OpenError::Forbidden { place, user: options.get_username().to_owned(), reason }
        }
        Some("3D000") => OpenError::NoDatabase { place, reason },
        _ => OpenError::Unreachable { place, reason },
    }
}
