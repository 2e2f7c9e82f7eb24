//! What of a followed stream waits for its collapse key's time.
//!
//! Owns what that means for the rest: what waits is in the window like what was sent, and is not acknowledged.

use std::time::Duration;

use super::Follow;
use crate::domain::{Seq, UnixMillis};
use crate::session::conflation::Key;
use crate::session::{Flow, Offered, Released, Rules};
use crate::wire::Frame;

impl Follow {
    /// Drops what waits and is not to be had any more now that there is `entry`, whether or not that is sent: it may have to
    /// be read, or have expired.
    pub(super) fn supersede(&mut self, entry: &Offered<'_>) {
        let older =
            self.conflation.as_mut().and_then(|conflation| conflation.supersede(&Key::of(entry)?, entry.seq));
        if let Some(older) = older {
            self.sent.withdraw(older);
        }
    }

    /// Whether it has to wait.
    pub(super) fn keep(&mut self, entry: &Offered<'_>, window: Duration, now: UnixMillis) -> bool {
        let Some(pushed) = entry.pushed.filter(|_| !window.is_zero()) else {
            return false;
        };
        let key = Key::of(entry);
        if key.is_none() && self.conflation.is_none() {
            return false;
        }
        self.conflation.get_or_insert_default().keep(entry.seq, key, pushed.frame, window, now)
    }

    pub(in crate::session) fn release(
        &mut self,
        everything: bool,
        window: Duration,
        now: UnixMillis,
        act: &mut impl FnMut(Frame) -> Flow,
    ) -> (Released, Flow) {
        let Self { conflation: Some(conflation), sent, .. } = self else {
            return (Released::default(), Flow::Open);
        };
        conflation.release(everything, window, now, |seq| sent.withdraw(seq), act)
    }

    pub(in crate::session) fn wait(&self, window: Duration, now: UnixMillis) -> Option<Duration> {
        self.conflation.as_ref()?.wait(window, now)
    }

    pub(in crate::session) fn take_merged(&mut self) -> u64 {
        self.conflation.as_mut().map_or(0, |conflation| conflation.take_merged())
    }

    pub(in crate::session) fn forget_quiet(&mut self, window: Duration, now: UnixMillis) {
        self.conflation.take_if(|conflation| conflation.forget_quiet(window, now));
    }

    /// Up to here the client has everything: what waits and what comes after it has not been written.
    pub(super) fn written(&self, rules: Rules) -> Seq {
        let first = self.conflation.as_ref().and_then(|conflation| conflation.first());
        first.filter(|_| rules.ack_written).map_or(self.position, |first| Seq(first.0 - 1))
    }
}
