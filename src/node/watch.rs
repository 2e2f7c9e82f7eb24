//! The health of the backends, looked at every second, and what follows from a change.
//!
//! Without SQL nothing more is taken from RabbitMQ: messages stay there until it is back. Each change is
//! one log line.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tracing::{debug, info, warn};

use super::Node;
use crate::broker::{Broker, Health};
use crate::delivery::Delivery;
use crate::http::Check;
use crate::inbox::{Inbox, OutOfDate};
use crate::presence::Presence;

/// How often the inbox is asked whether it is there.
const LOOK: Duration = Duration::from_millis(1_000);
/// How often the clock is compared, in looks.
const SKEW_LOOKS: u32 = 10;
/// How often out-of-date rows are removed, in looks.
const SWEEP_LOOKS: u32 = 60;
/// How many rows are removed at a time, and how often in one go at most.
const SWEEP_ROWS: u32 = 1_000;
const SWEEPS: usize = 100;

impl Node {
    pub(super) fn start_watching(&self, presence: Arc<dyn Presence>) {
        let watcher = Watcher {
            inbox: Arc::clone(&self.inbox),
            broker: Arc::clone(&self.broker),
            delivery: Arc::clone(&self.delivery),
            presence,
            readiness: self.readiness.clone(),
            clock: self.clock.clone(),
            keys_live: self.config.inbox.idempotency,
        };
        let cancel = self.cancel.clone();
        watcher.broker.take_ingress(true);
        watcher.readiness.send_modify(|ready| {
            ready.started = true;
            ready.inbox = Check::Up;
            ready.presence = Check::Up;
            ready.broker = *watcher.broker.health().borrow();
        });
        self.tracker.spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = watcher.run() => {}
            }
        });
    }
}

struct Watcher {
    inbox: Arc<dyn Inbox>,
    broker: Arc<dyn Broker>,
    delivery: Arc<Delivery>,
    presence: Arc<dyn Presence>,
    readiness: tokio::sync::watch::Sender<crate::http::Readiness>,
    clock: crate::clock::Clock,
    keys_live: Duration,
}

impl Watcher {
    async fn run(&self) {
        let mut inbox_was_up = true;
        let mut broker_was = *self.broker.health().borrow();
        for look in 0_u32.. {
            let pause = LOOK.mul_f64(rand::rng().random_range(0.9..1.1));
            tokio::time::sleep(pause).await;
            inbox_was_up = self.look_at_inbox(inbox_was_up).await;
            broker_was = self.look_at_broker(broker_was);
            let blind = self.delivery.is_blind();
            if look % SKEW_LOOKS == 0 && !blind {
                self.look_at_clock().await;
            }
            if look % SWEEP_LOOKS == SWEEP_LOOKS - 1 && inbox_was_up {
                self.sweep().await;
            }
            let presence = if blind {
                Check::Down("this node cannot refresh its presence".to_owned())
            } else {
                Check::Up
            };
            self.readiness.send_modify(|ready| {
                ready.blind = blind;
                ready.presence = presence;
            });
        }
    }

    async fn look_at_inbox(&self, was_up: bool) -> bool {
        let checked = self.inbox.check().await;
        let is_up = checked.is_ok();
        if is_up != was_up {
            // Draining has stopped ingress for good.
            self.broker.take_ingress(is_up && !self.delivery.is_draining());
            match &checked {
                Ok(()) => {
                    info!("the inbox is back: ingress is taken again and heads are checked");
                    self.delivery.check_heads_soon();
                }
                Err(error) => {
                    warn!(%error, "the inbox is away: publishes get 503 and ingress stays in its queues")
                }
            }
        }
        let check = checked.map_or_else(|error| Check::Down(error.to_string()), |()| Check::Up);
        self.readiness.send_modify(|ready| ready.inbox = check);
        is_up
    }

    fn look_at_broker(&self, was: Health) -> Health {
        let health = *self.broker.health().borrow();
        if health != was {
            match health {
                Health::Up => info!("the broker is back"),
                Health::Blocked => {
                    warn!("the broker takes no messages: other nodes are reached by head checks")
                }
                Health::Down => warn!("the broker is away: other nodes are reached by head checks"),
            }
        }
        self.readiness.send_modify(|ready| ready.broker = health);
        health
    }

    async fn look_at_clock(&self) {
        match self.presence.skew_ms().await {
            Ok(skew_ms) => self.readiness.send_modify(|ready| ready.skew_ms = Some(skew_ms)),
            Err(error) => debug!(%error, "the clock was not compared"),
        }
    }

    async fn sweep(&self) {
        let now = self.clock.now();
        let keys = crate::domain::UnixMillis(now.0.saturating_sub(self.keys_live.as_millis() as u64));
        let before = OutOfDate { keys, expired: now, devices: crate::domain::UnixMillis(0) };
        for _ in 0..SWEEPS {
            match self.inbox.sweep(&before, SWEEP_ROWS).await {
                Ok(0) => return,
                Ok(rows) => debug!(rows, "out-of-date rows were removed"),
                Err(error) => {
                    return warn!(%error, "out-of-date rows were not removed; tried again in a minute");
                }
            }
        }
    }
}
