//! How many sockets a second are let in, and when those that find no turn may come back.
//!
//! Pure: the time is passed in. Whoever is refused is put in a line that moves at the same rate, so a crowd that comes
//! at once comes back one after the other. Must keep nothing of anybody: the line is two numbers.

use std::time::Duration;

use super::rate::{Bucket, Rate};

/// The longest line, in time: whoever finds it is told this, and tries again then. So those who only pretend to
/// wait cannot keep others away for longer.
const MAX_LINE: Duration = Duration::from_secs(60);

/// Lets sockets in at a rate; as many as come in a second may come at once.
#[derive(Debug)]
pub(super) struct Turnstile {
    rate: Rate,
    turns: Bucket,
    line: Bucket,
}

impl Turnstile {
    /// `per_second` at least 1.
    pub(super) fn new(per_second: u32) -> Self {
        Self { rate: Rate::new(per_second, per_second), turns: Bucket::default(), line: Bucket::default() }
    }

    /// Lets one in, at `now_us` on any steady clock.
    ///
    /// # Errors
    /// There is no turn now; after how long there will be one.
    pub(super) fn enter(&mut self, now_us: u64) -> Result<(), Duration> {
        if self.turns.take_one(now_us, self.rate) {
            return Ok(());
        }
        Err(self.line.line_up(now_us, self.rate, MAX_LINE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_let_in_at_the_rate_and_told_to_come_back_at_the_rate() {
        let (mut turnstile, start_us) = (Turnstile::new(100), 7_000_000);
        // Each comes when it was told to, the first of them all at once.
        let mut waiting: Vec<u64> = vec![start_us; 1_500];
        let mut entered = vec![];
        while let Some(next) = waiting.iter().copied().min() {
            waiting.sort_unstable_by(|one, other| other.cmp(one));
            waiting.pop();
            match turnstile.enter(next) {
                Ok(()) => entered.push(next),
                Err(wait) => waiting.push(next + wait.as_micros() as u64),
            }
        }
        let within = |seconds: u64| entered.iter().filter(|at| **at < start_us + seconds * 1_000_000).count();
        assert_eq!(within(1), 199, "one second's at once, and what that second brings");
        assert!(within(8) <= 900, "{}", within(8));
        // Without a loss of turns: 1 400 wait for 14 seconds.
        assert!(entered[1_499] <= start_us + 15_000_000, "{}", entered[1_499]);
    }

    #[test]
    fn nobody_is_sent_away_for_longer_than_a_minute() {
        let mut turnstile = Turnstile::new(1);
        assert_eq!(turnstile.enter(0), Ok(()));
        let longest = (0..1_000).filter_map(|_| turnstile.enter(0).err()).max();
        assert_eq!(longest, Some(MAX_LINE));
        assert_eq!(turnstile.enter(1_000_000), Ok(()));
    }
}
