//! One stream of one session: what is offered, read and passed.
//!
//! Owns where the session stands. There is one of these for each stream of each connection, and in nearly all of them
//! nothing goes on: so what only a busy one needs is apart, in [`Busy`].

mod acks;
mod busy;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use super::{Flow, FollowStatus, Next, Offered, PageView, Phase, Rules, Step, Verdict, Window};
use crate::domain::{Epoch, Seq, Stream, UnixMillis};
use busy::Busy;

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
    /// Shared by all who follow it here.
    stream: Arc<Stream>,
    position: Seq,
    /// `None` where everything up to the position is acknowledged and nothing above it was offered.
    busy: Option<Box<Busy>>,
    /// Means nothing before it is open.
    epoch: Epoch,
    phase: Phase,
    /// It has its place.
    is_open: bool,
    /// A read is in flight.
    reading: bool,
    /// An ack has moved the cursor since it was last asked for.
    moved: bool,
}

// What docs/benchmarks.md says of a further topic.
const _: () = assert!(size_of::<Follow>() == 32);

impl Follow {
    pub(super) fn new(stream: Arc<Stream>) -> Self {
        Self {
            stream,
            position: Seq(0),
            busy: None,
            epoch: Epoch(0),
            phase: Phase::Replaying,
            is_open: false,
            reading: false,
            moved: false,
        }
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    pub(super) fn open(&mut self, place: Place) {
        if self.is_open {
            return;
        }
        self.is_open = true;
        self.epoch = place.epoch;
        self.position = place.position;
        if self.busy.is_some() || place.cursor != place.position {
            let busy = self.busy();
            busy.acked = place.cursor;
            busy.resumed = place.position;
        }
    }

    fn epoch(&self) -> Option<Epoch> {
        self.is_open.then_some(self.epoch)
    }

    fn busy(&mut self) -> &mut Busy {
        let position = self.position;
        self.busy.get_or_insert_with(|| Box::new(Busy::at(position)))
    }

    pub(super) fn offer(
        &mut self,
        epoch: Epoch,
        entry: Offered<'_>,
        mine: bool,
        now: UnixMillis,
        (window, rules, congested, conflation): (Window, Rules, bool, Duration),
    ) -> Verdict {
        if rules.compare_epochs && self.epoch().is_some_and(|own| own != epoch) {
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
            self.pass(entry.seq);
            return Verdict::Skip;
        }
        if congested || !self.has_room(entry.bytes, window, now) {
            self.phase = Phase::Lagged;
            self.remember(epoch, entry.seq, rules);
            return Verdict::Lagged;
        }
        self.push_sent(entry);
        if self.keep(&entry, conflation, now) { Verdict::Kept } else { Verdict::Send }
    }

    /// Whether the window takes so many bytes more. If not, room for them is what is waited for.
    fn has_room(&mut self, bytes: usize, window: Window, now: UnixMillis) -> bool {
        let busy = self.busy();
        let has_room = busy.sent.has_room(bytes, window, now);
        busy.wants = if has_room { 0 } else { u32::try_from(bytes).unwrap_or(u32::MAX) };
        has_room
    }

    /// Seqs of two epochs cannot be compared: the later offer wins.
    fn remember(&mut self, epoch: Epoch, seq: Seq, rules: Rules) {
        if rules.remember_offers {
            let busy = self.busy();
            let highest =
                busy.offered.filter(|(of, _)| *of == epoch).map_or(seq, |(_, highest)| highest.max(seq));
            busy.offered = Some((epoch, highest));
        }
    }

    /// Moves on to `seq`, for which nothing is sent: to be acknowledged it needs a later ack.
    fn pass(&mut self, seq: Seq) {
        if seq != self.position {
            self.busy();
            self.position = seq;
        }
    }

    fn push_sent(&mut self, entry: Offered<'_>) {
        self.busy().sent.push(entry);
        self.position = entry.seq;
    }

    pub(super) fn is_behind(&self) -> bool {
        self.phase != Phase::Live
    }

    pub(super) fn is_live_in(&self, epoch: Epoch) -> bool {
        self.phase == Phase::Live && self.epoch() == Some(epoch)
    }

    pub(super) fn begin_read(
        &mut self,
        window: Window,
        congested: bool,
        now: UnixMillis,
    ) -> Option<ReadFrom> {
        let epoch = self.epoch()?;
        if self.phase == Phase::Live || self.reading || congested {
            return None;
        }
        let (mut entries, mut bytes) = (0, 0);
        if let Some(Busy { sent, wants, .. }) = self.busy.as_deref_mut() {
            if !sent.has_room(*wants as usize, window, now) {
                return None;
            }
            (entries, bytes) = (sent.len(), sent.bytes());
        }
        self.reading = true;
        Some(ReadFrom {
            epoch,
            after: self.position,
            entries: (window.entries - entries).max(1),
            bytes: window.bytes.saturating_sub(bytes).max(1),
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
        let Some(epoch) = self.epoch() else {
            // Asked for by an earlier follower of the same stream, as below.
            return Next::Wait;
        };
        if rules.compare_epochs && (epoch != page.epoch || page.head < page.after) {
            return Next::Reset;
        }
        if self.first_waiting().is_some() {
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
            let (bytes, receipt) = (0, false);
            self.push_sent(Offered {
                seq: from,
                device: None,
                expires_at: None,
                bytes,
                receipt,
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
                self.pass(entry.seq);
                continue;
            }
            if *congested || !self.has_room(entry.bytes, window, now) {
                self.phase = Phase::Lagged;
                return Next::Lagged;
            }
            self.push_sent(*entry);
            *congested = act(Step::Send(index)) == Flow::Full;
        }
        if rules.move_to_through {
            self.pass(self.position.max(page.through));
        }
        let next = self.finish(page, act);
        if next == Next::Read && !self.has_room(0, window, now) {
            // Page by page it has filled its window: there is nothing to read before something is acknowledged.
            self.phase = Phase::Lagged;
            return Next::Lagged;
        }
        next
    }

    /// After a whole page: live if nothing is known to be missing.
    fn finish(&mut self, page: PageView<'_>, act: &mut impl FnMut(Step) -> Flow) -> Next {
        if page.through < page.head {
            return Next::Read;
        }
        // The page's snapshot may be older than the offer: one read that begins after it tells. What that does
        // not bring was never committed here.
        let (epoch, position) = (self.epoch(), self.position);
        if let Some(busy) = &mut self.busy {
            if busy.is_owed(epoch, position) && busy.missed != busy.offered {
                busy.missed = busy.offered;
                return Next::Read;
            }
            (busy.missed, busy.offered) = (None, None);
        }
        if self.phase != Phase::Gap {
            act(Step::CaughtUp(position));
        }
        self.phase = Phase::Live;
        // Where many begin a topic at once each is told of its head while it reads: half of them would keep that.
        self.rest();
        Next::Wait
    }

    pub(super) fn head(&mut self, epoch: Epoch, head: Seq, before: Seq, rules: Rules) -> Next {
        // Pushed entries may have overtaken the answer; only a head under where the session stood when it was
        // asked for means that the stream began anew.
        let anew = self.epoch().is_some_and(|own| own != epoch) || head < before;
        if rules.compare_epochs && anew {
            return Next::Reset;
        }
        if self.phase == Phase::Live {
            if head <= self.position {
                return Next::Wait;
            }
            self.phase = Phase::Gap;
        }
        if let Some(busy) = &mut self.busy
            && busy.offered.is_none_or(|offered| offered < (epoch, head))
        {
            // What there was no room for may be gone, and what came since may be smaller: worth one read.
            busy.wants = 0;
        }
        self.remember(epoch, head, Rules::SOUND);
        if self.reading { Next::Wait } else { Next::Read }
    }

    pub(super) fn status(&self) -> FollowStatus {
        let unacked = self.busy.as_ref().map_or(0, |busy| busy.sent.len());
        FollowStatus { phase: self.phase, position: self.position, unacked }
    }
}

#[cfg(test)]
mod tests;
