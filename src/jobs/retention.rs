//! Retention: takes from streams what is too old or too much.
//!
//! Owns when streams are looked at: those that an append saw growing at once, all others slowly. Clients that
//! were away for longer than that are told `gap`.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::round::{Job, JobError, Round};
use crate::clock::Clock;
use crate::domain::Stream;
use crate::inbox::Inbox;

/// How many notifications go at a time, by age.
const AGED: u32 = 500;
/// How many streams are cut at a time.
const STREAMS: u32 = 50;

/// By age.
pub(super) struct ByAge {
    pub(super) inbox: Arc<dyn Inbox>,
    pub(super) clock: Clock,
    pub(super) age: Duration,
}

impl Job for ByAge {
    const NAME: &'static str = "retention_age";

    fn pace(&self) -> Range<Duration> {
        Duration::from_secs(45)..Duration::from_secs(75)
    }

    async fn round(&mut self) -> Result<Round, JobError> {
        let gone = self.inbox.retain_by_age(self.clock.now().before(self.age), AGED).await?;
        Ok(Round { done: gone, more: gone > 0 })
    }
}

/// By count, where an append saw a stream growing.
pub(super) struct Grown {
    pub(super) inbox: Arc<dyn Inbox>,
    /// Such streams. Bounded; what finds no room is found by [`Overfull`].
    pub(super) grown: mpsc::Receiver<Stream>,
    pub(super) max_entries: u64,
}

impl Job for Grown {
    const NAME: &'static str = "retention_count";

    fn pace(&self) -> Range<Duration> {
        Duration::from_millis(500)..Duration::from_millis(1_500)
    }

    async fn round(&mut self) -> Result<Round, JobError> {
        let mut streams = Vec::new();
        while streams.len() < STREAMS as usize
            && let Ok(stream) = self.grown.try_recv()
        {
            streams.push(stream);
        }
        let more = streams.len() >= STREAMS as usize;
        streams.sort_unstable();
        streams.dedup();
        if streams.is_empty() {
            return Ok(Round::IDLE);
        }
        let done = self.inbox.retain_by_count(&streams, self.max_entries).await?;
        Ok(Round { done, more })
    }
}

/// By count, where nobody saw it: the node died, the queue was full, or the setting was lowered.
pub(super) struct Overfull {
    pub(super) inbox: Arc<dyn Inbox>,
    pub(super) max_entries: u64,
}

impl Job for Overfull {
    const NAME: &'static str = "retention_scan";

    /// It goes through all streams.
    fn pace(&self) -> Range<Duration> {
        Duration::from_secs(240)..Duration::from_secs(360)
    }

    async fn round(&mut self) -> Result<Round, JobError> {
        let some_more = self.max_entries.saturating_add(self.max_entries / 10);
        let streams = self.inbox.overfull(some_more, STREAMS).await?;
        if streams.is_empty() {
            return Ok(Round::IDLE);
        }
        let done = self.inbox.retain_by_count(&streams, self.max_entries).await?;
        Ok(Round { done, more: streams.len() >= STREAMS as usize && done > 0 })
    }
}
