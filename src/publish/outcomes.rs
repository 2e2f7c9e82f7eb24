//! Waiting for what becomes of notifications (`Prefer: wait`).
//!
//! Owns who waits, and the one task that asks the inbox for all of them together: 20 ms after a wait began,
//! then less and less often, up to every 200 ms. Whoever stops waiting is out at once; one more than there may
//! be does not wait at all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::clock::Clock;
use crate::domain::{NotificationId, UnixMillis};
use crate::inbox::{Counts, Inbox};
use crate::metrics::publish::{PublishMetrics, WaitLabels};

/// How many may wait on one node. Each costs a few hundred bytes and its share of a statement.
const MAX_WAITERS: usize = 10_000;
/// When a waiter is asked for first, and how long its pauses grow.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// Those that are due this soon go with those that are due now.
const TOGETHER: Duration = Duration::from_millis(10);
/// How many are asked for in one call.
const GROUP: usize = 512;

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// Nothing more will become of the notification, or this is how it stood shortly before the deadline; `None`:
    /// the inbox did not say.
    Stands(Option<Counts>),
    /// Too many wait already.
    TooMany,
}

struct Waiter {
    id: NotificationId,
    pause: Duration,
    due: Instant,
    told: watch::Sender<Option<Counts>>,
}

/// Who waits, by number.
#[derive(Default)]
struct Waiters {
    all: HashMap<u64, Waiter>,
    last: u64,
}

pub(super) struct Outcomes {
    most: usize,
    waiters: Mutex<Waiters>,
    arrived: Notify,
    metrics: PublishMetrics,
    cancel: CancellationToken,
}

impl Outcomes {
    /// Starts the task that asks; it ends when `cancel` fires, and so does every wait.
    pub(super) fn start(
        inbox: &Arc<dyn Inbox>,
        clock: &Clock,
        metrics: &PublishMetrics,
        tracker: &TaskTracker,
        cancel: &CancellationToken,
    ) -> Arc<Self> {
        let outcomes = Arc::new(Self::new(MAX_WAITERS, metrics.clone(), cancel.clone()));
        let (asking, inbox, clock) = (Arc::clone(&outcomes), Arc::clone(inbox), clock.clone());
        let cancel = cancel.clone();
        tracker.spawn(async move {
            tokio::select! {
                biased; // Only so that simulations replay.
                () = cancel.cancelled() => {}
                () = asking.ask_for_ever(|ids| ask(Arc::clone(&inbox), ids, clock.now())) => {}
            }
        });
        outcomes
    }

    fn new(most: usize, metrics: PublishMetrics, cancel: CancellationToken) -> Self {
        Self { most, waiters: Mutex::default(), arrived: Notify::new(), metrics, cancel }
    }

    /// Waits until nothing more will become of it, until `until`, or until the node stops.
    pub(super) async fn wait(&self, id: NotificationId, until: Instant) -> Waited {
        let Some((mut place, mut told)) = self.enter(id) else {
            self.count("too_many");
            return Waited::TooMany;
        };
        let is_settled = |counts: &Option<Counts>| counts.is_some_and(|counts| counts.stored == 0);
        place.ended = tokio::select! {
            biased; // Only so that simulations replay.
            () = self.cancel.cancelled() => "stopped",
            settled = tokio::time::timeout_at(until, told.wait_for(is_settled)) => match settled {
                Ok(Ok(_)) => "settled",
                Ok(Err(_)) | Err(_) => "deadline",
            },
        };
        let stands = *told.borrow();
        Waited::Stands(stands)
    }

    fn enter(&self, id: NotificationId) -> Option<(Place<'_>, watch::Receiver<Option<Counts>>)> {
        let (told, hears) = watch::channel(None);
        let mut waiters = self.lock();
        if waiters.all.len() >= self.most {
            return None;
        }
        waiters.last += 1;
        let number = waiters.last;
        let due = Instant::now() + FIRST_PAUSE;
        waiters.all.insert(number, Waiter { id, pause: FIRST_PAUSE, due, told });
        drop(waiters);
        self.metrics.waiting.inc();
        self.arrived.notify_one();
        Some((Place { outcomes: self, number, ended: "gone" }, hears))
    }

    /// Asks by `ask`, which answers in the same order, or nothing when that failed.
    async fn ask_for_ever<F>(&self, ask: impl Fn(Vec<NotificationId>) -> F)
    where
        F: Future<Output = Option<Vec<Counts>>>,
    {
        loop {
            let next = self.lock().all.values().map(|waiter| waiter.due).min();
            let Some(next) = next else {
                self.arrived.notified().await;
                continue;
            };
            tokio::select! {
                biased; // Only so that simulations replay.
                () = tokio::time::sleep_until(next) => {}
                // Its first question may come before all others.
                () = self.arrived.notified() => continue,
            }
            let due = self.take_due(Instant::now() + TOGETHER);
            for group in due.chunks(GROUP) {
                let ids: Vec<NotificationId> = group.iter().map(|(_, id)| *id).collect();
                if let Some(counts) = ask(ids).await {
                    self.tell(group, &counts);
                }
            }
        }
    }

    /// Those that are due, each put off by its next, longer pause.
    fn take_due(&self, by: Instant) -> Vec<(u64, NotificationId)> {
        let now = Instant::now();
        let mut waiters = self.lock();
        let due = waiters.all.iter_mut().filter(|(_, waiter)| waiter.due <= by).map(|(number, waiter)| {
            waiter.pause = (waiter.pause * 2).min(LONGEST_PAUSE);
            waiter.due = now + waiter.pause;
            (*number, waiter.id)
        });
        due.collect()
    }

    fn tell(&self, group: &[(u64, NotificationId)], counts: &[Counts]) {
        let waiters = self.lock();
        for ((number, _), counts) in group.iter().zip(counts) {
            if let Some(waiter) = waiters.all.get(number) {
                // One that has just stopped waiting does not hear it.
                waiter.told.send_replace(Some(*counts));
            }
        }
    }

    fn count(&self, outcome: &'static str) {
        self.metrics.waits.get_or_create(&WaitLabels { outcome }).inc();
    }

    fn lock(&self) -> MutexGuard<'_, Waiters> {
        // Nothing under this lock can panic half-way.
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Each one's counts, in the same order; `None`: the inbox did not say.
async fn ask(inbox: Arc<dyn Inbox>, ids: Vec<NotificationId>, now: UnixMillis) -> Option<Vec<Counts>> {
    let counts = inbox.counts(&ids, now).await;
    counts.inspect_err(|error| debug!(%error, "outcomes were not read; they are asked for again")).ok()
}

/// A place among those that wait; free again when it is dropped.
struct Place<'a> {
    outcomes: &'a Outcomes,
    number: u64,
    ended: &'static str,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.outcomes.lock().all.remove(&self.number);
        self.outcomes.metrics.waiting.dec();
        self.outcomes.count(self.ended);
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::domain::UnixMillis;

    fn outcomes(most: usize) -> Arc<Outcomes> {
        let metrics = PublishMetrics::register(&mut Registry::default());
        Arc::new(Outcomes::new(most, metrics, CancellationToken::new()))
    }

    fn id(number: u8) -> NotificationId {
        NotificationId::new(UnixMillis(1), [number; 10])
    }

    fn settled() -> Counts {
        Counts { delivered: 1, ..Counts::default() }
    }

    /// When something was asked, in milliseconds, and for how many ids.
    type Asked = Arc<Mutex<Vec<(u128, usize)>>>;

    /// Asks of `of`, and notes each question: when, and how many ids.
    fn asking(
        outcomes: &Arc<Outcomes>,
        of: impl Fn(NotificationId) -> Counts + Send + Sync + 'static,
    ) -> (tokio::task::JoinHandle<()>, Asked) {
        let (asked, started) = (Arc::new(Mutex::new(Vec::new())), Instant::now());
        let (outcomes, noted) = (Arc::clone(outcomes), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            outcomes
                .ask_for_ever(|ids| {
                    let at = started.elapsed().as_millis();
                    noted.lock().expect("whole").push((at, ids.len()));
                    std::future::ready(Some(ids.into_iter().map(&of).collect()))
                })
                .await;
        });
        (task, asked)
    }

    fn ended(outcomes: &Outcomes, outcome: &'static str) -> u64 {
        outcomes.metrics.waits.get_or_create(&WaitLabels { outcome }).get()
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_wait_are_asked_for_together_and_less_and_less_often() {
        let outcomes = outcomes(10);
        let (task, asked) = asking(&outcomes, |_| Counts { stored: 1, ..Counts::default() });
        let until = Instant::now() + Duration::from_secs(1);
        let waits = (0..3).map(|number| outcomes.wait(id(number), until));
        let waited = futures_util::future::join_all(waits).await;
        let stands = Waited::Stands(Some(Counts { stored: 1, ..Counts::default() }));
        assert_eq!(waited, [stands; 3]);
        assert_eq!(Instant::now(), until, "not a moment longer");
        let expected = [20, 60, 140, 300, 500, 700, 900].map(|at| (at, 3));
        assert_eq!(*asked.lock().expect("whole"), expected);
        assert_eq!((ended(&outcomes, "deadline"), outcomes.metrics.waiting.get()), (3, 0));
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_an_outcome_waits_no_longer() {
        let outcomes = outcomes(10);
        let (task, _) = asking(&outcomes, |_| settled());
        let started = Instant::now();
        let waited = outcomes.wait(id(1), started + Duration::from_secs(30)).await;
        assert_eq!(waited, Waited::Stands(Some(settled())));
        assert_eq!(started.elapsed(), FIRST_PAUSE);
        assert_eq!((ended(&outcomes, "settled"), outcomes.metrics.waiting.get()), (1, 0));
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn one_too_many_does_not_wait_and_whoever_leaves_makes_room() {
        let outcomes = outcomes(1);
        let until = Instant::now() + Duration::from_secs(30);
        let mut first = Box::pin(outcomes.wait(id(1), until));
        assert!(futures_util::poll!(&mut first).is_pending());
        assert_eq!(outcomes.wait(id(2), until).await, Waited::TooMany);
        drop(first);
        assert_eq!((ended(&outcomes, "gone"), ended(&outcomes, "too_many")), (1, 1));
        let mut next = Box::pin(outcomes.wait(id(3), until));
        assert!(futures_util::poll!(&mut next).is_pending(), "there is room again");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_on_a_node_that_stops() {
        let outcomes = outcomes(10);
        let until = Instant::now() + Duration::from_secs(30);
        let mut wait = Box::pin(outcomes.wait(id(1), until));
        assert!(futures_util::poll!(&mut wait).is_pending());
        outcomes.cancel.cancel();
        assert_eq!(wait.await, Waited::Stands(None));
        assert_eq!(outcomes.wait(id(2), until).await, Waited::Stands(None), "nor does who comes later");
        assert_eq!((ended(&outcomes, "stopped"), outcomes.metrics.waiting.get()), (2, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn an_inbox_that_does_not_say_is_asked_again_and_the_deadline_holds() {
        let outcomes = outcomes(10);
        let task = tokio::spawn({
            let outcomes = Arc::clone(&outcomes);
            async move { outcomes.ask_for_ever(|_| std::future::ready(None)).await }
        });
        let until = Instant::now() + Duration::from_millis(500);
        assert_eq!(outcomes.wait(id(1), until).await, Waited::Stands(None));
        assert_eq!(Instant::now(), until);
        task.abort();
    }
}
