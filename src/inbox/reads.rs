//! Read state: what a user has read, on whichever device.
//!
//! Owns its contract. Reading is not acknowledging: it moves no cursor and delivers nothing.

use async_trait::async_trait;
use bytes::Bytes;

use super::InboxError;
use crate::domain::{DeviceId, Epoch, Seq, Stream, UnixMillis, UserId};
pub use crate::wire::Marked;

/// The most that the unread entries of a shared stream are counted to.
pub const MAX_SHARED_UNREAD: u64 = 1_000;

/// A wish to mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// In which stream: the user's own, a topic, or everyone.
    pub stream: Stream,
    /// What.
    pub marked: Marked,
}

/// How much of a user's own stream is unread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unread {
    /// Entries of the user's own stream that nobody read, for whichever device, that have not expired and were
    /// not superseded or cancelled.
    pub unread: u64,
    /// Grows whenever `unread` may have changed; never goes back, not even with a restored store.
    pub version: u64,
    /// How often something was marked: a part of `version`, and what heads are compared by.
    pub reads: u64,
}

/// A change of the read state that a connection may have missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadChange {
    /// In which stream.
    pub stream: Stream,
    /// What.
    pub marked: Marked,
}

/// A page of the inbox as people look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxPage {
    /// The stream's epoch.
    pub epoch: Epoch,
    /// Newest first.
    pub entries: Vec<InboxEntry>,
    /// Whether there are older ones.
    pub more: bool,
}

/// One notification in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxEntry {
    /// Its place.
    pub seq: Seq,
    /// Whether the user has read it.
    pub is_read: bool,
    /// The only device it is for.
    pub device: Option<DeviceId>,
    /// As clients get it.
    pub json: Bytes,
}

/// Which page of the inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// Whose.
    pub user: UserId,
    /// Which stream: the user's own, a topic, or everyone.
    pub stream: Stream,
    /// Those before this seq; `None`: from the newest on.
    pub before: Option<Seq>,
    /// At most so many.
    pub limit: u32,
    /// Only what is unread.
    pub unread_only: bool,
}

/// Read state, for gateways and the HTTP interface.
#[async_trait]
pub trait ReadState: Send + Sync {
    /// Marks as read; marking twice changes nothing and does not raise the version. Entries of shared streams are marked for
    /// this user alone. Answers what was changed (ids that were marked before or are not there are left out) and
    /// how things stand then; they may stand so with marks that were made at the same time, but where something was
    /// changed `reads` is the number of this mark alone, which no other one has. Writes `receipt.read` where that is
    /// switched on (own streams only).
    async fn mark_read(
        &self,
        user: &UserId,
        mark: &Mark,
        now: UnixMillis,
    ) -> Result<(Marked, Unread), InboxError>;

    /// What was marked after the user's counter stood at `reads`, oldest first, at most `limit` ids, and how
    /// things stand.
    async fn read_since(
        &self,
        user: &UserId,
        reads: u64,
        limit: u32,
        now: UnixMillis,
    ) -> Result<(Vec<ReadChange>, Unread), InboxError>;

    /// How things stand: the own stream, and each shared stream that a device of the user has a cursor in.
    async fn unread(
        &self,
        user: &UserId,
        now: UnixMillis,
    ) -> Result<(Unread, Vec<(Stream, u64)>), InboxError>;

    /// A page of what the inbox still has: not what expired, was superseded or cancelled.
    async fn look(&self, look: &Look, now: UnixMillis) -> Result<InboxPage, InboxError>;
}
