//! The ledger of one run: what the store holds, beside what each device has got.
//!
//! Owns the one question that matters, whom each entry was for. It must never be read by what is
//! under test other than through the model of the inbox.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use fanfare::domain::{DeviceId, Epoch, NotificationId, PublisherId, Stream, TopicName, UnixMillis, UserId};
use fanfare::inbox::{Content, FirstAnswer};

use super::held::{Got, Holder};

/// How an entry ended before it was passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Superseded,
    Cancelled,
}

/// One entry.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The notification's; of a cancellation, what it cancels.
    pub id: NotificationId,
    /// The place of what a cancellation cancels.
    pub cancels: Option<u64>,
    pub device: Option<DeviceId>,
    pub expires_at: Option<UnixMillis>,
    /// Empty for a cancellation.
    pub json: Bytes,
    pub collapse: Option<String>,
    /// How it ended, and when by the true time.
    pub ended: Option<(Ended, UnixMillis)>,
    /// The version of the read mark (own streams).
    pub read: Option<(u64, u64)>,
    /// When it was committed.
    pub entered_at: UnixMillis,
    /// From when a stale replica has it, and from when reads see it at all.
    pub replicated_at: UnixMillis,
}

impl Kept {
    pub fn content(&self) -> Content {
        match self.cancels {
            None => Content::Notification { json: self.json.clone(), is_read: self.read.is_some() },
            Some(_) => Content::Cancelled(self.id),
        }
    }

    pub fn is_expired(&self, now: UnixMillis) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// One stream in one life of the store.
#[derive(Debug, Clone, Default)]
pub struct Log {
    pub head: u64,
    pub floor: u64,
    pub entries: BTreeMap<u64, Kept>,
    /// What retention removed: for devices that were told nothing of it.
    pub gone: BTreeMap<u64, Kept>,
    /// The newest entry of each collapse key.
    pub newest: BTreeMap<(Option<DeviceId>, String), u64>,
}

impl Log {
    /// The entry, even if retention has removed it.
    pub fn ever(&self, seq: u64) -> Option<&Kept> {
        self.entries.get(&seq).or_else(|| self.gone.get(&seq))
    }
}

/// A stored cursor.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub epoch: Epoch,
    pub start: u64,
    pub acked: u64,
}

/// A notification, wherever its entries are.
#[derive(Debug, Clone)]
pub struct Body {
    pub publisher: PublisherId,
    pub recipients: Vec<(Stream, u64)>,
    pub is_shared: bool,
    pub expires_at: Option<UnixMillis>,
}

/// One that is to be published later.
#[derive(Debug, Clone)]
pub struct Later {
    pub fire_at: UnixMillis,
    pub publisher: PublisherId,
    pub request: Bytes,
    pub claimed_until: UnixMillis,
}

/// A read mark: its number, and how things stood after it.
#[derive(Debug, Clone, Copy)]
pub struct Marking {
    pub version: u64,
    pub unread: u64,
}

/// The read state of a user.
#[derive(Debug, Clone, Default)]
pub struct Reader {
    pub reads: u64,
    pub last: Option<Marking>,
    /// What is marked: by which mark, and the version with it.
    pub marks: BTreeMap<(Stream, u64), (u64, u64)>,
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
    /// What each idempotency key was first stored as, whatever the store remembers.
    pub by_key: BTreeMap<String, NotificationId>,
    pub bodies: BTreeMap<NotificationId, Body>,
    pub schedules: BTreeMap<NotificationId, Later>,
    pub unscheduled: BTreeSet<NotificationId>,
    pub readers: BTreeMap<UserId, Reader>,
    pub version_base: u64,
}

impl Life {
    /// Whether it is stored, kept for later, or was taken back before its time.
    pub fn holds(&self, id: NotificationId) -> bool {
        self.bodies.contains_key(&id) || self.schedules.contains_key(&id) || self.unscheduled.contains(&id)
    }

    /// Whether nothing of it can be delivered any more.
    pub fn is_over(&self, id: NotificationId, now: UnixMillis) -> bool {
        let entries = self.bodies.get(&id).map_or(&[][..], |body| &body.recipients);
        let kept = entries.iter().filter_map(|(stream, seq)| self.logs.get(stream)?.entries.get(seq));
        kept.into_iter().all(|kept| kept.ended.is_some() || kept.is_expired(now))
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
    /// The streams that each holder's connection has open now, and since when.
    pub open: BTreeMap<usize, BTreeMap<Stream, UnixMillis>>,
    /// What publishers were told is accepted, in which life.
    pub accepted: BTreeMap<NotificationId, Epoch>,
    /// Devices, and cursors, that were noted as used, and when.
    pub used: Vec<(String, UnixMillis)>,
    /// How far clocks may be apart: so much earlier an entry may count as expired.
    pub margin: Duration,
}

impl Ledger {
    pub fn new(margin: Duration) -> Self {
        let epoch = Epoch(1);
        let lives = BTreeMap::from([(epoch, Life::default())]);
        Self {
            epoch,
            lives,
            backup: None,
            holders: Vec::new(),
            follows: BTreeMap::new(),
            open: BTreeMap::new(),
            accepted: BTreeMap::new(),
            used: Vec::new(),
            margin,
        }
    }

    /// The life that the store is in.
    pub fn life(&mut self) -> &mut Life {
        self.lives.get_mut(&self.epoch).expect("each epoch has a life")
    }

    /// The same, to look at.
    pub fn now(&self) -> &Life {
        &self.lives[&self.epoch]
    }

    pub fn log(&self, stream: &Stream, epoch: Epoch) -> Option<&Log> {
        self.lives.get(&epoch)?.logs.get(stream)
    }

    /// Puts the backup back, with `fanfare inbox new-epoch`; `base`: what versions count from then.
    pub fn restore(&mut self, base: u64) {
        if let Some(backup) = self.backup.clone() {
            self.epoch = Epoch(self.epoch.0 + 1);
            self.lives.insert(self.epoch, Life { version_base: base, ..backup });
        }
    }

    /// Whether a device that passes this entry now, without having got it, has lost it.
    fn is_due(&self, holder: &Holder, got: &Got, kept: &Kept, now: UnixMillis) -> bool {
        let is_live = !kept.is_expired(now.after(self.margin)) && kept.ended.is_none();
        holder.is_for(kept.device.as_ref())
            && is_live
            && kept.cancels.is_none_or(|cancelled| got.received.contains(&cancelled))
    }

    /// Entries in `after..=to` that the holder is to get and has not got, but those that it was told are gone.
    pub fn missing(&self, holder: usize, stream: &Stream, after: u64, to: u64, now: UnixMillis) -> Vec<u64> {
        let holder = &self.holders[holder];
        let Some(got) = holder.got.get(stream) else {
            return Vec::new();
        };
        let Some(log) = self.log(stream, got.epoch) else {
            return Vec::new();
        };
        if after >= to {
            return Vec::new();
        }
        let missing = |(seq, kept): (&u64, &Kept)| {
            (!got.has(*seq) && self.is_due(holder, got, kept, now)).then_some(*seq)
        };
        log.entries.range(after + 1..=to).filter_map(missing).collect()
    }

    /// Whether something is there up to `to` that is for a holder that has nothing yet.
    pub fn has_due(&self, holder: &Holder, stream: &Stream, epoch: Epoch, to: u64, now: UnixMillis) -> bool {
        let none = Got::new(epoch, 0);
        let Some(log) = self.log(stream, epoch) else {
            return false;
        };
        log.entries.range(..=to).any(|(_, kept)| self.is_due(holder, &none, kept, now))
    }

    /// Entries that retention removed without the holder having got them or been told.
    pub fn gone_untold(&self, holder: usize, stream: &Stream, now: UnixMillis) -> Vec<u64> {
        let holder = &self.holders[holder];
        let Some(got) = holder.got.get(stream) else {
            return Vec::new();
        };
        let Some(log) = self.log(stream, got.epoch) else {
            return Vec::new();
        };
        let untold = |(seq, kept): (&u64, &Kept)| {
            let due = *seq > got.start && kept.expires_at.is_none() && self.is_due(holder, got, kept, now);
            (due && !got.has(*seq)).then_some(*seq)
        };
        log.gone.iter().filter_map(untold).collect()
    }

    /// Notifications that the holder has, that were cancelled, and whose cancellation it never got.
    pub fn uncancelled(&self, holder: usize, stream: &Stream, now: UnixMillis) -> Vec<u64> {
        let Some(got) = self.holders[holder].got.get(stream) else {
            return Vec::new();
        };
        let Some(log) = self.log(stream, got.epoch) else {
            return Vec::new();
        };
        let kept = |seq: &u64| log.entries.get(seq).map(|kept| (*seq, kept));
        let is_uncancelled = |(_, kept): &(u64, &Kept)| {
            let cancelled = matches!(kept.ended, Some((Ended::Cancelled, _)));
            // One under the floor is told as a gap.
            cancelled && !kept.is_expired(now.after(self.margin)) && !got.cancelled.contains(&kept.id)
        };
        let told = |(seq, _): &(u64, &Kept)| {
            let cancels = |(at, kept): (&u64, &Kept)| (kept.cancels == Some(*seq)).then_some(*at);
            log.gone.iter().filter_map(cancels).any(|at| got.has(at))
        };
        let of_it = got.received.iter().filter_map(kept);
        of_it.filter(|one| is_uncancelled(one) && !told(one)).map(|(seq, _)| seq).collect()
    }

    /// What of a device a cursor at `acked` passes that it has not acknowledged.
    pub fn unacknowledged(&self, key: &Key, epoch: Epoch, acked: u64, now: UnixMillis) -> Vec<u64> {
        let (user, device, stream) = key;
        let start = match self.lives.get(&epoch).and_then(|life| life.cursors.get(key)) {
            Some(place) => place.start,
            None => return Vec::new(),
        };
        let is_it = |holder: &&Holder| holder.user == *user && holder.device.as_ref() == Some(device);
        let Some(holder) = self.holders.iter().find(is_it) else {
            return Vec::new();
        };
        let Some(log) = self.log(stream, epoch) else {
            return Vec::new();
        };
        let none = Got::new(epoch, start);
        let got = holder.got.get(stream).filter(|got| got.epoch == epoch).unwrap_or(&none);
        let passed = |(seq, kept): (&u64, &Kept)| {
            let acknowledged =
                got.has(*seq) && (holder.auto || *seq <= got.acked || !got.received.contains(seq));
            (!acknowledged && self.is_due(holder, got, kept, now)).then_some(*seq)
        };
        if start >= acked {
            return Vec::new();
        }
        log.entries.range(start + 1..=acked).filter_map(passed).collect()
    }

    /// What was accepted and is neither stored nor kept for later, nor was taken back.
    pub fn lost(&self) -> Vec<NotificationId> {
        let of_now = self.accepted.iter().filter(|(_, epoch)| **epoch == self.epoch);
        of_now.map(|(id, _)| *id).filter(|id| !self.now().holds(*id)).collect()
    }
}
