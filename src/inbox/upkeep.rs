//! Upkeep: whether the store is there, who was seen when, what is out of date, and erasing a person.
//!
//! Owns its contract. Jobs call it in batches: no call may hold up publishers for long.

use async_trait::async_trait;

use super::InboxError;
use crate::domain::{DeviceId, Stream, UnixMillis, UserId};

/// What [`Upkeep::sweep`] removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfDate {
    /// Idempotency keys made before this.
    pub keys: UnixMillis,
    /// What was to be looked at before this, and nobody looks any more.
    pub due: UnixMillis,
    /// Entries and bodies that expired before this.
    pub expired: UnixMillis,
    /// Devices that were last used before this, with their cursors.
    pub devices: UnixMillis,
    /// Revocations that lapsed by then.
    pub revocations: UnixMillis,
}

/// Names a cursor: whose, of which device, in which stream.
pub type CursorKey = (UserId, DeviceId, Stream);

/// What [`Upkeep::remove_unused_cursors`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unused {
    /// How many cursors went.
    pub removed: u64,
    /// Where to go on; `None`: it was the last one.
    pub next: Option<CursorKey>,
}

/// What was erased of a person: how many rows of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Erased {
    /// Entries of their stream.
    pub entries: u64,
    /// Notifications that nobody else got.
    pub notifications: u64,
    /// Devices.
    pub devices: u64,
    /// Cursors of these.
    pub cursors: u64,
    /// Marks of what they read in shared streams, and where they began to follow them.
    pub reads: u64,
    /// Scheduled notifications that name them alone. Others lose nothing: they are published to whoever is left.
    pub scheduled: u64,
    /// Events about them that were not told yet.
    pub events: u64,
    /// The stream's counter, the unread counter and the time they were last seen.
    pub other: u64,
}

/// The rest: whether it is there, who was seen when, what is out of date.
#[async_trait]
pub trait Upkeep: Send + Sync {
    /// Succeeds when the store can be read and written; fails while something keeps all appends from their tables.
    async fn check(&self) -> Result<(), InboxError>;

    /// Remembers that these users were connected at these times; a time never goes back.
    async fn seen(&self, users: Vec<(UserId, UnixMillis)>) -> Result<(), InboxError>;

    /// When these users were last connected; answers in the same order.
    async fn last_seen(&self, users: &[UserId]) -> Result<Vec<Option<UnixMillis>>, InboxError>;

    /// Notes which entries expired before `now` that nobody had acknowledged, in batches of at most `limit`;
    /// returns how many (0: nothing is left to do). Writes `receipt.expired` where that is switched on.
    async fn expire(&self, now: UnixMillis, limit: u32) -> Result<u64, InboxError>;

    /// Removes what is out of date, at most `limit` rows a kind; returns how many rows went (0: nothing is
    /// left to do).
    async fn sweep(&self, before: &OutOfDate, limit: u32) -> Result<u64, InboxError>;

    /// Retention by age: raises the floors of streams above what was created before `created_before` and
    /// removes it, at most `limit` notifications; returns how many entries went. What nobody acknowledged is
    /// counted, and told, as dropped.
    async fn retain_by_age(&self, created_before: UnixMillis, limit: u32) -> Result<u64, InboxError>;

    /// Retention by count: leaves these streams their last `max_entries` seqs; returns how many entries went.
    /// A notification is removed when no stream has it above its floor; until then its receipt tells whose was
    /// dropped.
    async fn retain_by_count(&self, streams: &[Stream], max_entries: u64) -> Result<u64, InboxError>;

    /// Streams with more than `max_entries` seqs above their floor and above where they began, at most `limit`.
    async fn overfull(&self, max_entries: u64, limit: u32) -> Result<Vec<Stream>, InboxError>;

    /// Looks at notifications that are due to have been acknowledged: writes `undelivered` for each recipient
    /// that has acknowledged or read nothing of it, whether it still waits or has expired meanwhile; not where it
    /// was superseded, cancelled or dropped. At most `limit` notifications; returns how many were looked at.
    async fn look_for_undelivered(&self, now: UnixMillis, limit: u32) -> Result<u64, InboxError>;

    /// Forgets a device: its cursors and its place among the user's devices. Returns whether it was there.
    async fn remove_device(&self, user: &UserId, device: &DeviceId) -> Result<bool, InboxError>;

    /// Devices that are still in use, so that they do not look idle.
    async fn used(&self, devices: &[(UserId, DeviceId)], now: UnixMillis) -> Result<(), InboxError>;

    /// Cursors in topics that devices follow now, so that they do not look unused. A time never goes back.
    async fn used_cursors(&self, cursors: &[CursorKey], now: UnixMillis) -> Result<(), InboxError>;

    /// Looks at the `limit` cursors behind `after` (`None`: at the first ones) and removes those of topics that were
    /// last used before `before`: opened, moved or noted by [`Upkeep::used_cursors`]. With a user's last cursor in a
    /// topic go the marks of what the user read there.
    async fn remove_unused_cursors(
        &self,
        after: Option<&CursorKey>,
        before: UnixMillis,
        limit: u32,
    ) -> Result<Unused, InboxError>;

    /// Erases all that is stored of a person, and says what. Notifications that others got, too, stay with them;
    /// schedules that name others, too, are kept for those. Not one transaction: when it fails, call it again.
    ///
    /// Nothing is left that names the person, so nobody can tell a stream that is used again later from a new
    /// one. Instead the store keeps one number, the furthest that any erased stream (with its unread version)
    /// had come, and all streams made later begin above it, in the same epoch: an old client's resume is below
    /// what is new, never above or among it, and its unread version does not go back: it grows, as nothing is
    /// unread any more.
    async fn erase(&self, user: &UserId) -> Result<Erased, InboxError>;

    /// Lets go of all connections; later calls fail.
    async fn close(&self);
}
