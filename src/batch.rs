//! Batching by nature: whatever queues while the last group is in flight goes together.
//!
//! Owns the queue in front of one costly call (a commit, an announce, a first read) and the
//! tasks that drain it. Nothing waits when the system is idle: a lone item is a group of one.
//! It must never retry: what a group's failure means is for the callers to say.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

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
        let receivers = Arc::new(tokio::sync::Mutex::new(receivers));
        let arrived = Arc::new(Notify::new());
        let run = Arc::new(run);
        for _ in 0..shape.workers {
            let (receivers, run, cancel) = (Arc::clone(&receivers), Arc::clone(&run), cancel.clone());
            let arrived = Arc::clone(&arrived);
            tracker.spawn(async move {
                while let Some(group) = next_group(&receivers, &arrived, shape.group, &cancel).await {
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
    receivers: &tokio::sync::Mutex<Vec<mpsc::Receiver<Waiting<T, R>>>>,
    arrived: &Notify,
    most: usize,
    cancel: &CancellationToken,
) -> Option<Vec<Waiting<T, R>>> {
    loop {
        let group = take(&mut receivers.lock().await, most);
        if !group.is_empty() {
            // There may be more, and a notification that came while nobody waited is kept only once.
            arrived.notify_one();
            return Some(group);
        }
        if cancel.is_cancelled() {
            receivers.lock().await.iter_mut().for_each(mpsc::Receiver::close);
            let rest = take(&mut receivers.lock().await, most);
            return (!rest.is_empty()).then_some(rest);
        }
        tokio::select! {
            biased; // Only so that simulations replay; either order is right.
            () = arrived.notified() => {}
            () = cancel.cancelled() => {}
        }
    }
}

fn take<T, R>(receivers: &mut [mpsc::Receiver<Waiting<T, R>>], most: usize) -> Vec<Waiting<T, R>> {
    let mut group = Vec::new();
    for receiver in receivers {
        while group.len() < most
            && let Ok(item) = receiver.try_recv()
        {
            group.push(item);
        }
    }
    group
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn what_queues_while_a_group_is_in_flight_goes_together_urgent_lanes_first() {
        let (gate, groups) = (Arc::new(Semaphore::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
        let shape = Shape { lanes: 2, bound: 8, group: 3, workers: 1 };
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
        let shape = Shape { lanes: 1, bound: 2, group: 8, workers: 1 };
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
}
