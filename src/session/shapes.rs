//! What a session is told, and what it answers.
//!
//! Owns shapes only; what they lead to is decided elsewhere.

use bytes::Bytes;

use crate::domain::{DeviceId, Epoch, Seq, UnixMillis};
use crate::wire::Frame;

/// How much may be sent and not acknowledged, for each stream. What has expired does not count where room is missing.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Entries.
    pub entries: usize,
    /// Bytes of their bodies; one entry always fits.
    pub bytes: usize,
}

/// Whether the connection takes more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// It does.
    Open,
    /// It has enough queued: stop until told that it is drained.
    Full,
}

/// An entry as a session sees it.
#[derive(Debug, Clone, Copy)]
pub struct Offered<'a> {
    /// Its place.
    pub seq: Seq,
    /// The only device it is for.
    pub device: Option<&'a DeviceId>,
    /// From when on it must not be sent.
    pub expires_at: Option<UnixMillis>,
    /// What it adds to the window.
    pub bytes: usize,
    /// Whether its acknowledgement is a receipt (that of a cancellation is none).
    pub receipt: bool,
    /// Its frame, where it may wait for a moment; `None` for what was read.
    pub pushed: Option<Pushed<'a>>,
}

/// What a session has to know of a pushed entry to let it wait.
#[derive(Debug, Clone, Copy)]
pub struct Pushed<'a> {
    /// What is written then.
    pub frame: &'a Frame,
    /// What makes another entry of the same stream and target device an update of it.
    pub collapse_key: Option<&'a Bytes>,
}

impl Offered<'_> {
    pub(super) fn is_expired(&self, now: UnixMillis) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// What to do with an offered entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send it now; if the connection is `Full` then, call [`Session::congested`](super::Session::congested).
    Send,
    /// Nothing yet: it waits for its collapse key's time, or behind what does. Call [`Session::release`](super::Session::release).
    Kept,
    /// Nothing: it is a duplicate, not for this device, or past its time.
    Skip,
    /// Nothing: the session is behind and will read it.
    Held,
    /// The same, and it fell behind with this entry: its window or its connection is full.
    Lagged,
    /// Nothing, but an entry before this one is missing: read soon.
    Read,
    /// The stream has another life than the session is in: end the connection.
    Reset,
}

/// What is to be done next for a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Wait,
    /// Nothing: its window or its connection is full, so it reads on later.
    Lagged,
    /// Read.
    Read,
    /// The stream has another life than the session is in, or stands below where the session is: a store was
    /// restored. End the connection; when it comes back it starts where it can.
    Reset,
}

/// What a page leads to, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Tell the client that entries `from..=to` are gone.
    Gap {
        /// The first that is gone.
        from: Seq,
        /// The last that is gone.
        to: Seq,
    },
    /// Send the page's entry with this index.
    Send(usize),
    /// Tell the client that it has everything up to here.
    CaughtUp(Seq),
}

/// A page as a session sees it.
#[derive(Debug, Clone, Copy)]
pub struct PageView<'a> {
    /// The stream's epoch.
    pub epoch: Epoch,
    /// The highest seq that retention has removed.
    pub floor: Seq,
    /// The seq it was asked for after.
    pub after: Seq,
    /// The highest seq.
    pub head: Seq,
    /// How far the page reaches.
    pub through: Seq,
    /// Its entries, in order.
    pub entries: &'a [Offered<'a>],
}

/// What became of entries that waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Released {
    /// How many were written.
    pub sent: u64,
    /// How many were not, as they have expired.
    pub expired: u64,
}

/// What an ack changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acked {
    /// The stream's epoch.
    pub epoch: Epoch,
    /// Where the device's cursor now is.
    pub cursor: Seq,
    /// Whether the session was held back by its window and has room again: read on.
    pub read: bool,
    /// What it acknowledges that an earlier session had sent: the entries after the first and up to the second.
    pub covered: Option<(Seq, Seq)>,
}

/// Why an ack is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AckError {
    /// The stream is not followed.
    #[error("this stream is not followed")]
    NotFollowed,
    /// It is above what was sent.
    #[error("seq must be at most {sent}, the last that was sent; got {got}")]
    AboveSent {
        /// The highest seq that may be acknowledged.
        sent: Seq,
        /// What was.
        got: Seq,
    },
}

/// How a session stands in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It has no place yet, or has not caught up for the first time.
    Replaying,
    /// Pushed entries are sent as they come.
    Live,
    /// An entry is missing and has to be read.
    Gap,
    /// The client is slower than the stream: it reads on as acks come or the socket drains.
    Lagged,
}

/// What operators see.
#[derive(Debug, Clone, Copy)]
pub struct FollowStatus {
    /// How it stands.
    pub phase: Phase,
    /// How far it has gone.
    pub position: Seq,
    /// How many entries are sent and not acknowledged.
    pub unacked: usize,
}
