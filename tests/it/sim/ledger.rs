//! The ledger of one run: what the store holds, beside what each device has got.
//!
//! Owns the one question that matters, whom each entry was for. It must never be read by what is
//! under test other than through the model of the inbox.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fanfare::domain::{DeviceId, Epoch, Stream, TopicName, UnixMillis, UserId};
use fanfare::inbox::FirstAnswer;

/// One entry.
#[derive(Debug, Clone)]
pub struct Kept {
    pub id: String,
    pub device: Option<DeviceId>,
    pub expires_at: Option<UnixMillis>,
    pub json: Bytes,
    /// From when a stale replica has it, in wall-clock milliseconds.
    pub replicated_at: UnixMillis,
}

/// One stream in one life of the store.
#[derive(Debug, Clone, Default)]
pub struct Log {
    pub head: u64,
    pub floor: u64,
    pub entries: BTreeMap<u64, Kept>,
    /// What retention removed: for devices that were told nothing of it.
    pub gone: BTreeMap<u64, Kept>,
}

/// A stored cursor.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub epoch: Epoch,
    pub start: u64,
    pub acked: u64,
}

/// User, device, stream.
pub type Key = (UserId, DeviceId, Stream);

/// One life of the store: everything that a restore brings back.
#[derive(Debug, Clone, Default)]
pub struct Life {
    pub logs: BTreeMap<Stream, Log>,
    pub cursors: BTreeMap<Key, Place>,
    pub devices: BTreeMap<UserId, BTreeSet<DeviceId>>,
    pub keys: BTreeMap<String, ([u8; 32], FirstAnswer)>,
}

/// What one device has got of one stream in one life of it.
#[derive(Debug, Clone)]
pub struct Got {
    pub epoch: Epoch,
    /// Everything above is its due.
    pub start: u64,
    /// The last that it has, in order; where it would resume.
    pub position: u64,
    pub received: BTreeSet<u64>,
    /// The highest that it acknowledged.
    pub acked: u64,
    /// Ranges that it was told are gone.
    pub told_gone: Vec<(u64, u64)>,
}

impl Got {
    pub fn new(epoch: Epoch, start: u64) -> Self {
        Self { epoch, start, position: start, received: BTreeSet::new(), acked: 0, told_gone: Vec::new() }
    }

    fn has(&self, seq: u64) -> bool {
        let told = |(from, to): &(u64, u64)| (*from..=*to).contains(&seq);
        self.received.contains(&seq) || self.told_gone.iter().any(told)
    }
}

/// A device, or an anonymous connection's owner.
#[derive(Debug)]
pub struct Holder {
    pub user: UserId,
    pub device: Option<DeviceId>,
    /// Whether a pong acknowledges.
    pub auto: bool,
    pub got: BTreeMap<Stream, Got>,
}

impl Holder {
    fn is_for(&self, kept: &Kept) -> bool {
        kept.device.is_none() || kept.device == self.device
    }
}

/// All of it.
#[derive(Debug)]
pub struct Ledger {
    pub epoch: Epoch,
    pub lives: BTreeMap<Epoch, Life>,
    pub backup: Option<Life>,
    pub holders: Vec<Holder>,
    /// The topics that each holder's connection follows now.
    pub follows: BTreeMap<usize, BTreeSet<TopicName>>,
    /// The ids of everything ever committed.
    pub stored: BTreeSet<String>,
}

impl Ledger {
    pub fn new() -> Self {
        let epoch = Epoch(1);
        let lives = BTreeMap::from([(epoch, Life::default())]);
        Self {
            epoch,
            lives,
            backup: None,
            holders: Vec::new(),
            follows: BTreeMap::new(),
            stored: BTreeSet::new(),
        }
    }

    /// The life that the store is in.
    pub fn life(&mut self) -> &mut Life {
        self.lives.get_mut(&self.epoch).expect("each epoch has a life")
    }

    pub fn log(&self, stream: &Stream, epoch: Epoch) -> Option<&Log> {
        self.lives.get(&epoch)?.logs.get(stream)
    }

    /// Puts the backup back; `fanfare inbox new-epoch` belongs to that.
    pub fn restore(&mut self) {
        if let Some(backup) = self.backup.clone() {
            self.epoch = Epoch(self.epoch.0 + 1);
            self.lives.insert(self.epoch, backup);
        }
    }

    /// Entries in `after..=to` that the holder is to get and has not got: neither expiring ones
    /// nor those that it was told are gone.
    pub fn missing(&self, holder: usize, stream: &Stream, after: u64, to: u64) -> Vec<u64> {
        let holder = &self.holders[holder];
        let Some(got) = holder.got.get(stream) else { return Vec::new() };
        let Some(log) = self.log(stream, got.epoch) else { return Vec::new() };
        let missing = |(seq, kept): (&u64, &Kept)| {
            (holder.is_for(kept) && kept.expires_at.is_none() && !got.has(*seq)).then_some(*seq)
        };
        if after >= to {
            return Vec::new();
        }
        log.entries.range(after + 1..=to).filter_map(missing).collect()
    }

    /// Entries that retention removed without the holder having got them or been told.
    pub fn gone_untold(&self, holder: usize, stream: &Stream) -> Vec<u64> {
        let holder = &self.holders[holder];
        let Some(got) = holder.got.get(stream) else { return Vec::new() };
        let Some(log) = self.log(stream, got.epoch) else { return Vec::new() };
        let untold = |(seq, kept): (&u64, &Kept)| {
            let due = *seq > got.start && holder.is_for(kept) && kept.expires_at.is_none();
            (due && !got.has(*seq)).then_some(*seq)
        };
        log.gone.iter().filter_map(untold).collect()
    }

    /// What of a device a cursor at `acked` passes that it has not acknowledged.
    pub fn unacknowledged(&self, key: &Key, epoch: Epoch, acked: u64) -> Vec<u64> {
        let (user, device, stream) = key;
        let start = match self.lives.get(&epoch).and_then(|life| life.cursors.get(key)) {
            Some(place) => place.start,
            None => return Vec::new(),
        };
        let is_it = |holder: &&Holder| holder.user == *user && holder.device.as_ref() == Some(device);
        let Some(holder) = self.holders.iter().find(is_it) else { return Vec::new() };
        let Some(log) = self.log(stream, epoch) else { return Vec::new() };
        let got = holder.got.get(stream).filter(|got| got.epoch == epoch);
        let passed = |(seq, kept): (&u64, &Kept)| {
            let due = holder.is_for(kept) && kept.expires_at.is_none();
            let acknowledged = got.is_some_and(|got| {
                got.has(*seq) && (holder.auto || *seq <= got.acked || !got.received.contains(seq))
            });
            (due && !acknowledged).then_some(*seq)
        };
        if start >= acked {
            return Vec::new();
        }
        log.entries.range(start + 1..=acked).filter_map(passed).collect()
    }
}
