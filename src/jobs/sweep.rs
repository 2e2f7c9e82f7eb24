//! The sweep: idempotency keys, what expired long ago, devices and cursors that nobody uses any more, lapsed
//! revocations.
//!
//! Owns how long each is kept. It must never touch what may still be delivered.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::Retention;
use super::round::{Job, JobError, Round};
use crate::clock::Clock;
use crate::domain::UnixMillis;
use crate::inbox::{CursorKey, Inbox, OutOfDate};

/// How many rows of each kind go at a time.
const ROWS: u32 = 1_000;
/// How many cursors are looked at in a round: some fourteen millions a day.
const CURSORS: u32 = 10_000;
/// When a cursor was last used is noted a day late at worst, where it is opened and where its device stays connected.
const CURSOR_MARGIN: Duration = Duration::from_secs(2 * 24 * 3600);

pub(super) struct Sweep {
    pub(super) inbox: Arc<dyn Inbox>,
    pub(super) clock: Clock,
    pub(super) kept: Retention,
    /// Whether what is due is looked at.
    pub(super) undelivered: bool,
    /// Where it looks for unused cursors next.
    pub(super) at: Option<CursorKey>,
}

impl Job for Sweep {
    const NAME: &'static str = "sweep";

    fn pace(&self) -> Range<Duration> {
        Duration::from_secs(45)..Duration::from_secs(75)
    }

    async fn round(&mut self) -> Result<Round, JobError> {
        let now = self.clock.now();
        let before = OutOfDate {
            keys: now.before(self.kept.keys),
            // Whoever looks takes it away, however late.
            due: if self.undelivered { UnixMillis(0) } else { now.before(self.kept.keys) },
            expired: now.before(self.kept.receipts),
            devices: now.before(self.kept.idle_devices),
            revocations: now,
        };
        let gone = self.inbox.sweep(&before, ROWS).await?;
        let unused = now.before(self.kept.idle_devices + CURSOR_MARGIN);
        let looked = self.inbox.remove_unused_cursors(self.at.as_ref(), unused, CURSORS).await?;
        self.at = looked.next;
        Ok(Round { done: gone + looked.removed, more: gone > 0 })
    }
}
