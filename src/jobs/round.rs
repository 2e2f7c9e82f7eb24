//! A job, round by round: paced with jitter, backing off while it fails, ending when it is told to.
//!
//! Owns the loop that all jobs share, its counters and its log lines. It must never let one round grow without
//! bound: a round does a bounded part and says whether there is more.

use std::ops::Range;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::broker::EmitError;
use crate::clock::Clock;
use crate::inbox::InboxError;
use crate::metrics::jobs::{JobLabels, JobMetrics};
use crate::presence::PresenceError;
use crate::publish::PublishError;

/// Between two rounds while there is more to do: others want the store, too.
const BRIEF: Duration = Duration::from_millis(10);
/// A job that fails tries again after twice its pace, four times …, at most so long or its pace.
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// After how many failures in a row it is worth a line: the first few belong to an outage that is told elsewhere.
const WORTH_A_LINE: u32 = 3;

/// How long after an outage of the inbox a job waits that says what nobody has acknowledged: nodes hold acknowledgements
/// that it did not take, and write them when a call that hung has come to its deadline (5 s unless set otherwise) and
/// the longest pause after a failure is over (1.5 s, `delivery::receipts`). Other nodes may take longer.
pub(super) const ACKS_SETTLE: Duration = Duration::from_secs(10);

/// Why a round failed. It is tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum JobError {
    /// The inbox.
    #[error(transparent)]
    Inbox(#[from] InboxError),
    /// Presence.
    #[error(transparent)]
    Presence(#[from] PresenceError),
    /// The broker.
    #[error(transparent)]
    Emit(#[from] EmitError),
    /// What was to be published could not be, for now.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// What a round did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Round {
    /// How many things.
    pub(super) done: u64,
    /// Whether there is more to do at once.
    pub(super) more: bool,
}

impl Round {
    /// Nothing was to be done.
    pub(super) const IDLE: Self = Self { done: 0, more: false };

    /// `done` things were done; as many as asked for means that there may be more.
    pub(super) fn of(done: u64, limit: u32) -> Self {
        Self { done, more: done >= u64::from(limit) }
    }
}

/// Something that is done again and again by every node; who does what is settled by claims.
pub(super) trait Job: Send + 'static {
    /// A fixed word, for metrics and logs: one of [`crate::metrics::jobs::JOBS`].
    const NAME: &'static str;

    /// How long it waits after an outage of the inbox, of which there was none at its start.
    const AFTER_OUTAGE: Duration = Duration::ZERO;

    /// How long to pause between two rounds; a random time out of this.
    fn pace(&self) -> Range<Duration>;

    /// One round: a bounded part of the work. May be dropped at any await.
    fn round(&mut self) -> impl Future<Output = Result<Round, JobError>> + Send;
}

/// What all jobs are run with.
#[derive(Clone)]
pub(super) struct Runner {
    pub(super) clock: Clock,
    pub(super) metrics: JobMetrics,
    /// Whether the inbox is there; without it jobs wait.
    pub(super) inbox_up: watch::Receiver<bool>,
    pub(super) cancel: CancellationToken,
}

impl Runner {
    /// Runs a job until cancelled.
    pub(super) async fn run<J: Job>(mut self, mut job: J) {
        let cancel = self.cancel.clone();
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.rounds(&mut job) => {}
        }
    }

    async fn rounds<J: Job>(&mut self, job: &mut J) {
        let labels = JobLabels { name: J::NAME };
        let (mut failures, mut pause) = (0_u32, self.jittered(&job.pace()));
        loop {
            sleep(pause).await;
            self.inbox_is_up(J::AFTER_OUTAGE).await;
            let round = job.round().await;
            self.metrics.rounds.get_or_create(&labels).inc();
            pause = match round {
                Ok(Round { done, more }) => {
                    if failures >= WORTH_A_LINE {
                        info!(job = J::NAME, "the job works again");
                    }
                    failures = 0;
                    self.metrics.done.get_or_create(&labels).inc_by(done);
                    if more { BRIEF } else { self.jittered(&job.pace()) }
                }
                // That the inbox is away is one line, and not the job's.
                Err(error) if !*self.inbox_up.borrow() => {
                    self.metrics.failures.get_or_create(&labels).inc();
                    debug!(job = J::NAME, %error, "a round failed as the inbox went away");
                    self.jittered(&job.pace())
                }
                Err(error) => {
                    self.metrics.failures.get_or_create(&labels).inc();
                    failures = failures.saturating_add(1);
                    match failures {
                        WORTH_A_LINE => {
                            warn!(job = J::NAME, %error, "the job fails; it is tried again until it works")
                        }
                        _ => debug!(job = J::NAME, %error, failures, "a round failed"),
                    }
                    backoff(self.jittered(&job.pace()), failures)
                }
            };
        }
    }

    /// Waits for the inbox, and for `settle` more if it was away since the last time, however shortly.
    async fn inbox_is_up(&mut self, settle: Duration) {
        loop {
            let was_there = *self.inbox_up.borrow() && !self.inbox_up.has_changed().unwrap_or(false);
            if was_there {
                return;
            }
            // An error: the node is ending, and so will this.
            let _ = self.inbox_up.wait_for(|up| *up).await;
            if settle.is_zero() {
                return;
            }
            sleep(settle).await;
        }
    }

    fn jittered(&self, pace: &Range<Duration>) -> Duration {
        pace.start + (pace.end - pace.start).mul_f64(self.clock.random_range(0.0..1.0))
    }
}

fn backoff(pace: Duration, failures: u32) -> Duration {
    let longer = pace.saturating_mul(2_u32.saturating_pow(failures.min(10)));
    longer.min(MAX_BACKOFF.max(pace))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tokio::sync::mpsc;
    use tokio::time::Instant;

    /// Fails, works or has more, as the script says; notes when.
    struct Scripted {
        script: Vec<Result<Round, ()>>,
        times: Arc<Mutex<Vec<Duration>>>,
        began: Instant,
        ended: CancellationToken,
    }

    impl Job for Scripted {
        const NAME: &'static str = "sweep";

        fn pace(&self) -> Range<Duration> {
            Duration::from_secs(1)..Duration::from_millis(1_001)
        }

        async fn round(&mut self) -> Result<Round, JobError> {
            self.times.lock().expect("whole").push(self.began.elapsed());
            if self.script.is_empty() {
                self.ended.cancel();
                std::future::pending::<()>().await;
            }
            self.script.remove(0).map_err(|()| InboxError::Timeout(Duration::ZERO).into())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_keeps_its_pace_goes_on_at_once_with_more_backs_off_and_waits_without_sql() {
        let (times, ended) = (Arc::new(Mutex::new(vec![])), CancellationToken::new());
        let more = Ok(Round { done: 5, more: true });
        let script = vec![Ok(Round::IDLE), more, Ok(Round::IDLE), Err(()), Err(()), Ok(Round::IDLE)];
        let job = Scripted { script, times: Arc::clone(&times), began: Instant::now(), ended: ended.clone() };
        let (up, inbox_up) = watch::channel(false);
        let runner = Runner {
            clock: Clock::system(),
            metrics: JobMetrics::default(),
            inbox_up,
            cancel: CancellationToken::new(),
        };
        let (cancel, metrics) = (runner.cancel.clone(), runner.metrics.clone());
        let running = tokio::spawn(runner.run(job));
        sleep(Duration::from_secs(7)).await;
        assert!(times.lock().expect("whole").is_empty(), "without SQL nothing is tried");
        up.send_replace(true);
        ended.cancelled().await;
        cancel.cancel();
        running.await.expect("it ends when it is told to, in the middle of a round");
        let times: Vec<u128> = times.lock().expect("whole").iter().map(|at| at.as_millis() / 100).collect();
        // At once, its pace, more at once, its pace, twice, twice (the cap), its pace.
        assert_eq!(times, [70, 80, 80, 90, 110, 130, 140]);
        let labels = JobLabels { name: "sweep" };
        assert_eq!(metrics.failures.get_or_create(&labels).get(), 2);
        assert_eq!(metrics.done.get_or_create(&labels).get(), 5);
    }

    /// Says what nobody acknowledged; notes when.
    struct Accuser(mpsc::Sender<Duration>, Instant);

    impl Job for Accuser {
        const NAME: &'static str = "expiry";
        const AFTER_OUTAGE: Duration = ACKS_SETTLE;

        fn pace(&self) -> Range<Duration> {
            Duration::from_secs(2)..Duration::from_millis(2_001)
        }

        async fn round(&mut self) -> Result<Round, JobError> {
            self.0.try_send(self.1.elapsed()).expect("there is room for a few");
            Ok(Round::IDLE)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_what_nobody_acknowledged_waits_after_an_outage_for_acks_that_nodes_hold() {
        let (up, inbox_up) = watch::channel(true);
        let (clock, metrics) = (Clock::system(), JobMetrics::default());
        let runner = Runner { clock, metrics, inbox_up, cancel: CancellationToken::new() };
        let (cancel, began) = (runner.cancel.clone(), Instant::now());
        let (rounds, mut seen) = mpsc::channel(8);
        let running = tokio::spawn(runner.run(Accuser(rounds, began)));
        let mut next = async || seen.recv().await.expect("a round").as_secs();
        assert_eq!(next().await, 2, "there was no outage");
        // Away and back between two rounds, and once more in the middle of the wait.
        up.send_replace(false);
        up.send_replace(true);
        sleep(Duration::from_secs(5)).await;
        up.send_replace(false);
        sleep(Duration::from_secs(9)).await;
        up.send_replace(true);
        assert_eq!(next().await, 16 + ACKS_SETTLE.as_secs());
        assert_eq!(next().await, 18 + ACKS_SETTLE.as_secs(), "at its pace again");
        cancel.cancel();
        running.await.expect("it ends");
    }
}
