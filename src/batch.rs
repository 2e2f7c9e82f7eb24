//! Batching by nature: whatever queues while the last group is in flight goes together.
//!
//! Owns the queue in front of one costly call (a commit, an announce, a first read) and the
//! tasks that drain it. Nothing waits when the system is idle: a lone item is a group of one.
//! Under load a group may linger a moment: a larger one costs less for each ([`Shape::linger`]).
//! It must never retry: what a group's failure means is for the callers to say.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// After a group of so many there is load: the next one may linger.
const LOAD: usize = 4;
/// How long that holds, from when the group was taken: a burst that is over makes nobody wait.
const LOAD_LASTS: Duration = Duration::from_millis(50);
/// A group of so many goes at once.
const ENOUGH: usize = 64;
/// A group for which nothing came for so long goes at once: whoever is served may be who comes next.
const GAP: Duration = Duration::from_millis(2);

/// Why an item was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The lane's queue is full.
    #[error("too much is waiting already")]
    Full,
    /// The batcher has stopped; whether the item was done is unknown.
    #[error("the batcher has stopped")]
    Stopped,
}

/// How a batcher works.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// How many lanes; lane 0 is drained first.
    pub lanes: usize,
    /// How many items may wait in each lane; one more is refused with [`BatchError::Full`].
    pub bound: usize,
    /// How many items a group has at most.
    pub group: usize,
    /// How many groups may be in flight.
    pub workers: usize,
    /// How long a group waits for more at most, under load: where the one before it had 4 and more and was taken in the last
    /// 50 ms, as long as there are less than 64 and some came in the last 2 ms. Zero: never.
    pub linger: Duration,
}

type Waiting<T, R> = (T, oneshot::Sender<R>);

/// Groups calls. Clones share the queue.
#[derive(Debug)]
pub struct Batcher<T, R> {
    lanes: Arc<[mpsc::Sender<Waiting<T, R>>]>,
    arrived: Arc<Notify>,
}

impl<T, R> Clone for Batcher<T, R> {
    fn clone(&self) -> Self {
        Self { lanes: Arc::clone(&self.lanes), arrived: Arc::clone(&self.arrived) }
    }
}

impl<T: Send + 'static, R: Send + 'static> Batcher<T, R> {
    /// Starts the workers. `run` does a group and answers each item, in the same order. When `cancel`
    /// fires, what is queued is still done, then the workers end.
    pub fn start<F, Fut>(shape: Shape, tracker: &TaskTracker, cancel: &CancellationToken, run: F) -> Self
    where
        F: Fn(Vec<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Vec<R>> + Send,
    {
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..shape.lanes).map(|_| mpsc::channel(shape.bound)).unzip();
        let arrived = Arc::new(Notify::new());
        let queue = Queue { lanes: receivers, arrived: Arc::clone(&arrived), shape, loaded_at: None };
        let queue = Arc::new(Mutex::new(queue));
        let run = Arc::new(run);
        for _ in 0..shape.workers {
            let (queue, run, cancel) = (Arc::clone(&queue), Arc::clone(&run), cancel.clone());
            tracker.spawn(async move {
                // One worker forms a group, the others have theirs in flight or wait for their turn.
                while let Some(group) = next_group(&queue, &cancel).await {
                    let (items, answers): (Vec<T>, Vec<_>) = group.into_iter().unzip();
                    for (answer, result) in answers.into_iter().zip(run(items).await) {
                        // A caller that has gone away does not want its answer.
                        let _ = answer.send(result);
                    }
                }
            });
        }
        Self { lanes: senders.into(), arrived }
    }

    /// Does one item with whatever else is waiting. Dropping the future does not undo the item.
    ///
    /// # Errors
    /// [`BatchError::Full`] at once when the lane is full; [`BatchError::Stopped`] after the end.
    pub async fn call(&self, lane: usize, item: T) -> Result<R, BatchError> {
        self.queue(lane, item)?.await.map_err(|_| BatchError::Stopped)
    }

    /// Queues one item; its answer arrives later.
    ///
    /// # Errors
    /// As [`Batcher::call`].
    pub fn queue(&self, lane: usize, item: T) -> Result<oneshot::Receiver<R>, BatchError> {
        let (answer, arrives) = oneshot::channel();
        self.lanes[lane].try_send((item, answer)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => BatchError::Full,
            mpsc::error::TrySendError::Closed(_) => BatchError::Stopped,
        })?;
        self.arrived.notify_one();
        Ok(arrives)
    }
}

async fn next_group<T, R>(
    queue: &Mutex<Queue<T, R>>,
    cancel: &CancellationToken,
) -> Option<Vec<Waiting<T, R>>> {
    queue.lock().await.form(cancel).await
}

/// What waits, in the hands of the worker that forms the next group.
struct Queue<T, R> {
    lanes: Vec<mpsc::Receiver<Waiting<T, R>>>,
    arrived: Arc<Notify>,
    shape: Shape,
    /// When the last group was taken, if it says that there is load.
    loaded_at: Option<Instant>,
}

impl<T, R> Queue<T, R> {
    /// The next group; `None` after the end.
    async fn form(&mut self, cancel: &CancellationToken) -> Option<Vec<Waiting<T, R>>> {
        loop {
            if self.len() > 0 {
                let is_loaded = self.loaded_at.is_some_and(|at| at.elapsed() < LOAD_LASTS);
                if is_loaded && !self.shape.linger.is_zero() {
                    self.gather(cancel).await;
                }
                return Some(self.take());
            }
            if cancel.is_cancelled() {
                self.lanes.iter_mut().for_each(mpsc::Receiver::close);
                let rest = self.take();
                return (!rest.is_empty()).then_some(rest);
            }
            tokio::select! {
                biased; // Only so that simulations replay; either order is right.
                () = self.arrived.notified() => {}
                () = cancel.cancelled() => {}
            }
        }
    }

    /// Waits for more, as long as more keeps coming.
    async fn gather(&self, cancel: &CancellationToken) {
        let until = Instant::now() + self.shape.linger;
        let mut seen = self.len();
        while seen < ENOUGH.min(self.shape.group) {
            tokio::select! {
                biased; // Only so that simulations replay.
                () = cancel.cancelled() => return,
                () = tokio::time::sleep_until(until.min(Instant::now() + GAP)) => {}
            }
            let now = self.len();
            if now == seen || Instant::now() >= until {
                return;
            }
            seen = now;
        }
    }

    fn len(&self) -> usize {
        self.lanes.iter().map(mpsc::Receiver::len).sum()
    }

    fn take(&mut self) -> Vec<Waiting<T, R>> {
        let mut group = Vec::new();
        for lane in &mut self.lanes {
            while group.len() < self.shape.group
                && let Ok(item) = lane.try_recv()
            {
                group.push(item);
            }
        }
        self.loaded_at = (group.len() >= LOAD).then(Instant::now);
        group
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::time::Duration;
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn what_queues_while_a_group_is_in_flight_goes_together_urgent_lanes_first() {
        let (gate, groups) = (Arc::new(Semaphore::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
        let shape = Shape { lanes: 2, bound: 8, group: 3, workers: 1, linger: Duration::ZERO };
        let batcher = {
            let (gate, groups) = (Arc::clone(&gate), Arc::clone(&groups));
            Batcher::start(shape, &tracker, &cancel, move |items: Vec<u32>| {
                let (gate, groups) = (Arc::clone(&gate), Arc::clone(&groups));
                async move {
                    groups.lock().expect("whole").push(items.clone());
                    gate.acquire().await.expect("open").forget();
                    items
                }
            })
        };
        let first = batcher.queue(1, 1).expect("room");
        while groups.lock().expect("whole").is_empty() {
            tokio::task::yield_now().await;
        }
        let rest: Vec<_> =
            [(1, 2), (1, 3), (0, 4), (1, 5)].map(|(lane, item)| batcher.queue(lane, item)).into();
        gate.add_permits(3);
        assert_eq!(first.await, Ok(1));
        for (answer, item) in rest.into_iter().zip([2, 3, 4, 5]) {
            assert_eq!(answer.expect("room").await, Ok(item));
        }
        assert_eq!(*groups.lock().expect("whole"), [vec![1], vec![4, 2, 3], vec![5]]);
    }

    #[tokio::test]
    async fn a_full_lane_refuses_and_cancelling_finishes_what_is_queued() {
        let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
        let shape = Shape { lanes: 1, bound: 2, group: 8, workers: 1, linger: Duration::ZERO };
        let batcher = Batcher::start(shape, &tracker, &cancel, |items: Vec<u32>| async move { items });
        let kept = [batcher.queue(0, 1), batcher.queue(0, 2)];
        assert_eq!(batcher.queue(0, 3).expect_err("full"), BatchError::Full);
        cancel.cancel();
        for (answer, item) in kept.into_iter().zip([1, 2]) {
            assert_eq!(answer.expect("room").await, Ok(item));
        }
        tracker.close();
        tracker.wait().await;
        assert_eq!(batcher.queue(0, 4).expect_err("stopped"), BatchError::Stopped);
    }

    #[tokio::test(start_paused = true)]
    async fn under_load_a_group_waits_for_more_while_more_keeps_coming_and_a_lone_one_never_waits() {
        let groups = Arc::new(Mutex::new(Vec::new()));
        let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
        let shape = Shape { lanes: 1, bound: 99, group: 99, workers: 2, linger: Duration::from_millis(10) };
        let began = Instant::now();
        let batcher = {
            let groups = Arc::clone(&groups);
            Batcher::start(shape, &tracker, &cancel, move |items: Vec<u32>| {
                groups.lock().expect("whole").push((began.elapsed().as_millis(), items.len()));
                async move { items }
            })
        };
        let queue = |item| batcher.queue(0, item).expect("room");
        assert_eq!(queue(0).await, Ok(0));
        let mut four: Vec<_> = (0..4).map(queue).collect();
        assert_eq!(four.remove(3).await, Ok(3), "after a lone one nothing waits");
        for many in [8, 20] {
            let mut last = queue(0);
            for _ in 1..many {
                tokio::time::sleep(Duration::from_millis(1)).await;
                last = queue(0);
            }
            assert_eq!(last.await, Ok(0));
        }
        let seen = groups.lock().expect("whole").clone();
        assert_eq!(seen[..3], [(0, 1), (0, 4), (10, 8)], "(when, how many)");
        let twenty: Vec<usize> = seen[3..].iter().map(|(_, items)| *items).collect();
        assert_eq!((twenty.len(), twenty.iter().sum()), (2, 20), "ten milliseconds each: {seen:?}");
    }
    #[tokio::test(start_paused = true)]
    async fn a_lone_one_waits_just_after_a_burst_and_no_more_when_the_burst_is_long_over() {
        let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
        let shape = Shape { lanes: 1, bound: 99, group: 99, workers: 1, linger: Duration::from_millis(10) };
        let batcher = Batcher::start(shape, &tracker, &cancel, |items: Vec<u32>| async move { items });
        let burst = async || {
            let mut burst: Vec<_> = (0..4).map(|item| batcher.queue(0, item).expect("room")).collect();
            assert_eq!(burst.remove(3).await, Ok(3));
        };
        for (since, waits) in [(0, 2), (48, 2), (50, 0), (3_600_000, 0)] {
            burst().await;
            tokio::time::sleep(Duration::from_millis(since)).await;
            let began = Instant::now();
            assert_eq!(batcher.call(0, 7).await, Ok(7));
            assert_eq!(began.elapsed(), Duration::from_millis(waits), "{since} ms after a burst");
        }
    }
}
