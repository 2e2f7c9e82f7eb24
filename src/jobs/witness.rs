//! Whether presence can be believed when it says that somebody is nowhere.
//!
//! Owns the rule: not while a node is blind (its users are there, unseen), nor while no broker tells of those that are,
//! nor after presence has forgotten who is where, until every node had the time to announce everything again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::broker::{Broker, Health};
use crate::delivery::Delivery;
use crate::presence::{NodeLease, Presence, PresenceError};
use crate::routing::Router;

pub(super) struct Witness {
    broker: Arc<dyn Broker>,
    delivery: Arc<Delivery>,
    router: Arc<Router>,
    presence: Arc<dyn Presence>,
    lease: NodeLease,
    /// Every node refreshes its lease well within this, and announces everything if it is gone.
    settles_in: Duration,
    /// When there was last a reason for doubt.
    doubted: Mutex<Instant>,
}

impl Witness {
    /// Doubts at first: what was forgotten before this node started is nowhere to be seen.
    pub(super) fn new(
        broker: Arc<dyn Broker>,
        delivery: Arc<Delivery>,
        router: Arc<Router>,
        presence: Arc<dyn Presence>,
        lease: NodeLease,
        settles_in: Duration,
    ) -> Self {
        let doubted = Mutex::new(Instant::now());
        Self { broker, delivery, router, presence, lease, settles_in, doubted }
    }

    /// There is a reason for doubt.
    pub(super) fn doubt(&self) {
        *self.doubted.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Whether who is not found is not there.
    ///
    /// # Errors
    /// Presence does not answer; a reason for doubt, too.
    pub(super) async fn is_sure(&self) -> Result<bool, PresenceError> {
        // Who is blind says so through the broker: without it nobody is heard.
        let hears = *self.broker.health().borrow() == Health::Up;
        if !hears || self.delivery.is_blind() || !self.router.blind().now().is_empty() {
            self.doubt();
            return Ok(false);
        }
        let nodes = self.presence.nodes().await.inspect_err(|_| self.doubt())?;
        let has_own = |other: &NodeLease| other.node == self.lease.node && other.boot == self.lease.boot;
        if !nodes.iter().any(has_own) {
            self.doubt();
        }
        let doubted = *self.doubted.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(doubted.elapsed() >= self.settles_in)
    }
}
