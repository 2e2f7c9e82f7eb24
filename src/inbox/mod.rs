//! The inbox: every stream, cursor and idempotency key. It is the truth; pushing is only a fast path.
//!
//! Owns the contract that SQLite ([`sqlite`]) and PostgreSQL ([`postgres`]) obey alike; one
//! contract suite runs against both. It must never know of connections, nodes or the broker,
//! and it must never read from a replica: the orderings that lose nothing need
//! read-your-writes.
//!
//! All methods may be called concurrently from any task. Every call has a deadline of its
//! own inside the implementation. Dropping a call's future may leave its work done or undone,
//! never half done.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::domain::{
    DeviceId, Epoch, Notification, NotificationId, PublisherId, Recipient, Seq, Stream, UnixMillis, UserId,
};

pub mod migrations;
pub mod postgres;
pub mod sqlite;

mod calls;
mod cursors;
mod epoch;
mod erasure;
mod failure;
mod group;
mod open_error;
mod outbox;
mod page;
mod reads;
mod receipts;
mod revocations;
mod schedules;
mod start;
mod upkeep;

pub use epoch::new_epoch;
pub use migrations::{MigrateReport, is_sqlite, migrate};
pub use open_error::OpenError;
pub use outbox::{Outbox, OutboxEvent, PresenceChange};
pub use postgres::PostgresInbox;
pub use reads::{
    InboxEntry, InboxPage, Look, MAX_SHARED_UNREAD, Mark, Marked, ReadChange, ReadState, Unread,
};
pub use receipts::{
    AfterRecipient, Cancelled, Counts, Delivered, DeliveredShared, Receipt, Receipts, RecipientReceipt, State,
};
pub use revocations::{RevocationStore, StoredRevocations};
pub use schedules::{DueSchedule, Schedule, Scheduled, Schedules};
pub use sqlite::SqliteInbox;
pub use upkeep::{CursorKey, Erased, OutOfDate, Unused, Upkeep};

/// Why the inbox did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum InboxError {
    /// The store cannot be reached or answers nothing: try later. Whether the work was done is unknown.
    #[error("the inbox is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A deadline or lock time-out passed. Whether the work was done is unknown.
    #[error("the inbox did not answer within {0:?}")]
    Timeout(Duration),
    /// The store will never take this item; others of its group are not affected.
    #[error("the inbox refused the item")]
    Refused(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The user has as many devices as allowed, and this would be one more.
    #[error("a user may have at most {limit} devices")]
    DevicesFull {
        /// The cap.
        limit: u32,
    },
}

/// A backend's own name for a request, so that a retry is not a second notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// Keys of different publishers never meet.
    pub publisher: PublisherId,
    /// 1-255 bytes.
    pub key: String,
    /// SHA-256 of what was asked for; an equal key with another hash is a mistake.
    pub request_hash: [u8; 32],
}

/// One notification to be appended.
#[derive(Debug, Clone)]
pub struct Append {
    /// Its body, stored once.
    pub notification: Notification,
    /// One entry each; not empty. Several entries may go to one stream (two devices of a user).
    pub recipients: Vec<Recipient>,
    /// Whose it is: who may cancel it and ask what became of it.
    pub publisher: PublisherId,
    /// The publisher's key, if it gave one.
    pub idempotency: Option<Idempotency>,
    /// Names what it replaces: older entries of the same stream, target device and key are superseded for
    /// devices that have not acknowledged them. A later cancellation does not revive those.
    pub collapse_key: Option<String>,
    /// It was scheduled: it is appended only if its schedule is still there, which ends in the same statement.
    pub scheduled: bool,
}

/// Where an entry ended up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The stream's epoch.
    pub epoch: Epoch,
    /// The entry's place.
    pub seq: Seq,
}

/// What became of one [`Append`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Appended {
    /// Committed: a [`Place`] for each recipient, in the same order.
    Stored(Vec<Place>),
    /// The key was used before for the same request: nothing was appended.
    Replayed(FirstAnswer),
    /// The key was used before for another request: nothing was appended.
    KeyReused,
    /// Its schedule has ended (it was cancelled, or has fired already): nothing was appended.
    NotScheduled,
}

/// What the first request with an idempotency key was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstAnswer {
    /// The notification's id.
    pub id: NotificationId,
    /// Whether [`Appender::answered`] has recorded `online` below.
    pub answered: bool,
    /// The `online` of that answer.
    pub online: Option<u32>,
}

/// Appends, for publishers.
#[async_trait]
pub trait Appender: Send + Sync {
    /// Commits a group of notifications, each wholly or not at all; answers in the same order.
    ///
    /// - When this returns `Stored`, the entries are durable and visible to every later read.
    /// - Within a stream, seqs are gapless and grow in commit order; within a group, in group order.
    /// - A failing item does not fail the others (the implementation splits the group).
    /// - A group may hold one idempotency key twice: the later item replays the earlier.
    /// - A concurrent call with the same key waits for the first and then replays it.
    ///
    /// Groups of up to 64 items are what implementations are measured with; at most 512.
    async fn append(&self, group: Vec<Append>) -> Vec<Result<Appended, InboxError>>;

    /// Records what the first request with this key was told, for replays. The last call wins.
    async fn answered(
        &self,
        publisher: &PublisherId,
        key: &str,
        online: Option<u32>,
    ) -> Result<(), InboxError>;
}

/// A request to start following a stream.
#[derive(Debug, Clone)]
pub struct Open {
    /// Who follows.
    pub user: UserId,
    /// On which device; without one there is no cursor.
    pub device: Option<DeviceId>,
    /// What: the user's own stream, a topic, or everyone.
    pub stream: Stream,
    /// Where the client says it is; wins over the stored cursor.
    pub resume: Option<Resume>,
}

/// A place that a client remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resume {
    /// The epoch it was in; `None` where the client only gave `since` (then any epoch fits).
    pub epoch: Option<Epoch>,
    /// The last seq it has.
    pub seq: Seq,
}

/// Where a session starts in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// The stream's epoch.
    pub epoch: Epoch,
    /// The highest seq.
    pub head: Seq,
    /// The highest seq that retention has removed; 0 when nothing was.
    pub floor: Seq,
    /// The seq after which to read: never under `floor`.
    pub position: Seq,
    /// Up to here the device has acknowledged; never above `position`, and under it only where `resume` decided.
    pub cursor: Seq,
    /// Where the client believed to be (its resume or cursor), if entries between there and
    /// `position` are gone, or if that place is of another epoch or above the head.
    pub gap_from: Option<Seq>,
    /// How many entries there are that the user has not read and that have not expired, been superseded or
    /// cancelled. Of the user's own stream all (those for other devices, too); of a shared stream those since a
    /// device of the user first followed it, counted up to [`MAX_SHARED_UNREAD`].
    pub unread: u64,
    /// Grows whenever `unread` of the own stream may have changed; never goes back. 0 for shared streams.
    pub version: u64,
    /// [`Unread::reads`] of the user. 0 for shared streams.
    pub reads: u64,
}

/// Which entries of a stream a read returns; the others are passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    /// All, each with its target device: for a reader that serves several sessions.
    All,
    /// Those for all devices and those for this one (`None`: for all devices only).
    Device(Option<DeviceId>),
}

/// A request for the entries after a place.
#[derive(Debug, Clone)]
pub struct Read {
    /// The stream.
    pub stream: Stream,
    /// The entries after this seq.
    pub after: Seq,
    /// Whose.
    pub audience: Audience,
    /// At most so many entries.
    pub max_entries: u32,
    /// The page ends before the entry that would make its bodies larger, but has at least one.
    pub max_bytes: usize,
}

/// Some entries of a stream, and where the stream stood: all of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The stream's epoch.
    pub epoch: Epoch,
    /// The highest seq that retention has removed.
    pub floor: Seq,
    /// The highest seq.
    pub head: Seq,
    /// How far this page reaches: the last entry's seq if the page was cut short, else `head`. Whoever
    /// has the page has everything up to here that there is for it, whatever seqs are absent.
    pub through: Seq,
    /// In order of seq. Those that expired, were superseded or cancelled are absent.
    pub entries: Vec<Entry>,
}

/// One place in a stream, filled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place.
    pub seq: Seq,
    /// The only device it is for; `None` for all.
    pub device: Option<DeviceId>,
    /// When it stops being worth delivering.
    pub expires_at: Option<UnixMillis>,
    /// What is there.
    pub content: Content,
}

/// What an entry holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A notification.
    Notification {
        /// As clients get it (JSON).
        json: Bytes,
        /// Whether the user has read it; always false in shared streams.
        is_read: bool,
    },
    /// The cancellation of the notification with this id.
    Cancelled(NotificationId),
}

impl Content {
    /// What it adds to a page and to a window, in bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Notification { json, .. } => json.len(),
            Self::Cancelled(_) => 36,
        }
    }

    /// Whether it is empty (it never is).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where a stream stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its highest seq.
    pub head: Seq,
    /// Of a user's own stream: [`Unread::reads`] of that user. 0 for shared streams.
    pub reads: u64,
}

/// How far a device has acknowledged a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// Whose device.
    pub user: UserId,
    /// The device.
    pub device: DeviceId,
    /// The stream.
    pub stream: Stream,
    /// The epoch that `acked` is of.
    pub epoch: Epoch,
    /// Everything up to here is acknowledged.
    pub acked: Seq,
}

/// Reads and cursors, for gateways.
#[async_trait]
pub trait Streams: Send + Sync {
    /// Opens streams for sessions; answers in the same order.
    ///
    /// With a device, its cursor is durable when this returns. Where it starts, first match:
    /// 1. `resume`: there, if its epoch fits and it is not above the head; else at the floor, with a gap, and a cursor above
    ///    that goes back to it.
    /// 2. a stored cursor: there, by the same rule (a cursor of another epoch is moved to the floor).
    /// 3. the user's own stream, the user's first device ever: at the floor.
    /// 4. the user's own stream, a further device: before the lowest entry that is unread and above
    ///    what any device has acked, else at the head.
    /// 5. a topic or everyone, or no device at all: at the head.
    ///
    /// A place under the floor becomes the floor, with a gap. A stream that nobody has used stands at 0.
    async fn open(&self, requests: Vec<Open>) -> Vec<Result<Opened, InboxError>>;

    /// Reads pages, each of one snapshot; answers in the same order. A stream that does not exist
    /// reads as empty, with the store's epoch.
    async fn read(&self, requests: Vec<Read>, now: UnixMillis) -> Result<Vec<Page>, InboxError>;

    /// Where these streams stand; answers in the same order (a missing stream stands at 0).
    async fn heads(&self, streams: &[Stream]) -> Result<Vec<Head>, InboxError>;

    /// Moves cursors forward; one that is already further, of another epoch, or gone stays as it is.
    async fn commit(&self, cursors: Vec<Cursor>) -> Result<(), InboxError>;
}

/// The whole inbox.
pub trait Inbox:
    Appender + Streams + Receipts + ReadState + Schedules + Outbox + RevocationStore + Upkeep
{
}
impl<T: Appender + Streams + Receipts + ReadState + Schedules + Outbox + RevocationStore + Upkeep> Inbox
    for T
{
}

/// What both implementations are told.
#[derive(Clone)]
pub struct Settings {
    /// `postgres://…` or `sqlite://PATH`. May hold a password: never logged.
    pub url: String,
    /// Connections to PostgreSQL (SQLite: readers; there is one writer).
    pub max_connections: u32,
    /// Deadline of each call.
    pub timeout: Duration,
    /// How many devices a user may have.
    pub max_devices: u32,
    /// Whether what becomes of notifications is written to the outbox (`receipt.*`).
    pub receipt_events: bool,
    /// After how long without an acknowledgement `undelivered` is told; `None`: never.
    pub undelivered_after: Option<Duration>,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("max_connections", &self.max_connections)
            .field("timeout", &self.timeout)
            .field("max_devices", &self.max_devices)
            .field("receipt_events", &self.receipt_events)
            .field("undelivered_after", &self.undelivered_after)
            .finish_non_exhaustive()
    }
}
