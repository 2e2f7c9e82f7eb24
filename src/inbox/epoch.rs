//! Another life for a store that was restored.

use std::time::Duration;

use super::migrations::is_sqlite;
use super::open_error::OpenError;
use super::{postgres, sqlite};
use crate::domain::Epoch;

/// How long it may take: every stream is written.
const DEADLINE: Duration = Duration::from_secs(600);

/// Gives the store at `url` and all its streams a new random epoch, in one transaction, and answers it. Belongs to
/// every restore: what clients and cursors remember is of the life that was lost, and may be ahead of what is
/// there. Cursors keep the old epoch, so devices start at the floor and are told of a gap. Unread versions go on
/// from the present time in milliseconds, above all that were told.
///
/// Nodes that have the store open may go on: to their connections it is a change of epoch.
///
/// # Errors
/// What to change; [`OpenError::TablesMissing`] for a store that was never migrated.
pub async fn new_epoch(url: &str) -> Result<Epoch, OpenError> {
    let work =
        async { if is_sqlite(url) { sqlite::new_epoch(url).await } else { postgres::new_epoch(url).await } };
    let place = "inbox.url".to_owned();
    let timed_out = OpenError::Timeout { place, timeout: DEADLINE };
    tokio::time::timeout(DEADLINE, work).await.unwrap_or(Err(timed_out))
}
