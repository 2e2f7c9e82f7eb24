//! What can never be accepted, and what the lanes dropped.
//!
//! Owns the way into `fanfare.dead`: a message is published there with its reason, and only a confirm lets the original
//! be acknowledged.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicNackOptions, BasicPublishOptions};
use lapin::types::ShortString;
use lapin::{Channel, Confirmation, Consumer};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::death::Death;
use super::epitaph::{Original, epitaph};
use super::shared::{SessionError, Shared};
use super::topology::{DEAD, lane_of_queue, short};

/// The pause before a dropped message is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Why a message is not in `fanfare.dead`.
#[derive(Debug, thiserror::Error)]
pub(super) enum BuryError {
    /// The channel is broken.
    #[error(transparent)]
    Lapin(#[from] lapin::Error),
    /// It was refused or came back.
    #[error("{DEAD} did not take it")]
    Refused,
    /// No confirm came.
    #[error("no confirm within {0:?}")]
    Slow(Duration),
}

/// Keeps a message in `fanfare.dead`; returns once that is confirmed.
pub(super) async fn bury(
    shared: &Shared,
    channel: &Channel,
    original: &Original,
    code: &'static str,
    reason: &str,
) -> Result<(), BuryError> {
    shared.until_up().await;
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

/// Empties `fanfare.ingress.dropped`: counts what expired, keeps the rest, until cancelled or broken.
pub(super) async fn sort_dropped(
    shared: Arc<Shared>,
    mut consumer: Consumer,
    graveyard: Channel,
    cancel: CancellationToken,
) -> Result<(), SessionError> {
    loop {
        let delivery = tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            delivery = consumer.next() => delivery,
        };
        let Some(delivery) = delivery else {
            return Err(SessionError::Ended("the queue of dropped messages"));
        };
        let delivery = delivery?;
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            sorted = sort(&shared, delivery, &graveyard) => sorted?,
        }
    }
}

async fn sort(shared: &Shared, delivery: Delivery, graveyard: &Channel) -> Result<(), SessionError> {
    let death = Death::of(&delivery.properties);
    if death.reason == "expired" {
        shared.metrics.expired.inc();
        delivery.acker.ack(BasicAckOptions::default()).await?;
        return Ok(());
    }
    let (code, reason) = death.explained();
    let original = Original {
        lane: lane_of_queue(&death.queue),
        exchange: death.exchange,
        routing_key: delivery.routing_key.to_string(),
        properties: delivery.properties,
        body: Bytes::from(delivery.data),
    };
    match bury(shared, graveyard, &original, code, &reason).await {
        Ok(()) => {
            delivery.acker.ack(BasicAckOptions::default()).await?;
        }
        Err(BuryError::Lapin(error)) => return Err(error.into()),
        Err(error) => {
            shared.metrics.failures.inc();
            tracing::warn!(%error, "a dropped message could not be kept yet");
            sleep(PAUSE).await;
            let requeue = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
            delivery.acker.nack(requeue).await?;
        }
    }
    Ok(())
}
