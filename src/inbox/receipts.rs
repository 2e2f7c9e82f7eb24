//! Receipts: what became of a notification for each of its recipients.
//!
//! Owns the words for it and the contract of reading and writing it. It must never decide what is
//! delivered: reads of streams do.

use async_trait::async_trait;

use super::{InboxError, Place};
use crate::domain::{
    DeviceId, Epoch, NotificationId, PublisherId, Recipient, Seq, Stream, UnixMillis, UserId,
};

/// What became of a notification for a recipient. Where several are true, the first of
/// read, delivered, cancelled, superseded, expired, dropped, stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// In the inbox, acknowledged by nobody.
    Stored,
    /// A device has acknowledged it.
    Delivered,
    /// The user has read it.
    Read,
    /// Nobody had acknowledged it when its time was over.
    Expired,
    /// A newer one of its collapse key replaced it before anybody acknowledged it.
    Superseded,
    /// It was cancelled before anybody acknowledged it.
    Cancelled,
    /// Retention removed it before anybody acknowledged it.
    Dropped,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Stored,
        Self::Delivered,
        Self::Read,
        Self::Expired,
        Self::Superseded,
        Self::Cancelled,
        Self::Dropped,
    ];

    /// The word in JSON, routing keys (`receipt.<word>`) and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Delivered => "delivered",
            Self::Read => "read",
            Self::Expired => "expired",
            Self::Superseded => "superseded",
            Self::Cancelled => "cancelled",
            Self::Dropped => "dropped",
        }
    }
}

/// How many recipients are in each state. For a topic or everyone there is one entry, however many
/// read it: then `delivered` counts the devices that acknowledged it, and `stored` is 1 until one did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// [`State::Stored`].
    pub stored: u64,
    /// [`State::Delivered`].
    pub delivered: u64,
    /// [`State::Read`].
    pub read: u64,
    /// [`State::Expired`].
    pub expired: u64,
    /// [`State::Superseded`].
    pub superseded: u64,
    /// [`State::Cancelled`].
    pub cancelled: u64,
    /// [`State::Dropped`].
    pub dropped: u64,
}

/// What the publisher of a notification is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// When it was accepted, or fired if it was scheduled.
    pub created_at: UnixMillis,
    /// When it is to be published, while it is scheduled and not published yet.
    pub deliver_at: Option<UnixMillis>,
    /// Whether it was cancelled.
    pub is_cancelled: bool,
    /// How many recipients it has; `None` for a topic or everyone, and while it is scheduled.
    pub recipients: Option<u64>,
    /// How many are in which state.
    pub counts: Counts,
}

/// One recipient's part in a receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientReceipt {
    /// Whose stream.
    pub user: UserId,
    /// The only device it was for.
    pub device: Option<DeviceId>,
    /// What became of it.
    pub state: State,
    /// When a device first acknowledged it.
    pub delivered_at: Option<UnixMillis>,
    /// When the user read it.
    pub read_at: Option<UnixMillis>,
}

/// A place in the list of a notification's recipients: after whom a page begins.
pub type AfterRecipient = (UserId, Option<DeviceId>);

/// What became of a wish to cancel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cancelled {
    /// This publisher has no such notification (any more).
    Unknown,
    /// It was scheduled and will not be published.
    Unscheduled,
    /// It is cancelled. `entries` are the cancellations made by this call, each with its place: empty when it
    /// was cancelled before, or when nothing of it can be delivered any more.
    Stored {
        /// How many recipients it had; `None` for a topic or everyone.
        recipients: Option<u64>,
        /// When its cancellations stop being worth delivering: when it would have.
        expires_at: Option<UnixMillis>,
        /// Where the cancellations are.
        entries: Vec<(Recipient, Place)>,
    },
}

/// An entry of a user's own stream that a device has acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Delivered {
    /// The user's stream.
    pub user: UserId,
    /// Its epoch.
    pub epoch: Epoch,
    /// The entry.
    pub seq: Seq,
}

/// An entry of a shared stream that devices have acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveredShared {
    /// The stream.
    pub stream: Stream,
    /// Its epoch.
    pub epoch: Epoch,
    /// The entry.
    pub seq: Seq,
    /// How many more devices.
    pub devices: u64,
}

/// Receipts, for gateways and publishers.
#[async_trait]
pub trait Receipts: Send + Sync {
    /// Notes that these entries were acknowledged at `at`. The first time counts; an entry that is gone or of
    /// another epoch is passed over. Writes the event `receipt.delivered` where that is switched on.
    async fn delivered(&self, entries: Vec<Delivered>, at: UnixMillis) -> Result<(), InboxError>;

    /// Adds to the counts of shared streams. A call whose answer was lost may have counted.
    async fn delivered_shared(&self, entries: Vec<DeliveredShared>, at: UnixMillis)
    -> Result<(), InboxError>;

    /// Cancels a notification of this publisher, scheduled or stored. For each recipient where it is not
    /// expired or dropped a cancellation gets the next seq of the same stream, and where it is not superseded the entry
    /// is marked, in one statement, under the order of locks of [`super::Appender::append`]. What was superseded
    /// stays so, but devices that show it are told to take it away. The second time does nothing.
    async fn cancel(
        &self,
        id: NotificationId,
        publisher: &PublisherId,
        now: UnixMillis,
    ) -> Result<Cancelled, InboxError>;

    /// What became of a notification of this publisher; `None` if there is none (any more).
    async fn receipt(
        &self,
        id: NotificationId,
        publisher: &PublisherId,
        now: UnixMillis,
    ) -> Result<Option<Receipt>, InboxError>;

    /// Its recipients one by one, by user and device, at most `limit`, those after `after`. Empty for a topic,
    /// everyone, or an unknown notification.
    async fn recipients(
        &self,
        id: NotificationId,
        publisher: &PublisherId,
        after: Option<&AfterRecipient>,
        limit: u32,
        now: UnixMillis,
    ) -> Result<Vec<RecipientReceipt>, InboxError>;

    /// The counts of several notifications, for those who wait for outcomes; answers in the same order (an
    /// unknown one: all zero).
    async fn counts(&self, ids: &[NotificationId], now: UnixMillis) -> Result<Vec<Counts>, InboxError>;
}
