//! Reconciliation: compares what backends believe of who is online with what is so, slowly.
//!
//! Owns what heals presence events: whoever is here is said to be here again, and whoever is believed to be
//! online and is nowhere is looked for. So nobody stays online for ever, whatever Redis forgot and whoever died.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::online::Comings;
use super::round::{Job, JobError, Round};
use crate::delivery::Delivery;
use crate::domain::{NodeId, UserId};
use crate::inbox::Inbox;
use crate::presence::{Presence, Route};

/// How many users are compared at a time.
const PAGE: u32 = 500;

pub(super) struct Reconcile {
    pub(super) node: NodeId,
    pub(super) comings: Arc<Comings>,
    pub(super) inbox: Arc<dyn Inbox>,
    pub(super) presence: Arc<dyn Presence>,
    pub(super) delivery: Arc<Delivery>,
    pub(super) presence_ttl: Duration,
    /// In the middle of a pass: after whom it goes on.
    pub(super) after: Option<UserId>,
}

impl Job for Reconcile {
    const NAME: &'static str = "reconcile";

    /// Between two passes.
    fn pace(&self) -> Range<Duration> {
        self.presence_ttl.mul_f64(0.8)..self.presence_ttl.mul_f64(1.2)
    }

    async fn round(&mut self) -> Result<Round, JobError> {
        if self.after.is_none() {
            self.delivery.users().iter().for_each(|user| self.comings.is_here(user));
            // One node is enough for the other half; should two see themselves first, no harm is done.
            let nodes = self.presence.nodes().await?;
            if nodes.first().is_none_or(|first| first.node != self.node) {
                return Ok(Round::IDLE);
            }
        }
        let believed = self.inbox.online_users(self.after.as_ref(), PAGE).await?;
        let more = believed.len() >= PAGE as usize;
        let routes: Vec<Route> = believed.iter().cloned().map(Route::User).collect();
        let located = match routes.is_empty() {
            true => Vec::new(),
            false => self.presence.locate(&routes).await?,
        };
        for (user, located) in believed.iter().zip(&located) {
            if located.members.is_empty() && !self.delivery.holds(user) {
                self.comings.is_missed(user);
            }
        }
        self.after = believed.last().filter(|_| more).cloned();
        Ok(Round { done: believed.len() as u64, more })
    }
}
