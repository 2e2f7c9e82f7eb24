//! The model of presence: the embedded store behind a network that delays, fails and forgets.
//!
//! Each call takes a while before and after the one moment at which it is done. It keeps the contract
//! in `fanfare::presence`, unless a plant says which part it breaks.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use fanfare::domain::{NodeId, TopicName};
use fanfare::presence::embedded::EmbeddedPresence;
use fanfare::presence::{Lease, Located, Member, NodeLease, Presence, PresenceError, Route};
use tokio_util::sync::CancellationToken;

use super::freeze::Freezer;
use super::plan::{Plan, Plant};
use super::stage::Stage;

/// How long a call waits for its answer, as a node does by default.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How the store is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Well,
    /// It refuses.
    Away,
    /// It is silent: a call ends when its time is over, and what it was to do may be done.
    Hangs,
    /// It answers questions and takes no writes (a replica, or out of memory).
    ReadOnly,
}

/// One node's door to the store.
pub struct ModelPresence {
    pub stage: Stage,
    pub plan: Plan,
    /// What is shared by all nodes.
    pub store: EmbeddedPresence,
    pub mood: Arc<Mutex<Mood>>,
    /// The node stands still while this is on.
    pub freezer: Freezer,
    /// How far the node's clock is ahead of the store's.
    pub ahead_ms: i64,
    /// Fires when the node dies.
    pub death: CancellationToken,
    /// The node's last call failed, which may have hidden a loss.
    pub doubt: AtomicBool,
    /// Announces of topics that are in flight.
    pub routes: Mutex<BTreeSet<TopicName>>,
    /// Topics that the node ever announced.
    pub known: Mutex<BTreeSet<TopicName>>,
}

impl ModelPresence {
    async fn reach(&self, writes: bool) -> Result<(), PresenceError> {
        self.freezer.thawed().await;
        if self.death.is_cancelled() {
            std::future::pending::<()>().await;
        }
        let mood = *self.mood.lock().expect("no panic under it");
        let away = match mood {
            Mood::Well => false,
            Mood::Away => true,
            Mood::Hangs => {
                tokio::time::sleep(TIMEOUT).await;
                true
            }
            Mood::ReadOnly => writes,
        };
        if away || self.stage.is_faulty() && self.stage.chance(self.plan.weather.failing) {
            self.doubt.store(true, Ordering::Relaxed);
            return Err(PresenceError::Timeout(TIMEOUT));
        }
        Ok(())
    }

    /// There and back; `work` is done in between.
    async fn call<T>(
        &self,
        work: impl Future<Output = Result<T, PresenceError>>,
    ) -> Result<T, PresenceError> {
        self.go(true, work).await
    }

    /// The same for questions.
    async fn ask<T>(&self, work: impl Future<Output = Result<T, PresenceError>>) -> Result<T, PresenceError> {
        self.go(false, work).await
    }

    async fn go<T>(
        &self,
        writes: bool,
        work: impl Future<Output = Result<T, PresenceError>>,
    ) -> Result<T, PresenceError> {
        self.stage.trip().await;
        self.reach(writes).await?;
        let done = work.await?;
        self.stage.trip().await;
        self.reach(writes).await?;
        Ok(done)
    }

    /// Whether this node has announced all of them before.
    fn was_announced(&self, topics: &[TopicName]) -> bool {
        let mut known = self.known.lock().expect("no panic under it");
        let all = topics.iter().all(|topic| known.contains(topic));
        known.extend(topics.iter().cloned());
        all
    }

    /// Whether announces of all these topics are in flight; from now on they are.
    fn is_in_flight(&self, topics: &[TopicName]) -> bool {
        let mut routes = self.routes.lock().expect("no panic under it");
        let known = topics.iter().all(|topic| routes.contains(topic));
        routes.extend(topics.iter().cloned());
        known
    }

    fn say_members(&self, what: &str, members: &[Member]) {
        for member in members {
            self.stage
                .say(format_args!("presence: {what} {} {} {}", member.user, member.node, member.connection));
        }
    }
}

#[async_trait]
impl Presence for ModelPresence {
    async fn lease(&self, lease: &NodeLease, ttl: Duration, first: bool) -> Result<Lease, PresenceError> {
        let answer = self.call(self.store.lease(lease, ttl, first)).await?;
        // A flush in between may have been healed by the call that failed.
        let doubt = self.doubt.swap(false, Ordering::Relaxed) && !first;
        self.stage.say(format_args!("presence: lease of {} {answer:?}, doubt {doubt}", lease.node));
        match answer {
            Lease::Renewed if self.plan.plant == Plant::SilentFlush => Ok(Lease::Kept),
            Lease::Kept if doubt => Ok(Lease::Renewed),
            other => Ok(other),
        }
    }

    async fn release(&self, node: &NodeId, boot: &str) -> Result<(), PresenceError> {
        self.call(self.store.release(node, boot)).await
    }

    async fn nodes(&self) -> Result<Vec<NodeLease>, PresenceError> {
        self.ask(self.store.nodes()).await
    }

    async fn announce(&self, members: &[Member], ttl: Duration) -> Result<Vec<Vec<Member>>, PresenceError> {
        if self.plan.plant == Plant::HastyAnnounce {
            let (store, stage, members) = (self.store.clone(), self.stage.clone(), members.to_vec());
            let nobody = vec![Vec::new(); members.len()];
            tokio::spawn(async move {
                stage.pause(200..=1_500).await;
                store.announce(&members, ttl).await
            });
            return Ok(nobody);
        }
        let others = self.call(self.store.announce(members, ttl)).await;
        self.say_members(if others.is_ok() { "announced" } else { "not announced" }, members);
        others
    }

    async fn refresh(
        &self,
        members: &[Member],
        topics: &[TopicName],
        node: &NodeId,
        ttl: Duration,
    ) -> Result<(), PresenceError> {
        if self.plan.plant == Plant::AssumedRoute && !topics.is_empty() {
            let known: Vec<TopicName> =
                self.known.lock().expect("no panic under it").iter().cloned().collect();
            let left: Vec<TopicName> = known.into_iter().filter(|topic| !topics.contains(topic)).collect();
            self.store.announce_topics(&left, node, Duration::ZERO).await?;
        }
        self.call(self.store.refresh(members, topics, node, ttl)).await
    }

    async fn announce_topics(
        &self,
        topics: &[TopicName],
        node: &NodeId,
        ttl: Duration,
    ) -> Result<(), PresenceError> {
        if self.plan.plant == Plant::AssumedRoute && self.was_announced(topics) {
            return Ok(());
        }
        if self.plan.plant == Plant::UnawaitedRoute {
            if self.is_in_flight(topics) {
                return Ok(());
            }
            self.stage.pause(200..=1_500).await;
        }
        let done = self.call(self.store.announce_topics(topics, node, ttl)).await;
        self.stage.say(format_args!("presence: {node} reads {topics:?}: {}", done.is_ok()));
        let mut routes = self.routes.lock().expect("no panic under it");
        // Only announces at the same time are shared.
        routes.retain(|topic| !topics.contains(topic));
        done
    }

    async fn withdraw(&self, members: &[Member]) -> Result<(), PresenceError> {
        self.say_members("withdraws", members);
        if self.plan.plant == Plant::LateGoodbye {
            let routes: Vec<Route> = members.iter().map(|member| Route::User(member.user.clone())).collect();
            let there = self.ask(self.store.locate(&routes)).await?;
            let of_devices = there.into_iter().flat_map(|located| located.members).filter(|there| {
                members.iter().any(|gone| gone.user == there.user && gone.device == there.device)
            });
            return self.call(self.store.withdraw(&of_devices.collect::<Vec<_>>())).await;
        }
        self.call(self.store.withdraw(members)).await
    }

    async fn locate(&self, routes: &[Route]) -> Result<Vec<Located>, PresenceError> {
        let located = self.ask(self.store.locate(routes)).await?;
        for (route, located) in routes.iter().zip(&located) {
            self.stage.say(format_args!("presence: {route:?} at {:?}", located.nodes));
        }
        Ok(located)
    }

    async fn skew_ms(&self) -> Result<i64, PresenceError> {
        self.ask(async { Ok(self.ahead_ms) }).await
    }

    async fn put_ticket(&self, ticket: &str, value: &str, ttl: Duration) -> Result<(), PresenceError> {
        self.store.put_ticket(ticket, value, ttl).await
    }

    async fn take_ticket(&self, ticket: &str) -> Result<Option<String>, PresenceError> {
        self.store.take_ticket(ticket).await
    }
}
