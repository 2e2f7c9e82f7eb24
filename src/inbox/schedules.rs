//! Schedules: notifications to be published later.
//!
//! Owns their contract. A schedule ends in the statement that appends it ([`super::Append::scheduled`]) or
//! by being cancelled, so it fires once, whichever nodes die on the way.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::{FirstAnswer, Idempotency, InboxError};
use crate::domain::{NotificationId, PublisherId, UnixMillis};

/// A notification for later.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// The id that it will have.
    pub id: NotificationId,
    /// When.
    pub fire_at: UnixMillis,
    /// Whose it is.
    pub publisher: PublisherId,
    /// The publish request, as it came.
    pub request: Bytes,
    /// When it was accepted.
    pub created_at: UnixMillis,
    /// The publisher's key, if it gave one.
    pub idempotency: Option<Idempotency>,
}

/// What became of a wish to schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scheduled {
    /// It is durable and will fire.
    Kept,
    /// The key was used before for the same request.
    Replayed(FirstAnswer),
    /// The key was used before for another request.
    KeyReused,
}

/// A schedule whose time has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueSchedule {
    /// Its id.
    pub id: NotificationId,
    /// When it was to fire.
    pub fire_at: UnixMillis,
    /// Whose it is.
    pub publisher: PublisherId,
    /// The publish request.
    pub request: Bytes,
}

/// Schedules, for publishers and the job that fires them.
#[async_trait]
pub trait Schedules: Send + Sync {
    /// Keeps a schedule, durably.
    async fn schedule(&self, schedule: Schedule) -> Result<Scheduled, InboxError>;

    /// Claims what is due at `now` and nobody else has claimed, oldest first: for `lease` nobody else gets it.
    async fn claim_schedules(
        &self,
        now: UnixMillis,
        lease: Duration,
        limit: u32,
    ) -> Result<Vec<DueSchedule>, InboxError>;

    /// Ends a schedule that can never be published.
    async fn drop_schedule(&self, id: NotificationId) -> Result<(), InboxError>;
}
