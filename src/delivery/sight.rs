//! Whether this node sees presence, or is blind.
//!
//! Owns the word and its gauge, and that no failure is lost: who looked before it cannot see after it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::gauge::Gauge;

#[derive(Debug, Default, Clone, Copy)]
struct State {
    is_blind: bool,
    /// How often presence has failed this node.
    failures: u64,
}

/// At first it sees.
#[derive(Debug)]
pub(super) struct Sight {
    /// One lock for word, count and gauge: between two of them there is no moment in which a failure could fall.
    state: Mutex<State>,
    gauge: Gauge,
}

/// How often presence had failed when an attempt to see began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt(u64);

impl Sight {
    /// `gauge` is 1 while blind.
    pub(super) fn new(gauge: Gauge) -> Self {
        Self { state: Mutex::default(), gauge }
    }

    pub(super) fn is_blind(&self) -> bool {
        self.lock().is_blind
    }

    /// Presence failed. Whether the node saw until now.
    pub(super) fn lose(&self) -> bool {
        let mut state = self.lock();
        state.failures += 1;
        self.gauge.set(1);
        !std::mem::replace(&mut state.is_blind, true)
    }

    /// What follows tries whether presence is there again.
    pub(super) fn attempt(&self) -> Attempt {
        Attempt(self.lock().failures)
    }

    /// The attempt went well. Whether the node sees now: not if presence has failed it since the attempt began.
    pub(super) fn regain(&self, attempt: Attempt) -> bool {
        let mut state = self.lock();
        let sees = state.failures == attempt.0;
        if sees {
            state.is_blind = false;
            self.gauge.set(0);
        }
        sees
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn who_is_blind_sees_again_after_an_attempt_that_went_well() {
        let gauge = Gauge::default();
        let sight = Sight::new(gauge.clone());
        assert!(!sight.is_blind());
        assert!(sight.lose(), "it saw");
        assert!(!sight.lose(), "it was blind already");
        assert_eq!((sight.is_blind(), gauge.get()), (true, 1));
        let attempt = sight.attempt();
        assert!(sight.regain(attempt));
        assert_eq!((sight.is_blind(), gauge.get()), (false, 0));
    }

    #[test]
    fn a_failure_during_an_attempt_keeps_the_node_blind() {
        let gauge = Gauge::default();
        let sight = Sight::new(gauge.clone());
        sight.lose();
        let attempt = sight.attempt();
        sight.lose();
        assert!(!sight.regain(attempt));
        assert_eq!((sight.is_blind(), gauge.get()), (true, 1));
        assert!(sight.regain(sight.attempt()));
    }

    /// Whichever of the two is first: the attempt cannot speak for a failure that came while it ended.
    #[test]
    fn no_failure_is_lost_to_an_attempt_that_ends_in_the_same_moment() {
        const ROUNDS: usize = 5_000;
        let sight = Sight::new(Gauge::default());
        let both = Barrier::new(2);
        let mut lost = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    both.wait();
                    sight.lose();
                    both.wait();
                }
            });
            for _ in 0..ROUNDS {
                let attempt = sight.attempt();
                both.wait();
                sight.regain(attempt);
                both.wait();
                // A panic here would leave the other waiting for ever.
                lost += usize::from(!sight.is_blind());
            }
        });
        assert_eq!(lost, 0);
    }
}
