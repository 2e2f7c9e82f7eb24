//! The survivor: takes over the users of nodes that died without a goodbye.
//!
//! Owns when a node counts as dead: its lease has run out, it did not say that it is blind, and presence is not
//! in doubt. It tells nobody anything: it only says who is missed.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::online::Comings;
use super::round::{Job, JobError, Round};
use super::witness::Witness;
use crate::domain::NodeId;
use crate::presence::Presence;

/// How many users are taken over at a time.
const GROUP: u32 = 500;

pub(super) struct Survivor {
    pub(super) node: NodeId,
    pub(super) comings: Arc<Comings>,
    pub(super) witness: Arc<Witness>,
    pub(super) presence: Arc<dyn Presence>,
    pub(super) lease_ttl: Duration,
    /// Of whom nothing is left; those that are alive again are taken out.
    pub(super) settled: HashSet<NodeId>,
}

impl Job for Survivor {
    const NAME: &'static str = "survivor";

    fn pace(&self) -> Range<Duration> {
        self.lease_ttl.mul_f64(0.15)..self.lease_ttl.mul_f64(0.35)
    }

    async fn round(&mut self) -> Result<Round, JobError> {
        if !self.witness.is_sure().await? {
            return Ok(Round::IDLE);
        }
        let mut dead = self.presence.dead_nodes().await?;
        self.settled.retain(|node| dead.contains(node) || *node == self.node);
        // What an earlier life of this node has left is its own to see to.
        dead.push(self.node.clone());
        dead.retain(|node| !self.settled.contains(node));
        let Some(node) = dead.first() else { return Ok(Round::IDLE) };
        let claimed = self.presence.claim_users(node, GROUP).await?;
        claimed.iter().for_each(|user| self.comings.is_missed(user));
        if claimed.len() < GROUP as usize {
            self.settled.insert(node.clone());
        }
        Ok(Round { done: claimed.len() as u64, more: dead.len() > 1 || claimed.len() >= GROUP as usize })
    }
}
