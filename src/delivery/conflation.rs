//! The clock of conflation: ends the waits of what sessions keep back for a moment.
//!
//! What waits, and in which order it is written, is the session's to say. One task and one heap for all connections, each of
//! which is in the heap at most once, so that it is bounded by what was connected within a window.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Delivery;
use super::connection::Connection;
use crate::domain::{ConnectionId, Stream};
use crate::session::Released;

/// How many connections are served before others run in between.
const BATCH: usize = 64;

/// When to look at which connection.
#[derive(Default)]
pub(super) struct Waits {
    due: Mutex<BinaryHeap<Reverse<(Instant, ConnectionId)>>>,
    sooner: Notify,
}

/// What was written of what had waited, and when to look again.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Given {
    /// Notifications that were written, and that were not as they had expired.
    pub(super) released: Released,
    /// Notifications that were dropped for newer ones.
    pub(super) merged: u64,
    /// In how long something is due, unless the connection is in the heap already.
    pub(super) wait: Option<Duration>,
}

impl Waits {
    fn add(&self, at: Instant, connection: ConnectionId) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let is_sooner = due.peek().is_none_or(|Reverse((first, _))| at < *first);
        due.push(Reverse((at, connection)));
        drop(due);
        if is_sooner {
            self.sooner.notify_one();
        }
    }

    /// Those that are due, and when the next one is.
    fn take(&self, now: Instant) -> (Vec<ConnectionId>, Option<Instant>) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Vec::new();
        while let Some(Reverse((at, connection))) = due.peek().copied()
            && at <= now
        {
            due.pop();
            taken.push(connection);
        }
        if due.is_empty() {
            due.shrink_to(BATCH);
        }
        (taken, due.peek().map(|Reverse((at, _))| *at))
    }
}

impl Delivery {
    /// Ends waits, for ever.
    pub(super) async fn end_waits(self: Arc<Self>) {
        loop {
            let (due, next) = self.waits.take(Instant::now());
            for batch in due.chunks(BATCH) {
                for connection in batch.iter().filter_map(|id| self.hub.get(*id)) {
                    let given = connection.end_wait(self.clock.now());
                    self.given(&connection, given);
                }
                tokio::task::yield_now().await;
            }
            if !due.is_empty() {
                continue;
            }
            let next = next.unwrap_or_else(|| Instant::now() + Duration::from_secs(3_600));
            tokio::select! {
                biased; // Only so that simulations replay.
                () = self.cancel.cancelled() => return,
                () = self.waits.sooner.notified() => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// Something is to be said of `stream` that must not pass what waits in it.
    pub(super) fn flush(&self, connection: &Arc<Connection>, stream: &Stream) {
        if !self.settings.conflation.is_zero() {
            let given = connection.flush(stream, self.clock.now());
            self.given(connection, given);
        }
    }

    /// Counts what was written, and looks again when more is due.
    pub(super) fn given(&self, connection: &Arc<Connection>, given: Given) {
        let Given { released, merged, wait } = given;
        self.metrics.delivered.inc_by(released.sent);
        self.metrics.expired.inc_by(released.expired);
        self.metrics.merged.inc_by(merged);
        if released.sent > 0 {
            self.ask_for_ack(connection);
        }
        if let Some(wait) = wait {
            self.waits.add(Instant::now() + wait, connection.id);
        }
    }
}
