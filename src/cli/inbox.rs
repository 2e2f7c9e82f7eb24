//! `fanfare inbox`: what is done to the store itself, by hand.
//!
//! Owns what is said of it; the work is the inbox's.

use clap::Subcommand;
use serde_json::json;

use super::failure::Failure;
use super::{output, seam};
use crate::config::{Sources, Store, load};

#[derive(Debug, Subcommand)]
pub(super) enum InboxCommand {
    /// Begin a new life of a store that was restored.
    #[command(after_help = "\
Examples:
  fanfare inbox new-epoch --config fanfare.toml
  FANFARE__INBOX__URL=postgres://fanfare@db/fanfare fanfare inbox new-epoch --json

Belongs to every restore, before the nodes are started or as soon as it is noticed; nodes may run.
Without it devices that are ahead of the restored store would miss what comes.

Exit code 0: done. Exit code 1: nothing was changed, with what to change.")]
    NewEpoch {
        /// Print {"epoch"} instead.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn inbox(what: &InboxCommand, sources: &Sources) -> Result<(), Failure> {
    let config = load(sources).map_err(|problems| Failure::of_problems(&problems))?;
    match what {
        InboxCommand::NewEpoch { json } => {
            let epoch = super::block_on(seam::new_epoch(&config))?.to_string();
            if *json {
                return output::line(&json!({ "epoch": epoch }).to_string());
            }
            let store = match &config.inbox.store {
                Store::Sqlite(path) => format!("the SQLite file {}", path.display()),
                Store::Postgres(_) => "the PostgreSQL database".to_owned(),
            };
            output::line(&format!(
                "{store} and all its streams have the new epoch {epoch}\n\n\
                 What follows: each connection is closed with 4006 (stream_reset) within a head check and comes\n\
                 back within seconds; each device gets what the store still has, from its oldest entry on, with\n\
                 gap: true. So devices may see again what they have seen. Unread counts go on from new versions."
            ))
        }
    }
}
