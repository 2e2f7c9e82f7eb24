//! Undelivered: looks whether anybody has acknowledged what should have been by now.
//!
//! Owns the pace only. What is found is written to the outbox, and told by [`super::events`].

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::round::{ACKS_SETTLE, Job, JobError, Round};
use crate::clock::Clock;
use crate::inbox::Inbox;

/// How many notifications are looked at at a time.
const GROUP: u32 = 100;

pub(super) struct Undelivered {
    pub(super) inbox: Arc<dyn Inbox>,
    pub(super) clock: Clock,
}

impl Job for Undelivered {
    const NAME: &'static str = "undelivered";
    const AFTER_OUTAGE: Duration = ACKS_SETTLE;

    fn pace(&self) -> Range<Duration> {
        Duration::from_millis(500)..Duration::from_millis(1_500)
    }

    async fn round(&mut self) -> Result<Round, JobError> {
        let looked_at = self.inbox.look_for_undelivered(self.clock.now(), GROUP).await?;
        Ok(Round::of(looked_at, GROUP))
    }
}
