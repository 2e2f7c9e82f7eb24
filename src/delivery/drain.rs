//! The end of a node, in order: clients are told, cursors committed, presence withdrawn.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::Delivery;
use crate::wire::CloseCode;

/// How many connections are told at a time.
const BATCH: usize = 256;

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

    /// Tells every client to come back elsewhere after a random part of `spread`, then commits cursors and
    /// withdraws presence; returns at the deadline at the latest.
    pub async fn drain(self: &Arc<Self>, spread: Duration, deadline: Instant) -> DrainReport {
        self.stop_attaching();
        let all = self.hub.all();
        let connections = all.len();
        for batch in all.chunks(BATCH) {
            for connection in batch {
                let after = spread.mul_f64(self.clock.random_range(0.0..1.0));
                connection.bye(CloseCode::Draining, Some(after));
            }
            tokio::task::yield_now().await;
        }
        let end = async {
            let cursors_lost = self.commit_cursors().await;
            self.commit_receipts(true).await;
            self.leave_presence().await;
            cursors_lost
        };
        let cursors_lost = tokio::time::timeout_at(deadline, end).await.unwrap_or(usize::MAX);
        DrainReport { connections, left: self.hub.len(), cursors_lost }
    }
}
