//! Control requests between nodes, and their answers.
//!
//! Owns both directions: a request goes to `control/<node>` of `fanfare.nodes` with a correlation id, a reply key and
//! the time left as its expiration; the answer comes to `reply/<node>/<boot>`. Unroutable is an answer too: nobody
//! is there. It must never ask twice: what a request does may not be done twice.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicPublishOptions};
use lapin::{BasicProperties, Channel, Confirmation, Consumer};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::shared::{SessionError, Shared};
use super::topology::{NODES, control_key, reply_key, short};
use crate::broker::{ControlError, ControlRequest, Health};
use crate::domain::NodeId;

/// The `type` property of a request.
const REQUEST: &str = "request";
/// The `type` property of an answer.
const REPLY: &str = "reply";
/// Requests in flight from this node; more are not taken (metric `broker_requests{reason="not_taken"}`).
const REQUESTS: usize = 256;
/// Requests of others that this node answers at a time; more wait in the control queue.
const ANSWERS: usize = 256;

/// How requests go out in the current session.
#[derive(Clone)]
pub(super) struct Caller {
    /// In confirm mode, on the publishing connection.
    pub(super) channel: Channel,
    /// Ends with the session.
    pub(super) cancel: CancellationToken,
}

/// Requests that wait for an answer.
#[derive(Debug)]
pub(super) struct Pending {
    answers: Mutex<HashMap<u64, oneshot::Sender<Bytes>>>,
    next: AtomicU64,
    slots: Arc<Semaphore>,
}

impl Default for Pending {
    fn default() -> Self {
        Self { answers: Mutex::default(), next: AtomicU64::new(0), slots: Arc::new(Semaphore::new(REQUESTS)) }
    }
}

impl Pending {
    /// Forgets all requests: their answers cannot come any more.
    pub(super) fn clear(&self) {
        self.with(HashMap::clear);
    }

    fn register(&self) -> (Registered<'_>, oneshot::Receiver<Bytes>) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, arrives) = oneshot::channel();
        self.with(|answers| answers.insert(id, answer));
        (Registered { pending: self, id }, arrives)
    }

    fn complete(&self, id: u64, answer: Bytes) {
        if let Some(waiting) = self.with(|answers| answers.remove(&id)) {
            // Who asked may have given up just now.
            let _ = waiting.send(answer);
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut HashMap<u64, oneshot::Sender<Bytes>>) -> T) -> T {
        change(&mut self.answers.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Forgets its request when dropped.
struct Registered<'a> {
    pending: &'a Pending,
    id: u64,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.pending.with(|answers| answers.remove(&self.id));
    }
}

/// Asks a node; see [`crate::broker::Broker::request`].
pub(super) async fn request(
    shared: &Shared,
    node: &NodeId,
    body: Bytes,
    deadline: Duration,
) -> Result<Bytes, ControlError> {
    if *shared.health.borrow() != Health::Up {
        return Err(ControlError::NotTaken);
    }
    let caller = shared.doors().ok_or(ControlError::NotTaken)?.caller;
    let slot = Arc::clone(&shared.pending.slots).try_acquire_owned().map_err(|_| ControlError::NotTaken)?;
    let (registered, arrives) = shared.pending.register();
    let properties = BasicProperties::default()
        .with_type(short(REQUEST))
        .with_delivery_mode(1)
        .with_correlation_id(short(&registered.id.to_string()))
        .with_reply_to(short(&reply_key(&shared.settings)))
        .with_expiration(short(&deadline.as_millis().to_string()));
    let key = control_key(node);
    let (refuse, refused) = oneshot::channel();
    // Of its own, as the confirm must be awaited even when the request is forgotten: lapin keeps a dropped one for ever.
    shared.tracker.spawn(async move {
        let sending = send(&caller.channel, &key, &body, properties);
        tokio::select! {
            () = caller.cancel.cancelled() => {}
            sent = sending => if let Err(error) = sent {
                // Who asked may have given up just now.
                let _ = refuse.send(error);
            }
        }
        drop(slot);
    });
    let answered = async {
        tokio::select! {
            answer = arrives => answer.map_err(|_| ControlError::NoAnswer),
            Ok(error) = refused => Err(error),
        }
    };
    let answer = timeout(deadline, answered).await;
    drop(registered);
    answer.unwrap_or(Err(ControlError::NoAnswer))
}

async fn send(
    channel: &Channel,
    key: &str,
    body: &[u8],
    properties: BasicProperties,
) -> Result<(), ControlError> {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let confirm = channel
        .basic_publish(short(NODES), short(key), options, body, properties)
        .await
        .map_err(|_| ControlError::NotTaken)?;
    match confirm.await {
        Ok(Confirmation::Ack(None) | Confirmation::NotRequested) => Ok(()),
        // Returned: there is no such queue, so no such node.
        Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_))) => Err(ControlError::NoAnswer),
        Ok(Confirmation::Nack(None)) | Err(_) => Err(ControlError::NotTaken),
    }
}

/// Takes requests and answers off the control queue until cancelled or broken.
pub(super) async fn serve(
    shared: Arc<Shared>,
    mut consumer: Consumer,
    replies: Channel,
    cancel: CancellationToken,
) -> Result<(), SessionError> {
    let mut answering: FuturesUnordered<BoxFuture<'static, Result<(), SessionError>>> =
        FuturesUnordered::new();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            delivery = consumer.next(), if answering.len() < ANSWERS => match delivery {
                Some(Ok(delivery)) => {
                    if let Some(request) = take(&shared, delivery).await? {
                        answering.push(answer(Arc::clone(&shared), replies.clone(), request).boxed());
                    }
                }
                Some(Err(error)) => return Err(error.into()),
                // Deleted under us: the session declares its next one.
                None => return Err(SessionError::Ended("the control queue")),
            },
            Some(answered) = answering.next(), if !answering.is_empty() => answered?,
        }
    }
}

/// Completes an answer, or returns a request.
async fn take(shared: &Shared, delivery: Delivery) -> Result<Option<Delivery>, SessionError> {
    let kind = delivery.properties.kind().as_ref();
    if kind.is_some_and(|kind| kind.as_str() == REQUEST) {
        return Ok(Some(delivery));
    }
    let id = delivery.properties.correlation_id().as_ref();
    if let Some(id) = id.and_then(|id| id.as_str().parse().ok()) {
        delivery.ack(BasicAckOptions::default()).await?;
        shared.pending.complete(id, Bytes::from(delivery.data));
    } else {
        // Not ours; it would come again for ever.
        delivery.ack(BasicAckOptions::default()).await?;
    }
    Ok(None)
}

/// Hands a request to the node and sends its answer back, all before the request's deadline.
async fn answer(shared: Arc<Shared>, replies: Channel, request: Delivery) -> Result<(), SessionError> {
    let left = request.properties.expiration().as_ref();
    let left = left.and_then(|ms| ms.as_str().parse().ok());
    let deadline = Instant::now() + left.map_or(shared.settings.operation_timeout, Duration::from_millis);
    let (answer, arrives) = oneshot::channel();
    let asked = ControlRequest { body: Bytes::from(request.data), answer };
    let taken = timeout_at(deadline, shared.control.send(asked)).await;
    request.acker.ack(BasicAckOptions::default()).await?;
    if !matches!(taken, Ok(Ok(()))) {
        shared.metrics.drop_for("inlet_full", 1);
        return Ok(());
    }
    let Ok(Ok(body)) = timeout_at(deadline, arrives).await else {
        return Ok(());
    };
    let (Some(to), Some(id)) =
        (request.properties.reply_to().clone(), request.properties.correlation_id().clone())
    else {
        return Ok(());
    };
    let left = deadline.saturating_duration_since(Instant::now());
    let properties = BasicProperties::default()
        .with_type(short(REPLY))
        .with_delivery_mode(1)
        .with_correlation_id(id)
        .with_expiration(short(&left.as_millis().to_string()));
    if *shared.health.borrow() == Health::Up {
        reply(&replies, to, &body, properties).await?;
    }
    Ok(())
}

async fn reply(
    replies: &Channel,
    to: lapin::types::ShortString,
    body: &[u8],
    properties: BasicProperties,
) -> Result<(), SessionError> {
    let options = BasicPublishOptions::default();
    let confirm = replies.basic_publish(short(NODES), to, options, body, properties).await?;
    // Who asked has a deadline; whether the answer got there is not ours to repair.
    confirm.await?;
    Ok(())
}
