//! What there is to know of a followed stream only while something goes on in it.
//!
//! Owns the shape, and when it may be given back: then the stream stands as if it had never been there.

use super::super::conflation::Conflation;
use super::super::sent::Sent;
use crate::domain::{Epoch, Seq};

/// Made when something is offered, sent or passed, and kept for a heartbeat or two, so that a stream that is
/// often written to does not allocate each time.
#[derive(Debug)]
pub(super) struct Busy {
    /// The highest seq offered while not live, and the epoch it was offered in (before the stream is opened,
    /// that may be another one).
    pub(super) offered: Option<(Epoch, Seq)>,
    /// What was offered and not in the last whole page.
    pub(super) missed: Option<(Epoch, Seq)>,
    pub(super) acked: Seq,
    /// Up to here the client has entries that it may not have acknowledged.
    pub(super) resumed: Seq,
    /// How far everything was written when the last ping went out.
    pub(super) mark: Seq,
    /// What was sent, and what waits to be.
    pub(super) sent: Sent,
    /// `None` as long as nothing with a collapse key comes, or nothing is to wait.
    pub(super) conflation: Option<Box<Conflation>>,
    pub(super) stuck: Stuck,
    /// The bytes of the entry that the window had no room for, while it has none.
    pub(super) wants: u32,
}

// The size class of the allocator that it fills.
const _: () = assert!(size_of::<Busy>() <= 128);

/// How long the window has been full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stuck {
    No,
    Noticed,
    Told,
}

impl Busy {
    /// Of a stream in which everything up to `position` is acknowledged.
    pub(super) fn at(position: Seq) -> Self {
        Self {
            offered: None,
            missed: None,
            acked: position,
            resumed: position,
            mark: Seq(0),
            sent: Sent::default(),
            conflation: None,
            stuck: Stuck::No,
            wants: 0,
        }
    }

    /// Whether it says nothing that [`Self::at`] would not say of a live stream: what was offered, and marks and resumed
    /// entries up to what is acknowledged, mean nothing there.
    pub(super) fn is_over(&self, position: Seq) -> bool {
        self.acked == position && self.sent.len() == 0 && self.conflation.is_none() && self.stuck == Stuck::No
    }

    /// Whether an entry above the position was offered, or one of another epoch before the stream was opened:
    /// then a read tells which epoch is true.
    pub(super) fn is_owed(&self, epoch: Option<Epoch>, position: Seq) -> bool {
        self.offered.is_some_and(|(of, seq)| Some(of) != epoch || seq > position)
    }

    /// How far nothing is left to acknowledge: entries that this device was never to get are passed too.
    pub(super) fn settled(&self, position: Seq) -> Seq {
        if self.acked < self.resumed {
            return self.acked;
        }
        match self.sent.first() {
            Some(unacked) => self.acked.max(Seq(unacked.0 - 1)),
            None => position,
        }
    }
}
