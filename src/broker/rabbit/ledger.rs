//! Which deliveries of a channel are finished, and what may be acknowledged in one go.
//!
//! Owns the rule of `basic.ack` with `multiple`: it settles every delivery up to its tag (AMQP 0-9-1,
//! basic.ack), so it may go only up to the last tag before which all are finished. Pure: no I/O, no clock.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The unsettled deliveries of one channel, by tag.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// When each was finished, if it was.
    deliveries: BTreeMap<u64, Option<Instant>>,
    finished: usize,
}

/// What is to be acknowledged.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Acks {
    /// Everything up to this tag.
    pub(super) up_to: Option<u64>,
    /// These alone: they wait behind an unfinished one for too long.
    pub(super) single: Vec<u64>,
}

impl Ledger {
    /// A delivery came.
    pub(super) fn delivered(&mut self, tag: u64) {
        self.deliveries.insert(tag, None);
    }

    /// A delivery may be acknowledged.
    pub(super) fn finished(&mut self, tag: u64, now: Instant) {
        if let Some(state @ None) = self.deliveries.get_mut(&tag) {
            *state = Some(now);
            self.finished += 1;
        }
    }

    /// A delivery was settled by itself (nacked).
    pub(super) fn settled(&mut self, tag: u64) {
        if let Some(Some(_)) = self.deliveries.remove(&tag) {
            self.finished -= 1;
        }
    }

    /// How many are finished and not acknowledged.
    pub(super) fn finished_count(&self) -> usize {
        self.finished
    }

    /// How many are not settled.
    pub(super) fn len(&self) -> usize {
        self.deliveries.len()
    }

    /// Takes out what may be acknowledged: the finished ones at the front together, and those further
    /// behind that have waited for `patience`, so that a slow one in front holds no prefetch slot but its own.
    pub(super) fn take_due(&mut self, now: Instant, patience: Duration) -> Acks {
        let mut acks = Acks::default();
        while let Some(entry) = self.deliveries.first_entry() {
            if entry.get().is_none() {
                break;
            }
            acks.up_to = Some(*entry.key());
            entry.remove();
            self.finished -= 1;
        }
        self.deliveries.retain(|tag, state| {
            let waited = state.is_some_and(|since| now.duration_since(since) >= patience);
            if waited {
                acks.single.push(*tag);
            }
            !waited
        });
        self.finished -= acks.single.len();
        acks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(50);

    fn ledger(tags: std::ops::RangeInclusive<u64>) -> Ledger {
        let mut ledger = Ledger::default();
        tags.for_each(|tag| ledger.delivered(tag));
        ledger
    }

    #[test]
    fn acks_reach_only_up_to_the_first_unfinished_delivery() {
        let now = Instant::now();
        let mut ledger = ledger(1..=5);
        for tag in [2, 1, 4] {
            ledger.finished(tag, now);
        }
        let acks = ledger.take_due(now, PATIENCE);
        assert_eq!(acks.up_to, Some(2));
        assert_eq!(acks.single, [0; 0]);
        ledger.finished(3, now);
        assert_eq!(ledger.take_due(now, PATIENCE).up_to, Some(4));
        assert_eq!(ledger.len(), 1);
    }

    #[test]
    fn a_slow_delivery_does_not_hold_back_those_behind_it_for_long() {
        let now = Instant::now();
        let mut ledger = ledger(1..=3);
        ledger.finished(2, now);
        ledger.finished(3, now + PATIENCE);
        let acks = ledger.take_due(now + PATIENCE, PATIENCE);
        assert_eq!(acks.up_to, None);
        assert_eq!(acks.single, [2]);
        assert_eq!(ledger.finished_count(), 1);
    }

    #[test]
    fn a_nacked_delivery_leaves_no_gap() {
        let now = Instant::now();
        let mut ledger = ledger(1..=3);
        ledger.settled(1);
        ledger.finished(2, now);
        assert_eq!(ledger.take_due(now, PATIENCE).up_to, Some(2));
    }

    #[test]
    fn a_tag_that_was_settled_cannot_finish_again() {
        let now = Instant::now();
        let mut ledger = ledger(1..=1);
        ledger.settled(1);
        ledger.finished(1, now);
        assert_eq!(ledger.take_due(now, PATIENCE), Acks::default());
    }
}
