//! `fanfare serve` and `fanfare migrate`: load the configuration, start logging, hand over.

use std::future::Future;

use super::failure::Failure;
use super::{output, seam};
use crate::config::{Config, LogFormat, Sources, load};
use crate::telemetry::{self, Format};

pub(super) fn serve(sources: &Sources) -> Result<(), Failure> {
    let config = prepare(sources)?;
    block_on(seam::serve(config))
}

pub(super) fn migrate(sources: &Sources) -> Result<(), Failure> {
    let config = prepare(sources)?;
    block_on(seam::migrate(&config))?;
    output::line("the inbox's tables are up to date")
}

fn prepare(sources: &Sources) -> Result<Config, Failure> {
    let config = load(sources).map_err(|problems| Failure::of_problems(&problems))?;
    let format = match config.log.format {
        LogFormat::Human => Format::Human,
        LogFormat::Json => Format::Json,
    };
    telemetry::start(&config.log.level, format)
        .map_err(|error| Failure::new(format!("log.level: {error}")))?;
    Ok(config)
}

/// A server's runtime: a worker for each core.
fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    // RabbitMQ, Redis and PostgreSQL share the TLS provider; installed already is no harm.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    runtime
        .map_err(|error| Failure::new(format!("cannot start: {error}")))?
        .block_on(work)
}
