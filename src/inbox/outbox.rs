//! The outbox: what backends are to be told, kept until the broker has confirmed it.
//!
//! Owns its contract, and that of the presence changes that are told. Events are written by the statement
//! that makes them true, so none is lost; their ids say what they are about, so one told twice is seen to be.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::InboxError;
use crate::domain::{UnixMillis, UserId};

/// One thing to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxEvent {
    /// Stays the same however often it is told.
    pub id: String,
    /// Such as `receipt.delivered`.
    pub routing_key: String,
    /// What to tell.
    pub json: Bytes,
}

/// A user has come or gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresenceChange {
    /// Who.
    pub user: UserId,
    /// Whether they are online now.
    pub is_online: bool,
    /// When that was seen.
    pub at: UnixMillis,
}

/// The outbox, for the job that empties it.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// Claims the oldest events that nobody else has claimed: for `lease` nobody else gets them.
    async fn claim_events(
        &self,
        now: UnixMillis,
        lease: Duration,
        limit: u32,
    ) -> Result<Vec<OutboxEvent>, InboxError>;

    /// These were told: they are removed.
    async fn told(&self, ids: &[String]) -> Result<(), InboxError>;

    /// How many events wait, and since when the oldest does.
    async fn waiting(&self) -> Result<(u64, Option<UnixMillis>), InboxError>;

    /// Compares and sets who is online. For each that changed the event `presence.online` or `presence.offline`
    /// is written in the same statement, with the number of the change in its id; one that is so already
    /// changes nothing. Answers, in the same order, whether it changed.
    async fn presence_changed(&self, changes: &[PresenceChange]) -> Result<Vec<bool>, InboxError>;

    /// Users whom backends believe to be online, by id, those after `after`.
    async fn online_users(&self, after: Option<&UserId>, limit: u32) -> Result<Vec<UserId>, InboxError>;
}
