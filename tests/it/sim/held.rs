//! What devices have: what each got of each stream, and what it knows of what was read.
//!
//! Owns the devices' side of the ledger. It must never know of the store.

use std::collections::{BTreeMap, BTreeSet};

use fanfare::domain::{DeviceId, Epoch, NotificationId, Stream, UserId};

/// What one device has got of one stream in one life of it.
#[derive(Debug, Clone)]
pub struct Got {
    pub epoch: Epoch,
    /// Everything above is its due.
    pub start: u64,
    /// The last that it has, in order; where it would resume.
    pub position: u64,
    /// Places of notifications and cancellations.
    pub received: BTreeSet<u64>,
    /// What it was told is cancelled.
    pub cancelled: BTreeSet<NotificationId>,
    /// The highest that it acknowledged.
    pub acked: u64,
    /// Ranges that it was told are gone.
    pub told_gone: Vec<(u64, u64)>,
}

impl Got {
    pub fn new(epoch: Epoch, start: u64) -> Self {
        Self {
            epoch,
            start,
            position: start,
            received: BTreeSet::new(),
            cancelled: BTreeSet::new(),
            acked: 0,
            told_gone: Vec::new(),
        }
    }

    pub fn has(&self, seq: u64) -> bool {
        let told = |(from, to): &(u64, u64)| (*from..=*to).contains(&seq);
        self.received.contains(&seq) || self.told_gone.iter().any(told)
    }
}

/// What a device knows of the read state of its user.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The last version that it was told, and the unread count with it.
    pub version: u64,
    pub unread: u64,
    /// The version of its last `welcome`.
    pub welcomed: u64,
    /// What it was told since then.
    pub ids: BTreeSet<NotificationId>,
    pub up_to: BTreeMap<Stream, u64>,
}

/// A device, or an anonymous connection's owner.
#[derive(Debug)]
pub struct Holder {
    pub user: UserId,
    pub device: Option<DeviceId>,
    /// Whether a pong acknowledges.
    pub auto: bool,
    pub got: BTreeMap<Stream, Got>,
    pub view: View,
}

impl Holder {
    pub fn is_for(&self, target: Option<&DeviceId>) -> bool {
        target.is_none() || target == self.device.as_ref()
    }
}
