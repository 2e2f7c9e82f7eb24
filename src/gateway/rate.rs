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

    fn is_half_full(&self, now_us: u64, rate: Rate) -> bool {
        self.full_at_us.saturating_sub(now_us) <= rate.burst_us / 2
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

/// Since when a client has been too fast, in four bytes: 2^16 us each from the start of the clock, good for eight years.
/// 0: it is not.
#[derive(Debug, Default)]
pub(super) struct Haste(u32);

/// What frames that came lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// Read on.
    Go,
    /// There were not as many tokens: they are there after this time.
    Pause(Duration),
    /// The same, and it has been so for as long as it may.
    TooLong,
}

impl Haste {
    /// Takes `frames` tokens of `bucket`. Who asks for more than there are is too fast until half of the burst is there
    /// again, and may be so for `longest` (`None`: for ever).
    pub(super) fn pass(
        &mut self,
        bucket: &mut Bucket,
        frames: u32,
        now_us: u64,
        rate: Rate,
        longest: Option<Duration>,
    ) -> Pass {
        if bucket.is_half_full(now_us, rate) {
            self.0 = 0;
        }
        let debt = bucket.take(frames, now_us, rate);
        if debt.is_zero() {
            return Pass::Go;
        }
        let now = ((now_us >> 16) as u32).max(1);
        if self.0 == 0 {
            self.0 = now;
        }
        let fast_for = Duration::from_micros(u64::from(now.wrapping_sub(self.0)) << 16);
        match longest {
            Some(longest) if fast_for >= longest => Pass::TooLong,
            _ => Pass::Pause(debt),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_too_fast_all_the_time_is_so_for_a_bounded_time() {
        let rate = Rate::new(100, 200);
        let longest = Some(Duration::from_secs(3));
        let (mut haste, mut bucket) = (Haste::default(), Bucket::default());
        // As a socket reads it: much at once, then nothing for as long as it is told, and a little more.
        let (mut now_us, mut frames) = (0, 0);
        loop {
            frames += 50;
            match haste.pass(&mut bucket, 50, now_us, rate, longest) {
                Pass::Go => {}
                Pass::Pause(debt) => now_us += debt.as_micros() as u64 + 250_000,
                Pass::TooLong => break,
            }
        }
        assert!((3_000_000..4_000_000).contains(&now_us), "{now_us} us");
        assert!(frames <= 200 + 400 + 100, "{frames}: no faster than the rate until then");
        assert!(
            matches!(haste.pass(&mut bucket, 50, now_us, rate, None), Pass::Pause(_)),
            "it has no end then"
        );
    }

    #[test]
    fn who_lets_half_of_the_burst_come_back_begins_anew() {
        let rate = Rate::new(100, 200);
        let longest = Some(Duration::from_secs(3));
        let (mut haste, mut bucket) = (Haste::default(), Bucket::default());
        for second in 0..100 {
            // 250 at once, and then nothing for as long as it takes to earn more than half of the burst.
            let passed = haste.pass(&mut bucket, 250, second * 2_600_000, rate, longest);
            assert_ne!(passed, Pass::TooLong, "the {second}th time");
        }
    }

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
