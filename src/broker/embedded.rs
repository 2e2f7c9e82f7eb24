//! The broker of one process: the twin of RabbitMQ for the default, embedded node.
//!
//! Owns a bus that nodes of one process join. It obeys the contract of [`super::Broker`] and shows the same
//! drops: an inlet that is full loses envelopes and counts them. It must never wait for a
//! receiver. Production joins one node and publishes no ingress; tests join several and publish.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{
    Broker, ControlError, ControlRequest, DeadLetterError, DeadLetters, Destination, Graveyard, Health,
    Ingress, Inlets, Outcome, SendError, Settle,
};
use crate::domain::{NodeId, Priority};
use crate::metrics::broker::BrokerMetrics;

/// Bound of the envelope inlet; full, envelopes are dropped and counted (`inlet_full`).
const ENVELOPES: usize = 256;
/// Bound of the control inlet; full, requests are not taken.
const CONTROL: usize = 64;
/// Bound of the ingress inlet; full, messages stay with their publishers.
const INGRESS: usize = 256;
/// How long a message settled as [`Outcome::Later`] rests, so that it does not spin.
const REST: Duration = Duration::from_millis(50);

/// A message as a backend publishes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Its lane.
    pub lane: Priority,
    /// The JSON.
    pub body: Bytes,
    /// The idempotency key.
    pub message_id: Option<String>,
    /// The TTL in milliseconds, as text.
    pub expiration: Option<String>,
    /// Who published it.
    pub user_id: Option<String>,
    /// The trace context.
    pub traceparent: Option<String>,
}

impl Published {
    /// A message with nothing but a body.
    pub fn new(lane: Priority, body: impl Into<Bytes>) -> Self {
        Self { lane, body: body.into(), message_id: None, expiration: None, user_id: None, traceparent: None }
    }
}

/// A message that was refused for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// What was published.
    pub message: Published,
    /// The stable code of the reason.
    pub code: &'static str,
    /// The reason, a sentence.
    pub reason: String,
}

/// How a published message ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Committed.
    Done,
    /// Refused for good; kept in [`EmbeddedBus::dead_letters`].
    Dead(DeadLetter),
    /// Nobody took it before its expiration.
    Expired,
}

/// What nodes of one process share. Clones are the same bus.
#[derive(Debug, Clone)]
pub struct EmbeddedBus(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Changes whenever somebody may take ingress who did not before.
    takers: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    nodes: HashMap<NodeId, Member>,
    joined: u64,
    dead: Vec<DeadLetter>,
}

#[derive(Debug)]
struct Member {
    joined: u64,
    envelopes: mpsc::Sender<Bytes>,
    control: mpsc::Sender<ControlRequest>,
    ingress: mpsc::Sender<Ingress>,
    takes_ingress: bool,
    metrics: BrokerMetrics,
}

impl EmbeddedBus {
    /// A bus that nobody joined.
    pub fn new() -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), takers: watch::Sender::new(0) }))
    }

    /// Joins as `node`; who joined under that id before gets nothing any more.
    pub fn join(&self, node: NodeId, metrics: BrokerMetrics) -> (EmbeddedBroker, Inlets) {
        let (envelopes, envelopes_arrive) = mpsc::channel(ENVELOPES);
        let (control, control_arrives) = mpsc::channel(CONTROL);
        let (ingress, ingress_arrives) = mpsc::channel(INGRESS);
        metrics.up.set(1);
        metrics.sessions.inc();
        let mut state = self.state();
        state.joined += 1;
        let joined = state.joined;
        let member =
            Member { joined, envelopes, control, ingress, takes_ingress: false, metrics: metrics.clone() };
        state.nodes.insert(node.clone(), member);
        drop(state);
        let broker = EmbeddedBroker {
            bus: self.clone(),
            node,
            joined,
            health: watch::Sender::new(Health::Up),
            metrics,
        };
        let inlets =
            Inlets { envelopes: envelopes_arrive, control: control_arrives, ingress: ingress_arrives };
        (broker, inlets)
    }

    /// Publishes a notification as a backend would, and waits until a node settled it for good; it is offered
    /// again after [`Outcome::Later`], and expires only while nobody has it.
    ///
    /// # Cancel safety
    /// Dropped, the message is offered no more; a node that has it may still settle it.
    pub async fn publish(&self, message: Published) -> Fate {
        let mut takers = self.0.takers.subscribe();
        let ttl = message.expiration.as_deref().and_then(|ms| ms.parse().ok());
        let expires = ttl.map(|ms| Instant::now() + Duration::from_millis(ms));
        loop {
            takers.mark_unchanged();
            let Some((metrics, settled)) = self.offer(&message) else {
                if !changed_before(&mut takers, expires).await {
                    return self.expired();
                }
                continue;
            };
            let lane = message.lane.as_str();
            match settled.await.unwrap_or(Outcome::Later) {
                Outcome::Done => {
                    metrics.settled(lane, "done");
                    return Fate::Done;
                }
                Outcome::Dead { code, reason } => {
                    metrics.settled(lane, "dead");
                    metrics.dead_letter(code);
                    let letter = DeadLetter { message, code, reason };
                    self.state().dead.push(letter.clone());
                    return Fate::Dead(letter);
                }
                Outcome::Later => {
                    metrics.settled(lane, "later");
                    sleep(REST).await;
                }
            }
        }
    }

    /// What was refused for good, oldest first.
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        self.state().dead.clone()
    }

    /// Gives the message to a node that takes ingress and has room.
    fn offer(&self, message: &Published) -> Option<(BrokerMetrics, oneshot::Receiver<Outcome>)> {
        let state = self.state();
        let mut takers = state.nodes.values().filter(|member| member.takes_ingress);
        takers.find_map(|member| {
            let (settle, settled) = Settle::new();
            let ingress = Ingress {
                lane: message.lane,
                body: message.body.clone(),
                message_id: message.message_id.clone(),
                expiration: message.expiration.clone(),
                sent_at: None,
                user_id: message.user_id.clone(),
                traceparent: message.traceparent.clone(),
                settle,
            };
            member.ingress.try_send(ingress).ok()?;
            Some((member.metrics.clone(), settled))
        })
    }

    fn expired(&self) -> Fate {
        if let Some(member) = self.state().nodes.values().next() {
            member.metrics.expired.inc();
        }
        Fate::Expired
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics with the lock held; if one ever did, the maps are still whole.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for EmbeddedBus {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether another taker came (or the inlets may have room again) before `expires`.
async fn changed_before(takers: &mut watch::Receiver<u64>, expires: Option<Instant>) -> bool {
    // A full inlet tells nobody when it has room: look again after a rest.
    let again = Instant::now() + REST;
    let until = expires.map_or(again, |expires| expires.min(again));
    tokio::select! {
        changed = takers.changed() => changed.is_ok(),
        () = sleep_until(until) => expires.is_none_or(|expires| Instant::now() < expires),
    }
}

impl Member {
    fn deliver(&self, envelope: Bytes) {
        match self.envelopes.try_send(envelope) {
            Ok(()) => {
                self.metrics.arrived.inc();
            }
            Err(_) => self.metrics.drop_for("inlet_full", 1),
        }
    }
}

/// One node's end of an [`EmbeddedBus`].
#[derive(Debug)]
pub struct EmbeddedBroker {
    bus: EmbeddedBus,
    node: NodeId,
    joined: u64,
    health: watch::Sender<Health>,
    metrics: BrokerMetrics,
}

#[async_trait]
impl Broker for EmbeddedBroker {
    fn send(&self, to: Destination, envelope: Bytes) -> Result<(), SendError> {
        if *self.health.borrow() == Health::Down {
            self.metrics.drop_for("down", 1);
            return Err(SendError::NotTaken);
        }
        self.metrics.envelopes.inc();
        self.metrics.messages.inc();
        let state = self.bus.state();
        match to {
            Destination::All => {
                for member in state.nodes.values() {
                    member.deliver(envelope.clone());
                }
            }
            Destination::Node(node) => match state.nodes.get(&node) {
                Some(member) => member.deliver(envelope),
                None => {
                    self.metrics.unroutable.inc();
                }
            },
        }
        Ok(())
    }

    async fn request(&self, node: &NodeId, body: Bytes, deadline: Duration) -> Result<Bytes, ControlError> {
        let answer = self.ask(node, body, deadline).await;
        self.metrics.request_ended(match &answer {
            Ok(_) => "answered",
            Err(ControlError::NoAnswer) => "no_answer",
            Err(ControlError::NotTaken) => "not_taken",
        });
        answer
    }

    fn take_ingress(&self, on: bool) {
        let mut state = self.bus.state();
        if let Some(member) = self.own_member(&mut state) {
            member.takes_ingress = on;
        }
        drop(state);
        self.bus.0.takers.send_modify(|change| *change += 1);
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    async fn close(&self, _deadline: Duration) {
        let mut state = self.bus.state();
        if self.own_member(&mut state).is_some() {
            state.nodes.remove(&self.node);
        }
        drop(state);
        self.metrics.up.set(0);
        self.health.send_replace(Health::Down);
    }
}

/// Nobody publishes over AMQP to an embedded node, so there is never a dead letter.
#[async_trait]
impl Graveyard for EmbeddedBroker {
    async fn list(&self, after: Option<&str>, _limit: usize) -> Result<DeadLetters, DeadLetterError> {
        after.map_or_else(|| Ok(DeadLetters::default()), |after| Err(unknown(after)))
    }

    async fn find(&self, id: &str) -> Result<(super::DeadLetter, Bytes), DeadLetterError> {
        Err(unknown(id))
    }

    async fn requeue(&self, id: &str) -> Result<super::DeadLetter, DeadLetterError> {
        Err(unknown(id))
    }

    async fn delete(&self, id: &str) -> Result<super::DeadLetter, DeadLetterError> {
        Err(unknown(id))
    }
}

fn unknown(id: &str) -> DeadLetterError {
    DeadLetterError::Unknown(id.to_owned())
}

impl EmbeddedBroker {
    async fn ask(&self, node: &NodeId, body: Bytes, deadline: Duration) -> Result<Bytes, ControlError> {
        if *self.health.borrow() == Health::Down {
            return Err(ControlError::NotTaken);
        }
        let (answer, arrives) = oneshot::channel();
        {
            let state = self.bus.state();
            let member = state.nodes.get(node).ok_or(ControlError::NoAnswer)?;
            let request = ControlRequest { body, answer };
            member.control.try_send(request).map_err(|refused| match refused {
                mpsc::error::TrySendError::Full(_) => ControlError::NotTaken,
                mpsc::error::TrySendError::Closed(_) => ControlError::NoAnswer,
            })?;
        }
        match timeout(deadline, arrives).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) | Err(_) => Err(ControlError::NoAnswer),
        }
    }

    /// This node's entry, unless a later one joined under its id.
    fn own_member<'state>(&self, state: &'state mut State) -> Option<&'state mut Member> {
        let member = state.nodes.get_mut(&self.node)?;
        (member.joined == self.joined).then_some(member)
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        // A node that vanished is not routable; its inlets may live on.
        let mut state = self.bus.state();
        if self.own_member(&mut state).is_some() {
            state.nodes.remove(&self.node);
        }
    }
}
