//! One simulated device: it connects, reads, acknowledges, wanders from node to node.
//!
//! Its moods come from the stage. What it gets goes to its [`Witness`]; it decides nothing about right
//! and wrong itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fanfare::delivery::{Attach, Connection};
use fanfare::domain::{DeviceId, Seq, Stream, TopicName, UserId};
use fanfare::wire::client::ResumeAt;
use fanfare::wire::{AckMode, CloseCode, Hello};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::line::{Line, Sent};
use super::node::Node;
use super::plan::Plan;
use super::publisher;
use super::scenario::World;
use super::stage::{Kind, Stage};
use super::throng::claims;
use super::visit::{Visit, brief, json};
use super::witness::{Witness, number, text};

/// How long a client waits for a node to take it, and for anything at all to arrive (three heartbeats).
const PATIENCE: Duration = Duration::from_secs(8);
const SILENCE: Duration = Duration::from_secs(13);

/// The nodes that are up.
pub type Nodes = Arc<Mutex<BTreeMap<u64, Node>>>;

/// One device of one user, or a client that names none.
pub struct Device {
    pub world: Arc<World>,
    pub stage: Stage,
    pub plan: Plan,
    /// Its place in the ledger.
    pub holder: usize,
    pub user: UserId,
    pub device: Option<DeviceId>,
    pub ack: AckMode,
    /// Topics that it wants to follow now.
    pub following: BTreeSet<TopicName>,
    pub connections: u64,
}

impl Device {
    /// Comes and goes for ever.
    pub async fn live(mut self) {
        self.stage.pause(0..=4_000).await;
        loop {
            let node = {
                let nodes = self.world.nodes.lock().expect("no panic under it");
                let all: Vec<&Node> = nodes.values().collect();
                (!all.is_empty()).then(|| (*self.stage.one_of(&all)).clone())
            };
            if let Some(node) = node {
                self.visit(&node).await;
            }
            let away = match () {
                () if self.stage.quiet().is_cancelled() => 5..=300,
                () if self.stage.chance(30) => 0..=5,
                () => 5..=3_000,
            };
            tokio::select! {
                biased;
                () = self.stage.pause(away) => {}
                () = self.stage.quiet().cancelled(), if !self.stage.quiet().is_cancelled() => {}
            }
        }
    }

    async fn visit(&mut self, node: &Node) {
        self.connections += 1;
        let name = self.name();
        let hello = self.hello();
        let resumed = hello.resume.keys().cloned().collect::<Vec<_>>();
        self.stage.say(format_args!("{name}: to {} with {resumed:?}", node.id));
        let high_water = self.stage.pick(2..=40) as usize;
        let line = Arc::new(Line::new(high_water, node.freezer.clone(), node.clock.clone()));
        let mut witness = Witness {
            stage: self.stage.clone(),
            ledger: Arc::clone(&self.world.shared.store.ledger),
            name,
            holder: self.holder,
            user: self.user.clone(),
            anonymous: self.device.is_none(),
            window: (self.ack == AckMode::Manual).then_some(self.world.shared.window.entries),
            stale_after: self.plan.stale_after,
            resumed: Vec::new(),
            standing: BTreeMap::new(),
            left: BTreeMap::new(),
        };
        witness.resumed = resumed.iter().map(|name| witness.stream(name)).collect();
        self.world.shared.store.lock().follows.remove(&self.holder);
        publisher::rush(&self.world, &Stream::User(self.user.clone()), 80);
        if let Some(connection) = self.connect(node, hello, &line).await {
            self.stay(Visit::new(line, connection, witness, node.freezer.clone()), node).await;
        }
        self.world.shared.store.lock().open.remove(&self.holder);
    }

    /// In a task of its own, as the gateway does it; an attach that fails closes its socket. A node that stands
    /// still finds the client waiting at its door when it goes on, though the client may have gone by then.
    async fn connect(&self, node: &Node, hello: Hello, line: &Arc<Line>) -> Option<Arc<Connection>> {
        let (made, mut arrives) = oneshot::channel();
        let (claims, peer) = (claims(&self.user), SocketAddr::from(([127, 0, 0, 1], 9)));
        let (delivery, outlet) = (Arc::clone(&node.delivery), Arc::clone(line));
        let (freezer, clock, stage) = (node.freezer.clone(), node.clock.clone(), self.stage.clone());
        let (door, name) = (Arc::clone(&node.door), self.name());
        let (roll, id) = (self.world.shared.roll.clone(), node.id.clone());
        let (user, device) = (self.user.clone(), self.device.clone());
        tokio::spawn(async move {
            freezer.thawed().await;
            let accepted_at = {
                let _first = door.lock().await;
                tokio::time::sleep(Duration::from_millis(1)).await;
                clock.now()
            };
            stage.pause(0..=20).await;
            freezer.thawed().await;
            let attach = Attach { claims, hello, peer, accepted_at };
            let ending = Arc::clone(&outlet);
            let made = |connection: &Arc<Connection>| {
                stage.say(format_args!("{name}: is {}", connection.id()));
                roll.enter(&id, &user, device.as_ref(), connection, &ending);
                drop(made.send(Arc::clone(connection)));
            };
            if let Err(error) = delivery.attach(attach, outlet, made).await {
                fanfare::delivery::outlet::Outlet::close(&*ending, error.close_code());
            }
        });
        tokio::select! {
            biased;
            () = node.death.cancelled() => None,
            made = &mut arrives => made.ok(),
            () = tokio::time::sleep(PATIENCE) => {
                line.cut();
                let line = Arc::clone(line);
                // The end of its stream is there already: the gateway sees it at once.
                tokio::spawn(async move {
                    if let Ok(connection) = arrives.await {
                        line.end();
                        connection.on_closed();
                    }
                });
                None
            }
        }
    }

    /// Of its connection, for the trace.
    fn name(&self) -> String {
        let device = self.device.as_ref().map_or("-", DeviceId::as_str);
        format!("{}/{device}#{}", self.user, self.connections)
    }

    fn hello(&self) -> Hello {
        let mut hello = Hello::default();
        hello.device = self.device.clone();
        hello.ack = self.ack;
        hello.ping = self.stage.chance(50);
        hello.topics = self.following.iter().filter(|_| self.stage.chance(70)).cloned().collect();
        // A place for all streams, for some, or none: then the stored cursors decide.
        let share = *self.stage.one_of(&[0, 0, 50, 100]);
        let ledger = self.world.shared.store.lock();
        for (stream, got) in &ledger.holders[self.holder].got {
            if self.stage.chance(share) {
                let at = ResumeAt { epoch: got.epoch, seq: Seq(got.position) };
                hello.resume.insert(stream.client_name().to_string(), at);
            }
        }
        hello
    }

    /// Until it goes away, or is sent away.
    async fn stay(&mut self, mut visit: Visit, node: &Node) {
        let far = Duration::from_secs(100_000);
        let mut quiet = self.stage.quiet().is_cancelled();
        let stay = if self.stage.chance(20) { self.stage.pick(1..=30) } else { self.stage.pick(10..=15_000) };
        let stay = Duration::from_millis(stay);
        let mut until = Instant::now() + if quiet || !self.plan.weather.restless { far } else { stay };
        let mut stalled_until = Instant::now();
        let mut act_at = Instant::now() + Duration::from_millis(self.stage.pick(1..=1_500));
        loop {
            let (now, frozen) = (Instant::now(), node.freezer.is_frozen());
            tokio::select! {
                biased;
                () = node.death.cancelled() => {
                    visit.line.cut();
                    return;
                }
                () = node.freezer.thawed(), if frozen => {
                    visit.flush();
                    visit.line.stirred.notify_one();
                }
                () = tokio::time::sleep_until(visit.heard + SILENCE) => return self.leave(&visit, false),
                () = self.stage.quiet().cancelled(), if !quiet => {
                    (quiet, until, stalled_until) = (true, now + far, now);
                    visit.line.stirred.notify_one();
                }
                () = tokio::time::sleep_until(until) => {
                    return self.leave(&visit, self.stage.chance(60));
                }
                () = tokio::time::sleep_until(act_at) => {
                    act_at = Instant::now() + Duration::from_millis(self.stage.pick(50..=2_500));
                    if quiet {
                        self.want_everything(&mut visit);
                    } else if self.stage.chance(15) && self.plan.weather.restless && !self.plan.keen {
                        stalled_until = Instant::now() + Duration::from_millis(self.stage.pick(50..=4_000));
                    } else if self.stage.chance(25) {
                        self.mark_something(&mut visit);
                    } else {
                        self.change_its_mind(&mut visit);
                    }
                    self.acknowledge(&mut visit, quiet || self.plan.keen);
                }
                () = visit.line.stirred.notified(), if stalled_until <= now => {
                    if !self.read(&mut visit, quiet).await {
                        return;
                    }
                }
                () = tokio::time::sleep_until(stalled_until), if stalled_until > now => {
                    visit.line.stirred.notify_one();
                }
            }
        }
    }

    /// With a goodbye, or without one: then the server learns of it later.
    fn leave(&self, visit: &Visit, clean: bool) {
        visit.line.cut();
        self.stage.say(format_args!("{}: leaves, clean {clean}", visit.witness.name));
        if clean && !visit.freezer.is_frozen() {
            visit.line.end();
            return visit.connection.on_closed();
        }
        let (stage, connection) = (self.stage.clone(), Arc::clone(&visit.connection));
        let (freezer, line) = (visit.freezer.clone(), Arc::clone(&visit.line));
        tokio::spawn(async move {
            stage.pause(100..=9_000).await;
            freezer.thawed().await;
            line.end();
            connection.on_closed();
        });
    }

    /// Reads what is there. False when the server has closed.
    async fn read(&mut self, visit: &mut Visit, quiet: bool) -> bool {
        if self.stage.chance(20) {
            self.stage.pause(1..=30).await;
        }
        let all = quiet || self.plan.keen;
        while let Some(sent) = visit.line.next() {
            self.take(visit, &sent);
            if self.stage.chance(if all { 100 } else { 25 }) {
                self.acknowledge(visit, all);
            }
        }
        if visit.line.take_drained() {
            visit.connection.on_drained();
        }
        let Some(code) = visit.line.closed() else {
            return true;
        };
        self.stage.say(format_args!("{}: {}", visit.witness.name, code.reason()));
        if code == CloseCode::Displaced {
            self.stage.find(Kind::Displaced, format_args!("{} is the newest", visit.witness.name));
        }
        visit.connection.on_closed();
        false
    }

    fn take(&mut self, visit: &mut Visit, sent: &Sent) {
        visit.heard = Instant::now();
        if sent.frame.head[0] & 0x0f == 0x9 {
            return visit.pong();
        }
        let frame = json(&sent.frame);
        visit.frames += 1;
        let witness = &mut visit.witness;
        self.stage.say(format_args!("{}: < {}", witness.name, brief(&frame)));
        match text(&frame, "type") {
            "welcome" => {
                visit.welcomed = true;
                witness.welcomed(&frame);
            }
            "notification" => witness.notified(&frame, sent.at),
            "cancelled" => witness.cancelled(&frame, sent.at),
            "read" => witness.read(&frame),
            "caught_up" => witness.caught_up(text(&frame, "stream"), number(&frame, "through")),
            "gap" => witness.gap(&frame),
            "subscribed" => {
                let asked = frame["id"].as_u64().and_then(|id| visit.asked.remove(&id));
                witness.opened(&frame, asked == Some(true));
            }
            "unsubscribed" => witness.closed(text(&frame, "stream")),
            "ping" => visit.say(r#"{"type":"pong"}"#),
            "error" => match text(&frame, "code") {
                // An ack or a mark may cross the unsubscribe before it.
                "window_full" | "not_followed" => {}
                "unavailable" => drop(frame["id"].as_u64().and_then(|id| visit.asked.remove(&id))),
                _ => self.stage.find(Kind::Order, format_args!("{}: {frame}", visit.witness.name)),
            },
            _ => {}
        }
    }
}
