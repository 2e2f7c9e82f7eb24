//! One stream of one session.

mod waiting;

use std::time::Duration;

use super::conflation::Conflation;
use super::sent::Sent;
use super::{
    AckError, Acked, Flow, FollowStatus, Next, Offered, PageView, Phase, Rules, Step, Verdict, Window,
};
use crate::domain::{Epoch, Seq, Stream, UnixMillis};

/// Where a session starts in a stream.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The stream's epoch.
    pub epoch: Epoch,
    /// Everything up to here is behind it.
    pub position: Seq,
    /// Up to here the device has acknowledged: under `position` where the client's own `resume` decided (it has
    /// the entries in between, but no acknowledgement of them has arrived).
    pub cursor: Seq,
}

/// What to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadFrom {
    /// The life of the stream that `after` is of.
    pub epoch: Epoch,
    /// The entries after this seq.
    pub after: Seq,
    /// At most so many.
    pub entries: usize,
    /// At most so many bytes.
    pub bytes: usize,
}

/// One followed stream.
#[derive(Debug)]
pub(super) struct Follow {
    stream: Stream,
    epoch: Option<Epoch>,
    phase: Phase,
    /// A read is in flight.
    reading: bool,
    position: Seq,
    /// The highest seq offered while not live, and the epoch it was offered in (before the stream is opened,
    /// that may be another one).
    offered: Option<(Epoch, Seq)>,
    /// What was offered and not in the last whole page.
    missed: Option<(Epoch, Seq)>,
    /// An ack has moved the cursor since it was last asked for.
    moved: bool,
    acked: Seq,
    /// Up to here the client has entries that it may not have acknowledged.
    resumed: Seq,
    /// How far everything was written when the last ping went out.
    mark: Seq,
    /// What was sent, and what waits to be.
    sent: Sent,
    /// `None` as long as nothing with a collapse key comes, or nothing is to wait.
    conflation: Option<Box<Conflation>>,
    stuck: Stuck,
}

/// How long the window has been full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stuck {
    No,
    Noticed,
    Told,
}

impl Follow {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            epoch: None,
            phase: Phase::Replaying,
            reading: false,
            position: Seq(0),
            offered: None,
            missed: None,
            moved: false,
            acked: Seq(0),
            resumed: Seq(0),
            mark: Seq(0),
            sent: Sent::default(),
            conflation: None,
            stuck: Stuck::No,
        }
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    pub(super) fn open(&mut self, place: Place) {
        if self.epoch.is_some() {
            return;
        }
        self.epoch = Some(place.epoch);
        self.position = place.position;
        self.acked = place.cursor;
        self.resumed = place.position;
    }

    pub(super) fn offer(
        &mut self,
        epoch: Epoch,
        entry: Offered<'_>,
        mine: bool,
        now: UnixMillis,
        (window, rules, congested, conflation): (Window, Rules, bool, Duration),
    ) -> Verdict {
        if rules.compare_epochs && self.epoch.is_some_and(|own| own != epoch) {
            return Verdict::Reset;
        }
        if mine {
            self.supersede(&entry);
        }
        if self.phase != Phase::Live {
            self.remember(epoch, entry.seq, rules);
            return Verdict::Held;
        }
        if rules.skip_lower && entry.seq <= self.position {
            return Verdict::Skip;
        }
        if rules.read_gaps && entry.seq > self.position.next() {
            self.phase = Phase::Gap;
            self.remember(epoch, entry.seq, rules);
            return Verdict::Read;
        }
        if !mine || entry.is_expired(now) {
            self.position = entry.seq;
            return Verdict::Skip;
        }
        if congested || !self.sent.has_room(entry.bytes, window, now) {
            self.phase = Phase::Lagged;
            self.remember(epoch, entry.seq, rules);
            return Verdict::Lagged;
        }
        self.push_sent(entry);
        if self.keep(&entry, conflation, now) { Verdict::Kept } else { Verdict::Send }
    }

    /// Seqs of two epochs cannot be compared: the later offer wins.
    fn remember(&mut self, epoch: Epoch, seq: Seq, rules: Rules) {
        if rules.remember_offers {
            let highest =
                self.offered.filter(|(of, _)| *of == epoch).map_or(seq, |(_, highest)| highest.max(seq));
            self.offered = Some((epoch, highest));
        }
    }

    /// Whether an entry above the position was offered, or one of another epoch before the stream was opened:
    /// then a read tells which epoch is true.
    fn is_owed(&self) -> bool {
        self.offered.is_some_and(|(epoch, seq)| Some(epoch) != self.epoch || seq > self.position)
    }

    fn push_sent(&mut self, entry: Offered<'_>) {
        self.position = entry.seq;
        self.sent.push(entry);
    }

    pub(super) fn is_behind(&self) -> bool {
        self.phase != Phase::Live
    }

    pub(super) fn is_live_in(&self, epoch: Epoch) -> bool {
        self.phase == Phase::Live && self.epoch == Some(epoch)
    }

    pub(super) fn begin_read(
        &mut self,
        window: Window,
        congested: bool,
        now: UnixMillis,
    ) -> Option<ReadFrom> {
        let epoch = self.epoch?;
        let blocked = self.phase == Phase::Live || self.reading || congested;
        if blocked || !self.sent.has_room(0, window, now) {
            return None;
        }
        self.reading = true;
        Some(ReadFrom {
            epoch,
            after: self.position,
            entries: (window.entries - self.sent.len()).max(1),
            bytes: window.bytes.saturating_sub(self.sent.bytes()).max(1),
        })
    }

    pub(super) fn read_failed(&mut self) {
        self.reading = false;
    }

    pub(super) fn page(
        &mut self,
        page: PageView<'_>,
        mine: impl Fn(&Offered<'_>) -> bool,
        now: UnixMillis,
        (window, rules): (Window, Rules),
        congested: &mut bool,
        act: &mut impl FnMut(Step) -> Flow,
    ) -> Next {
        self.reading = false;
        let Some(epoch) = self.epoch else {
            // Asked for by an earlier follower of the same stream, as below.
            return Next::Wait;
        };
        if rules.compare_epochs && (epoch != page.epoch || page.head < page.after) {
            return Next::Reset;
        }
        if self.conflation.as_ref().is_some_and(|conflation| conflation.first().is_some()) {
            // The connection was full before everything was written that comes before the page.
            self.phase = Phase::Lagged;
            return Next::Lagged;
        }
        if self.position < page.after {
            // Asked for by an earlier follower of the same stream: it says nothing about what lies between.
            return Next::Read;
        }
        if self.position < page.floor {
            let from = self.position.next();
            act(Step::Gap { from, to: page.floor });
            // Until a later ack says that the client heard of it, the cursor stays before it: so it is told again.
            self.sent.push(Offered {
                seq: from,
                device: None,
                expires_at: None,
                bytes: 0,
                receipt: false,
                pushed: None,
            });
            self.position = page.floor;
        }
        for (index, entry) in page.entries.iter().enumerate() {
            if entry.seq <= self.position {
                continue;
            }
            if !rules.move_to_through && entry.seq > self.position.next() {
                break;
            }
            if !mine(entry) || entry.is_expired(now) {
                self.position = entry.seq;
                continue;
            }
            if *congested || !self.sent.has_room(entry.bytes, window, now) {
                self.phase = Phase::Lagged;
                return Next::Lagged;
            }
            self.push_sent(*entry);
            *congested = act(Step::Send(index)) == Flow::Full;
        }
        if rules.move_to_through {
            self.position = self.position.max(page.through);
        }
        self.finish(page, act)
    }

    /// After a whole page: live if nothing is known to be missing.
    fn finish(&mut self, page: PageView<'_>, act: &mut impl FnMut(Step) -> Flow) -> Next {
        if page.through < page.head {
            return Next::Read;
        }
        // The page's snapshot may be older than the offer: one read that begins after it tells. What that does
        // not bring was never committed here.
        if self.is_owed() && self.missed != self.offered {
            self.missed = self.offered;
            return Next::Read;
        }
        self.missed = None;
        if self.phase != Phase::Gap {
            act(Step::CaughtUp(self.position));
        }
        self.phase = Phase::Live;
        self.offered = None;
        Next::Wait
    }

    pub(super) fn ack(
        &mut self,
        seq: Seq,
        (window, rules): (Window, Rules),
        now: UnixMillis,
        mut crossed: impl FnMut(Epoch, Seq),
    ) -> Result<Acked, AckError> {
        let written = self.written(rules);
        let Some(epoch) = self.epoch.filter(|_| seq <= written) else {
            return Err(AckError::AboveSent { sent: written, got: seq });
        };
        if self.sent.cross(seq, now, |seq| crossed(epoch, seq)) {
            self.stuck = Stuck::No;
        }
        let before = self.acked;
        let reached = seq.min(self.resumed);
        let covered = (reached > before).then_some((before, reached));
        self.acked = self.acked.max(seq);
        self.acked = self.settled();
        self.moved |= self.acked > before;
        let read = self.phase != Phase::Live && !self.reading && self.sent.is_half_free(window, now);
        Ok(Acked { epoch, cursor: self.acked, read, covered })
    }

    /// How far nothing is left to acknowledge: entries that this device was never to get are passed too.
    fn settled(&self) -> Seq {
        if self.acked < self.resumed {
            return self.acked;
        }
        match self.sent.first() {
            Some(unacked) => self.acked.max(Seq(unacked.0 - 1)),
            None => self.position,
        }
    }

    pub(super) fn mark(&mut self, rules: Rules) {
        self.mark = self.written(rules);
    }

    pub(super) fn ack_mark(
        &mut self,
        bounds: (Window, Rules),
        now: UnixMillis,
        crossed: impl FnMut(Epoch, Seq),
    ) -> Option<Acked> {
        if self.mark <= self.acked {
            return None;
        }
        // A mark is never above what is written, so only a stream that is not opened yet refuses it.
        self.ack(self.mark, bounds, now, crossed).ok()
    }

    pub(super) fn head(&mut self, epoch: Epoch, head: Seq, before: Seq, rules: Rules) -> Next {
        // Pushed entries may have overtaken the answer; only a head under where the session stood when it was
        // asked for means that the stream began anew.
        let anew = self.epoch.is_some_and(|own| own != epoch) || head < before;
        if rules.compare_epochs && anew {
            return Next::Reset;
        }
        if self.phase == Phase::Live {
            if head <= self.position {
                return Next::Wait;
            }
            self.phase = Phase::Gap;
        }
        self.remember(epoch, head, Rules::SOUND);
        if self.reading { Next::Wait } else { Next::Read }
    }

    pub(super) fn is_stuck(&mut self, window: Window, now: UnixMillis) -> bool {
        if self.sent.has_room(0, window, now) {
            self.stuck = Stuck::No;
            return false;
        }
        let tell = self.stuck == Stuck::Noticed;
        self.stuck = if self.stuck == Stuck::No { Stuck::Noticed } else { Stuck::Told };
        tell
    }

    /// Whether an ack has moved the cursor since the last [`Self::take_moved`].
    pub(super) fn has_moved(&self) -> bool {
        self.moved
    }

    /// Where the cursor stands, if an ack has moved it since the last call.
    pub(super) fn take_moved(&mut self) -> Option<(Epoch, Seq)> {
        if std::mem::take(&mut self.moved) { self.cursor() } else { None }
    }

    pub(super) fn cursor(&self) -> Option<(Epoch, Seq)> {
        self.epoch.map(|epoch| (epoch, self.settled()))
    }

    pub(super) fn status(&self) -> FollowStatus {
        FollowStatus { phase: self.phase, position: self.position, unacked: self.sent.len() }
    }
}
