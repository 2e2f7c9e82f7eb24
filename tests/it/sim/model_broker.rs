//! The model of the broker: an exchange that drops, doubles, delays and reorders envelopes.
//!
//! It promises as little as `fanfare::broker` allows. Envelopes for one node may travel as one message.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use fanfare::broker::{Broker, ControlError, ControlRequest, Destination, Health, Inlets, SendError};
use fanfare::domain::NodeId;
use tokio::sync::{mpsc, oneshot, watch};

use super::plan::{Plan, Plant};
use super::stage::Stage;

/// One node's queues.
struct Queues {
    envelopes: mpsc::Sender<Bytes>,
    control: mpsc::Sender<ControlRequest>,
}

#[derive(Default)]
struct Inner {
    nodes: BTreeMap<NodeId, Queues>,
    messages: u64,
    /// What is about to travel, and the last message of each route: more may go with it.
    leaving: BTreeMap<u64, BytesMut>,
    open: BTreeMap<(NodeId, NodeId), u64>,
    away: bool,
}

/// What all nodes are connected to. Clones are the same exchange.
#[derive(Clone)]
pub struct Exchange {
    stage: Stage,
    plan: Plan,
    inner: Arc<Mutex<Inner>>,
    health: watch::Sender<Health>,
}

impl Exchange {
    pub fn new(stage: Stage, plan: Plan) -> Self {
        Self { stage, plan, inner: Arc::default(), health: watch::Sender::new(Health::Up) }
    }

    /// A node's queues, new.
    pub fn join(&self, node: &NodeId) -> (ModelBroker, Inlets) {
        let ((envelopes, arriving), (control, asked), (_, ingress)) =
            (mpsc::channel(256), mpsc::channel(64), mpsc::channel(1));
        self.lock().nodes.insert(node.clone(), Queues { envelopes, control });
        let broker = ModelBroker { exchange: self.clone(), node: node.clone() };
        (broker, Inlets { envelopes: arriving, control: asked, ingress })
    }

    /// A node's queues are exclusive: they go with it, and what is in them.
    pub fn leave(&self, node: &NodeId) {
        self.lock().nodes.remove(node);
    }

    /// The broker goes away, with all that is in its transient queues, or comes back.
    pub fn set_away(&self, away: bool) {
        self.stage.say(format_args!("broker: away {away}"));
        let mut inner = self.lock();
        inner.away = away;
        inner.leaving.clear();
        drop(inner);
        if self.plan.plant != Plant::SilentOutage {
            self.health.send_replace(if away { Health::Down } else { Health::Up });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic under it")
    }

    fn carry(&self, from: &NodeId, to: &NodeId, envelope: &Bytes) {
        let weather = self.plan.weather;
        if self.stage.is_faulty() && self.stage.chance(weather.lost) {
            return self.stage.say(format_args!("broker: lost {from} to {to}"));
        }
        let copies = if self.stage.chance(5) { 2 } else { 1 };
        for _ in 0..copies {
            let route = (from.clone(), to.clone());
            let mut inner = self.lock();
            if let Some(number) = inner.open.get(&route).copied()
                && let Some(waiting) = inner.leaving.get_mut(&number)
                && self.stage.chance(50)
            {
                waiting.extend_from_slice(envelope);
                continue;
            }
            inner.messages += 1;
            let number = inner.messages;
            inner.open.insert(route, number);
            inner.leaving.insert(number, BytesMut::from(&envelope[..]));
            drop(inner);
            self.depart(number, to.clone());
        }
    }

    /// Sends the message after a moment and delivers it after another: messages overtake each other.
    fn depart(&self, number: u64, to: NodeId) {
        let exchange = self.clone();
        tokio::spawn(async move {
            exchange.stage.pause(0..=3).await;
            let Some(message) = exchange.lock().leaving.remove(&number) else { return };
            exchange.stage.trip().await;
            let (queue, away) = {
                let inner = exchange.lock();
                (inner.nodes.get(&to).map(|queues| queues.envelopes.clone()), inner.away)
            };
            let Some(queue) = queue.filter(|_| !away) else { return };
            exchange.stage.say(format_args!("broker: message {number} to {to}, {} bytes", message.len()));
            let _ = queue.send(message.freeze()).await;
        });
    }
}

/// One node's connection to it.
pub struct ModelBroker {
    exchange: Exchange,
    node: NodeId,
}

#[async_trait]
impl Broker for ModelBroker {
    fn send(&self, to: Destination, envelope: Bytes) -> Result<(), SendError> {
        let targets: Vec<NodeId> = {
            let inner = self.exchange.lock();
            if inner.away && self.exchange.plan.plant != Plant::SilentOutage {
                return Err(SendError::NotTaken);
            }
            match to {
                _ if inner.away || !inner.nodes.contains_key(&self.node) => Vec::new(),
                Destination::Node(node) => vec![node],
                Destination::All => inner.nodes.keys().cloned().collect(),
            }
        };
        targets.iter().for_each(|target| self.exchange.carry(&self.node, target, &envelope));
        Ok(())
    }

    async fn request(&self, node: &NodeId, body: Bytes, deadline: Duration) -> Result<Bytes, ControlError> {
        self.exchange.stage.trip().await;
        let control = {
            let inner = self.exchange.lock();
            if inner.away {
                return Err(ControlError::NotTaken);
            }
            inner.nodes.get(node).map(|queues| queues.control.clone()).ok_or(ControlError::NoAnswer)?
        };
        let (answer, arrives) = oneshot::channel();
        let request = ControlRequest { body, answer };
        control.try_send(request).map_err(|_| ControlError::NotTaken)?;
        let answered = tokio::time::timeout(deadline, arrives).await;
        answered.ok().and_then(Result::ok).ok_or(ControlError::NoAnswer)
    }

    fn take_ingress(&self, _: bool) {}

    fn health(&self) -> watch::Receiver<Health> {
        self.exchange.health.subscribe()
    }

    async fn close(&self, _: Duration) {}
}
