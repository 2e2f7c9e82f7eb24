//! The witness: what one connection hands to its device, held against the ledger.
//!
//! Owns the invariants of frames: order and no doubles within a connection, nothing that was not for
//! the device, nothing passed over. It must never speak to the server.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fanfare::domain::{Epoch, NotificationId, Stream, UnixMillis, UserId};
use serde_json::Value;

use super::held::{Got, View};
use super::ledger::{Kept, Ledger};
use super::stage::{Kind, Stage};

/// How one connection stands in a stream.
#[derive(Debug, Clone)]
pub struct Standing {
    epoch: Epoch,
    /// The last seq that it passed.
    pub last: u64,
    /// The last that came as an entry; only those are doubles.
    sent: u64,
    /// What it acknowledged.
    pub acked: u64,
    /// What the client itself has acknowledged in this connection.
    said: u64,
    /// What it got since.
    ahead: VecDeque<(u64, Option<UnixMillis>)>,
}

impl Standing {
    fn new(epoch: Epoch, at: u64) -> Self {
        Self { epoch, last: at, sent: 0, acked: at, said: 0, ahead: VecDeque::new() }
    }
}

/// One connection's witness.
pub struct Witness {
    pub stage: Stage,
    pub ledger: Arc<Mutex<Ledger>>,
    pub name: String,
    pub holder: usize,
    pub user: UserId,
    pub anonymous: bool,
    /// How many entries may be ahead of its acknowledgements, where it says when it acknowledges.
    pub window: Option<usize>,
    /// How long after it ended something may still be under way.
    pub stale_after: Duration,
    /// Streams for which `hello` had a place.
    pub resumed: Vec<Stream>,
    pub standing: BTreeMap<Stream, Standing>,
    /// Streams that this connection has left, and what it had acknowledged of them.
    pub left: BTreeMap<Stream, (Epoch, u64)>,
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

    /// The connection's first frame.
    pub fn welcomed(&mut self, frame: &Value) {
        for state in frame["streams"].as_array().expect("streams") {
            let resumed = self.resumed.contains(&self.stream(text(state, "stream")));
            self.opened(state, resumed);
        }
        let (version, unread) = (number(frame, "version"), number(frame, "unread"));
        let before = {
            let mut ledger = self.lock();
            let view = &mut ledger.holders[self.holder].view;
            std::mem::replace(view, View { version, unread, welcomed: version, ..View::default() }).version
        };
        if version < before {
            self.find(Kind::Read, format_args!("the version goes back from {before} to {version}"));
        }
    }

    /// One stream of `welcome`, or `subscribed`; `resumed`: the client said where it was.
    pub fn opened(&mut self, state: &Value, resumed: bool) {
        let stream = self.stream(text(state, "stream"));
        let epoch: Epoch = text(state, "epoch").parse().expect("an epoch");
        let (from, gap) = (number(state, "from"), state["gap"] == true);
        self.standing.insert(stream.clone(), Standing::new(epoch, from));
        self.check_start(&stream, epoch, from, resumed, gap);
        if let Some((of, acked)) = self.left.remove(&stream)
            && of == epoch
            && from < acked
            && !resumed
        {
            self.find(Kind::Double, format_args!("{stream} is opened at {from}, acknowledged to {acked}"));
        }
        let passed = {
            let mut ledger = self.lock();
            ledger.open.entry(self.holder).or_default().insert(stream.clone(), self.stage.now());
            if let Stream::Topic(topic) = &stream {
                ledger.follows.entry(self.holder).or_default().insert(topic.clone());
            }
            let fresh = self.anonymous && !resumed;
            let got = ledger.holders[self.holder].got.entry(stream.clone());
            let got = got.or_insert_with(|| Got::new(epoch, from));
            if fresh || got.epoch != epoch {
                *got = Got::new(epoch, from);
            }
            let position = got.position;
            got.position = position.max(from);
            // Even a gap passes only what is not there any more.
            let passed = ledger.missing(self.holder, &stream, position, from, self.stage.now());
            if gap && let Some(got) = ledger.holders[self.holder].got.get_mut(&stream) {
                got.told_gone.push((0, from));
            }
            passed
        };
        if !passed.is_empty() {
            self.find(Kind::Loss, format_args!("{stream} is opened at {from}, past {passed:?}"));
        }
    }

    /// A user's first device passes nothing that is there; who comes with a place of an earlier life begins at
    /// the floor, with a gap.
    fn check_start(&self, stream: &Stream, epoch: Epoch, from: u64, resumed: bool, gap: bool) {
        let wrong = {
            let ledger = self.lock();
            let holder = &ledger.holders[self.holder];
            let floor = ledger.log(stream, epoch).map_or(0, |log| log.floor);
            let devices = ledger.lives.get(&epoch).and_then(|life| life.devices.get(&self.user));
            let alone = devices.is_some_and(|all| all.len() == 1);
            let is_new = !holder.got.contains_key(stream) && !self.anonymous && !resumed;
            let is_first = is_new && alone && matches!(stream, Stream::User(_));
            let is_of_before = resumed && holder.got.get(stream).is_some_and(|got| got.epoch != epoch);
            is_of_before && (from > floor || !gap)
                || is_first && ledger.has_due(holder, stream, epoch, from, self.stage.now())
        };
        if wrong {
            self.find(
                Kind::Start,
                format_args!("{stream} begins at {from}, above the floor or without a gap"),
            );
        }
    }

    /// The client is about to leave a stream: it is not to have again what it has acknowledged until now.
    pub fn leaves(&mut self, stream: &Stream) {
        if let Some(standing) = self.standing.get(stream).filter(|_| !self.anonymous) {
            // An ack that follows the first of two goodbyes may come too late.
            self.left.entry(stream.clone()).or_insert((standing.epoch, standing.said));
        }
    }

    /// The stream is not followed any more.
    pub fn closed(&mut self, name: &str) {
        let stream = self.stream(name);
        self.standing.remove(&stream);
        let mut ledger = self.lock();
        if let Some(open) = ledger.open.get_mut(&self.holder) {
            open.remove(&stream);
        }
        if let (Stream::Topic(topic), Some(follows)) = (&stream, ledger.follows.get_mut(&self.holder)) {
            follows.remove(topic);
        }
    }

    /// A notification, which the node sent at `sent_at`.
    pub fn notified(&mut self, frame: &Value, sent_at: UnixMillis) {
        let id: NotificationId = text(&frame["notification"], "id").parse().expect("an id");
        // Without a seq it was for now or never.
        let Some(seq) = frame["seq"].as_u64() else {
            return;
        };
        if frame["read"] == true {
            self.lock().holders[self.holder].view.ids.insert(id);
        }
        let stream = self.stream(text(frame, "stream"));
        if let Some(kept) = self.entered(&stream, seq, (id, false), sent_at) {
            self.check_times(&stream, seq, &kept, sent_at);
        }
    }

    /// A cancellation, which the node sent at `sent_at`.
    pub fn cancelled(&mut self, frame: &Value, sent_at: UnixMillis) {
        let id: NotificationId = text(frame, "id").parse().expect("an id");
        let stream = self.stream(text(frame, "stream"));
        if self.entered(&stream, number(frame, "seq"), (id, true), sent_at).is_some()
            && let Some(got) = self.lock().holders[self.holder].got.get_mut(&stream)
        {
            got.cancelled.insert(id);
        }
    }

    /// An entry came: it is the next, it is what is there, and nothing is passed over.
    fn entered(
        &mut self,
        stream: &Stream,
        seq: u64,
        (id, cancels): (NotificationId, bool),
        sent_at: UnixMillis,
    ) -> Option<Kept> {
        let Some(standing) = self.standing.get(stream).cloned() else {
            self.find(Kind::Order, format_args!("{stream} {seq} before it was opened"));
            return None;
        };
        if seq <= standing.sent || seq <= standing.last {
            let kind = if seq == standing.sent { Kind::Double } else { Kind::Order };
            self.find(kind, format_args!("{stream} {seq} after {} and {}", standing.sent, standing.last));
            return None;
        }
        let kept = self.check_entry(stream, standing.epoch, seq, id, cancels);
        let passed = self.lock().missing(self.holder, stream, standing.last, seq - 1, self.stage.now());
        if !passed.is_empty() {
            self.find(Kind::Loss, format_args!("{stream} {seq} passes {passed:?}"));
        }
        self.count(stream, seq, kept.as_ref().and_then(|kept| kept.expires_at), sent_at);
        let mut ledger = self.lock();
        if let Some(got) = ledger.holders[self.holder].got.get_mut(stream)
            && got.epoch == standing.epoch
        {
            got.position = got.position.max(seq);
            got.received.insert(seq);
        }
        drop(ledger);
        kept
    }

    /// No more than the window is ahead of the acknowledgements, and has not expired.
    fn count(&mut self, stream: &Stream, seq: u64, expires_at: Option<UnixMillis>, sent_at: UnixMillis) {
        let Some(standing) = self.standing.get_mut(stream) else {
            return;
        };
        (standing.last, standing.sent) = (seq, seq);
        standing.ahead.retain(|(_, expires_at)| expires_at.is_none_or(|at| at > sent_at));
        standing.ahead.push_back((seq, expires_at));
        let ahead = standing.ahead.len();
        if self.window.is_some_and(|window| ahead > window) {
            self.find(Kind::Window, format_args!("{stream} {seq} is {ahead} ahead"));
        }
    }

    /// What came is what was entered there, for this device.
    fn check_entry(
        &self,
        stream: &Stream,
        epoch: Epoch,
        seq: u64,
        id: NotificationId,
        cancels: bool,
    ) -> Option<Kept> {
        let (entry, device) = {
            let ledger = self.lock();
            let entry = ledger.log(stream, epoch).and_then(|log| log.ever(seq)).cloned();
            (entry, ledger.holders[self.holder].device.clone())
        };
        let Some(entry) = entry else {
            self.find(Kind::Stranger, format_args!("{stream} {seq} is not in the inbox"));
            return None;
        };
        if entry.id != id || entry.cancels.is_some() != cancels {
            self.find(Kind::Stranger, format_args!("{stream} {seq} is {id}, not {}", entry.id));
        }
        if entry.device.is_some() && entry.device != device {
            self.find(Kind::Stranger, format_args!("{stream} {seq} is for {:?}", entry.device));
        }
        Some(entry)
    }

    /// Never after its time, nor long after it ended.
    fn check_times(&self, stream: &Stream, seq: u64, kept: &Kept, sent_at: UnixMillis) {
        if kept.is_expired(sent_at) {
            self.find(Kind::Stale, format_args!("{stream} {seq} had expired when it was sent"));
        }
        // A node's tail of a shared stream may bring what ended, and what ended it after it.
        if let Some((how, at)) = kept.ended
            && !stream.is_shared()
            && sent_at > at.after(self.stale_after)
        {
            self.find(Kind::Stale, format_args!("{stream} {seq} was {how:?} at {at}"));
        }
    }

    /// Somebody has read something.
    pub fn read(&mut self, frame: &Value) {
        let (version, unread) = (number(frame, "version"), number(frame, "unread"));
        let stream = self.stream(text(frame, "stream"));
        let before = {
            let mut ledger = self.lock();
            let view = &mut ledger.holders[self.holder].view;
            let before = view.version;
            (view.version, view.unread) = (version, unread);
            let ids = frame["ids"].as_array().expect("ids");
            view.ids.extend(ids.iter().filter_map(|id| id.as_str()?.parse::<NotificationId>().ok()));
            if let Some(up_to) = frame["up_to"].as_u64() {
                let told = view.up_to.entry(stream).or_default();
                *told = up_to.max(*told);
            }
            before
        };
        if version < before {
            self.find(Kind::Read, format_args!("the version goes back from {before} to {version}"));
        }
    }

    /// Everything up to `through` was sent.
    pub fn caught_up(&mut self, name: &str, through: u64) {
        let stream = self.stream(name);
        let Some(standing) = self.standing.get_mut(&stream) else {
            return;
        };
        let last = standing.last;
        standing.last = last.max(through);
        let passed = {
            let mut ledger = self.lock();
            let passed = ledger.missing(self.holder, &stream, last, through, self.stage.now());
            if let Some(got) = ledger.holders[self.holder].got.get_mut(&stream) {
                got.position = got.position.max(through);
            }
            passed
        };
        if !passed.is_empty() {
            self.find(Kind::Loss, format_args!("{stream} caught up to {through}, without {passed:?}"));
        }
    }

    /// `from..=to` are gone.
    pub fn gap(&mut self, frame: &Value) {
        let stream = self.stream(text(frame, "stream"));
        let (from, to) = (number(frame, "from"), number(frame, "to"));
        let Some(standing) = self.standing.get_mut(&stream) else {
            return;
        };
        standing.last = standing.last.max(to);
        let still_there = {
            let mut ledger = self.lock();
            let after = from.saturating_sub(1);
            let still_there = ledger.missing(self.holder, &stream, after, to, self.stage.now());
            if let Some(got) = ledger.holders[self.holder].got.get_mut(&stream) {
                got.told_gone.push((from, to));
                got.position = got.position.max(to);
            }
            still_there
        };
        if !still_there.is_empty() {
            self.find(Kind::Loss, format_args!("{stream} is told gone to {to}, but has {still_there:?}"));
        }
    }

    /// The client is about to acknowledge `seq`.
    pub fn acknowledges(&mut self, stream: &Stream, seq: u64) {
        let Some(standing) = self.standing.get_mut(stream) else {
            return;
        };
        (standing.acked, standing.said) = (seq, seq);
        standing.ahead.retain(|(sent, _)| *sent > seq);
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
