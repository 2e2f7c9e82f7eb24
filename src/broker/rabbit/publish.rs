//! Publishing envelopes, and knowing whether the broker takes them.
//!
//! Owns the outgoing side of one session: it drains the outbox, keeps confirms in flight (bounded window, few per
//! destination so that what queues up meanwhile goes as one message), and is the only writer of the health while
//! the session lives. Nothing waits for a confirm; a returned message is counted. RabbitMQ tells of an alarm only those
//! who publish: who has nothing to send sends a probe now and then. It must never publish under an alarm that it knows
//! of: confirms would not come, and lapin would hold the messages in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use futures_util::{FutureExt, Stream};
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Channel, Confirmation, ConnectionStatus, Event};
use tokio_util::sync::CancellationToken;

use super::outbox::Batch;
use super::shared::{SessionError, Shared};
use super::topology::{BROADCAST, NODES, short};
use crate::broker::{Destination, Health};

/// Unconfirmed messages to one destination; more wait, and then go as one.
const PER_DESTINATION: usize = 4;
/// How often the age of confirms is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// Who has published nothing for so long sends a probe.
const QUIET: Duration = Duration::from_secs(1);
/// The routing key of probes. Ids of nodes have no `/`, so no queue is bound for it.
const PROBE: &str = "probe/";
/// Without an alarm, confirms that stay away for this many operation timeouts mean a broken session.
const BROKEN_AFTER: u32 = 6;

/// The outgoing side of one session.
pub(super) struct Publisher {
    shared: Arc<Shared>,
    channel: Channel,
    status: ConnectionStatus,
    flights: FuturesUnordered<BoxFuture<'static, Landed>>,
    busy: HashMap<Destination, usize>,
    /// When each unconfirmed message left, oldest first.
    left: BTreeMap<u64, Instant>,
    next: u64,
    /// When something was last published; `None`: not in this session.
    spoke: Option<Instant>,
    /// When an alarm was last seen.
    alarmed: Option<Instant>,
}

/// A message whose confirm came, or never will.
struct Landed {
    flight: u64,
    /// `None`: a probe.
    to: Option<Destination>,
    outcome: lapin::Result<Confirmation>,
}

impl Publisher {
    /// For a channel in confirm mode and the status of its connection.
    pub(super) fn new(shared: Arc<Shared>, channel: Channel, status: ConnectionStatus) -> Self {
        Self {
            shared,
            channel,
            status,
            flights: FuturesUnordered::new(),
            busy: HashMap::new(),
            left: BTreeMap::new(),
            next: 0,
            spoke: None,
            alarmed: None,
        }
    }

    /// Publishes until cancelled or broken. `events` are those of the connection.
    pub(super) async fn run(
        mut self,
        events: impl Stream<Item = Event> + Send,
        cancel: CancellationToken,
    ) -> Result<(), SessionError> {
        let ended = self.drive(events, &cancel).await;
        let lost = u64::try_from(self.unconfirmed()).unwrap_or(u64::MAX);
        self.shared.metrics.drop_for("disconnected", lost);
        self.shared.metrics.unconfirmed.set(0);
        ended
    }

    async fn drive(
        &mut self,
        events: impl Stream<Item = Event> + Send,
        cancel: &CancellationToken,
    ) -> Result<(), SessionError> {
        let shared = Arc::clone(&self.shared);
        let mut events = std::pin::pin!(events);
        let mut look = tokio::time::interval(LOOK);
        loop {
            self.fill();
            self.probe();
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = shared.outbox.arrived() => {}
                Some(landed) = self.flights.next(), if !self.flights.is_empty() => self.on_landed(landed)?,
                event = events.next() => on_event(event)?,
                _ = look.tick() => {}
            }
            self.judge()?;
        }
    }

    /// Sends what may go now.
    fn fill(&mut self) {
        let taking = *self.shared.health.borrow() == Health::Up;
        while taking && self.flights.len() < self.shared.settings.window {
            let busy = &self.busy;
            let may_go = |to: &Destination| busy.get(to).is_none_or(|n| *n < PER_DESTINATION);
            let Some(batch) = self.shared.outbox.pop(may_go) else {
                break;
            };
            self.publish(batch);
        }
        let metrics = &self.shared.metrics;
        metrics.unconfirmed.set(gauge(self.unconfirmed()));
        metrics.waiting.set(gauge(self.shared.outbox.len()));
        self.shared.in_flight(self.unconfirmed());
    }

    /// Messages with envelopes that are in flight.
    fn unconfirmed(&self) -> usize {
        self.busy.values().sum()
    }

    fn publish(&mut self, batch: Batch) {
        let flight = self.depart();
        *self.busy.entry(batch.to.clone()).or_default() += 1;
        self.shared.metrics.messages.inc();
        let channel = self.channel.clone();
        // First polled in the order of pushing, which is when lapin queues the frames: so the order holds.
        self.flights.push(
            async move {
                let outcome = publish(&channel, &batch).await;
                Landed { flight, to: Some(batch.to), outcome }
            }
            .boxed(),
        );
    }

    /// Publishes nothing to nobody when nothing else was published for a while: an alarm is told in answer to that only,
    /// and a broker that hangs does not confirm it.
    fn probe(&mut self) {
        let is_quiet = self.flights.is_empty() && self.spoke.is_none_or(|spoke| spoke.elapsed() >= QUIET);
        if !is_quiet || *self.shared.health.borrow() != Health::Up {
            return;
        }
        let flight = self.depart();
        self.shared.metrics.probes.inc();
        let channel = self.channel.clone();
        self.flights.push(async move { Landed { flight, to: None, outcome: probe(&channel).await } }.boxed());
    }

    /// Notes that a message leaves now.
    fn depart(&mut self) -> u64 {
        let (flight, now) = (self.next, Instant::now());
        self.next += 1;
        self.left.insert(flight, now);
        self.spoke = Some(now);
        flight
    }

    fn on_landed(&mut self, landed: Landed) -> Result<(), SessionError> {
        self.left.remove(&landed.flight);
        let outcome = landed.outcome?;
        let Some(to) = landed.to else {
            return Ok(());
        };
        if let Some(busy) = self.busy.get_mut(&to) {
            *busy -= 1;
            if *busy == 0 {
                self.busy.remove(&to);
            }
        }
        let metrics = &self.shared.metrics;
        match outcome {
            Confirmation::Ack(None) | Confirmation::NotRequested => {}
            Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => {
                metrics.unroutable.inc();
                tracing::debug!(?to, "a message came back: no such node is there");
            }
            Confirmation::Nack(None) => metrics.drop_for("refused", 1),
        }
        Ok(())
    }

    /// Tells how the broker is: by its own word, or by confirms that stay away.
    fn judge(&mut self) -> Result<(), SessionError> {
        let (now, patience) = (Instant::now(), self.shared.settings.operation_timeout);
        if self.status.blocked() {
            self.alarmed = Some(now);
        }
        let oldest = self.left.first_key_value().map(|(_, left)| *left);
        let age = waiting(oldest, self.alarmed, now);
        if age > patience * BROKEN_AFTER {
            return Err(SessionError::Silent(age));
        }
        let blocked = self.status.blocked() || age > patience;
        self.shared.report(if blocked { Health::Blocked } else { Health::Up });
        Ok(())
    }
}

/// How long a confirm has stayed away without a reason: what was sent before or during an alarm may be confirmed only now
/// that it is over.
fn waiting(oldest: Option<Instant>, alarmed: Option<Instant>, now: Instant) -> Duration {
    let since = oldest.map(|left| alarmed.map_or(left, |alarmed| alarmed.max(left)));
    since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
}

async fn publish(channel: &Channel, batch: &Batch) -> lapin::Result<Confirmation> {
    let (exchange, key, mandatory) = match &batch.to {
        Destination::Node(node) => (NODES, node.as_str(), true),
        Destination::All => (BROADCAST, "", false),
    };
    let options = BasicPublishOptions { mandatory, ..BasicPublishOptions::default() };
    // Transient: it is worth nothing once the node is gone.
    let properties = BasicProperties::default().with_delivery_mode(1);
    let confirm =
        channel.basic_publish(short(exchange), short(key), options, &batch.body, properties).await?;
    confirm.await
}

/// Transient, empty, and confirmed at once, as no queue takes it.
async fn probe(channel: &Channel) -> lapin::Result<Confirmation> {
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    channel.basic_publish(short(NODES), short(PROBE), options, &[], properties).await?.await
}

fn on_event(event: Option<Event>) -> Result<(), SessionError> {
    match event {
        Some(Event::Error(error)) => Err(error.into()),
        Some(_) => Ok(()),
        None => Err(SessionError::Ended("the publishing connection")),
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_left_before_an_alarm_is_not_overdue_when_it_ends() {
        let left = Instant::now();
        let (ended, now) = (left + Duration::from_secs(600), left + Duration::from_secs(603));
        assert_eq!(waiting(Some(left), None, now), Duration::from_secs(603));
        assert_eq!(waiting(Some(left), Some(ended), now), Duration::from_secs(3));
        assert_eq!(waiting(Some(now), Some(ended), now), Duration::ZERO);
        assert_eq!(waiting(None, Some(ended), now), Duration::ZERO);
    }
}
