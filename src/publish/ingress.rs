//! Notifications that backends publish into RabbitMQ.
//!
//! Owns the loop from an arrived message to its settling: acknowledged after the commit, put back
//! while the inbox is away (then nothing more is taken until it is there again), or handed to the
//! dead letters with the reason. Nothing waits behind a bad message, nor a message of one lane behind those of
//! another: how many are under way is bounded by the prefetch of each lane, and by nothing that lanes share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::{PublishError, Publishing, Request};
use crate::auth::{Publisher, Publishers};
use crate::broker::{Ingress, Outcome};

/// The longest `message_id`, in bytes: it is an idempotency key.
pub const MAX_KEY_BYTES: usize = 255;

/// Takes ingress until the channel ends or `cancel` fires.
pub async fn run(
    publishing: Arc<Publishing>,
    publishers: Arc<Publishers>,
    mut arrivals: mpsc::Receiver<Ingress>,
    tracker: TaskTracker,
    cancel: CancellationToken,
) {
    loop {
        let arrived = tokio::select! {
            arrived = arrivals.recv() => arrived,
            () = cancel.cancelled() => None,
        };
        let Some(ingress) = arrived else { return };
        let (publishing, publishers) = (Arc::clone(&publishing), Arc::clone(&publishers));
        tracker.spawn(async move {
            take(&publishing, &publishers, ingress).await;
        });
    }
}

async fn take(publishing: &Arc<Publishing>, publishers: &Publishers, ingress: Ingress) {
    let Ingress { lane, body, message_id, expiration, sent_at, user_id, settle, .. } = ingress;
    let request = request(publishers, body, message_id, expiration.as_deref(), user_id.as_deref());
    let request = request.map(|request| Request { sent_at, ..request });
    let outcome = match request {
        Ok(request) => match publishing.publish_from_lane(request, lane).await {
            // Past its time: what the lane itself would have dropped.
            Ok(_) | Err(PublishError::Expired) => Outcome::Done,
            Err(error) if error.is_retryable() => {
                publishing.metrics.ingress_deferred.inc();
                Outcome::Later
            }
            Err(error) => dead(&error),
        },
        Err(outcome) => outcome,
    };
    if let Outcome::Dead { code, .. } = &outcome {
        debug!(error.code = code, "an ingress message is refused");
    }
    settle.settle(outcome);
}

fn dead(error: &PublishError) -> Outcome {
    Outcome::Dead { code: error.code(), reason: error.to_string() }
}

fn refuse(code: &'static str, reason: impl Into<String>) -> Outcome {
    Outcome::Dead { code, reason: reason.into() }
}

/// AMQP properties as a request that was sent now. `message_id` is an idempotency key only if the broker vouches for
/// who sent it.
///
/// # Errors
/// [`Outcome::Dead`] with code `unknown_publisher`, `invalid_idempotency_key` or `invalid_ttl`.
pub fn request(
    publishers: &Publishers,
    json: bytes::Bytes,
    message_id: Option<String>,
    expiration: Option<&str>,
    user_id: Option<&str>,
) -> Result<Request, Outcome> {
    let (publisher, vouched) = publisher(publishers, user_id)?;
    let idempotency_key = message_id.filter(|_| vouched);
    if let Some(key) = &idempotency_key
        && !(1..=MAX_KEY_BYTES).contains(&key.len())
    {
        let reason = format!("message_id must have 1..={MAX_KEY_BYTES} bytes; got {}", key.len());
        return Err(refuse("invalid_idempotency_key", reason));
    }
    if let Some(at) = idempotency_key.as_ref().and_then(|key| key.find('\0')) {
        let reason = format!("message_id must not contain NUL; got one as byte {}", at + 1);
        return Err(refuse("invalid_idempotency_key", reason));
    }
    let default_ttl = expiration.map(ttl).transpose()?;
    Ok(Request { publisher, json, idempotency_key, default_ttl, sent_at: None, source: "amqp" })
}

fn publisher(publishers: &Publishers, user_id: Option<&str>) -> Result<(Publisher, bool), Outcome> {
    match user_id {
        Some(user_id) => {
            publishers.by_user_id(user_id).map(|publisher| (publisher.clone(), true)).ok_or_else(|| {
                refuse("unknown_publisher", format!("no publisher has the AMQP user {user_id:?}"))
            })
        }
        None => publishers.default_publisher().map(|publisher| (publisher.clone(), false)).ok_or_else(|| {
            refuse("unknown_publisher", "the message has no user_id and no default publisher is configured")
        }),
    }
}

/// RabbitMQ's per-message TTL: milliseconds as text.
fn ttl(expiration: &str) -> Result<Duration, Outcome> {
    match expiration.parse::<u64>() {
        Ok(millis) if millis > 0 => Ok(Duration::from_millis(millis)),
        _ => Err(refuse(
            "invalid_ttl",
            format!("expiration must be a number of milliseconds above 0; got {expiration:?}"),
        )),
    }
}
