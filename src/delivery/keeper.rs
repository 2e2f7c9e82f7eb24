//! The keeper of presence: what really answered is refreshed, what has gone is withdrawn, and the node
//! says so when it cannot.
//!
//! A node that cannot refresh its presence is **blind**: others may not find its connections any more, so
//! it says so by broadcast, again and again, and checks heads every second or so. When presence is back,
//! or has forgotten this node, everything is announced again, *then* heads are checked.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Delivery;
use super::sight::Sight;
use crate::broker::Destination;
use crate::domain::{TopicName, UnixMillis, UserId};
use crate::presence::{Lease, Member, NodeLease, PresenceError};
use crate::wire::envelope::Item;

/// How often marks are written: one pipeline each time.
const FLUSH: Duration = Duration::from_millis(1_000);
/// How many goodbyes wait for presence at most.
const MAX_GOODBYES: usize = 100_000;
/// How long goodbyes are gathered.
const GATHER: Duration = Duration::from_millis(50);
/// How often a blind node says so, and for how long it is believed.
const BLIND_EVERY: Duration = Duration::from_millis(1_000);
const BLIND_LASTS_MS: u32 = 5_000;
/// How many members go in one call.
const GROUP: usize = 500;

/// Is told who comes to this node and who leaves it. Implemented by the job that tells backends.
pub trait Watcher: Send + Sync {
    /// A connection of this user is announced, perhaps once more. Never waits.
    fn came(&self, user: &UserId);
    /// A connection of this user has gone; there may be others. Never waits.
    fn went(&self, user: &UserId);
    /// Presence has forgotten who is where: for a while it is no witness. Never waits.
    fn forgotten(&self);
}

/// What is to be told to presence.
pub(super) struct Keeper {
    lease: Mutex<NodeLease>,
    /// How far this node's clock is ahead of the one that all share.
    skew_ms: AtomicI64,
    marks: Mutex<Vec<Member>>,
    gone: Mutex<Vec<Member>>,
    goodbyes: Notify,
    sight: Sight,
    /// Announce everything again.
    all: AtomicBool,
    /// Presence was left for good.
    left: CancellationToken,
    watcher: OnceLock<Arc<dyn Watcher>>,
}

/// Why presence does not know a connection or topic of this node.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Unannounced {
    /// Presence does not answer.
    #[error("{0}")]
    Presence(#[from] Arc<PresenceError>),
    /// Too many announces are waiting, or the node is ending.
    #[error("too many announces are waiting")]
    TooMany,
}

impl Keeper {
    /// `blind` is 1 while the node is.
    pub(super) fn new(lease: NodeLease, blind: Gauge) -> Self {
        Self {
            lease: Mutex::new(lease),
            skew_ms: AtomicI64::new(0),
            marks: Mutex::default(),
            gone: Mutex::default(),
            goodbyes: Notify::new(),
            sight: Sight::new(blind),
            all: AtomicBool::new(false),
            left: CancellationToken::new(),
            watcher: OnceLock::new(),
        }
    }

    /// The connection answered: refresh it with the next batch. At most once between two batches.
    pub(super) fn mark(&self, member: Member) {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).push(member);
    }

    /// Presence may have forgotten who is where.
    fn forgotten(&self) {
        if let Some(watcher) = self.watcher.get() {
            watcher.forgotten();
        }
    }

    /// A connection of `user` is announced.
    pub(super) fn came(&self, user: &UserId) {
        if let Some(watcher) = self.watcher.get() {
            watcher.came(user);
        }
    }

    fn went(&self, user: &UserId) {
        if let Some(watcher) = self.watcher.get() {
            watcher.went(user);
        }
    }

    /// The connection has gone.
    pub(super) fn withdraw(&self, member: Member) {
        self.went(&member.user);
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        // More can gather only while presence is away; they run out by themselves.
        if gone.len() < MAX_GOODBYES {
            gone.push(member);
        }
        drop(gone);
        self.goodbyes.notify_one();
    }

    pub(super) fn is_blind(&self) -> bool {
        self.sight.is_blind()
    }

    /// `at` of this node's clock by the clock that all nodes share, presence's, as last measured: ids of
    /// connections made from it say on every node alike which of two is the newer.
    pub(super) fn shared_time(&self, at: UnixMillis) -> UnixMillis {
        UnixMillis(at.0.saturating_add_signed(self.skew_ms.load(Ordering::Relaxed).saturating_neg()))
    }

    fn take(list: &Mutex<Vec<Member>>) -> Vec<Member> {
        std::mem::take(&mut *list.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn lease(&self, connections: u64, draining: bool) -> NodeLease {
        let mut lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        lease.connections = connections;
        lease.draining = draining;
        lease.clone()
    }
}

impl Delivery {
    /// Tells `watcher` who comes and goes from now on; the first call counts.
    pub fn watch_users(&self, watcher: Arc<dyn Watcher>) {
        // A second call would be a mistake of the composition root; the first one stays.
        let _ = self.keeper.watcher.set(watcher);
    }

    /// Whether this node holds a connection of this user.
    pub fn holds(&self, user: &UserId) -> bool {
        !self.hub.of_user(user).is_empty()
    }

    /// The users with a connection here, each once, in order of id.
    pub fn users(&self) -> Vec<UserId> {
        let users: BTreeSet<UserId> =
            self.hub.all().iter().map(|connection| connection.user.clone()).collect();
        users.into_iter().collect()
    }

    /// Refreshes the lease three times in its life, for ever.
    pub(super) async fn keep_lease(self: Arc<Self>) {
        loop {
            // What cannot be measured now is as it was.
            if let Ok(skew_ms) = self.presence.skew_ms().await {
                self.keeper.skew_ms.store(skew_ms, Ordering::Relaxed);
            }
            let jitter = self.clock.random_range(0.8..1.0);
            tokio::select! {
                biased; // Only so that simulations replay.
                () = self.cancel.cancelled() => return,
                () = self.keeper.left.cancelled() => return,
                () = tokio::time::sleep((self.settings.lease_ttl / 3).mul_f64(jitter)) => {}
            }
            let lease = self.keeper.lease(self.hub.len() as u64, self.is_draining());
            match self.presence.lease(&lease, self.settings.lease_ttl, false).await {
                Ok(Lease::Kept) => {}
                Ok(Lease::Renewed) => {
                    warn!(node.id = %self.node, "presence has forgotten this node: everything is announced again");
                    self.keeper.all.store(true, Ordering::Release);
                    self.keeper.forgotten();
                }
                Ok(Lease::Held { .. }) => {
                    warn!(node.id = %self.node, "another node has taken this node's id: give each node its own node.id");
                }
                Err(error) => self.go_blind(&error),
            }
        }
    }

    /// Writes marks and goodbyes, for ever.
    pub(super) async fn keep_presence(self: Arc<Self>) {
        let pause = || FLUSH.mul_f64(self.clock.random_range(0.9..1.1));
        let mut said = Instant::now();
        let mut topics_at = Instant::now();
        let mut due = Instant::now() + pause();
        loop {
            tokio::select! {
                biased; // Only so that simulations replay.
                () = self.cancel.cancelled() => return,
                () = self.keeper.left.cancelled() => return,
                () = tokio::time::sleep_until(due) => due = Instant::now() + pause(),
                () = self.keeper.goodbyes.notified() => {
                    // A few more may close with it.
                    tokio::time::sleep(GATHER).await;
                    if !self.keeper.is_blind() {
                        self.say_goodbyes().await;
                    }
                    continue;
                }
            }
            if self.keeper.is_blind() {
                if said.elapsed() >= BLIND_EVERY {
                    self.say_blind(BLIND_LASTS_MS);
                    said = Instant::now();
                }
                self.try_to_see().await;
            } else if self.keeper.all.swap(false, Ordering::AcqRel) {
                if self.announce_all().await {
                    self.check_heads_soon();
                } else {
                    self.go_blind(&"it forgot this node and does not take it anew");
                }
            } else {
                let topics = topics_at.elapsed() >= self.settings.presence_ttl / 4;
                if topics {
                    topics_at = Instant::now();
                }
                self.write_marks(topics).await;
            }
        }
    }

    async fn write_marks(self: &Arc<Self>, with_topics: bool) {
        self.say_goodbyes().await;
        let marks = Keeper::take(&self.keeper.marks);
        let still_here = |member: &Member| {
            let connection = self.hub.get(member.connection);
            connection.is_some_and(|connection| connection.alive.swap(false, Ordering::AcqRel))
        };
        let marks: Vec<Member> = marks.into_iter().filter(still_here).collect();
        let topics = if with_topics { self.hub.topics() } else { Vec::new() };
        if let Err(error) = self.refresh(&marks, &topics).await {
            self.go_blind(&error);
        }
    }

    async fn say_goodbyes(self: &Arc<Self>) {
        let gone = Keeper::take(&self.keeper.gone);
        if !gone.is_empty()
            && let Err(error) = self.presence.withdraw(&gone).await
        {
            // What could not be withdrawn runs out by itself.
            self.go_blind(&error);
        }
    }

    async fn refresh(&self, members: &[Member], topics: &[TopicName]) -> Result<(), PresenceError> {
        let ttl = self.jittered_ttl();
        for group in members.chunks(GROUP) {
            self.presence.refresh(group, &[], &self.node, ttl).await?;
        }
        for group in topics.chunks(GROUP) {
            self.presence.refresh(&[], group, &self.node, ttl).await?;
        }
        Ok(())
    }

    /// So that what was announced together does not run out together.
    fn jittered_ttl(&self) -> Duration {
        self.settings.presence_ttl.mul_f64(self.clock.random_range(1.0..1.1))
    }

    /// Announces topics, and waits until presence says so.
    pub(super) async fn announce_topics(&self, topics: &[TopicName]) -> Result<(), Unannounced> {
        let asked: Vec<_> = topics.iter().map(|topic| self.routes.queue(0, topic.clone())).collect();
        for answer in asked {
            match answer.map_err(|_| Unannounced::TooMany)?.await {
                Ok(announced) => announced?,
                Err(_) => return Err(Unannounced::TooMany),
            }
        }
        Ok(())
    }

    /// This node cannot refresh its presence. Idempotent.
    pub(super) fn go_blind(self: &Arc<Self>, why: &dyn std::fmt::Display) {
        // It may be over before anybody asks, and what failed may have come back empty.
        self.keeper.forgotten();
        if self.keeper.sight.lose() {
            warn!(node.id = %self.node, error = %why, "presence is away: this node is blind, and checks heads often");
            self.say_blind(BLIND_LASTS_MS);
            self.check_heads_soon();
        }
    }

    fn say_blind(&self, for_ms: u32) {
        let item = Item::Blind { node: self.node.clone(), for_ms };
        // If the broker is away, too, others cannot reach this node anyhow, and head checks go on.
        let _ = self.broker.send(Destination::All, item.encode());
    }

    async fn try_to_see(self: &Arc<Self>) {
        let attempt = self.keeper.sight.attempt();
        // Who registered and failed to be announced while this went on is in none of its batches.
        if !self.announce_all().await || !self.keeper.sight.regain(attempt) {
            return;
        }
        self.say_blind(0);
        if self.keeper.is_blind() {
            // It was lost again meanwhile, and that may have been said before this.
            self.say_blind(BLIND_LASTS_MS);
        }
        info!(node.id = %self.node, "presence is back: everything is announced again");
        self.check_heads_soon();
    }

    /// Announces the lease, every connection and every topic anew. Returns whether presence took it all.
    async fn announce_all(self: &Arc<Self>) -> bool {
        let lease = self.keeper.lease(self.hub.len() as u64, self.is_draining());
        match self.presence.lease(&lease, self.settings.lease_ttl, false).await {
            Ok(Lease::Kept | Lease::Held { .. }) => {}
            // The others may not have noticed yet, and this is the one call that tells.
            Ok(Lease::Renewed) => self.keeper.forgotten(),
            Err(_) => return false,
        }
        let members: Vec<Member> =
            self.hub.all().iter().map(|connection| connection.member(&self.node)).collect();
        for group in members.chunks(GROUP) {
            match self.presence.announce(group, self.jittered_ttl()).await {
                // Devices may have come to other nodes while nobody could see it.
                Ok(others) => {
                    group.iter().for_each(|member| self.has_come(member));
                    self.displace_found(group, others);
                }
                Err(_) => return false,
            }
        }
        self.refresh(&[], &self.hub.topics()).await.is_ok()
    }

    /// Announced anew; unless it has gone meanwhile, which the watcher was told already.
    fn has_come(&self, member: &Member) {
        let is_here = || self.hub.get(member.connection).is_some();
        if is_here() {
            self.keeper.came(&member.user);
            // Between the two: to have come would be the last word about it.
            if !is_here() {
                self.keeper.went(&member.user);
            }
        }
    }

    fn displace_found(self: &Arc<Self>, group: &[Member], others: Vec<Vec<Member>>) {
        for (member, others) in group.iter().zip(others) {
            if let Some(connection) = self.hub.get(member.connection) {
                self.displace_elsewhere(&connection, &others);
            }
        }
    }

    /// At the end: takes everything back and gives the lease up. What fails runs out by itself.
    pub(super) async fn leave_presence(&self) {
        // From now on nobody takes the lease or announces again.
        self.keeper.left.cancel();
        let gone = Keeper::take(&self.keeper.gone);
        let left = self.presence.withdraw(&gone).await;
        let lease = self.keeper.lease(0, true);
        let released = self.presence.release(&lease.node, &lease.boot).await;
        if let Err(error) = left.and(released) {
            warn!(%error, "presence was not withdrawn; it runs out by itself");
        }
    }
}
