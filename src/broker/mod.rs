//! The broker: carries envelopes and control messages between nodes, and takes notifications in.
//!
//! Owns the contract that RabbitMQ ([`rabbit`]) and the embedded twin ([`embedded`]) obey alike; one
//! contract suite runs against both. Between nodes it promises little on purpose: it may drop, double,
//! reorder or delay; the inbox heals all of that. It promises much in two places only: an ingress
//! message stays until it is settled, and a dead letter is kept before its settling is asked for.
//! It must never look into what it carries, and a publisher's answer must never wait for it.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use crate::domain::{NodeId, Priority, UnixMillis};

mod dead_letters;
pub mod embedded;
pub mod rabbit;

pub use dead_letters::{DeadLetter, DeadLetterError, DeadLetters, Graveyard};

/// Whether messages to other nodes get anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Connected, topology declared, consuming.
    Up,
    /// Connected, but the broker takes no messages (memory or disk alarm).
    Blocked,
    /// Not connected.
    Down,
}

/// To whom an envelope goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Destination {
    /// One node (`fanfare.nodes`, key = node id).
    Node(NodeId),
    /// All nodes, the sender included (`fanfare.broadcast`).
    All,
}

/// Why an envelope was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The bounded outgoing queue is full, or the broker is down or blocked: the envelope is dropped
    /// and counted; head checks bring its entries.
    #[error("the broker takes no envelopes now")]
    NotTaken,
}

/// Why a control request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Nobody answered before the deadline, or no such node is there.
    #[error("no answer from the node")]
    NoAnswer,
    /// The request could not be sent.
    #[error("the broker takes no requests now")]
    NotTaken,
}

/// Something that happened, for backends that bind a queue to `fanfare.events`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What makes a repetition known: the same however often it is sent. The AMQP `message_id`; beyond 255 bytes
    /// its end gives way to a hash.
    pub id: String,
    /// Such as `receipt.delivered`; at most 255 bytes.
    pub routing_key: String,
    /// The body.
    pub json: Bytes,
}

/// Why not all events are known to be with the broker. Whatever is not known may be there all the same: emit it again,
/// with the same id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EmitError {
    /// This broker has no exchange for events. Trying again is of no use.
    #[error("this broker has no exchange for events")]
    Unsupported,
    /// The broker is away or blocked, or went away meanwhile.
    #[error("the broker takes no events now")]
    NotTaken,
    /// Not all were confirmed in time.
    #[error("the broker did not confirm all events within {0:?}")]
    Slow(Duration),
    /// The broker refused those with these ids (a bound queue is full and says so); all others are confirmed.
    #[error("the broker refused {} of the events", .0.len())]
    Refused(Vec<String>),
}

/// A control request that arrived from a node; answer it with [`ControlRequest::answer`] or drop it.
#[derive(Debug)]
pub struct ControlRequest {
    /// What is asked (the caller's encoding).
    pub body: Bytes,
    /// Takes the answer.
    pub answer: oneshot::Sender<Bytes>,
}

/// A notification that a backend published, not settled yet.
#[derive(Debug)]
pub struct Ingress {
    /// Its lane.
    pub lane: Priority,
    /// The JSON.
    pub body: Bytes,
    /// AMQP `message_id`: the idempotency key.
    pub message_id: Option<String>,
    /// AMQP `expiration`, verbatim: the TTL in milliseconds, as text (AMQP 0-9-1 and RabbitMQ's TTL page).
    pub expiration: Option<String>,
    /// When it came to RabbitMQ, as far as RabbitMQ or the publisher said.
    pub sent_at: Option<UnixMillis>,
    /// AMQP `user_id`, checked by the broker.
    pub user_id: Option<String>,
    /// The `traceparent` header.
    pub traceparent: Option<String>,
    /// How it ends; dropped without a word, the message goes back to its queue.
    pub settle: Settle,
}

/// How an ingress message ends.
#[derive(Debug)]
pub enum Outcome {
    /// Committed: acknowledge it.
    Done,
    /// Never acceptable: publish it to `fanfare.dead` with the reason, wait for the confirm, then acknowledge it.
    Dead {
        /// A stable code, such as `invalid_json`.
        code: &'static str,
        /// A sentence.
        reason: String,
    },
    /// Not now (the inbox is away): back to the queue.
    Later,
}

/// Settles one ingress message, once.
#[derive(Debug)]
pub struct Settle(Option<oneshot::Sender<Outcome>>);

impl Settle {
    /// A handle and where its outcome arrives (an error there: dropped, so [`Outcome::Later`]).
    pub fn new() -> (Self, oneshot::Receiver<Outcome>) {
        let (outcome, arrives) = oneshot::channel();
        (Self(Some(outcome)), arrives)
    }

    /// Ends it.
    pub fn settle(mut self, outcome: Outcome) {
        if let Some(sender) = self.0.take() {
            // The broker's side is gone only when its channel is: then the message is back in its queue already.
            let _ = sender.send(outcome);
        }
    }
}

/// What arrives at a node. Each channel is bounded; when one is full the broker stops taking from its queue,
/// whose own overflow policy holds (node queue: drop-head; control: reject; ingress: stays).
#[derive(Debug)]
pub struct Inlets {
    /// Envelopes for this node, its own broadcasts included. Bound 256.
    pub envelopes: mpsc::Receiver<Bytes>,
    /// Control requests to this node. Bound 64.
    pub control: mpsc::Receiver<ControlRequest>,
    /// Published notifications. Bounded by the prefetch of the lanes.
    pub ingress: mpsc::Receiver<Ingress>,
}

/// Carries messages.
#[async_trait]
pub trait Broker: Send + Sync {
    /// Hands over an envelope; returns at once and never waits for the broker. What is queued for one
    /// destination while the last publish was in flight goes as one message: the concatenation of the
    /// envelopes, which is itself an envelope.
    fn send(&self, to: Destination, envelope: Bytes) -> Result<(), SendError>;

    /// Asks one node (itself included) and waits for its answer until the deadline. Dropping the future forgets the request.
    async fn request(&self, node: &NodeId, body: Bytes, deadline: Duration) -> Result<Bytes, ControlError>;

    /// Publishes events and waits until the broker has confirmed all of them: at least once, in no order. At most
    /// 250 are in flight; call it with as many as there are. A queue that is bound when an event is confirmed has it; where none is, it is gone.
    ///
    /// # Errors
    /// [`EmitError`], at the deadline at the latest, also while the broker is blocked or away. A broker without an
    /// events exchange (the embedded twin) says [`EmitError::Unsupported`].
    ///
    /// # Cancel safety
    /// Dropped, events may be published or not.
    async fn emit(&self, events: Vec<Event>, deadline: Duration) -> Result<(), EmitError> {
        let _ = (events, deadline);
        Err(EmitError::Unsupported)
    }

    /// Stops (`false`) or resumes (`true`) taking ingress; idempotent. Stopped, messages stay in their queues:
    /// consumers are cancelled and what is unsettled may still be settled. A broker starts stopped.
    fn take_ingress(&self, on: bool);

    /// The health now and at each change. Whenever it says [`Health::Up`] anew, also after it had said so already, envelopes
    /// may have been lost just before: the node's queue had to be replaced.
    fn health(&self) -> watch::Receiver<Health>;

    /// Stops consuming, sends what is queued and closes, all within `deadline`.
    async fn close(&self, deadline: Duration);
}
