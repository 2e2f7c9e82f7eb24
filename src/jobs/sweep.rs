//! The sweep: idempotency keys, what expired long ago, devices that nobody uses any more, lapsed revocations.
//!
//! Owns how long each is kept. It must never touch what may still be delivered.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::Retention;
use super::round::{Job, JobError, Round};
use crate::clock::Clock;
use crate::domain::UnixMillis;
use crate::inbox::{Inbox, OutOfDate};

/// How many rows of each kind go at a time.
const ROWS: u32 = 1_000;

pub(super) struct Sweep {
    pub(super) inbox: Arc<dyn Inbox>,
    pub(super) clock: Clock,
    pub(super) kept: Retention,
}

impl Job for Sweep {
    const NAME: &'static str = "sweep";

    fn pace(&self) -> Range<Duration> {
        Duration::from_secs(45)..Duration::from_secs(75)
    }

    async fn round(&mut self) -> Result<Round, JobError> {
        let now = self.clock.now();
        let before = OutOfDate {
            keys: before(now, self.kept.keys),
            expired: before(now, self.kept.receipts),
            devices: before(now, self.kept.idle_devices),
            revocations: now,
        };
        let gone = self.inbox.sweep(&before, ROWS).await?;
        Ok(Round { done: gone, more: gone > 0 })
    }
}

/// `age` before `now`.
pub(super) fn before(now: UnixMillis, age: Duration) -> UnixMillis {
    UnixMillis(now.0.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)))
}
