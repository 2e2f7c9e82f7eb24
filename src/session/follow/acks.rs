//! Acknowledgements in one followed stream.
//!
//! Owns how far the cursor is, and whether the client acknowledges at all.

use super::Follow;
use super::busy::Stuck;
use crate::domain::{Epoch, Seq, UnixMillis};
use crate::session::{AckError, Acked, Phase, Rules, Window};

impl Follow {
    pub(in crate::session) fn ack(
        &mut self,
        seq: Seq,
        (window, rules): (Window, Rules),
        now: UnixMillis,
        mut crossed: impl FnMut(Epoch, Seq),
    ) -> Result<Acked, AckError> {
        let written = self.written(rules);
        let Some(epoch) = self.epoch().filter(|_| seq <= written) else {
            return Err(AckError::AboveSent { sent: written, got: seq });
        };
        let (position, may_read) = (self.position, self.phase != Phase::Live && !self.reading);
        let busy = self.busy();
        if busy.sent.cross(seq, now, |seq| crossed(epoch, seq)) {
            busy.stuck = Stuck::No;
        }
        let before = busy.acked;
        let reached = seq.min(busy.resumed);
        let covered = (reached > before).then_some((before, reached));
        busy.acked = busy.acked.max(seq);
        busy.acked = busy.settled(position);
        let cursor = busy.acked;
        let read = may_read && busy.sent.is_half_free(window, now);
        self.moved |= cursor > before;
        Ok(Acked { epoch, cursor, read, covered })
    }

    pub(in crate::session) fn mark(&mut self, rules: Rules) {
        let written = self.written(rules);
        // Where nothing goes on everything is acknowledged, and a mark would say nothing.
        if let Some(busy) = &mut self.busy {
            busy.mark = written;
        }
    }

    pub(in crate::session) fn ack_mark(
        &mut self,
        bounds: (Window, Rules),
        now: UnixMillis,
        crossed: impl FnMut(Epoch, Seq),
    ) -> Option<Acked> {
        let busy = self.busy.as_ref()?;
        let mark = Some(busy.mark).filter(|mark| *mark > busy.acked)?;
        // A mark is never above what is written, so only a stream that is not opened yet refuses it.
        self.ack(mark, bounds, now, crossed).ok()
    }

    pub(in crate::session) fn is_stuck(&mut self, window: Window, now: UnixMillis) -> bool {
        let Some(busy) = &mut self.busy else {
            return false;
        };
        if busy.sent.has_room(busy.wants as usize, window, now) {
            busy.stuck = Stuck::No;
            return false;
        }
        let tell = busy.stuck == Stuck::Noticed;
        busy.stuck = if busy.stuck == Stuck::No { Stuck::Noticed } else { Stuck::Told };
        tell
    }

    /// Whether an ack has moved the cursor since the last [`Self::take_moved`].
    pub(in crate::session) fn has_moved(&self) -> bool {
        self.moved
    }

    /// Where the cursor stands, if an ack has moved it since the last call.
    pub(in crate::session) fn take_moved(&mut self) -> Option<(Epoch, Seq)> {
        if std::mem::take(&mut self.moved) { self.cursor() } else { None }
    }

    pub(in crate::session) fn cursor(&self) -> Option<(Epoch, Seq)> {
        let settled = self.busy.as_ref().map_or(self.position, |busy| busy.settled(self.position));
        self.epoch().map(|epoch| (epoch, settled))
    }

    /// Gives back what only a busy stream needs, if this one is not.
    pub(super) fn rest(&mut self) {
        if self.phase == Phase::Live {
            let position = self.position;
            self.busy.take_if(|busy| busy.is_over(position));
        }
    }
}
