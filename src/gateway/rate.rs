//! How fast one client may send frames, or all may connect: a token bucket in eight bytes.
//!
//! Pure: the time is passed in. Decides nothing about what happens to who is too fast.

use std::time::Duration;

/// A token bucket, kept as the time at which it would be full again (GCRA).
#[derive(Debug, Default)]
pub(super) struct Bucket {
    full_at_us: u64,
}

/// What a bucket holds and how it fills.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    us_per_frame: u64,
    burst_us: u64,
}

impl Rate {
    /// `per_second` frames in the long run, `burst` at once; both at least 1.
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        let us_per_frame = 1_000_000 / u64::from(per_second.max(1));
        Self { us_per_frame, burst_us: us_per_frame * u64::from(burst.max(1)) }
    }
}

impl Bucket {
    /// Takes `frames` tokens, at `now_us` on any steady clock. If there were not as many, it goes
    /// into debt, and the answer is how long it takes to come out of it.
    pub(super) fn take(&mut self, frames: u32, now_us: u64, rate: Rate) -> Duration {
        self.full_at_us = self.full_at_us.max(now_us) + rate.us_per_frame * u64::from(frames);
        Duration::from_micros((self.full_at_us - now_us).saturating_sub(rate.burst_us))
    }

    /// Takes one token if there is one; never goes into debt.
    pub(super) fn take_one(&mut self, now_us: u64, rate: Rate) -> bool {
        let full_at_us = self.full_at_us.max(now_us) + rate.us_per_frame;
        let fits = full_at_us - now_us <= rate.burst_us;
        if fits {
            self.full_at_us = full_at_us;
        }
        fits
    }

    /// A place in a line that moves at the rate: how long until its turn, at most `longest`.
    pub(super) fn line_up(&mut self, now_us: u64, rate: Rate, longest: Duration) -> Duration {
        let end_us = now_us + longest.as_micros() as u64;
        self.full_at_us = (self.full_at_us.max(now_us) + rate.us_per_frame).min(end_us);
        Duration::from_micros(self.full_at_us - now_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_only_the_rate() {
        let rate = Rate::new(100, 200);
        let mut bucket = Bucket::default();
        assert!(bucket.take(200, 5_000_000, rate).is_zero());
        assert!(bucket.take(1, 5_010_000, rate).is_zero());
        assert_eq!(bucket.take(3, 5_010_000, rate), Duration::from_millis(30));
        assert!(bucket.take(200, 9_000_000, rate).is_zero());
    }
}
