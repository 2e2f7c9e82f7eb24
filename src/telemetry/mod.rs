//! Logs: one subscriber for the process, to standard error.
//!
//! Owns the formats. Standard output is for what people asked for; nothing is logged there.
//! What may be logged is each caller's duty: never a token, a password or a payload.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people; with colours if standard error is a terminal and `NO_COLOR` is not set.
    Human,
    /// One JSON object a line, fields at its top level.
    Json,
}

/// Why logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The directives are not those of the tracing crate.
    #[error("log directives cannot be read: {0}")]
    Directives(#[from] tracing_subscriber::filter::ParseError),
    /// Something has started it before.
    #[error("logging has been started before")]
    Started,
}

/// Starts logging what `directives` select, such as `info` or `info,fanfare::broker=debug`.
///
/// # Errors
/// [`TelemetryError`] if the directives are malformed or logging has been started before.
pub fn start(directives: &str, format: Format) -> Result<(), TelemetryError> {
    // lapin's warnings show returned messages with their payload, and its errors are told again, as what
    // to change, by whoever called it: a refused start is one line.
    // sqlx warns of each connection that a lost PostgreSQL takes with it; that it is away is one line of ours.
    let filter = EnvFilter::builder().parse(directives)?;
    let filter = filter.add_directive("lapin=off".parse()?).add_directive("sqlx_core::pool=error".parse()?);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        Format::Human => {
            let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            let ansi = std::io::stderr().is_terminal() && !no_color;
            tracing::subscriber::set_global_default(builder.with_ansi(ansi).finish())
        }
        Format::Json => {
            let builder = builder.json().flatten_event(true);
            tracing::subscriber::set_global_default(builder.finish())
        }
    };
    started.map_err(|_| TelemetryError::Started)
}
