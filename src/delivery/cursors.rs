//! Cursors and last-seen times: merged in memory, committed every few seconds and at closes.
//!
//! Cursors of shared streams are looked at once a minute and at closes only. Devices that stay connected for
//! long are noted as used once a day, so that they do not look idle.
//!
//! A cursor that is lost with its node costs doubles, never a loss: clients drop them by seq.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::Delivery;
use super::heads::spread;
use crate::domain::{DeviceId, Epoch, Seq, Stream, UnixMillis, UserId};
use crate::inbox::Cursor;

/// How many cursors or times go in one call.
const GROUP: usize = 500;

/// How often the cursors of shared streams are looked at, and devices that are used.
const ROUND: Duration = Duration::from_secs(60);
/// How often a device that stays connected is noted as used.
const DAY: Duration = Duration::from_secs(24 * 3_600);

type Key = (UserId, DeviceId, Stream);

/// What is to be committed. Bounded by the connections there were since the last commit.
#[derive(Default)]
pub(super) struct Cursors {
    moved: Mutex<HashMap<Key, (Epoch, Seq)>>,
    seen: Mutex<HashMap<UserId, UnixMillis>>,
    soon: Notify,
}

impl Cursors {
    /// A device has acknowledged up to `acked`.
    pub(super) fn moved(&self, user: &UserId, device: &DeviceId, stream: &Stream, epoch: Epoch, acked: Seq) {
        if acked == Seq(0) {
            return;
        }
        let key = (user.clone(), device.clone(), stream.clone());
        let mut moved = self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        let cursor = moved.entry(key).or_insert((epoch, acked));
        if cursor.0 != epoch || cursor.1 < acked {
            *cursor = (epoch, acked);
        }
    }

    /// A user was connected at `now`.
    pub(super) fn seen(&self, user: &UserId, now: UnixMillis) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(user.clone(), now);
    }

    /// Nothing more is to be written of this user.
    pub(super) fn forget(&self, user: &UserId) {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner).retain(|(whose, ..), _| whose != user);
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(user);
    }

    /// Commit soon: a device may come back elsewhere.
    pub(super) fn flush_soon(&self) {
        self.soon.notify_one();
    }

    fn take(&self) -> (Vec<Cursor>, Vec<(UserId, UnixMillis)>) {
        let moved = std::mem::take(&mut *self.moved.lock().unwrap_or_else(PoisonError::into_inner));
        let seen = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        let cursor = |((user, device, stream), (epoch, acked))| Cursor { user, device, stream, epoch, acked };
        (moved.into_iter().map(cursor).collect(), seen.into_iter().collect())
    }

    /// What was not committed waits for the next time; what moved meanwhile is kept.
    fn put_back(&self, cursors: &[Cursor]) {
        let mut moved = self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        for cursor in cursors {
            let key = (cursor.user.clone(), cursor.device.clone(), cursor.stream.clone());
            let now = moved.entry(key).or_insert((cursor.epoch, cursor.acked));
            if now.0 == cursor.epoch {
                now.1 = now.1.max(cursor.acked);
            }
        }
    }
}

/// A round through all connections, a part with each flush.
struct Round {
    slot: usize,
    /// When each part was looked at last.
    looked_at: Vec<UnixMillis>,
}

impl Round {
    fn new(slots: u64, now: UnixMillis) -> Self {
        Self { slot: 0, looked_at: vec![now; usize::try_from(slots).unwrap_or(1)] }
    }
}

/// Whole days from `since` to `now`.
fn days(since: UnixMillis, now: UnixMillis) -> u128 {
    u128::from(now.0.saturating_sub(since.0)) / DAY.as_millis()
}

impl Delivery {
    /// Commits what has moved, for ever.
    pub(super) async fn flush_cursors(self: Arc<Self>) {
        let flushes = ROUND.as_millis() / self.settings.cursor_flush.as_millis().max(1);
        let mut round = Round::new(u64::try_from(flushes).unwrap_or(1).max(1), self.clock.now());
        let mut due = Instant::now() + self.settings.cursor_flush;
        loop {
            tokio::select! {
                biased; // Only so that simulations replay.
                () = self.cancel.cancelled() => return,
                // However often connections close.
                () = tokio::time::sleep_until(due) => {
                    due = Instant::now() + self.settings.cursor_flush;
                    self.go_round(&mut round).await;
                    self.commit_receipts(false).await;
                }
                () = self.cursors.soon.notified() => {
                    // A few more may close with it.
                    tokio::time::sleep(self.settings.gap_grace).await;
                }
            }
            self.commit_cursors().await;
        }
    }

    /// Looks at the connections whose turn it is.
    async fn go_round(&self, round: &mut Round) {
        let now = self.clock.now();
        let slots = round.looked_at.len() as u64;
        let before = std::mem::replace(&mut round.looked_at[round.slot], now);
        let mut used = Vec::new();
        for connection in self.hub.all() {
            if spread(connection.id) % slots != round.slot as u64 {
                continue;
            }
            connection.save_shared_cursors(self);
            if let Some(device) = &connection.device
                && days(connection.connected_at, now) > days(connection.connected_at, before)
            {
                used.push((connection.user.clone(), device.clone()));
            }
        }
        round.slot = (round.slot + 1) % round.looked_at.len();
        for group in used.chunks(GROUP) {
            if let Err(error) = self.inbox.used(group, now).await {
                warn!(%error, "{} devices that are connected were not noted as used", group.len());
            }
        }
    }

    /// Commits once. Returns how many cursors could not be committed.
    pub(super) async fn commit_cursors(&self) -> usize {
        let (cursors, seen) = self.cursors.take();
        let mut failed = 0;
        for group in cursors.chunks(GROUP) {
            if let Err(error) = self.inbox.commit(group.to_vec()).await {
                failed += group.len();
                self.cursors.put_back(group);
                // That the inbox is away is told elsewhere, once.
                debug!(%error, "{} cursors were not committed and are tried again", group.len());
            }
        }
        for group in seen.chunks(GROUP) {
            if let Err(error) = self.inbox.seen(group.to_vec()).await {
                debug!(%error, "last-seen times were not written");
            }
        }
        failed
    }
}
