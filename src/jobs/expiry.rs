//! Expiry: notes what is past its time and was acknowledged by nobody.
//!
//! Owns the pace only. What is expired is never delivered, noted or not.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::round::{ACKS_SETTLE, Job, JobError, Round};
use crate::clock::Clock;
use crate::inbox::Inbox;

/// How many entries are noted at a time.
const GROUP: u32 = 500;

pub(super) struct Expiry {
    pub(super) inbox: Arc<dyn Inbox>,
    pub(super) clock: Clock,
}

impl Job for Expiry {
    const NAME: &'static str = "expiry";
    const AFTER_OUTAGE: Duration = ACKS_SETTLE;

    fn pace(&self) -> Range<Duration> {
        Duration::from_millis(1_500)..Duration::from_millis(2_500)
    }

    async fn round(&mut self) -> Result<Round, JobError> {
        let expired = self.inbox.expire(self.clock.now(), GROUP).await?;
        // A round passes over what was acknowledged in time, so fewer than a group may not be all there are.
        Ok(Round { done: expired, more: expired > 0 })
    }
}
