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
use fanfare::wire::envelope::Item;
use tokio::sync::{mpsc, oneshot, watch};

use super::freeze::Freezer;
use super::plan::{Plan, Plant};
use super::stage::Stage;

/// One node's queues.
struct Queues {
    freezer: Freezer,
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

/// What a message of a route needs to get out and in.
struct Way {
    from: Freezer,
    to: NodeId,
}

/// What nodes know of the broker.
struct Healths {
    now: Health,
    told: Vec<watch::Sender<Health>>,
}

/// What all nodes are connected to. Clones are the same exchange.
#[derive(Clone)]
pub struct Exchange {
    stage: Stage,
    plan: Plan,
    inner: Arc<Mutex<Inner>>,
    health: Arc<Mutex<Healths>>,
    /// The memory alarm: nothing goes through while this is on.
    alarm: Freezer,
}

impl Exchange {
    pub fn new(stage: Stage, plan: Plan) -> Self {
        Self {
            stage,
            plan,
            inner: Arc::default(),
            health: Arc::new(Mutex::new(Healths { now: Health::Up, told: Vec::new() })),
            alarm: Freezer::new(),
        }
    }

    /// A node's queues, new.
    pub fn join(&self, node: &NodeId, freezer: &Freezer) -> (ModelBroker, Inlets) {
        let ((envelopes, arriving), (control, asked), (_, ingress)) =
            (mpsc::channel(256), mpsc::channel(64), mpsc::channel(1));
        let queues = Queues { freezer: freezer.clone(), envelopes, control };
        self.lock().nodes.insert(node.clone(), queues);
        let broker = ModelBroker { exchange: self.clone(), node: node.clone(), freezer: freezer.clone() };
        (broker, Inlets { envelopes: arriving, control: asked, ingress })
    }

    /// A node's queues are exclusive: they go with it, and what is in them.
    pub fn leave(&self, node: &NodeId) {
        self.lock().nodes.remove(node);
    }

    /// The broker goes away, with all that is in its transient queues, or comes back.
    pub fn set_away(&self, away: bool) {
        {
            let mut inner = self.lock();
            // One that was never away loses nothing, and nobody hears that it is back.
            if inner.away == away {
                return;
            }
            inner.away = away;
            inner.leaving.clear();
        }
        self.stage.say(format_args!("broker: away {away}"));
        let health = if away { Health::Down } else { Health::Up };
        match self.plan.plant {
            Plant::SilentOutage => {}
            Plant::UnnoticedOutage if away => self.say(health, false),
            _ => self.say(health, true),
        }
    }

    /// The memory alarm goes on or off. What is under way waits; some nodes know of it, new messages do not.
    pub fn set_blocked(&self, blocked: bool) {
        if self.alarm.is_frozen() == blocked {
            return;
        }
        self.stage.say(format_args!("broker: blocked {blocked}"));
        self.alarm.set(blocked);
        self.say(if blocked { Health::Blocked } else { Health::Up }, true);
    }

    fn say(&self, health: Health, loud: bool) {
        let mut healths = self.health.lock().expect("no panic under it");
        healths.now = health;
        for told in &healths.told {
            told.send_if_modified(|now| {
                *now = health;
                loud
            });
        }
    }

    /// A channel for each who asks: one for all wakes those who wait in another order each time, and runs would not replay.
    fn hear(&self) -> watch::Receiver<Health> {
        let mut healths = self.health.lock().expect("no panic under it");
        healths.told.retain(|told| !told.is_closed());
        let (told, hears) = watch::channel(healths.now);
        healths.told.push(told);
        hears
    }

    /// Waits until the broker confirms again.
    pub async fn confirms(&self) {
        self.alarm.thawed().await;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic under it")
    }

    fn carry(&self, from: &NodeId, out: &Freezer, to: &NodeId, envelope: &Bytes) {
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
            self.depart(number, Way { from: out.clone(), to: to.clone() });
        }
    }

    /// Sends the message after a moment and delivers it after another: messages overtake each other.
    fn depart(&self, number: u64, way: Way) {
        let exchange = self.clone();
        tokio::spawn(async move {
            exchange.stage.pause(0..=3).await;
            way.from.thawed().await;
            let Some(message) = exchange.lock().leaving.remove(&number) else {
                return;
            };
            exchange.stage.trip().await;
            exchange.alarm.thawed().await;
            let into = exchange.lock().nodes.get(&way.to).map(|queues| queues.freezer.clone());
            if let Some(freezer) = into {
                freezer.thawed().await;
            }
            let (queue, away) = {
                let inner = exchange.lock();
                (inner.nodes.get(&way.to).map(|queues| queues.envelopes.clone()), inner.away)
            };
            let Some(queue) = queue.filter(|_| !away) else {
                return;
            };
            let to = &way.to;
            exchange.stage.say(format_args!("broker: message {number} to {to}, {} bytes", message.len()));
            let _ = queue.send(message.freeze()).await;
        });
    }
}

/// One node's connection to it.
pub struct ModelBroker {
    exchange: Exchange,
    node: NodeId,
    freezer: Freezer,
}

/// Whether it only says where streams stand: what a replayed key sends.
fn is_heads(envelope: &Bytes) -> bool {
    matches!(Item::decode(&mut envelope.clone()), Ok(Some(Item::Heads(_))))
}

#[async_trait]
impl Broker for ModelBroker {
    fn send(&self, to: Destination, envelope: Bytes) -> Result<(), SendError> {
        if self.exchange.alarm.is_frozen() && self.exchange.stage.chance(70) {
            return Err(SendError::NotTaken);
        }
        if self.exchange.plan.plant == Plant::SilentReplay && is_heads(&envelope) {
            return Ok(());
        }
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
        let out = &self.freezer;
        targets.iter().for_each(|target| self.exchange.carry(&self.node, out, target, &envelope));
        Ok(())
    }

    async fn request(&self, node: &NodeId, body: Bytes, deadline: Duration) -> Result<Bytes, ControlError> {
        self.freezer.thawed().await;
        let asked = String::from_utf8_lossy(&body);
        self.exchange.stage.say(format_args!("broker: {} asks {node} {asked}", self.node));
        self.exchange.stage.trip().await;
        if self.exchange.alarm.is_frozen() {
            return Err(ControlError::NotTaken);
        }
        let (control, freezer) = {
            let inner = self.exchange.lock();
            if inner.away {
                return Err(ControlError::NotTaken);
            }
            let queues = inner.nodes.get(node).ok_or(ControlError::NoAnswer)?;
            (queues.control.clone(), queues.freezer.clone())
        };
        let (answer, arrives) = oneshot::channel();
        tokio::spawn(async move {
            freezer.thawed().await;
            // A node that is gone answers nothing.
            drop(control.try_send(ControlRequest { body, answer }));
        });
        let answered = tokio::time::timeout(deadline, arrives).await;
        answered.ok().and_then(Result::ok).ok_or(ControlError::NoAnswer)
    }

    fn take_ingress(&self, _: bool) {}

    fn health(&self) -> watch::Receiver<Health> {
        self.exchange.hear()
    }

    async fn close(&self, _: Duration) {}
}
