//! Where the command line meets the server: the composition root and the inbox's tables.
//!
//! Owns nothing; each function is one call into the module that does the work.

use super::failure::Failure;
use crate::config::Config;
use crate::domain::Epoch;
use crate::{inbox, node};

/// Runs a node until it has stopped.
pub(super) async fn serve(config: Config) -> Result<(), Failure> {
    node::serve(config).await.map_err(|error| Failure::new(format!("{error:#}")))
}

/// Makes or changes the inbox's tables.
pub(super) async fn migrate(config: &Config) -> Result<(), Failure> {
    let migrated = inbox::migrate(config.inbox.store.url().expose()).await;
    migrated.map(|_| ()).map_err(|error| Failure::new(error.to_string()))
}

/// Gives the inbox and all its streams a new epoch.
pub(super) async fn new_epoch(config: &Config) -> Result<Epoch, Failure> {
    let renewed = inbox::new_epoch(config.inbox.store.url().expose()).await;
    renewed.map_err(|error| Failure::new(error.to_string()))
}
