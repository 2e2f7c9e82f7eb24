//! Events for backends, on `fanfare.events`.
//!
//! Owns the channel that they go by, and one task a session that publishes them and waits for the confirms. An event that
//! nobody has bound a queue for is confirmed and gone: that is what a topic exchange is for. It must never publish
//! under an alarm, and never keep anybody waiting beyond a deadline; what was given up may still arrive.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::shared::{SessionError, Shared};
use super::topology::{EVENTS, short};
use crate::broker::{EmitError, Event, Health};

/// Calls that wait for their turn; more wait at the door, each until its own deadline.
pub(super) const WAITING: usize = 16;
/// Calls whose confirms are awaited at a time.
const FLIGHTS: usize = 4;
/// Unconfirmed events of one call.
const WINDOW: usize = 250;
/// The longest `message_id`: an AMQP short string.
const MAX_ID_BYTES: usize = 255;

/// Events on their way to the task of the session.
pub(super) struct Emission {
    events: Vec<Event>,
    /// Takes the ids that were refused; dropped, nobody knows.
    done: oneshot::Sender<Vec<String>>,
}

/// Publishes events; see [`crate::broker::Broker::emit`].
pub(super) async fn emit(shared: &Shared, events: Vec<Event>, deadline: Duration) -> Result<(), EmitError> {
    if events.is_empty() {
        return Ok(());
    }
    if *shared.health.borrow() != Health::Up {
        return Err(EmitError::NotTaken);
    }
    let doors = shared.doors().ok_or(EmitError::NotTaken)?;
    let (done, confirmed) = oneshot::channel();
    let emitting = async {
        doors.events.send(Emission { events, done }).await.map_err(|_| EmitError::NotTaken)?;
        confirmed.await.map_err(|_| EmitError::NotTaken)
    };
    match timeout(deadline, emitting).await {
        Ok(Ok(refused)) if refused.is_empty() => Ok(()),
        Ok(Ok(refused)) => Err(EmitError::Refused(refused)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(EmitError::Slow(deadline)),
    }
}

/// Publishes what comes through the door until cancelled or broken.
pub(super) async fn publish_events(
    shared: Arc<Shared>,
    channel: Channel,
    mut emissions: mpsc::Receiver<Emission>,
    cancel: CancellationToken,
) -> Result<(), SessionError> {
    let mut flights = FuturesUnordered::new();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            Some(emission) = emissions.recv(), if flights.len() < FLIGHTS => {
                flights.push(fly(&shared, &channel, emission));
            }
            Some(landed) = flights.next(), if !flights.is_empty() => landed?,
        }
    }
}

async fn fly(shared: &Shared, channel: &Channel, emission: Emission) -> Result<(), SessionError> {
    let Emission { events, done } = emission;
    let mut refused = Vec::new();
    for group in events.chunks(WINDOW) {
        // Who asked has given up, and asks again: what is not sent yet need not be sent twice.
        if done.is_closed() {
            return Ok(());
        }
        let confirmations = join_all(group.iter().map(|event| publish(channel, event))).await;
        for (event, confirmation) in group.iter().zip(confirmations) {
            let taken = matches!(confirmation?, Some(Confirmation::Ack(_)));
            shared.metrics.event_ended(if taken { "confirmed" } else { "refused" });
            if !taken {
                refused.push(event.id.clone());
            }
        }
    }
    // Who asked may have given up just now.
    let _ = done.send(refused);
    Ok(())
}

/// `None` for what AMQP cannot carry.
async fn publish(channel: &Channel, event: &Event) -> lapin::Result<Option<Confirmation>> {
    let Ok(routing_key) = ShortString::try_new(event.routing_key.as_str()) else {
        return Ok(None);
    };
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type(short("application/json"))
        .with_message_id(message_id(&event.id));
    // Not mandatory: that nobody listens is no failure.
    let options = BasicPublishOptions::default();
    let confirm = channel.basic_publish(short(EVENTS), routing_key, options, &event.json, properties).await?;
    Ok(Some(confirm.await?))
}

/// The id itself, or, where a short string cannot hold it, its beginning and its SHA-256: the same however often.
fn message_id(id: &str) -> ShortString {
    if id.len() <= MAX_ID_BYTES {
        return short(id);
    }
    let hash = Sha256::digest(id);
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut end = MAX_ID_BYTES - 1 - hash.len();
    while !id.is_char_boundary(end) {
        end -= 1;
    }
    short(&format!("{}~{hash}", &id[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_id_becomes_a_short_string_that_is_its_own() {
        assert_eq!(message_id("presence/alice/7").as_str(), "presence/alice/7");
        let long = |last: char| format!("receipt.delivered/{}{last}", "é".repeat(150));
        let (one, other) = (message_id(&long('1')), message_id(&long('2')));
        assert!(one.as_str().len() <= MAX_ID_BYTES && one.as_str().starts_with("receipt.delivered/é"));
        assert_ne!(one, other);
        assert_eq!(one, message_id(&long('1')));
    }
}
