//! What can never be accepted, and what the lanes dropped.
//!
//! Owns the way into `fanfare.dead`: a message is published there with its reason, and only a confirm lets the original
//! be acknowledged. While RabbitMQ takes nothing, lanes give up what is refused, so that nothing waits behind it; when it
//! does again, the node is asked once more why. It must never hold what it cannot settle: RabbitMQ would end the channel.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicNackOptions, BasicPublishOptions};
use lapin::types::ShortString;
use lapin::{Channel, Confirmation, Consumer};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::death::{Death, REFUSED};
use super::epitaph::{Original, epitaph};
use super::offer::offered;
use super::shared::{SessionError, Shared};
use super::topology::{DEAD, DROPPED, Declarer, lane_of_queue, short};
use crate::broker::{Health, Outcome, Settle};

/// The pause before a dropped message is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Dropped messages unsettled at a time.
pub(super) const DROPPED_PREFETCH: u16 = 64;

/// Why a message is not in `fanfare.dead`.
#[derive(Debug, thiserror::Error)]
pub(super) enum BuryError {
    /// RabbitMQ takes nothing now.
    #[error("RabbitMQ takes nothing now")]
    NotTaken,
    /// The channel is broken.
    #[error(transparent)]
    Lapin(#[from] lapin::Error),
    /// It was refused or came back.
    #[error("{DEAD} did not take it")]
    Refused,
    /// It may be good.
    #[error("the node cannot say now whether it refuses it")]
    NotJudged,
    /// No confirm came.
    #[error("no confirm within {0:?}")]
    Slow(Duration),
}

/// Keeps a message in `fanfare.dead`; returns once that is confirmed, or at once while nothing is taken.
pub(super) async fn bury(
    shared: &Shared,
    channel: &Channel,
    original: &Original,
    code: &'static str,
    reason: &str,
) -> Result<(), BuryError> {
    if *shared.health.borrow() != Health::Up {
        return Err(BuryError::NotTaken);
    }
    let properties = epitaph(original, code, reason, shared.login().as_deref(), &shared.settings.clock);
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let publishing = async {
        let confirm = channel
            .basic_publish(ShortString::default(), short(DEAD), options, &original.body, properties)
            .await?;
        confirm.await
    };
    let patience = shared.settings.operation_timeout;
    match timeout(patience, publishing).await {
        Ok(Ok(Confirmation::Ack(None))) => {
            shared.metrics.dead_letter(code);
            Ok(())
        }
        Ok(Ok(_)) => Err(BuryError::Refused),
        Ok(Err(error)) => {
            shared.on_refusal(&error);
            Err(error.into())
        }
        Err(_) => Err(BuryError::Slow(patience)),
    }
}

/// Empties `fanfare.ingress.dropped`: counts what expired, keeps the rest.
pub(super) struct Sorter {
    /// What all share.
    pub(super) shared: Arc<Shared>,
    /// Consumes.
    pub(super) channel: Channel,
    /// `None` while nothing can be kept.
    pub(super) consumer: Option<Consumer>,
    /// Publishes dead letters.
    pub(super) graveyard: Channel,
}

impl Sorter {
    /// Until cancelled or broken. What was delivered and not settled is back in its queue then.
    pub(super) async fn run(mut self, cancel: CancellationToken) -> Result<(), SessionError> {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                turned = self.turn() => turned?,
            }
        }
    }

    async fn turn(&mut self) -> Result<(), SessionError> {
        let Some(consumer) = &mut self.consumer else {
            self.shared.until_up().await;
            let patience = self.shared.settings.operation_timeout;
            let declarer = Declarer { channel: &self.channel, patience };
            self.consumer = Some(declarer.consume(DROPPED, DROPPED_PREFETCH).await?);
            return Ok(());
        };
        let Some(delivery) = consumer.next().await else {
            return Err(SessionError::Ended("the queue of dropped messages"));
        };
        let mut delivery = delivery?;
        let acker = delivery.acker.clone();
        let requeue = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
        match self.sort(&mut delivery).await {
            Ok(()) => acker.ack(BasicAckOptions::default()).await.map(drop)?,
            Err(BuryError::Lapin(error)) => return Err(error.into()),
            Err(BuryError::NotTaken) => {
                acker.nack(requeue).await?;
                self.pause().await?;
            }
            Err(error) => {
                self.shared.metrics.failures.inc();
                tracing::warn!(%error, "a dropped message could not be kept yet");
                sleep(PAUSE).await;
                acker.nack(requeue).await?;
            }
        }
        Ok(())
    }

    /// Gives back what is here: an alarm may last for longer than RabbitMQ waits for an acknowledgement.
    async fn pause(&mut self) -> Result<(), SessionError> {
        let Some(mut consumer) = self.consumer.take() else {
            return Ok(());
        };
        self.channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await?;
        while let Some(Some(delivery)) = consumer.next().now_or_never() {
            let requeue = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
            delivery?.acker.nack(requeue).await?;
        }
        Ok(())
    }

    /// Sees to it that nothing is left to be done about it.
    async fn sort(&self, delivery: &mut Delivery) -> Result<(), BuryError> {
        let death = Death::of(&delivery.properties);
        if death.reason == "expired" {
            self.shared.metrics.expired.inc();
            return Ok(());
        }
        let original = original(&death, delivery);
        let judged = if death.reason == REFUSED { self.judge(&original).await } else { None };
        let (code, reason) = match judged {
            Some(Outcome::Done) => return Ok(()),
            Some(Outcome::Dead { code, reason }) => (code, reason),
            Some(Outcome::Later) => return Err(BuryError::NotJudged),
            None => death.explained(),
        };
        bury(&self.shared, &self.graveyard, &original, code, &reason).await
    }

    /// What the node says of a message that it refused before: RabbitMQ did not note why. `None`: it does not say.
    async fn judge(&self, original: &Original) -> Option<Outcome> {
        if *self.shared.health.borrow() != Health::Up {
            return None;
        }
        let (settle, settled) = Settle::new();
        // However long that takes: what the node may yet accept must not be kept as refused meanwhile.
        self.shared.ingress.send(offered(&self.shared, original, settle)).await.ok()?;
        settled.await.ok()
    }
}

/// As it was before it was dropped.
fn original(death: &Death, delivery: &mut Delivery) -> Original {
    let mut properties = std::mem::take(&mut delivery.properties);
    if !death.expiration.is_empty() {
        properties = properties.with_expiration(short(&death.expiration));
    }
    Original {
        lane: lane_of_queue(&death.queue),
        exchange: death.exchange.clone(),
        routing_key: delivery.routing_key.to_string(),
        properties,
        body: Bytes::from(std::mem::take(&mut delivery.data)),
    }
}
