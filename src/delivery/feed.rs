//! What a connection is sent: each frame is pushed while its session is locked, so the order in which the
//! session decided is the order on the wire.

use super::conflation::Given;
use super::connection::{Connection, Phase, State};
use super::outlet::Outlet;
use super::parcel::Parcel;
use crate::domain::{DeviceId, Epoch, Stream, UnixMillis};
use crate::inbox::{Content, Entry, Page, Unread};
use crate::session::{Flow, Next, Offered, PageView, ReadFrom, Released, Session, Step, Verdict};
use crate::wire::{Frame, Tail, server};

impl State {
    /// Writes what has waited long enough.
    pub(super) fn release(&mut self, outlet: &dyn Outlet, now: UnixMillis) -> Given {
        let released = match self.phase {
            Phase::Welcomed => self.session.release(now, |frame| outlet.push(frame)),
            Phase::Arriving | Phase::Ended => Released::default(),
        };
        self.given(released, now)
    }

    fn given(&mut self, released: Released, now: UnixMillis) -> Given {
        let wait = self.session.wait(now).filter(|_| !self.is_awaited && self.phase == Phase::Welcomed);
        self.is_awaited |= wait.is_some();
        Given { released, merged: self.session.take_merged(), wait }
    }
}

impl Connection {
    /// A wait is over: what is due is written.
    pub(super) fn end_wait(&self, now: UnixMillis) -> Given {
        let mut state = self.lock();
        state.is_awaited = false;
        state.release(&*self.outlet, now)
    }

    /// Whatever waits in `stream` is written.
    pub(super) fn flush(&self, stream: &Stream, now: UnixMillis) -> Given {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.phase != Phase::Welcomed {
            return Given::default();
        }
        let released = state.session.flush(stream, now, |frame| self.outlet.push(frame));
        state.given(released, now)
    }

    /// Sends a frame that is no notification.
    pub(super) fn push(&self, frame: Frame) {
        self.push_with(|_| frame);
    }

    /// The same, of a frame that says something of the session: nothing is sent in between.
    pub(super) fn push_with(&self, make: impl FnOnce(&mut Session) -> Frame) {
        let mut state = self.lock();
        let frame = make(&mut state.session);
        if state.phase == Phase::Welcomed && self.outlet.push(frame) == Flow::Full {
            state.session.congested();
        }
    }

    /// Sends `welcome`, after which everything else may be sent. False if it has ended meanwhile.
    pub(super) fn welcome(&self, frame: Frame, now: Unread, open: impl FnOnce(&mut Session)) -> bool {
        let mut state = self.lock();
        if state.phase != Phase::Arriving {
            return false;
        }
        state.phase = Phase::Welcomed;
        open(&mut state.session);
        state.told.welcomed(now);
        if self.outlet.push(frame) == Flow::Full {
            state.session.congested();
        }
        true
    }

    /// Offers a pushed entry; `frame` is sent if it is the next one, and does not wait. `more`: others follow at once, and
    /// then [`Self::let_go`].
    pub(super) fn offer(
        &self,
        stream: &Stream,
        epoch: Epoch,
        entry: Offered<'_>,
        frame: &Frame,
        now: UnixMillis,
        more: bool,
    ) -> (Verdict, Given) {
        let mut state = self.lock();
        if state.phase == Phase::Ended {
            return (Verdict::Skip, Given::default());
        }
        let verdict = state.session.offer(stream, epoch, entry, now);
        let write = |frame| if more { self.outlet.hold(frame) } else { self.outlet.push(frame) };
        match verdict {
            Verdict::Send if write(frame.clone()) == Flow::Full => state.session.congested(),
            Verdict::Kept => return (verdict, state.release(&*self.outlet, now)),
            _ => {}
        }
        (verdict, Given::default())
    }

    /// Whatever was held is written.
    pub(super) fn let_go(&self) {
        self.outlet.let_go();
    }

    /// Sends a notification that is not stored, unless the connection is congested or not for it.
    pub(super) fn push_unstored(&self, stream: &Stream, device: Option<&DeviceId>, frame: &Frame) -> bool {
        let mut state = self.lock();
        let wanted = device.is_none() || device == self.device.as_ref();
        if !wanted
            || state.phase != Phase::Welcomed
            || state.session.is_congested()
            || !state.session.follows(stream)
        {
            return false;
        }
        if self.outlet.push(frame.clone()) == Flow::Full {
            state.session.congested();
        }
        true
    }

    pub(super) fn begin_read(&self, stream: &Stream, now: UnixMillis) -> Option<ReadFrom> {
        self.lock().session.begin_read(stream, now)
    }

    pub(super) fn read_failed(&self, stream: &Stream) {
        self.lock().session.read_failed(stream);
    }

    /// Takes a page, behind what waits in its stream. Returns what was written of that, how many entries of the page were
    /// sent and what is to be done next.
    pub(super) fn take_page(
        &self,
        stream: &Stream,
        after: crate::domain::Seq,
        page: &Page,
        now: UnixMillis,
    ) -> (Given, u64, Next) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.phase != Phase::Welcomed {
            return (Given::default(), 0, Next::Wait);
        }
        let flushed = state.session.flush(stream, now, |frame| self.outlet.push(frame));
        let entries: Vec<Offered<'_>> = page
            .entries
            .iter()
            .map(|entry| Offered {
                seq: entry.seq,
                device: entry.device.as_ref(),
                expires_at: entry.expires_at,
                bytes: entry.content.len(),
                receipt: matches!(entry.content, Content::Notification { .. }),
                pushed: None,
            })
            .collect();
        let view = PageView {
            epoch: page.epoch,
            floor: page.floor,
            after,
            head: page.head,
            through: page.through,
            entries: &entries,
        };
        let mut sent = 0;
        let next = state.session.page(stream, view, now, |step| match step {
            Step::Send(index) => {
                sent += 1;
                let entry = &page.entries[index];
                self.outlet.push(frame_of(stream, entry).expiring(entry.expires_at))
            }
            Step::Gap { from, to } => self.outlet.push(server::gap(stream, page.epoch, from, to)),
            Step::CaughtUp(through) => self.outlet.push(server::caught_up(stream, through)),
        });
        (state.given(flushed, now), sent, next)
    }
}

fn frame_of(stream: &Stream, entry: &Entry) -> Frame {
    match &entry.content {
        Content::Notification { json, is_read: true } => {
            server::notification_read(stream, entry.seq, &Tail::of(json))
        }
        content => Parcel::of(content).frame(stream, entry.seq),
    }
}
