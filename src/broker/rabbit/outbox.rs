//! What waits to be published, by destination.
//!
//! Owns the bounded outgoing queue: [`Bounds::outgoing_envelopes`](super::settings::Bounds) envelopes or
//! [`Bounds::outgoing_bytes`](super::settings::Bounds) bytes; full, an envelope is not taken
//! (metric `broker_dropped{reason="full"}`). It keeps the order of envelopes to one destination and must never wait.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use crate::broker::Destination;

/// Envelopes that go as one message at most.
const BATCH_ENVELOPES: usize = 64;
/// Bytes that go as one message at most, unless one envelope is larger.
const BATCH_BYTES: usize = 256 * 1024;

/// The outgoing queue.
#[derive(Debug)]
pub(super) struct Outbox {
    waiting: Mutex<Waiting>,
    arrived: Notify,
    max_envelopes: usize,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    queues: HashMap<Destination, VecDeque<Bytes>>,
    /// Destinations with something waiting, the one that waits longest first.
    turns: VecDeque<Destination>,
    envelopes: usize,
    bytes: usize,
}

/// What goes as one message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// To whom.
    pub(super) to: Destination,
    /// The concatenation.
    pub(super) body: Bytes,
    /// Of how many envelopes.
    pub(super) envelopes: usize,
}

/// The queue is full.
#[derive(Debug)]
pub(super) struct Full;

impl Outbox {
    /// An empty queue with these bounds.
    pub(super) fn new(max_envelopes: usize, max_bytes: usize) -> Self {
        Self { waiting: Mutex::default(), arrived: Notify::new(), max_envelopes, max_bytes }
    }

    /// Queues an envelope; [`Full`] if it does not fit.
    pub(super) fn push(&self, to: Destination, envelope: Bytes) -> Result<(), Full> {
        let mut waiting = self.waiting();
        let bytes = waiting.bytes + envelope.len();
        if waiting.envelopes >= self.max_envelopes || bytes > self.max_bytes {
            return Err(Full);
        }
        waiting.envelopes += 1;
        waiting.bytes = bytes;
        if let Some(queue) = waiting.queues.get_mut(&to) {
            queue.push_back(envelope);
        } else {
            waiting.turns.push_back(to.clone());
            waiting.queues.insert(to, VecDeque::from([envelope]));
        }
        drop(waiting);
        self.arrived.notify_one();
        Ok(())
    }

    /// The next message, of the first destination in turn for which `may_go`.
    pub(super) fn pop(&self, may_go: impl Fn(&Destination) -> bool) -> Option<Batch> {
        let mut waiting = self.waiting();
        let turn = waiting.turns.iter().position(may_go)?;
        let to = waiting.turns.remove(turn)?;
        let queue = waiting.queues.get_mut(&to)?;
        let envelopes = batch_length(queue);
        let body = concatenate(queue, envelopes);
        if queue.is_empty() {
            waiting.queues.remove(&to);
        } else {
            waiting.turns.push_back(to.clone());
        }
        waiting.envelopes -= envelopes;
        waiting.bytes -= body.len();
        Some(Batch { to, body, envelopes })
    }

    /// Waits until something was queued since the last look. Cancel safe.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Forgets everything; returns how many envelopes that were.
    pub(super) fn clear(&self) -> usize {
        std::mem::take(&mut *self.waiting()).envelopes
    }

    /// How many envelopes wait.
    pub(super) fn len(&self) -> usize {
        self.waiting().envelopes
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // No code panics with the lock held; if one ever did, the queue is still whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many envelopes at the front go as one message: at least one.
fn batch_length(queue: &VecDeque<Bytes>) -> usize {
    let mut bytes = 0;
    let fitting = queue.iter().take(BATCH_ENVELOPES).take_while(|envelope| {
        bytes += envelope.len();
        bytes <= BATCH_BYTES
    });
    fitting.count().max(1)
}

fn concatenate(queue: &mut VecDeque<Bytes>, envelopes: usize) -> Bytes {
    if envelopes == 1 {
        return queue.pop_front().unwrap_or_default();
    }
    let mut body = BytesMut::new();
    for envelope in queue.drain(..envelopes) {
        body.extend_from_slice(&envelope);
    }
    body.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::NodeId;

    fn node(id: &str) -> Destination {
        Destination::Node(NodeId::new(id).expect("a valid id"))
    }

    #[test]
    fn what_waits_for_one_destination_goes_as_one_message_in_order() {
        let outbox = Outbox::new(10, 100);
        for (to, body) in [("a", "1"), ("b", "x"), ("a", "2")] {
            outbox.push(node(to), Bytes::from(body)).expect("there is room");
        }
        let first = outbox.pop(|_| true).expect("a waits");
        assert_eq!((first.to, first.body), (node("a"), Bytes::from("12")));
        assert_eq!(outbox.pop(|_| true).expect("b waits").envelopes, 1);
        assert_eq!(outbox.pop(|_| true), None);
        assert_eq!(outbox.len(), 0);
    }

    #[test]
    fn a_busy_destination_does_not_hold_back_another() {
        let outbox = Outbox::new(10, 100);
        for to in ["a", "b"] {
            outbox.push(node(to), Bytes::from("1")).expect("there is room");
        }
        let free = outbox.pop(|to| *to != node("a")).expect("b may go");
        assert_eq!(free.to, node("b"));
    }

    #[test]
    fn the_bounds_count_envelopes_and_bytes() {
        let outbox = Outbox::new(2, 10);
        assert!(outbox.push(Destination::All, Bytes::from(vec![0; 11])).is_err());
        for _ in 0..2 {
            outbox.push(Destination::All, Bytes::from("1")).expect("there is room");
        }
        assert!(outbox.push(Destination::All, Bytes::from("1")).is_err());
        assert_eq!(outbox.clear(), 2);
        assert!(outbox.push(Destination::All, Bytes::from("1")).is_ok());
    }

    #[test]
    fn a_message_has_at_most_64_envelopes_and_256_kib_unless_one_envelope_is_larger() {
        let outbox = Outbox::new(1000, 10_000_000);
        for _ in 0..65 {
            outbox.push(node("a"), Bytes::from("1")).expect("there is room");
        }
        assert_eq!(outbox.pop(|_| true).expect("waits").envelopes, 64);
        assert_eq!(outbox.pop(|_| true).expect("waits").envelopes, 1);
        for bytes in [300_000, 200_000, 100_000] {
            outbox.push(node("a"), Bytes::from(vec![0; bytes])).expect("there is room");
        }
        for bytes in [300_000, 200_000, 100_000] {
            assert_eq!(outbox.pop(|_| true).expect("waits").body.len(), bytes);
        }
    }
}
