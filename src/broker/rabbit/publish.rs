//! Publishing envelopes, and knowing whether the broker takes them.
//!
//! Owns the outgoing side of one session: it drains the outbox, keeps confirms in flight (bounded window, few per
//! destination so that what queues up meanwhile goes as one message), and is the only writer of the health while
//! the session lives. Nothing waits for a confirm; a returned message is counted. It must never publish under an alarm:
//! confirms would not come, and lapin would hold the messages in memory.

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
}

/// A message whose confirm came, or never will.
struct Landed {
    flight: u64,
    to: Destination,
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
        }
    }

    /// Publishes until cancelled or broken. `events` are those of the connection.
    pub(super) async fn run(
        mut self,
        events: impl Stream<Item = Event> + Send,
        cancel: CancellationToken,
    ) -> Result<(), SessionError> {
        let ended = self.drive(events, &cancel).await;
        let lost = u64::try_from(self.flights.len()).unwrap_or(u64::MAX);
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
        metrics.unconfirmed.set(gauge(self.flights.len()));
        metrics.waiting.set(gauge(self.shared.outbox.len()));
        self.shared.in_flight(self.flights.len());
    }

    fn publish(&mut self, batch: Batch) {
        let flight = self.next;
        self.next += 1;
        self.left.insert(flight, Instant::now());
        *self.busy.entry(batch.to.clone()).or_default() += 1;
        self.shared.metrics.messages.inc();
        let channel = self.channel.clone();
        // First polled in the order of pushing, which is when lapin queues the frames: so the order holds.
        self.flights.push(
            async move {
                let outcome = publish(&channel, &batch).await;
                Landed { flight, to: batch.to, outcome }
            }
            .boxed(),
        );
    }

    fn on_landed(&mut self, landed: Landed) -> Result<(), SessionError> {
        self.left.remove(&landed.flight);
        if let Some(busy) = self.busy.get_mut(&landed.to) {
            *busy -= 1;
            if *busy == 0 {
                self.busy.remove(&landed.to);
            }
        }
        let metrics = &self.shared.metrics;
        match landed.outcome? {
            Confirmation::Ack(None) | Confirmation::NotRequested => {}
            Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => {
                metrics.unroutable.inc();
                tracing::debug!(to = ?landed.to, "a message came back: no such node is there");
            }
            Confirmation::Nack(None) => metrics.drop_for("refused", 1),
        }
        Ok(())
    }

    /// Tells how the broker is: by its own word, or by confirms that stay away.
    fn judge(&mut self) -> Result<(), SessionError> {
        let patience = self.shared.settings.operation_timeout;
        let age = self.left.first_key_value().map_or(Duration::ZERO, |(_, left)| left.elapsed());
        let alarm = self.status.blocked();
        if !alarm && age > patience * BROKEN_AFTER {
            return Err(SessionError::Silent(age));
        }
        let blocked = alarm || age > patience;
        self.shared.report(if blocked { Health::Blocked } else { Health::Up });
        Ok(())
    }
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
