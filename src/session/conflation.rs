//! Conflation in one stream: of updates of one collapse key that come faster than a client is to be sent them, only the
//! newest is written.
//!
//! Owns what waits. The first update of a quiet key goes at once; those within the window after it wait for its end, each
//! in the place of the one before. Nothing passes what waits: an entry that is not to wait is written behind everything
//! that waits before it. So the order of the stream holds, and nothing but updates ever comes later for it.
//! Bounded: at most [`KEYS`] keys are merged at a time, and what waits counts in the session's window.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use bytes::Bytes;

use super::{Flow, Offered, Released};
use crate::domain::{Seq, UnixMillis};
use crate::wire::Frame;

/// How many keys of a stream are merged at a time; those of further ones go as they come.
const KEYS: usize = 128;

/// What makes an entry an update of another: the inbox compares the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    word: Bytes,
    for_one_device: bool,
}

impl Key {
    pub(super) fn of(entry: &Offered<'_>) -> Option<Self> {
        let word = entry.pushed?.collapse_key?.clone();
        Some(Self { word, for_one_device: entry.device.is_some() })
    }

    fn mixed(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

/// What waits in one stream, and for which keys more would wait.
#[derive(Debug, Default)]
pub(super) struct Conflation {
    /// In order.
    waiting: VecDeque<Waiting>,
    /// When each key was last written, by its hash: one that collides waits without need, once.
    written: Vec<(u64, UnixMillis)>,
    /// How many were replaced since this was last asked for.
    merged: u64,
}

#[derive(Debug)]
struct Waiting {
    seq: Seq,
    key: Option<Key>,
    until: UnixMillis,
    frame: Frame,
}

impl Conflation {
    /// The first that waits.
    pub(super) fn first(&self) -> Option<Seq> {
        self.waiting.front().map(|waiting| waiting.seq)
    }

    /// Drops the update of `key` that waits, now that there is a newer one, at `by`. Returns its place.
    pub(super) fn supersede(&mut self, key: &Key, by: Seq) -> Option<Seq> {
        let is_older = |waiting: &Waiting| waiting.seq < by && waiting.key.as_ref() == Some(key);
        let at = self.waiting.iter().position(is_older)?;
        self.merged += 1;
        self.waiting.remove(at).map(|waiting| waiting.seq)
    }

    /// Whether an entry has to wait, if only for its turn: then it is kept here. Else it goes at once.
    pub(super) fn keep(
        &mut self,
        seq: Seq,
        key: Option<Key>,
        frame: &Frame,
        window: Duration,
        now: UnixMillis,
    ) -> bool {
        let until = key.as_ref().and_then(|key| self.quiet_at(key.mixed(), window, now));
        if until.is_none() && self.waiting.is_empty() {
            if let Some(key) = key {
                self.note_written(key.mixed(), window, now);
            }
            return false;
        }
        self.waiting.push_back(Waiting { seq, key, until: until.unwrap_or(now), frame: frame.clone() });
        true
    }

    /// Until when updates of a key wait; `None` if it is quiet.
    fn quiet_at(&self, key: u64, window: Duration, now: UnixMillis) -> Option<UnixMillis> {
        let (_, at) = self.written.iter().find(|(written, _)| *written == key)?;
        is_within(*at, window, now).then(|| at.after(window))
    }

    fn note_written(&mut self, key: u64, window: Duration, now: UnixMillis) {
        match self.written.iter_mut().find(|(written, _)| *written == key) {
            Some((_, at)) => *at = now,
            None => {
                if self.written.len() == KEYS {
                    self.written.retain(|(_, at)| is_within(*at, window, now));
                }
                if self.written.len() < KEYS {
                    self.written.push((key, now));
                }
            }
        }
    }

    /// Writes what has waited long enough (`everything`: whatever waits) and all before it, until the connection is full.
    /// `expired` is told what is not written, as it is worth nothing any more.
    pub(super) fn release(
        &mut self,
        everything: bool,
        window: Duration,
        now: UnixMillis,
        mut expired: impl FnMut(Seq),
        act: &mut impl FnMut(Frame) -> Flow,
    ) -> (Released, Flow) {
        let is_due = |waiting: &Waiting| everything || wait(waiting.until, window, now).is_zero();
        let due = self.waiting.iter().rposition(is_due).map_or(0, |last| last + 1);
        let mut released = Released::default();
        for _ in 0..due {
            let Some(Waiting { seq, key, frame, .. }) = self.waiting.pop_front() else { break };
            if frame.expires_at.is_some_and(|at| at <= now) {
                released.expired += 1;
                expired(seq);
                continue;
            }
            if let Some(key) = key {
                self.note_written(key.mixed(), window, now);
            }
            released.sent += 1;
            if act(frame) == Flow::Full {
                return (released, Flow::Full);
            }
        }
        (released, Flow::Open)
    }

    /// How long the first that is due waits at most.
    pub(super) fn wait(&self, window: Duration, now: UnixMillis) -> Option<Duration> {
        self.waiting.iter().map(|waiting| wait(waiting.until, window, now)).min()
    }

    pub(super) fn take_merged(&mut self) -> u64 {
        std::mem::take(&mut self.merged)
    }

    /// Forgets keys that are quiet. Returns whether there is nothing left to know.
    pub(super) fn forget_quiet(&mut self, window: Duration, now: UnixMillis) -> bool {
        self.written.retain(|(_, at)| is_within(*at, window, now));
        self.waiting.is_empty() && self.written.is_empty() && self.merged == 0
    }
}

/// A clock that went back ends all waits, rather than to make them longer.
fn is_within(at: UnixMillis, window: Duration, now: UnixMillis) -> bool {
    at <= now && now < at.after(window)
}

fn wait(until: UnixMillis, window: Duration, now: UnixMillis) -> Duration {
    let left = Duration::from_millis(until.0.saturating_sub(now.0));
    if left > window { Duration::ZERO } else { left }
}

#[cfg(test)]
mod tests;
