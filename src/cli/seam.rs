//! Where the command line meets the server: the composition root and the inbox's migrations.
//!
//! Owns nothing; each function is one call into the module that does the work.

use super::failure::Failure;
use crate::config::Config;

/// Runs a node until it has stopped.
pub(super) async fn serve(_config: Config) -> Result<(), Failure> {
    Err(Failure::new(
        "this build has no node in it: serve cannot run",
    ))
}

/// Makes or changes the inbox's tables.
pub(super) async fn migrate(_config: &Config) -> Result<(), Failure> {
    Err(Failure::new(
        "this build has no inbox in it: migrate cannot run",
    ))
}
