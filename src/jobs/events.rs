//! Events: tells backends what is in the outbox, and says how much waits there.
//!
//! Owns the way from the outbox to the broker: claimed, emitted, confirmed, removed. At least once: an event
//! whose confirm or removal was lost is told again under the same id. While the broker is away events stay in
//! the outbox; nothing bounds them but the disk of the inbox, so that none is lost.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::round::{Job, JobError, Round};
use crate::broker::{Broker, EmitError, Event, Health};
use crate::clock::Clock;
use crate::inbox::Inbox;
use crate::metrics::jobs::JobMetrics;

/// How many are told at a time.
const GROUP: u32 = 250;
/// How long the broker may take to confirm them.
const DEADLINE: Duration = Duration::from_secs(5);
/// After so long another node may tell them: more than the deadline and the removal take.
const LEASE: Duration = Duration::from_secs(15);

/// Tells them.
pub(super) struct Relay {
    pub(super) inbox: Arc<dyn Inbox>,
    pub(super) broker: Arc<dyn Broker>,
    pub(super) clock: Clock,
}

impl Job for Relay {
    const NAME: &'static str = "events";

    fn pace(&self) -> Range<Duration> {
        Duration::from_millis(150)..Duration::from_millis(350)
    }

    async fn round(&mut self) -> Result<Round, JobError> {
        // Claimed for nothing, they would have to wait for the claim to run out.
        if *self.broker.health().borrow() != Health::Up {
            return Ok(Round::IDLE);
        }
        let claimed = self.inbox.claim_events(self.clock.now(), LEASE, GROUP).await?;
        if claimed.is_empty() {
            return Ok(Round::IDLE);
        }
        let mut ids: Vec<String> = claimed.iter().map(|event| event.id.clone()).collect();
        let events = claimed.into_iter().map(|event| Event {
            id: event.id,
            routing_key: event.routing_key,
            json: event.json,
        });
        let emitted = self.broker.emit(events.collect(), DEADLINE).await;
        if let Err(EmitError::Refused(refused)) = &emitted {
            let refused: HashSet<&String> = refused.iter().collect();
            ids.retain(|id| !refused.contains(id));
        } else {
            emitted.clone()?;
        }
        self.inbox.told(&ids).await?;
        emitted?;
        Ok(Round::of(ids.len() as u64, GROUP))
    }
}

/// Says how much waits.
pub(super) struct Backlog {
    pub(super) inbox: Arc<dyn Inbox>,
    pub(super) clock: Clock,
    pub(super) metrics: JobMetrics,
}

impl Job for Backlog {
    const NAME: &'static str = "events_backlog";

    /// It counts them.
    fn pace(&self) -> Range<Duration> {
        Duration::from_secs(4)..Duration::from_secs(6)
    }

    async fn round(&mut self) -> Result<Round, JobError> {
        let (waiting, since) = self.inbox.waiting().await?;
        let oldest = since.map_or(Duration::ZERO, |since| self.clock.now().since(since));
        self.metrics.events_waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        self.metrics.events_oldest.set(i64::try_from(oldest.as_secs()).unwrap_or(i64::MAX));
        Ok(Round::IDLE)
    }
}
