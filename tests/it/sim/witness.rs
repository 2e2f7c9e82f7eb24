//! The witness: what one connection hands to its device, held against the ledger.
//!
//! Owns the invariants of frames: order and no doubles within a connection, nothing that was not for
//! the device, nothing passed over. It must never speak to the server.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use fanfare::domain::{Epoch, Stream, UserId};
use serde_json::Value;

use super::ledger::{Got, Ledger};
use super::stage::{Kind, Stage};

/// How one connection stands in a stream.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    epoch: Epoch,
    /// The last seq that it passed.
    pub last: u64,
    /// The last that came as a notification; only those are doubles.
    sent: u64,
    /// What it acknowledged.
    pub acked: u64,
}

/// One connection's witness.
pub struct Witness {
    pub stage: Stage,
    pub ledger: Arc<Mutex<Ledger>>,
    pub name: String,
    pub holder: usize,
    pub user: UserId,
    pub anonymous: bool,
    /// Streams for which `hello` had a place.
    pub resumed: Vec<Stream>,
    pub standing: BTreeMap<Stream, Standing>,
}

impl Witness {
    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("no panic under it")
    }

    fn find(&self, kind: Kind, text: impl std::fmt::Display) {
        self.stage.find(kind, format_args!("{}: {text}", self.name));
    }

    /// A stream as clients name it.
    pub fn stream(&self, name: &str) -> Stream {
        match name {
            "user" => Stream::User(self.user.clone()),
            other => Stream::parse(other).expect("the server names streams that there are"),
        }
    }

    /// One stream of `welcome`, or `subscribed`; `resumed`: the client said where it was.
    pub fn opened(&mut self, state: &Value, resumed: bool) {
        let stream = self.stream(text(state, "stream"));
        let epoch: Epoch = text(state, "epoch").parse().expect("an epoch");
        let (from, gap) = (number(state, "from"), state["gap"] == true);
        self.standing.insert(stream.clone(), Standing { epoch, last: from, sent: 0, acked: from });
        let passed = {
            let mut ledger = self.lock();
            if let Stream::Topic(topic) = &stream {
                ledger.follows.entry(self.holder).or_default().insert(topic.clone());
            }
            let new_again = !resumed && self.begins_here(&ledger, &stream, from);
            let fresh = self.anonymous && !resumed;
            let got = ledger.holders[self.holder].got.entry(stream.clone());
            let got = got.or_insert_with(|| Got::new(epoch, from));
            if fresh || got.epoch != epoch {
                *got = Got::new(epoch, from);
            }
            let position = got.position;
            if new_again {
                got.told_gone.push((0, from));
            }
            got.position = position.max(from);
            // Even a gap passes only what is not there any more.
            let passed = ledger.missing(self.holder, &stream, position, from);
            if gap && let Some(got) = ledger.holders[self.holder].got.get_mut(&stream) {
                got.told_gone.push((0, from));
            }
            passed
        };
        if !passed.is_empty() {
            self.find(Kind::Loss, format_args!("{stream} is opened at {from}, past {passed:?}"));
        }
    }

    /// Whether the store knows of no earlier place: after a restore of a backup from before the device
    /// first came, it is a new device.
    fn begins_here(&self, ledger: &Ledger, stream: &Stream, from: u64) -> bool {
        let holder = &ledger.holders[self.holder];
        let Some(device) = &holder.device else { return true };
        let key = (holder.user.clone(), device.clone(), stream.clone());
        let place = ledger.lives.get(&ledger.epoch).and_then(|life| life.cursors.get(&key));
        ledger.lives.len() > 1
            && place.is_some_and(|place| place.epoch == ledger.epoch && place.start == from)
    }

    /// The stream is not followed any more.
    pub fn closed(&mut self, name: &str) {
        let stream = self.stream(name);
        self.standing.remove(&stream);
        if let (Stream::Topic(topic), Some(follows)) = (&stream, self.lock().follows.get_mut(&self.holder)) {
            follows.remove(topic);
        }
    }

    /// A stored notification.
    pub fn notified(&mut self, name: &str, seq: u64, id: &str) {
        let stream = self.stream(name);
        let Some(standing) = self.standing.get(&stream).copied() else {
            return self.find(Kind::Order, format_args!("{stream} {seq} before it was opened"));
        };
        if seq <= standing.sent {
            let kind = if seq == standing.sent { Kind::Double } else { Kind::Order };
            return self.find(kind, format_args!("{stream} {seq} after {}", standing.sent));
        }
        if seq <= standing.last {
            return self.find(Kind::Order, format_args!("{stream} {seq}, told to be at {}", standing.last));
        }
        self.check_entry(&stream, standing.epoch, seq, id);
        let passed = self.lock().missing(self.holder, &stream, standing.last, seq - 1);
        if !passed.is_empty() {
            self.find(Kind::Loss, format_args!("{stream} {seq} passes {passed:?}"));
        }
        if let Some(standing) = self.standing.get_mut(&stream) {
            (standing.last, standing.sent) = (seq, seq);
        }
        let mut ledger = self.lock();
        if let Some(got) = ledger.holders[self.holder].got.get_mut(&stream)
            && seq > got.position
        {
            got.position = seq;
            got.received.insert(seq);
        }
    }

    /// What came is what was entered there, for this device, in time.
    fn check_entry(&self, stream: &Stream, epoch: Epoch, seq: u64, id: &str) {
        let (entry, device) = {
            let ledger = self.lock();
            let log = ledger.log(stream, epoch);
            let entry = log.and_then(|log| log.entries.get(&seq).or_else(|| log.gone.get(&seq)));
            (entry.cloned(), ledger.holders[self.holder].device.clone())
        };
        let Some(entry) = entry else {
            return self.find(Kind::Stranger, format_args!("{stream} {seq} is not in the inbox"));
        };
        if entry.id != id {
            self.find(Kind::Stranger, format_args!("{stream} {seq} is {id}, not {}", entry.id));
        }
        if entry.device.is_some() && entry.device != device {
            self.find(Kind::Stranger, format_args!("{stream} {seq} is for {:?}", entry.device));
        }
    }

    /// Everything up to `through` was sent.
    pub fn caught_up(&mut self, name: &str, through: u64) {
        let stream = self.stream(name);
        let Some(standing) = self.standing.get_mut(&stream) else { return };
        let last = standing.last;
        standing.last = last.max(through);
        let passed = {
            let mut ledger = self.lock();
            let passed = ledger.missing(self.holder, &stream, last, through);
            if let Some(got) = ledger.holders[self.holder].got.get_mut(&stream) {
                got.position = got.position.max(through);
            }
            passed
        };
        if !passed.is_empty() {
            self.find(Kind::Loss, format_args!("{stream} caught up to {through}, without {passed:?}"));
        }
    }

    /// `from..=to` are gone, or the stream began anew.
    pub fn gap(&mut self, frame: &Value) {
        let stream = self.stream(text(frame, "stream"));
        let epoch: Epoch = text(frame, "epoch").parse().expect("an epoch");
        let (from, to) = (number(frame, "from"), number(frame, "to"));
        let Some(standing) = self.standing.get_mut(&stream) else { return };
        let anew = standing.epoch != epoch;
        if anew {
            *standing = Standing { epoch, last: to, sent: 0, acked: to };
        } else {
            standing.last = standing.last.max(to);
        }
        let still_there = {
            let mut ledger = self.lock();
            let still_there = match anew {
                true => Vec::new(),
                false => ledger.missing(self.holder, &stream, from.saturating_sub(1), to),
            };
            let got = ledger.holders[self.holder].got.entry(stream.clone());
            let got = got.or_insert_with(|| Got::new(epoch, to));
            if anew {
                *got = Got::new(epoch, to);
            }
            got.told_gone.push((from, to));
            got.position = got.position.max(to);
            still_there
        };
        if !still_there.is_empty() {
            self.find(Kind::Loss, format_args!("{stream} is told gone to {to}, but has {still_there:?}"));
        }
    }

    /// The client is about to acknowledge `seq`.
    pub fn acknowledges(&mut self, stream: &Stream, seq: u64) {
        let Some(standing) = self.standing.get_mut(stream) else { return };
        standing.acked = seq;
        let epoch = standing.epoch;
        let mut ledger = self.lock();
        if let Some(got) = ledger.holders[self.holder].got.get_mut(stream)
            && got.epoch == epoch
        {
            got.acked = got.acked.max(seq);
        }
    }
}

/// A text of a frame.
pub fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("{field} is a text in {value}"))
}

/// A number of a frame.
pub fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_else(|| panic!("{field} is a number in {value}"))
}
