//! Taking notifications in: one lane.
//!
//! Owns the consumer of one `fanfare.ingress.*` queue and the settling of what it delivered. Deliveries finish in any
//! order; acknowledgements go together (`multiple`) up to the last before which all are finished, after
//! [`ACK_EVERY`] or [`ACK_AFTER`]. It must never acknowledge what was not settled, nor a dead letter before it is kept.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicNackOptions};
use lapin::types::AMQPValue;
use lapin::{BasicProperties, Channel, Consumer};
use tokio::sync::Semaphore;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::dead::{BuryError, bury};
use super::epitaph::Original;
use super::ledger::Ledger;
use super::shared::{Intake, SessionError, Shared};
use super::topology::{Declarer, lane_queue};
use crate::broker::{Ingress, Outcome, Settle};
use crate::domain::Priority;

/// Acknowledged together once so many are finished.
const ACK_EVERY: usize = 64;
/// Acknowledged at the latest this long after the first finished.
const ACK_AFTER: Duration = Duration::from_millis(10);
/// How long a finished delivery waits behind an unfinished one before it is acknowledged alone.
const PATIENCE: Duration = Duration::from_millis(50);
/// Dead letters of one lane on their way to `fanfare.dead` at a time.
const BURIALS: usize = 8;
/// The first pause before a message goes back to its queue; doubles with each delivery, with jitter. A quorum
/// queue drops a message after 20 deliveries, so that these pauses add up to minutes.
const REST: Duration = Duration::from_millis(100);
/// The longest pause.
const MAX_REST: Duration = Duration::from_secs(30);

/// What became of a delivery that the node had.
enum Step {
    /// The node said so.
    Settled(u64, Outcome),
    /// It rested; back to its queue.
    Rested(u64),
    /// The dead letter is kept, or not.
    Buried(u64, Result<(), BuryError>),
}

/// One lane of one session.
pub(super) struct Lane {
    shared: Arc<Shared>,
    lane: Priority,
    channel: Channel,
    graveyard: Channel,
    consumer: Option<Consumer>,
    ledger: Ledger,
    originals: HashMap<u64, Original>,
    steps: FuturesUnordered<BoxFuture<'static, Step>>,
    burials: Arc<Semaphore>,
    /// Taken from the consumer, and the inlet had no room.
    held: Option<Ingress>,
    ack_at: Option<Instant>,
}

impl Lane {
    /// A lane that takes nothing yet; `graveyard` publishes dead letters.
    pub(super) fn new(shared: Arc<Shared>, lane: Priority, channel: Channel, graveyard: Channel) -> Self {
        Self {
            shared,
            lane,
            channel,
            graveyard,
            consumer: None,
            ledger: Ledger::default(),
            originals: HashMap::new(),
            steps: FuturesUnordered::new(),
            burials: Arc::new(Semaphore::new(BURIALS)),
            held: None,
            ack_at: None,
        }
    }

    /// Takes and settles until cancelled, broken, or closing with nothing left.
    pub(super) async fn run(mut self, cancel: CancellationToken) -> Result<(), SessionError> {
        let ended = self.drive(&cancel).await;
        if ended.is_ok() {
            self.settle_last().await?;
        }
        ended
    }

    async fn drive(&mut self, cancel: &CancellationToken) -> Result<(), SessionError> {
        let shared = Arc::clone(&self.shared);
        let mut intake = shared.intake.subscribe();
        loop {
            let wanted = *intake.borrow_and_update();
            self.turn(wanted).await?;
            if wanted == Intake::Closing && self.ledger.len() == 0 {
                return Ok(());
            }
            let ack_at = self.ack_at.map(tokio::time::Instant::from_std);
            let mut consumer = self.consumer.as_mut().filter(|_| self.held.is_none());
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                _ = intake.changed() => {}
                Some(step) = self.steps.next(), if !self.steps.is_empty() => self.on_step(step).await?,
                delivery = next(&mut consumer) => self.on_delivery(delivery).await?,
                permit = shared.ingress.reserve(), if self.held.is_some() => {
                    if let (Ok(permit), Some(held)) = (permit, self.held.take()) {
                        permit.send(held);
                    }
                }
                () = at(ack_at) => self.acknowledge().await?,
            }
            if self.ledger.finished_count() >= ACK_EVERY {
                self.acknowledge().await?;
            }
        }
    }

    /// Starts or stops consuming, as wanted.
    async fn turn(&mut self, wanted: Intake) -> Result<(), SessionError> {
        if wanted == Intake::On {
            if self.consumer.is_none() {
                self.consumer = Some(self.consume().await?);
            }
            return Ok(());
        }
        let Some(mut consumer) = self.consumer.take() else {
            return Ok(());
        };
        let cancelling = self.channel.basic_cancel(consumer.tag(), BasicCancelOptions::default());
        within(self.patience(), cancelling).await?;
        // What lapin had taken already and the node never saw goes back at once.
        while let Some(Some(delivery)) = consumer.next().now_or_never() {
            self.nack(delivery?.delivery_tag).await?;
        }
        if let Some(held) = self.held.take() {
            held.settle.settle(Outcome::Later);
        }
        Ok(())
    }

    async fn consume(&mut self) -> Result<Consumer, SessionError> {
        let declarer = Declarer { channel: &self.channel, patience: self.patience() };
        let prefetch = self.shared.settings.prefetch.of(self.lane);
        Ok(declarer.consume(lane_queue(self.lane), prefetch).await?)
    }

    async fn on_delivery(&mut self, delivery: Option<lapin::Result<Delivery>>) -> Result<(), SessionError> {
        let Some(delivery) = delivery else {
            tracing::warn!(queue.name = lane_queue(self.lane), "the queue was deleted; declaring it again");
            self.consumer = None;
            let declarer = Declarer { channel: &self.channel, patience: self.patience() };
            let bounds = &self.shared.settings.bounds;
            return Ok(declarer.lane(self.lane, bounds).await?);
        };
        let delivery = delivery?;
        let tag = delivery.delivery_tag;
        let original = Original {
            lane: self.lane,
            exchange: delivery.exchange.to_string(),
            routing_key: delivery.routing_key.to_string(),
            properties: delivery.properties,
            body: Bytes::from(delivery.data),
        };
        let (settle, settled) = Settle::new();
        let ingress = self.ingress(&original, settle);
        self.ledger.delivered(tag);
        self.originals.insert(tag, original);
        self.shared.taken();
        let settled = settled.map(move |outcome| Step::Settled(tag, outcome.unwrap_or(Outcome::Later)));
        self.steps.push(settled.boxed());
        if let Err(full) = self.shared.ingress.try_send(ingress) {
            self.held = Some(full.into_inner());
        }
        Ok(())
    }

    fn ingress(&self, original: &Original, settle: Settle) -> Ingress {
        let (properties, login) = (&original.properties, self.shared.login());
        let text = |value: &Option<lapin::types::ShortString>| value.as_ref().map(ToString::to_string);
        Ingress {
            lane: self.lane,
            body: original.body.clone(),
            message_id: text(properties.message_id()),
            expiration: original.expiration(login.as_deref()),
            user_id: original.user_id(login.as_deref()),
            traceparent: traceparent(properties),
            settle,
        }
    }

    async fn on_step(&mut self, step: Step) -> Result<(), SessionError> {
        let lane = self.lane.as_str();
        match step {
            Step::Settled(tag, Outcome::Done) => {
                self.shared.metrics.settled(lane, "done");
                self.finish(tag);
            }
            Step::Settled(tag, Outcome::Later) => {
                self.shared.metrics.settled(lane, "later");
                self.rest(tag);
            }
            Step::Settled(tag, Outcome::Dead { code, reason }) => {
                self.shared.metrics.settled(lane, "dead");
                self.bury(tag, code, reason);
            }
            Step::Rested(tag) => self.requeue(tag).await?,
            Step::Buried(tag, Ok(())) => self.finish(tag),
            Step::Buried(_, Err(BuryError::Lapin(error))) => return Err(error.into()),
            Step::Buried(tag, Err(error)) => {
                self.shared.metrics.failures.inc();
                tracing::warn!(%error, queue.name = lane_queue(self.lane), "a dead letter could not be kept; its message goes back");
                self.rest(tag);
            }
        }
        Ok(())
    }

    fn finish(&mut self, tag: u64) {
        let now = Instant::now();
        self.ledger.finished(tag, now);
        self.originals.remove(&tag);
        self.shared.released(1);
        self.ack_at.get_or_insert(now + ACK_AFTER);
    }

    /// Back to the queue after a pause, so that it does not spin.
    fn rest(&mut self, tag: u64) {
        let deliveries = self.originals.get(&tag).map_or(0, deliveries);
        let pause = REST * 2_u32.saturating_pow(deliveries.min(10));
        let pause = pause.min(MAX_REST).mul_f64(rand::random_range(0.5..1.0));
        let mut intake = self.shared.intake.subscribe();
        self.steps.push(
            async move {
                tokio::select! {
                    () = sleep(pause) => {}
                    // Closing waits for nobody's rest.
                    _ = intake.wait_for(|intake| *intake == Intake::Closing) => {}
                }
                Step::Rested(tag)
            }
            .boxed(),
        );
    }

    fn bury(&mut self, tag: u64, code: &'static str, reason: String) {
        let Some(original) = self.originals.get(&tag).cloned() else {
            return;
        };
        let shared = Arc::clone(&self.shared);
        let graveyard = self.graveyard.clone();
        let burials = Arc::clone(&self.burials);
        self.steps.push(
            async move {
                let _turn = burials.acquire().await;
                let buried = bury(&shared, &graveyard, &original, code, &reason).await;
                Step::Buried(tag, buried)
            }
            .boxed(),
        );
    }

    async fn requeue(&mut self, tag: u64) -> Result<(), SessionError> {
        self.ledger.settled(tag);
        self.originals.remove(&tag);
        self.shared.released(1);
        self.nack(tag).await
    }

    async fn nack(&mut self, tag: u64) -> Result<(), SessionError> {
        let options = BasicNackOptions { requeue: true, multiple: false };
        within(self.patience(), self.channel.basic_nack(tag, options)).await
    }

    /// Acknowledges what is due.
    async fn acknowledge(&mut self) -> Result<(), SessionError> {
        let now = Instant::now();
        let acks = self.ledger.take_due(now, PATIENCE);
        if let Some(tag) = acks.up_to {
            let options = BasicAckOptions { multiple: true };
            within(self.patience(), self.channel.basic_ack(tag, options)).await?;
        }
        for tag in acks.single {
            let alone = BasicAckOptions::default();
            within(self.patience(), self.channel.basic_ack(tag, alone)).await?;
        }
        self.ack_at = (self.ledger.finished_count() > 0).then(|| now + ACK_AFTER);
        Ok(())
    }

    /// At the end: what the node has settled by now counts.
    async fn settle_last(&mut self) -> Result<(), SessionError> {
        while let Some(Some(step)) = self.steps.next().now_or_never() {
            if let Step::Settled(tag, Outcome::Done) | Step::Buried(tag, Ok(())) = step {
                self.finish(tag);
            }
        }
        self.acknowledge().await
    }

    fn patience(&self) -> Duration {
        self.shared.settings.operation_timeout
    }
}

async fn within<T>(
    patience: Duration,
    call: impl Future<Output = lapin::Result<T>>,
) -> Result<T, SessionError> {
    match timeout(patience, call).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(SessionError::Slow(patience)),
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // With the channel, what is unsettled is back in its queue.
        self.shared.released(self.originals.len());
    }
}

/// The next delivery; never without a consumer.
async fn next(consumer: &mut Option<&mut Consumer>) -> Option<lapin::Result<Delivery>> {
    match consumer {
        Some(consumer) => consumer.next().await,
        None => std::future::pending().await,
    }
}

/// At that time; never without one.
async fn at(time: Option<tokio::time::Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// How often a quorum queue delivered it before (`x-delivery-count`, absent the first time).
fn deliveries(original: &Original) -> u32 {
    let headers = original.properties.headers().as_ref();
    match headers.and_then(|headers| headers.inner().get("x-delivery-count")) {
        Some(AMQPValue::LongLongInt(count)) => u32::try_from(*count).unwrap_or(0),
        _ => 0,
    }
}

fn traceparent(properties: &BasicProperties) -> Option<String> {
    let headers = properties.headers().as_ref()?;
    match headers.inner().get("traceparent")? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok().map(str::to_owned),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}
