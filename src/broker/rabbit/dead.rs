//! What can never be accepted, and what the lanes dropped.
//!
//! Owns `fanfare.dead`: a message is published there with its reason, and only a confirm lets the original be
//! acknowledged. It must never copy what RabbitMQ would act upon again: `user_id` (checked against this connection's
//! user), `expiration` (dead letters do not expire), `CC`/`BCC`; they are kept as `fanfare-…` headers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicNackOptions, BasicPublishOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Consumer};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::shared::{SessionError, Shared};
use super::topology::{DEAD, short};
use crate::clock::Clock;

/// The longest text kept in a header, in bytes: all headers must fit one AMQP frame.
const HEADER_BYTES: usize = 1024;
/// Headers of the original that are kept.
const HEADERS: usize = 32;
/// The pause before a dropped message is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// A message as it was published.
#[derive(Debug, Clone)]
pub(super) struct Original {
    /// Where to.
    pub(super) exchange: String,
    /// With which key.
    pub(super) routing_key: String,
    /// As they came.
    pub(super) properties: BasicProperties,
    /// The JSON, or what should have been.
    pub(super) body: Bytes,
}

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
    let properties = epitaph(original, code, reason, &shared.settings.clock);
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
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(BuryError::Slow(patience)),
    }
}

/// The properties of a dead letter.
fn epitaph(original: &Original, code: &str, reason: &str, clock: &Clock) -> BasicProperties {
    let from = &original.properties;
    let mut headers = kept_headers(from.headers().as_ref());
    let mut set = |name: &str, value: &str| {
        headers.insert(short(name), AMQPValue::LongString(shortened(value).into()));
    };
    set("fanfare-reason-code", code);
    set("fanfare-reason", reason);
    set("fanfare-exchange", &original.exchange);
    set("fanfare-routing-key", &original.routing_key);
    if let Some(user) = from.user_id() {
        set("fanfare-user-id", user.as_str());
    }
    if let Some(expiration) = from.expiration() {
        set("fanfare-expiration", expiration.as_str());
    }
    // Requeued and refused again, it keeps the time of its first failure.
    let first_failed = short("fanfare-first-failed-ms");
    if !headers.contains_key(first_failed.as_str()) {
        let now = clock.now().as_i64();
        headers.insert(first_failed, AMQPValue::LongLongInt(now));
    }
    let mut properties = BasicProperties::default().with_delivery_mode(2).with_headers(headers);
    if let Some(id) = from.message_id() {
        properties = properties.with_message_id(id.clone());
    }
    if let Some(kind) = from.content_type() {
        properties = properties.with_content_type(kind.clone());
    }
    if let Some(app) = from.app_id() {
        properties = properties.with_app_id(app.clone());
    }
    if let Some(timestamp) = from.timestamp() {
        properties = properties.with_timestamp(*timestamp);
    }
    properties
}

/// The original's headers that are small and mean nothing to RabbitMQ.
fn kept_headers(headers: Option<&FieldTable>) -> FieldTable {
    let mut kept = FieldTable::default();
    let all = headers.into_iter().flat_map(|headers| headers.inner());
    let small = all.filter(|(name, value)| {
        let routes = matches!(name.as_str(), "CC" | "BCC");
        let small = match value {
            AMQPValue::LongString(text) => text.len() <= HEADER_BYTES,
            AMQPValue::FieldArray(_) | AMQPValue::FieldTable(_) | AMQPValue::ByteArray(_) => false,
            _ => true,
        };
        !routes && small
    });
    for (name, value) in small.take(HEADERS) {
        kept.insert(name.clone(), value.clone());
    }
    kept
}

fn shortened(text: &str) -> &str {
    let mut end = text.len().min(HEADER_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
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
    let death = Death::of(&delivery);
    if death.reason == "expired" {
        shared.metrics.expired.inc();
        delivery.acker.ack(BasicAckOptions::default()).await?;
        return Ok(());
    }
    let (code, reason) = death.explained();
    let original = Original {
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

/// The newest entry of `x-death` (RabbitMQ, "Dead letter exchanges").
struct Death {
    reason: String,
    queue: String,
    exchange: String,
}

impl Death {
    fn of(delivery: &Delivery) -> Self {
        let headers = delivery.properties.headers().as_ref();
        let deaths = headers.and_then(|headers| headers.inner().get("x-death"));
        let newest = match deaths {
            Some(AMQPValue::FieldArray(deaths)) => deaths.as_slice().first(),
            _ => None,
        };
        let read = |name: &str| match newest {
            Some(AMQPValue::FieldTable(death)) => match death.inner().get(name) {
                Some(AMQPValue::LongString(text)) => text.to_string(),
                _ => String::new(),
            },
            _ => String::new(),
        };
        Self { reason: read("reason"), queue: read("queue"), exchange: read("exchange") }
    }

    /// The code and the sentence for operators.
    fn explained(&self) -> (&'static str, String) {
        let queue = &self.queue;
        match self.reason.as_str() {
            "delivery_limit" => {
                ("delivery_limit", format!("{queue} delivered it too often and it was never settled"))
            }
            other => ("dropped", format!("{queue} dropped it: {other:?}")),
        }
    }
}
