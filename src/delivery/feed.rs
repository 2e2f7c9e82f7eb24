//! What a connection is sent: each frame is pushed while its session is locked, so the order in which the
//! session decided is the order on the wire.

use super::connection::{Connection, Phase};
use super::parcel::Parcel;
use crate::domain::{DeviceId, Epoch, Stream, UnixMillis};
use crate::inbox::{Content, Entry, Page, Unread};
use crate::session::{Flow, Next, Offered, PageView, ReadFrom, Session, Step, Verdict};
use crate::wire::{Frame, Tail, server};

impl Connection {
    /// Sends a frame that is no notification.
    pub(super) fn push(&self, frame: Frame) {
        let mut state = self.lock();
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

    /// Offers a pushed entry; `frame` is sent if it is the next one.
    pub(super) fn offer(
        &self,
        stream: &Stream,
        epoch: Epoch,
        entry: Offered<'_>,
        frame: &Frame,
        now: UnixMillis,
    ) -> Verdict {
        let mut state = self.lock();
        if state.phase == Phase::Ended {
            return Verdict::Skip;
        }
        let verdict = state.session.offer(stream, epoch, entry, now);
        if verdict == Verdict::Send && self.outlet.push(frame.clone()) == Flow::Full {
            state.session.congested();
        }
        verdict
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

    /// Takes a page. Returns how many entries were sent and what is to be done next.
    pub(super) fn take_page(
        &self,
        stream: &Stream,
        after: crate::domain::Seq,
        page: &Page,
        now: UnixMillis,
    ) -> (u64, Next) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.phase != Phase::Welcomed {
            return (0, Next::Wait);
        }
        let entries: Vec<Offered<'_>> = page
            .entries
            .iter()
            .map(|entry| Offered {
                seq: entry.seq,
                device: entry.device.as_ref(),
                expires_at: entry.expires_at,
                bytes: entry.content.len(),
                receipt: matches!(entry.content, Content::Notification { .. }),
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
        (sent, next)
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
