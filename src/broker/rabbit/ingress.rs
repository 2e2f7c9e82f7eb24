//! Taking notifications in: one lane.
//!
//! Owns the consumer of one `fanfare.ingress.*` queue and the settling of what it delivered. Deliveries finish in any
//! order; acknowledgements go together (`multiple`) up to the last before which all are finished, after
//! [`ACK_EVERY`] or [`ACK_AFTER`]. What is for later stays with the node and is offered to it again: a quorum queue
//! counts what it is given back, and would drop it in the end. It must never acknowledge what was not settled, nor a
//! dead letter before it is kept.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicNackOptions};
use lapin::{Channel, Consumer};
use tokio::sync::Semaphore;
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::dead::{BuryError, bury};
use super::epitaph::Original;
use super::ledger::Ledger;
use super::offer::offered;
use super::rest;
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
/// What became of a delivery that the node had.
enum Step {
    /// The node said so.
    Settled(u64, Outcome),
    /// It rested.
    Rested(u64),
    /// The dead letter is kept, or not.
    Buried(u64, Result<(), BuryError>),
}

/// A delivery that is not settled.
struct Held {
    original: Original,
    since: Instant,
    /// How often it was for later.
    rests: u32,
}

/// One lane of one session.
pub(super) struct Lane {
    shared: Arc<Shared>,
    lane: Priority,
    channel: Channel,
    graveyard: Channel,
    consumer: Option<Consumer>,
    ledger: Ledger,
    unsettled: HashMap<u64, Held>,
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
            unsettled: HashMap::new(),
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

    /// Starts or stops consuming, as wanted. What an earlier consumer left here counts: of both together there are
    /// never more than twice the prefetch.
    async fn turn(&mut self, wanted: Intake) -> Result<(), SessionError> {
        if wanted == Intake::On {
            let has_room = self.unsettled.len() < usize::from(self.prefetch());
            if self.consumer.is_none() && has_room {
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
        Ok(declarer.consume(lane_queue(self.lane), self.prefetch()).await?)
    }

    fn prefetch(&self) -> u16 {
        self.shared.settings.prefetch.of(self.lane)
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
        self.ledger.delivered(tag);
        self.unsettled.insert(tag, Held { original, since: Instant::now(), rests: 0 });
        self.shared.taken();
        self.held = self.offer(tag);
        Ok(())
    }

    /// Hands a delivery to the node; answers it if the inlet has no room.
    fn offer(&mut self, tag: u64) -> Option<Ingress> {
        let original = &self.unsettled.get(&tag)?.original;
        let (settle, settled) = Settle::new();
        let ingress = offered(&self.shared, original, settle);
        let settled = settled.map(move |outcome| Step::Settled(tag, outcome.unwrap_or(Outcome::Later)));
        self.steps.push(settled.boxed());
        self.shared.ingress.try_send(ingress).err().map(|full| full.into_inner())
    }

    async fn on_step(&mut self, step: Step) -> Result<(), SessionError> {
        let lane = self.lane.as_str();
        match step {
            Step::Settled(tag, Outcome::Done) => {
                self.shared.metrics.settled(lane, "done");
                self.finish(tag);
            }
            Step::Settled(tag, Outcome::Later) => {
                self.rest(tag);
                self.shared.metrics.settled(lane, "later");
            }
            Step::Settled(tag, Outcome::Dead { code, reason }) => {
                self.shared.metrics.settled(lane, "dead");
                self.bury(tag, code, reason);
            }
            Step::Rested(tag) => self.on_rested(tag).await?,
            Step::Buried(tag, Ok(())) => self.finish(tag),
            Step::Buried(_, Err(BuryError::Lapin(error))) => return Err(error.into()),
            // Were it to wait here, a few of its kind would hold up all that is behind them.
            Step::Buried(tag, Err(BuryError::NotTaken)) => self.give_up(tag).await?,
            Step::Buried(tag, Err(error)) => {
                self.shared.metrics.failures.inc();
                tracing::warn!(%error, queue.name = lane_queue(self.lane), "a dead letter could not be kept; its message is tried again");
                self.rest(tag);
            }
        }
        Ok(())
    }

    fn finish(&mut self, tag: u64) {
        let now = Instant::now();
        self.ledger.finished(tag, now);
        self.unsettled.remove(&tag);
        self.shared.released(1);
        self.ack_at.get_or_insert(now + ACK_AFTER);
    }

    /// Aside for a while, so that it does not spin. It ends early when ingress is wanted again: the inbox is back.
    fn rest(&mut self, tag: u64) {
        let Some(held) = self.unsettled.get_mut(&tag) else {
            return;
        };
        let pause = rest::pause(&held.original, held.rests);
        held.rests = held.rests.saturating_add(1);
        let intake = self.shared.intake.subscribe();
        self.steps.push(rest::over(pause, intake).map(move |()| Step::Rested(tag)).boxed());
    }

    /// To the node once more; back to its queue if the node takes nothing, or has had it for too long.
    async fn on_rested(&mut self, tag: u64) -> Result<(), SessionError> {
        let is_on = *self.shared.intake.borrow() == Intake::On;
        let is_young = self.unsettled.get(&tag).is_some_and(|held| held.since.elapsed() < rest::KEPT);
        if !(is_on && is_young) {
            return self.requeue(tag).await;
        }
        // Without room it is dropped here, which is settling it for later: it rests again.
        drop(self.offer(tag));
        Ok(())
    }

    fn bury(&mut self, tag: u64, code: &'static str, reason: String) {
        let Some(original) = self.unsettled.get(&tag).map(|held| held.original.clone()) else {
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
        self.release(tag);
        self.nack(tag).await
    }

    /// RabbitMQ moves it to what the lanes dropped; there it waits until it can be kept.
    async fn give_up(&mut self, tag: u64) -> Result<(), SessionError> {
        self.release(tag);
        let options = BasicNackOptions { requeue: false, multiple: false };
        within(self.patience(), self.channel.basic_nack(tag, options)).await
    }

    fn release(&mut self, tag: u64) {
        self.ledger.settled(tag);
        self.unsettled.remove(&tag);
        self.shared.released(1);
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
        self.shared.released(self.unsettled.len());
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
