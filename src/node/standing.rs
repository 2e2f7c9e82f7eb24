//! How the inbox stands: up or down, from what its check and the node's own appends say.
//!
//! Owns that judgement and nothing else: no I/O, no clock. A check asks for what appends need, but not everything that
//! keeps them from being stored shows there (a full disk, a right that was taken away). So appends that fail in a
//! row count, too; and as only another append can tell that they work again, one is let through now and then.

use std::time::Duration;

use tokio::time::Instant;

use crate::publish::Appends;

/// Appends that fail for so long, with none between that works, mean that the inbox is away although its check works.
const STUCK: Duration = Duration::from_secs(2);
/// So many groups at least: one may have had bad luck.
const STUCK_GROUPS: u64 = 2;
/// How long the inbox is called down then, at first; doubles each time until an append works.
const HOLD: Duration = Duration::from_secs(1);
/// At most. Ingress messages stay with the node for longer than that (`broker::rabbit::rest`), so that none goes back to
/// its queue each time.
const MAX_HOLD: Duration = Duration::from_secs(20);

/// How the inbox stands, as far as was noted.
#[derive(Debug)]
pub(super) struct Standing {
    is_up: bool,
    /// Down until then, unless an append works.
    held_until: Option<Instant>,
    hold: Duration,
    /// Failures up to here were answered by a hold already.
    answered: u64,
}

impl Standing {
    pub(super) fn up() -> Self {
        Self { is_up: true, held_until: None, hold: HOLD, answered: 0 }
    }

    pub(super) fn is_up(&self) -> bool {
        self.is_up
    }

    /// Notes a check and how appends go; answers whether the inbox counts as up from now on.
    pub(super) fn note(&mut self, now: Instant, check_works: bool, appends: Appends) -> bool {
        if appends.failed == 0 {
            (self.hold, self.answered, self.held_until) = (HOLD, 0, None);
        }
        self.is_up = match self.is_up {
            _ if !check_works => false,
            true if self.is_stuck(now, appends) => {
                self.held_until = Some(now + self.hold);
                self.hold = (self.hold * 2).min(MAX_HOLD);
                false
            }
            true => true,
            false => {
                let is_over = self.held_until.is_none_or(|until| until <= now);
                if is_over {
                    // What fails from now on is news.
                    self.answered = appends.failed;
                }
                is_over
            }
        };
        self.is_up
    }

    fn is_stuck(&self, now: Instant, appends: Appends) -> bool {
        let lasts = appends.since.is_some_and(|since| now.duration_since(since) >= STUCK);
        lasts && appends.failed >= STUCK_GROUPS && appends.failed > self.answered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What happens, second by second: whether the check works, and how many groups of appends have failed in a row
    /// since second 0. Answers the seconds at which the inbox is up.
    fn seconds_up(seconds: u64, happens: impl Fn(u64, bool) -> (bool, u64)) -> Vec<u64> {
        let start = Instant::now();
        let (mut standing, mut up) = (Standing::up(), vec![]);
        for second in 0..seconds {
            let (check_works, failed) = happens(second, standing.is_up());
            let appends = Appends { failed, since: (failed > 0).then_some(start) };
            if standing.note(start + Duration::from_secs(second), check_works, appends) {
                up.push(second);
            }
        }
        up
    }

    #[test]
    fn a_check_that_fails_is_down_at_once_and_one_that_works_is_up_again() {
        assert_eq!(seconds_up(6, |second, _| (second % 3 != 1, 0)), [0, 2, 3, 5]);
    }

    #[test]
    fn one_failing_append_is_no_outage_while_the_check_works() {
        assert_eq!(seconds_up(5, |_, _| (true, 1)), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn appends_that_only_fail_are_an_outage_that_is_looked_at_again_more_and_more_seldom() {
        let failed = std::cell::Cell::new(1);
        let up = seconds_up(80, |_, is_up| {
            // Something is appended only while the inbox is called up.
            failed.set(failed.get() + u64::from(is_up));
            (true, failed.get())
        });
        // Down at 2; up after 1, 2, 4, 8, 16 and then every 20 seconds, for as long as an append takes to fail.
        assert_eq!(up, [0, 1, 3, 6, 11, 20, 37, 58, 79]);
    }

    #[test]
    fn an_append_that_works_ends_the_outage_at_once() {
        assert_eq!(seconds_up(5, |second, _| (true, if second == 3 { 0 } else { 9 })), [0, 1, 3]);
    }
}
