//! The health of the backends, and what follows from a change.
//!
//! Each change is one log line (of the broker the driver writes it, of presence the keeper), shows in
//! `/readyz` and in a gauge. The inbox is asked again and again, and at once when appends fail; what follows from both
//! is [`Standing`]'s to say. Without SQL nothing more is taken from RabbitMQ: messages stay there until it is back, and
//! jobs wait.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::Node;
use super::standing::Standing;
use crate::broker::{Broker, Health};
use crate::clock::Clock;
use crate::delivery::Delivery;
use crate::http::{Check, Readiness};
use crate::inbox::Inbox;
use crate::metrics::node::{Condition, Dependency, NodeMetrics};
use crate::presence::Presence;
use crate::publish::Appends;

/// How often the inbox is asked whether it is there, and the keeper whether it sees presence.
const LOOK: Duration = Duration::from_millis(1_000);
/// How soon after an append failed the inbox is asked: several fail together.
const SOON: Duration = Duration::from_millis(100);
/// How often the clock is compared, in looks.
const SKEW_LOOKS: u32 = 10;

impl Node {
    /// From now on the node is ready, and watches what it depends on. `inbox_up` is told how the inbox is.
    pub(super) fn start_watching(
        &self,
        presence: Arc<dyn Presence>,
        inbox_up: watch::Sender<bool>,
        appends: watch::Receiver<Appends>,
    ) {
        let watcher = Watcher {
            inbox: Arc::clone(&self.inbox),
            appends,
            inbox_up,
            broker: Arc::clone(&self.broker),
            delivery: Arc::clone(&self.delivery),
            presence,
            readiness: self.readiness.clone(),
            metrics: self.metrics.node.clone(),
            clock: self.clock.clone(),
        };
        let cancel = self.cancel.clone();
        watcher.broker.take_ingress(true);
        watcher.note_inbox(Check::Up);
        watcher.note_presence();
        watcher.note_broker(*watcher.broker.health().borrow());
        watcher.readiness.send_modify(|ready| ready.started = true);
        self.tracker.spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                ((), (), ()) = async {
                    tokio::join!(watcher.watch_inbox(), watcher.watch_presence(), watcher.watch_broker())
                } => {}
            }
        });
    }
}

struct Watcher {
    inbox: Arc<dyn Inbox>,
    appends: watch::Receiver<Appends>,
    inbox_up: watch::Sender<bool>,
    broker: Arc<dyn Broker>,
    delivery: Arc<Delivery>,
    presence: Arc<dyn Presence>,
    readiness: watch::Sender<Readiness>,
    metrics: NodeMetrics,
    clock: Clock,
}

impl Watcher {
    async fn pause(&self) {
        tokio::time::sleep(LOOK.mul_f64(self.clock.random_range(0.9..1.1))).await;
    }

    async fn watch_inbox(&self) {
        let (mut standing, mut appends) = (Standing::up(), self.appends.clone());
        loop {
            tokio::select! {
                () = self.pause() => {}
                () = failing(&mut appends), if standing.is_up() => {}
            }
            let checked = self.inbox.check().await;
            let was_up = standing.is_up();
            let is_up = standing.note(Instant::now(), checked.is_ok(), *appends.borrow_and_update());
            let why = match checked {
                Ok(()) => "nothing can be stored, although it answers".to_owned(),
                Err(error) => error.to_string(),
            };
            if is_up != was_up {
                self.on_inbox(is_up, &why);
            }
            self.note_inbox(if is_up { Check::Up } else { Check::Down(why) });
        }
    }

    fn on_inbox(&self, is_up: bool, why: &str) {
        // Draining has stopped ingress for good.
        self.broker.take_ingress(is_up && !self.delivery.is_draining());
        if is_up {
            info!("the inbox is back: ingress is taken again and heads are checked");
            self.delivery.check_heads_soon();
        } else {
            warn!(error = why, "the inbox is away: publishes get 503 and ingress stays in its queues");
        }
    }

    fn note_inbox(&self, check: Check) {
        let is_up = check == Check::Up;
        let condition = if is_up { Condition::Up } else { Condition::Down };
        self.metrics.dependency_is(Dependency::Inbox, condition);
        self.readiness.send_modify(|ready| ready.inbox = check);
        self.inbox_up.send_if_modified(|was| std::mem::replace(was, is_up) != is_up);
    }

    async fn watch_presence(&self) {
        for look in 1_u32.. {
            self.pause().await;
            self.note_presence();
            if look % SKEW_LOOKS == 1 && !self.delivery.is_blind() {
                self.look_at_clock().await;
            }
        }
    }

    /// The node's own refreshes and announces are the best check there is.
    fn note_presence(&self) {
        let blind = self.delivery.is_blind();
        let (check, condition) = if blind {
            (Check::Down("this node cannot refresh its presence".to_owned()), Condition::Down)
        } else {
            (Check::Up, Condition::Up)
        };
        self.metrics.dependency_is(Dependency::Presence, condition);
        self.readiness.send_modify(|ready| {
            ready.blind = blind;
            ready.presence = check;
        });
    }

    async fn look_at_clock(&self) {
        match self.presence.skew_ms().await {
            Ok(skew_ms) => self.readiness.send_modify(|ready| ready.skew_ms = Some(skew_ms)),
            Err(error) => debug!(%error, "the clock was not compared"),
        }
    }

    async fn watch_broker(&self) {
        let mut health = self.broker.health();
        loop {
            let now = *health.borrow_and_update();
            self.note_broker(now);
            if health.changed().await.is_err() {
                return; // The broker has ended, and so will this node.
            }
        }
    }

    fn note_broker(&self, health: Health) {
        let condition = match health {
            Health::Up => Condition::Up,
            Health::Blocked => Condition::Blocked,
            Health::Down => Condition::Down,
        };
        self.metrics.dependency_is(Dependency::Broker, condition);
        self.readiness.send_modify(|ready| ready.broker = health);
    }
}

/// Until an append has failed that was not known of.
async fn failing(appends: &mut watch::Receiver<Appends>) {
    while appends.changed().await.is_ok() {
        if appends.borrow_and_update().failed > 0 {
            return tokio::time::sleep(SOON).await;
        }
    }
    // The node is ending.
    std::future::pending().await
}
