//! The embedded presence: in process, for one node (or for several in one process, as in tests).
//!
//! Owns a table under one lock, held for a few lines and never across an await. Answers as Redis does,
//! expiry included, by the clock it is given. Never fails but on a ticket that is there already.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::{Lease, Located, Member, NodeLease, Presence, PresenceError, Route};
use crate::clock::Clock;
use crate::domain::{NodeId, TopicName, UnixMillis, UserId};

/// How often what is dead is removed; until then it only costs memory.
const SWEEP: Duration = Duration::from_secs(60);

/// Presence in this process. Clones share one store.
#[derive(Debug, Clone)]
pub struct EmbeddedPresence {
    clock: Clock,
    store: Arc<Mutex<Store>>,
}

/// Everything with its deadline; alive is what has a deadline after now.
#[derive(Debug, Default)]
struct Store {
    /// Each user's members, in order. A list, not a map: most have one, and a map for one is four times as large.
    users: HashMap<UserId, Vec<(Member, UnixMillis)>>,
    topics: HashMap<TopicName, BTreeMap<NodeId, UnixMillis>>,
    leases: BTreeMap<NodeId, (NodeLease, UnixMillis)>,
    tickets: HashMap<String, (String, UnixMillis)>,
    swept: UnixMillis,
}

impl EmbeddedPresence {
    /// An empty store, whose time `clock` tells.
    pub fn new(clock: Clock) -> Self {
        Self { clock, store: Arc::default() }
    }

    /// Loses everything at once: leases, connections, topics and tickets, for all clones. What
    /// FLUSHALL or a failover does to Redis; presence may do so at any time, and tests make it.
    pub fn forget_everything(&self) {
        *self.lock() = Store::default();
    }

    /// The store. A panic under the lock leaves every entry whole, so it may be used after one.
    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store with the dead removed now and then, and the time.
    fn now(&self) -> (MutexGuard<'_, Store>, UnixMillis) {
        let mut store = self.lock();
        let now = self.clock.now();
        if now.since(store.swept) >= SWEEP {
            store.sweep(now);
        }
        (store, now)
    }
}

impl Store {
    fn sweep(&mut self, now: UnixMillis) {
        self.users.retain(|_, members| {
            members.retain(|(_, deadline)| *deadline > now);
            !members.is_empty()
        });
        self.topics.retain(|_, nodes| {
            nodes.retain(|_, deadline| *deadline > now);
            !nodes.is_empty()
        });
        // A dead node is remembered as long as anything of it is.
        let still_there: BTreeSet<&NodeId> =
            self.users.values().flatten().map(|(member, _)| &member.node).collect();
        self.leases.retain(|node, (_, deadline)| *deadline > now || still_there.contains(node));
        self.tickets.retain(|_, (_, deadline)| *deadline > now);
        self.swept = now;
    }

    fn write_members(&mut self, members: &[Member], deadline: UnixMillis) {
        for member in members {
            let known = self.users.entry(member.user.clone()).or_default();
            match place(known, member) {
                Ok(at) => known[at].1 = deadline,
                Err(at) => {
                    if known.is_empty() {
                        known.reserve_exact(1);
                    }
                    known.insert(at, (member.clone(), deadline));
                }
            }
        }
    }

    fn write_topics(&mut self, topics: &[TopicName], node: &NodeId, deadline: UnixMillis) {
        for topic in topics {
            let readers = self.topics.entry(topic.clone()).or_default();
            readers.insert(node.clone(), deadline);
        }
    }

    fn live(&self, user: &UserId, now: UnixMillis) -> Vec<Member> {
        let known = self.users.get(user).into_iter().flatten();
        let live = known.filter(|(_, deadline)| *deadline > now);
        live.map(|(member, _)| member.clone()).collect()
    }

    fn is_leased(&self, node: &NodeId, now: UnixMillis) -> bool {
        self.leases.get(node).is_some_and(|(_, deadline)| *deadline > now)
    }

    /// Users with members of `node`, whatever their deadlines.
    fn left_by<'a>(&'a self, node: &'a NodeId) -> impl Iterator<Item = &'a UserId> {
        let has = |members: &[(Member, UnixMillis)]| members.iter().any(|(member, _)| member.node == *node);
        self.users.iter().filter(move |(_, members)| has(members)).map(|(user, _)| user)
    }

    fn readers(&self, topic: &TopicName, now: UnixMillis) -> BTreeSet<NodeId> {
        let known = self.topics.get(topic).into_iter().flatten();
        let live = known.filter(|(_, deadline)| **deadline > now);
        live.map(|(node, _)| node.clone()).collect()
    }
}

/// Where a member is in a user's list, or where it belongs. A new connection has the greatest id of its
/// node, so it mostly belongs at the end.
fn place(known: &[(Member, UnixMillis)], member: &Member) -> Result<usize, usize> {
    known.binary_search_by(|(other, _)| other.in_order(member))
}

#[async_trait]
impl Presence for EmbeddedPresence {
    async fn lease(&self, lease: &NodeLease, ttl: Duration, first: bool) -> Result<Lease, PresenceError> {
        let (mut store, now) = self.now();
        let held = store.leases.get(&lease.node);
        let held = held.filter(|(_, deadline)| *deadline > now);
        let outcome = match held {
            Some((other, deadline)) if other.boot != lease.boot => {
                return Ok(Lease::Held { boot: other.boot.clone(), remaining: deadline.since(now) });
            }
            None if !first => Lease::Renewed,
            _ => Lease::Kept,
        };
        let entry = (lease.clone(), now.after(ttl));
        store.leases.insert(lease.node.clone(), entry);
        Ok(outcome)
    }

    async fn release(&self, node: &NodeId, boot: &str) -> Result<(), PresenceError> {
        let (mut store, _) = self.now();
        let held = store.leases.get(node);
        if held.is_some_and(|(lease, _)| lease.boot == boot) {
            store.leases.remove(node);
        }
        Ok(())
    }

    async fn nodes(&self) -> Result<Vec<NodeLease>, PresenceError> {
        let (store, now) = self.now();
        let live = store.leases.values().filter(|(_, deadline)| *deadline > now);
        Ok(live.map(|(lease, _)| lease.clone()).collect())
    }

    async fn dead_nodes(&self) -> Result<Vec<NodeId>, PresenceError> {
        let (store, now) = self.now();
        let known = store.leases.keys();
        Ok(known.filter(|node| !store.is_leased(node, now)).cloned().collect())
    }

    async fn claim_users(&self, node: &NodeId, limit: u32) -> Result<Vec<UserId>, PresenceError> {
        let (mut store, now) = self.now();
        if store.is_leased(node, now) {
            return Ok(Vec::new());
        }
        let claimed: Vec<UserId> = store.left_by(node).take(limit as usize).cloned().collect();
        for user in &claimed {
            let left = store.users.get_mut(user).map(|members| {
                members.retain(|(member, _)| member.node != *node);
                members.len()
            });
            if left == Some(0) {
                store.users.remove(user);
            }
        }
        Ok(claimed)
    }

    async fn announce(&self, members: &[Member], ttl: Duration) -> Result<Vec<Vec<Member>>, PresenceError> {
        let (mut store, now) = self.now();
        store.write_members(members, now.after(ttl));
        let others = members.iter().map(|member| {
            let mut live = store.live(&member.user, now);
            live.retain(|other| other != member);
            live
        });
        Ok(others.collect())
    }

    async fn refresh(
        &self,
        members: &[Member],
        topics: &[TopicName],
        node: &NodeId,
        ttl: Duration,
    ) -> Result<(), PresenceError> {
        let (mut store, now) = self.now();
        store.write_members(members, now.after(ttl));
        store.write_topics(topics, node, now.after(ttl));
        Ok(())
    }

    async fn announce_topics(
        &self,
        topics: &[TopicName],
        node: &NodeId,
        ttl: Duration,
    ) -> Result<(), PresenceError> {
        let (mut store, now) = self.now();
        store.write_topics(topics, node, now.after(ttl));
        Ok(())
    }

    async fn withdraw(&self, members: &[Member]) -> Result<(), PresenceError> {
        let (mut store, _) = self.now();
        for member in members {
            let Some(known) = store.users.get_mut(&member.user) else {
                continue;
            };
            if let Ok(at) = place(known, member) {
                known.remove(at);
            }
            if known.is_empty() {
                store.users.remove(&member.user);
            }
        }
        Ok(())
    }

    async fn locate(&self, routes: &[Route]) -> Result<Vec<Located>, PresenceError> {
        let (store, now) = self.now();
        let located = routes.iter().map(|route| match route {
            Route::User(user) => Located::of_members(store.live(user, now)),
            Route::Topic(topic) => Located::of_nodes(store.readers(topic, now)),
        });
        Ok(located.collect())
    }

    async fn skew_ms(&self) -> Result<i64, PresenceError> {
        Ok(0)
    }

    async fn put_ticket(&self, ticket: &str, value: &str, ttl: Duration) -> Result<(), PresenceError> {
        let (mut store, now) = self.now();
        let known = store.tickets.get(ticket);
        if known.is_some_and(|(_, deadline)| *deadline > now) {
            return Err(PresenceError::ticket_exists());
        }
        let entry = (value.to_owned(), now.after(ttl));
        store.tickets.insert(ticket.to_owned(), entry);
        Ok(())
    }

    async fn take_ticket(&self, ticket: &str) -> Result<Option<String>, PresenceError> {
        let (mut store, now) = self.now();
        let taken = store.tickets.remove(ticket);
        let live = taken.filter(|(_, deadline)| *deadline > now);
        Ok(live.map(|(value, _)| value))
    }
}
