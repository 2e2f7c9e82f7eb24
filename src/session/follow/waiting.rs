//! What of a followed stream waits for its collapse key's time.
//!
//! Owns what that means for the rest: what waits is in the window like what was sent, and is not acknowledged.

use std::time::Duration;

use super::Follow;
use super::busy::Busy;
use crate::domain::{Seq, UnixMillis};
use crate::session::conflation::{Conflation, Key};
use crate::session::{Flow, Offered, Released, Rules};
use crate::wire::Frame;

impl Follow {
    fn conflation(&self) -> Option<&Conflation> {
        self.busy.as_ref()?.conflation.as_deref()
    }

    /// Drops what waits and is not to be had any more now that there is `entry`, whether or not that is sent: it may have to
    /// be read, or have expired.
    pub(super) fn supersede(&mut self, entry: &Offered<'_>) {
        let Some(Busy { conflation: Some(conflation), sent, .. }) = self.busy.as_deref_mut() else {
            return;
        };
        if let Some(older) = Key::of(entry).and_then(|key| conflation.supersede(&key, entry.seq)) {
            sent.withdraw(older);
        }
    }

    /// Whether it has to wait.
    pub(super) fn keep(&mut self, entry: &Offered<'_>, window: Duration, now: UnixMillis) -> bool {
        let Some(pushed) = entry.pushed.filter(|_| !window.is_zero()) else {
            return false;
        };
        let key = Key::of(entry);
        if key.is_none() && self.conflation().is_none() {
            return false;
        }
        self.busy().conflation.get_or_insert_default().keep(entry.seq, key, pushed.frame, window, now)
    }

    pub(in crate::session) fn release(
        &mut self,
        everything: bool,
        window: Duration,
        now: UnixMillis,
        act: &mut impl FnMut(Frame) -> Flow,
    ) -> (Released, Flow) {
        let Some(Busy { conflation: Some(conflation), sent, .. }) = self.busy.as_deref_mut() else {
            return (Released::default(), Flow::Open);
        };
        conflation.release(everything, window, now, |seq| sent.withdraw(seq), act)
    }

    pub(in crate::session) fn wait(&self, window: Duration, now: UnixMillis) -> Option<Duration> {
        self.conflation()?.wait(window, now)
    }

    pub(in crate::session) fn take_merged(&mut self) -> u64 {
        let conflation = self.busy.as_mut().and_then(|busy| busy.conflation.as_mut());
        conflation.map_or(0, |conflation| conflation.take_merged())
    }

    pub(in crate::session) fn forget_quiet(&mut self, window: Duration, now: UnixMillis) {
        if let Some(busy) = &mut self.busy {
            busy.conflation.take_if(|conflation| conflation.forget_quiet(window, now));
            self.rest();
        }
    }

    /// The first that waits.
    pub(super) fn first_waiting(&self) -> Option<Seq> {
        self.conflation()?.first()
    }

    /// Up to here the client has everything: what waits and what comes after it has not been written.
    pub(super) fn written(&self, rules: Rules) -> Seq {
        let first = self.first_waiting().filter(|_| rules.ack_written);
        first.map_or(self.position, |first| Seq(first.0 - 1))
    }
}
