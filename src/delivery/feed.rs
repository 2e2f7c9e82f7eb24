//! What a connection is sent: each frame is pushed while its session is locked, so the order in which the
//! session decided is the order on the wire.

use super::connection::{Connection, Phase};
use crate::domain::{DeviceId, Epoch, Stream, UnixMillis};
use crate::inbox::{Content, Page};
use crate::session::{Flow, Offered, PageView, ReadFrom, Session, Step, Verdict};
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
    pub(super) fn welcome(&self, frame: Frame, open: impl FnOnce(&mut Session)) -> bool {
        let mut state = self.lock();
        if state.phase != Phase::Arriving {
            return false;
        }
        state.phase = Phase::Welcomed;
        open(&mut state.session);
        if self.outlet.push(frame) == Flow::Full {
            state.session.congested();
        }
        true
    }

    /// Offers a pushed entry; `frame` is sent if it is the next one.
    pub(super) fn offer(&self, stream: &Stream, epoch: Epoch, entry: Offered<'_>, frame: &Frame) -> Verdict {
        let mut state = self.lock();
        if state.phase == Phase::Ended {
            return Verdict::Skip;
        }
        let verdict = state.session.offer(stream, epoch, entry);
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

    pub(super) fn begin_read(&self, stream: &Stream) -> Option<ReadFrom> {
        self.lock().session.begin_read(stream)
    }

    pub(super) fn read_failed(&self, stream: &Stream) {
        self.lock().session.read_failed(stream);
    }

    /// Takes a page. Returns how many entries were sent and whether to read again at once.
    pub(super) fn take_page(
        &self,
        stream: &Stream,
        after: crate::domain::Seq,
        page: &Page,
        now: UnixMillis,
    ) -> (u64, bool) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.phase != Phase::Welcomed {
            return (0, false);
        }
        let offered = |entry: &'_ crate::inbox::Entry| entry.expires_at.is_some_and(|at| at <= now);
        let entries: Vec<Offered<'_>> = page
            .entries
            .iter()
            .map(|entry| Offered {
                seq: entry.seq,
                device: entry.device.as_ref(),
                expired: offered(entry),
                bytes: entry.content.len(),
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
        let again = state.session.page(stream, view, |step| match step {
            Step::Send(index) => {
                sent += 1;
                let entry = &page.entries[index];
                match &entry.content {
                    Content::Notification { json, .. } => {
                        self.outlet.push(server::notification(stream, Some(entry.seq), &Tail::of(json)))
                    }
                    Content::Cancelled(_) => Flow::Open,
                }
            }
            Step::Gap { epoch, from, to } => self.outlet.push(server::gap(stream, epoch, from, to)),
            Step::CaughtUp(through) => self.outlet.push(server::caught_up(stream, through)),
        });
        (sent, again)
    }
}
