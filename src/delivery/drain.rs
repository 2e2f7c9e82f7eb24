//! The end of a node, in order: clients are sent away, cursors committed, presence withdrawn.
//!
//! Owns the pace at which clients are sent away. It must never wait for one that is slow: who was told is gone.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Delivery;
use crate::domain::UnixMillis;
use crate::wire::CloseCode;

/// How often some are sent away.
const STEP: Duration = Duration::from_millis(100);
/// At least so many each time: a node with few does not take as long as one with many.
const AT_LEAST: usize = 8;
/// How many are told before others may run.
const BATCH: usize = 256;

/// How clients are sent away.
#[derive(Debug, Clone, Copy)]
pub struct Drain {
    /// Over how long, at most; evenly.
    pub window: Duration,
    /// Each is told to come back after a random part of this.
    pub spread: Duration,
}

/// How far a drain has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainProgress {
    /// When it began.
    pub since: UnixMillis,
    /// Connections there were then.
    pub connections: usize,
    /// Those that are still there.
    pub left: usize,
    /// Over how long clients are sent away.
    pub window: Duration,
}

/// How a drain went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainReport {
    /// Connections there were at its start.
    pub connections: usize,
    /// Those that were still there at its deadline.
    pub left: usize,
    /// Cursors that could not be committed: their devices get doubles.
    pub cursors_lost: usize,
}

impl Delivery {
    /// Takes no new connections from now on. Idempotent.
    pub fn stop_attaching(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// How far the drain has come, if there is one.
    pub fn drain_progress(&self) -> Option<DrainProgress> {
        let progress = *self.drain_progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.map(|progress| DrainProgress { left: self.hub.len(), ..progress })
    }

    /// Sends every client away, some at a time, so that they come back elsewhere over the window and not at once; calls
    /// `on_empty` when all have gone, which may be early; then commits cursors and withdraws presence. Returns at the
    /// deadline at the latest. Until `on_empty` those that are left are served as ever.
    pub async fn drain(
        self: &Arc<Self>,
        how: Drain,
        deadline: Instant,
        on_empty: impl FnOnce(),
    ) -> DrainReport {
        self.stop_attaching();
        let connections = self.hub.len();
        let progress =
            DrainProgress { since: self.clock.now(), connections, left: connections, window: how.window };
        *self.drain_progress.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
        self.metrics.draining.set(1);
        self.send_all_away(how, deadline.min(Instant::now() + how.window)).await;
        on_empty();
        let end = async {
            let cursors_lost = self.commit_cursors().await;
            self.commit_receipts(true).await;
            self.leave_presence().await;
            cursors_lost
        };
        let cursors_lost = tokio::time::timeout_at(deadline, end).await.unwrap_or(usize::MAX);
        DrainReport { connections, left: self.hub.len(), cursors_lost }
    }

    /// Evenly until `by`; at once what is left then.
    async fn send_all_away(self: &Arc<Self>, how: Drain, by: Instant) {
        loop {
            let all = self.hub.all();
            let steps = by.saturating_duration_since(Instant::now()).as_millis() / STEP.as_millis() + 1;
            let steps = usize::try_from(steps).unwrap_or(usize::MAX);
            let now = all.len().div_ceil(steps).max(AT_LEAST).min(all.len());
            for batch in all[..now].chunks(BATCH) {
                for connection in batch {
                    let after = how.spread.mul_f64(self.clock.random_range(0.0..1.0));
                    connection.bye(CloseCode::Draining, Some(after));
                }
                tokio::task::yield_now().await;
            }
            if self.hub.is_empty() || steps == 1 {
                return;
            }
            tokio::time::sleep(STEP).await;
        }
    }
}
