//! How much a publisher may send: a token bucket, on each node for itself.
//!
//! Pure: the time is passed in. Decides nothing about what happens to what comes too soon.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::domain::UnixMillis;

/// The largest debt, in notifications: that of the largest batch.
const MAX_DEBT: u32 = 1_000;

/// How much may be sent; both at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishRate {
    /// Notifications a second in the long run.
    pub per_second: u32,
    /// How many may come at once.
    pub burst: u32,
}

/// A publisher's bucket, kept as the time at which it would be full again (GCRA).
#[derive(Debug)]
pub struct Allowance {
    rate: PublishRate,
    full_at_us: Mutex<u64>,
}

impl Allowance {
    /// Full.
    pub fn new(rate: PublishRate) -> Self {
        Self { rate, full_at_us: Mutex::new(0) }
    }

    /// What it fills by.
    pub fn rate(&self) -> PublishRate {
        self.rate
    }

    /// Takes `count` at once or none of them. More than the burst is let in by a full bucket, which is in debt then:
    /// what comes next waits for it, so that the rate is kept.
    ///
    /// # Errors
    /// Not now; how long until it would be.
    pub fn take(&self, count: u32, now: UnixMillis) -> Result<(), Duration> {
        let now_us = micros(now);
        let mut full_at_us = self.lock();
        let burst_us = self.cost_us(self.rate.burst);
        // A clock that went back must not lock a publisher out for as long.
        let from_us = (*full_at_us).clamp(now_us, now_us + burst_us + self.cost_us(MAX_DEBT));
        let over_us = (from_us + self.cost_us(count.min(self.rate.burst))).saturating_sub(now_us + burst_us);
        let fits = over_us == 0;
        *full_at_us = if fits { from_us + self.cost_us(count) } else { from_us };
        if fits { Ok(()) } else { Err(Duration::from_micros(over_us)) }
    }

    /// How many could come at once now, and how long until the bucket is full again.
    pub fn left(&self, now: UnixMillis) -> (u32, Duration) {
        let wait_us = self.lock().saturating_sub(micros(now));
        let free_us = self.cost_us(self.rate.burst).saturating_sub(wait_us);
        let left = free_us / self.cost_us(1);
        (u32::try_from(left).unwrap_or(u32::MAX), Duration::from_micros(wait_us))
    }

    fn cost_us(&self, count: u32) -> u64 {
        1_000_000 * u64::from(count) / u64::from(self.rate.per_second.max(1))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, u64> {
        // One number, which a panic cannot leave half-way.
        self.full_at_us.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn micros(time: UnixMillis) -> u64 {
    time.0.saturating_mul(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> UnixMillis {
        UnixMillis(1_700_000_000_000 + millis)
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let allowance = Allowance::new(PublishRate { per_second: 10, burst: 20 });
        assert_eq!(allowance.left(at(0)), (20, Duration::ZERO));
        assert_eq!(allowance.take(15, at(0)), Ok(()));
        assert_eq!(allowance.left(at(0)), (5, Duration::from_millis(1_500)));
        assert_eq!(allowance.take(6, at(0)), Err(Duration::from_millis(100)), "all or none");
        assert_eq!(allowance.take(5, at(0)), Ok(()));
        assert_eq!(allowance.take(1, at(99)), Err(Duration::from_millis(1)));
        assert_eq!(allowance.take(1, at(100)), Ok(()));
        assert_eq!(allowance.left(at(60_000)), (20, Duration::ZERO));
    }

    #[test]
    fn more_than_the_burst_needs_all_of_it_and_is_paid_for_later() {
        let allowance = Allowance::new(PublishRate { per_second: 10, burst: 10 });
        assert_eq!(allowance.take(1, at(0)), Ok(()));
        assert_eq!(allowance.take(15, at(0)), Err(Duration::from_millis(100)));
        assert_eq!(allowance.take(15, at(100)), Ok(()));
        assert_eq!(allowance.left(at(100)), (0, Duration::from_millis(1_500)));
        assert_eq!(allowance.take(1, at(100)), Err(Duration::from_millis(600)));
        assert_eq!(allowance.take(1, at(700)), Ok(()));
    }

    #[test]
    fn a_clock_that_goes_back_locks_nobody_out() {
        let allowance = Allowance::new(PublishRate { per_second: 10, burst: 10 });
        assert_eq!(allowance.take(10, at(3_600_000)), Ok(()));
        assert!(allowance.take(1, at(0)).is_err());
        assert_eq!(allowance.take(1, at(200_000)), Ok(()), "and not only an hour later");
    }
}
