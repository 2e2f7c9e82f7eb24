//! Cursors and last-seen times: merged in memory, committed every few seconds and at closes.
//!
//! Cursors of shared streams are looked at once a minute and at closes only. Devices that stay connected for
//! long are noted as used once a day, so that they do not look idle; their users are noted as seen once in
//! [`SEEN_TTLS`] presence TTLs, as a node that is killed cannot say when they went.
//!
//! A cursor that is lost with its node costs doubles, never a loss: clients drop them by seq.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::debug;

use super::heads::spread;
use super::{Delivery, Settings};
use crate::domain::{ConnectionId, DeviceId, Epoch, Seq, Stream, UnixMillis, UserId};
use crate::inbox::Cursor;

/// How many cursors or times go in one call.
const GROUP: usize = 500;

/// How often the cursors of shared streams are looked at, and devices that are used.
const ROUND: Duration = Duration::from_secs(60);
/// How often users who stay connected are noted as seen, in presence TTLs: what a last-seen time may be short by
/// for users of a node that was killed.
const SEEN_TTLS: u32 = 4;
/// How often a device that stays connected is noted as used.
const DAY: Duration = Duration::from_secs(24 * 3_600);

type Key = (UserId, DeviceId, Stream);

/// What is to be committed. Bounded by the connections there were since the last commit that SQL took.
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

    /// The times that are to be written. They stay until [`Self::written`]: who is forgotten meanwhile is not
    /// written the next time.
    fn unwritten(&self) -> Vec<(UserId, UnixMillis)> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().map(|(user, at)| (user.clone(), *at)).collect()
    }

    /// These times were written; who was seen later meanwhile is written once more.
    fn written(&self, times: &[(UserId, UnixMillis)]) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for (user, at) in times {
            if seen.get(user).is_some_and(|latest| latest <= at) {
                seen.remove(user);
            }
        }
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

    /// How far a device has acknowledged a stream, if that is not committed yet.
    pub(super) fn uncommitted(
        &self,
        user: &UserId,
        device: &DeviceId,
        stream: &Stream,
    ) -> Option<(Epoch, Seq)> {
        let key = (user.clone(), device.clone(), stream.clone());
        self.moved.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied()
    }

    /// The cursors that are to be committed. They stay until [`Self::committed`], so that whoever opens a stream
    /// meanwhile finds them here or in the inbox.
    fn moving(&self) -> Vec<Cursor> {
        let moved = self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        let cursor = |((user, device, stream), (epoch, acked)): (&Key, &(Epoch, Seq))| Cursor {
            user: user.clone(),
            device: device.clone(),
            stream: stream.clone(),
            epoch: *epoch,
            acked: *acked,
        };
        moved.iter().map(cursor).collect()
    }

    /// These were committed; what moved meanwhile is committed the next time.
    fn committed(&self, cursors: &[Cursor]) {
        let mut moved = self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        for Cursor { user, device, stream, epoch, acked } in cursors {
            let key = (user.clone(), device.clone(), stream.clone());
            if moved.get(&key) == Some(&(*epoch, *acked)) {
                moved.remove(&key);
            }
        }
        if moved.is_empty() {
            moved.shrink_to(GROUP);
        }
    }
}

/// Of all connections one part with each flush, so that each is met once in a round.
struct Turn {
    part: u64,
    parts: u64,
}

impl Turn {
    fn new(round: Duration, flush: Duration) -> Self {
        let parts = round.as_millis() / flush.as_millis().max(1);
        Self { part: 0, parts: u64::try_from(parts).unwrap_or(1).max(1) }
    }

    fn is_of(&self, connection: ConnectionId) -> bool {
        spread(connection) % self.parts == self.part
    }

    fn pass(&mut self) {
        self.part = (self.part + 1) % self.parts;
    }
}

/// The rounds through all connections.
struct Rounds {
    /// For shared cursors and devices that are used.
    used: Turn,
    /// When each part of these was looked at last.
    looked_at: Vec<UnixMillis>,
    /// For users who are seen.
    seen: Turn,
}

impl Rounds {
    fn new(settings: &Settings, now: UnixMillis) -> Self {
        let used = Turn::new(ROUND, settings.cursor_flush);
        let looked_at = vec![now; usize::try_from(used.parts).unwrap_or(1)];
        let seen = Turn::new(settings.presence_ttl * SEEN_TTLS, settings.cursor_flush);
        Self { used, looked_at, seen }
    }

    /// The next parts' turn; answers when the part that was met for devices was met before.
    fn pass(&mut self, now: UnixMillis) -> UnixMillis {
        let met = usize::try_from(self.used.part).unwrap_or_default();
        self.used.pass();
        self.seen.pass();
        self.looked_at.get_mut(met).map_or(now, |before| std::mem::replace(before, now))
    }
}

/// Whole days from `since` to `now`.
fn days(since: UnixMillis, now: UnixMillis) -> u128 {
    u128::from(now.0.saturating_sub(since.0)) / DAY.as_millis()
}

impl Delivery {
    /// Commits what has moved, for ever.
    pub(super) async fn flush_cursors(self: Arc<Self>) {
        let mut rounds = Rounds::new(&self.settings, self.clock.now());
        let mut due = Instant::now() + self.settings.cursor_flush;
        loop {
            tokio::select! {
                biased; // Only so that simulations replay.
                () = self.cancel.cancelled() => return,
                // However often connections close.
                () = tokio::time::sleep_until(due) => {
                    due = Instant::now() + self.settings.cursor_flush;
                    self.go_round(&mut rounds).await;
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
    async fn go_round(&self, rounds: &mut Rounds) {
        let now = self.clock.now();
        let mut met = Vec::new();
        for connection in self.hub.all() {
            if rounds.seen.is_of(connection.id) {
                self.cursors.seen(&connection.user, now);
            }
            if rounds.used.is_of(connection.id) {
                met.push(connection);
            }
        }
        let before = rounds.pass(now);
        let (mut used, mut followed) = (Vec::new(), Vec::new());
        for connection in met {
            connection.save_shared_cursors(self);
            if let Some(device) = &connection.device
                && days(connection.connected_at, now) > days(connection.connected_at, before)
            {
                used.push((connection.user.clone(), device.clone()));
                let cursor = |stream| (connection.user.clone(), device.clone(), stream);
                followed.extend(connection.topics().into_iter().map(|topic| cursor(Stream::Topic(topic))));
            }
        }
        for group in used.chunks(GROUP) {
            if let Err(error) = self.inbox.used(group, now).await {
                debug!(%error, "{} devices that are connected were not noted as used", group.len());
            }
        }
        for group in followed.chunks(GROUP) {
            if let Err(error) = self.inbox.used_cursors(group, now).await {
                debug!(%error, "{} cursors of topics that are followed were not noted as used", group.len());
            }
        }
    }

    /// Commits once. Returns how many cursors could not be committed.
    pub(super) async fn commit_cursors(&self) -> usize {
        let mut failed = 0;
        for group in self.cursors.moving().chunks(GROUP) {
            match self.inbox.commit(group.to_vec()).await {
                Ok(()) => self.cursors.committed(group),
                Err(error) => {
                    failed += group.len();
                    // That the inbox is away is told elsewhere, once.
                    debug!(%error, "{} cursors were not committed and are tried again", group.len());
                }
            }
        }
        for group in self.cursors.unwritten().chunks(GROUP) {
            match self.inbox.seen(group.to_vec()).await {
                Ok(()) => self.cursors.written(group),
                Err(error) => {
                    debug!(%error, "last-seen times were not written and are tried again");
                    break;
                }
            }
        }
        failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).expect("a valid id")
    }

    #[test]
    fn a_last_seen_time_waits_until_it_is_written_and_is_not_written_of_who_was_forgotten() {
        let cursors = Cursors::default();
        let sorted = || {
            let mut times = cursors.unwritten();
            times.sort();
            times
        };
        let both = [(user("alice"), UnixMillis(5)), (user("bob"), UnixMillis(6))];
        both.iter().for_each(|(user, at)| cursors.seen(user, *at));
        assert_eq!(sorted(), both);
        assert_eq!(sorted(), both, "nobody said that they were written");
        cursors.seen(&user("bob"), UnixMillis(9));
        cursors.written(&both);
        assert_eq!(sorted(), [(user("bob"), UnixMillis(9))], "seen again meanwhile");
        cursors.forget(&user("bob"));
        assert_eq!(sorted(), []);
    }

    #[test]
    fn a_cursor_can_be_asked_for_until_it_is_committed_and_what_moves_meanwhile_is_not_forgotten() {
        let (cursors, alice) = (Cursors::default(), user("alice"));
        let device = DeviceId::new("phone").expect("a valid id");
        let uncommitted = || cursors.uncommitted(&alice, &device, &Stream::Everyone);
        assert_eq!(uncommitted(), None);
        let moved = |seq| cursors.moved(&alice, &device, &Stream::Everyone, Epoch(3), Seq(seq));
        moved(5);
        let first = cursors.moving();
        moved(4);
        assert_eq!(uncommitted(), Some((Epoch(3), Seq(5))), "it never goes back");
        moved(6);
        cursors.committed(&first);
        assert_eq!(uncommitted(), Some((Epoch(3), Seq(6))));
        cursors.committed(&cursors.moving());
        assert_eq!((uncommitted(), cursors.moving().len()), (None, 0));
    }

    #[test]
    fn each_connection_has_its_turn_once_in_a_round() {
        let mut turn = Turn::new(Duration::from_secs(60), Duration::from_secs(2));
        let connections: Vec<_> = (0..100).map(|number| ConnectionId::new(UnixMillis(7), number)).collect();
        let mut turns = vec![0; connections.len()];
        for _ in 0..30 {
            for (connection, turns) in connections.iter().zip(&mut turns) {
                *turns += u32::from(turn.is_of(*connection));
            }
            turn.pass();
        }
        assert_eq!(turns, vec![1; connections.len()]);
        // A round that is shorter than a flush goes through all of them each time.
        let turn = Turn::new(Duration::from_secs(1), Duration::from_secs(2));
        assert!(connections.iter().all(|connection| turn.is_of(*connection)));
    }
}
