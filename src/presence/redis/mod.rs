//! Presence in Redis 6.2 or later: one server, or the primary that sentinels name.
//!
//! Owns the keys below and every command on them. Must never be asked what was delivered, never
//! retry by itself, and never run a command without a deadline.
//!
//! | key | kind | content | expiry |
//! |---|---|---|---|
//! | `presence:{user}` | sorted set | `node/connection/device` -> deadline | TTL + 10 min |
//! | `topic:{name}` | sorted set | node id -> deadline | TTL + 10 min |
//! | `node:{id}` | string | [`NodeLease`] as JSON | the lease's TTL |
//! | `nodes` | sorted set | node id -> deadline; where to look for leases | 1 day |
//! | `node-users:{id}` | set | users with a connection there | 1 day, by every lease |
//! | `node-users-left:{id}` | set | those that an earlier life of the node left without a goodbye | 1 day |
//! | `ticket:{secret}` | string | its value | the ticket's TTL |
//!
//! Deadlines are Unix milliseconds of Redis's own clock. An expiry is longer than
//! the deadlines within, so that no node's shorter TTL cuts short another's; what is dead but not yet
//! expired is never answered. Braces are hash tags: with Redis Cluster each script has one slot.
//! The cluster client itself is not wired yet; cluster URLs are not taken.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_trait::async_trait;
use deadpool_redis::redis::{FromRedisValue, Pipeline, pipe};
use tokio::time::Instant;

use self::address::Address;
pub use self::open::OpenError;
use self::pool::Pool;
use super::{Lease, Located, Member, NodeLease, Presence, PresenceError, Route};
use crate::clock::Clock;
use crate::domain::{NodeId, TopicName, UserId};
use crate::metrics::presence::{Operation, PresenceMetrics};

mod address;
mod dead;
mod keys;
mod leases;
mod members;
mod open;
mod pool;
mod time;

/// How many members, topics or routes go in one pipeline. Larger ones save no more CPU (measured:
/// 1.5-2 us a command from 500 on) and hold up what other nodes ask.
const BATCH: usize = 500;

/// How long a sorted set outlives the TTL last written to it; TTLs of nodes may differ by as much.
const MARGIN: Duration = Duration::from_secs(600);

/// How long what is known of a dead node is kept for its survivors.
const LONG: Duration = Duration::from_secs(24 * 60 * 60);

/// How to reach Redis.
#[derive(Clone)]
pub struct Settings {
    /// `redis://[user:password@]host[:port][/database]`, `rediss://` for TLS, or
    /// `redis+sentinel://[user:password@]host[:port],…/service[/database]` (`rediss+sentinel://` for TLS),
    /// where user and password are those of Redis; those of the sentinels themselves may follow as
    /// `?sentinel_user=…&sentinel_password=…`. Percent-encoded where needed.
    pub url: String,
    /// The deadline of each round trip (a batch of 500), the wait for a connection included.
    pub timeout: Duration,
    /// Connections at most; further calls wait, within their deadline. 2-4 are enough.
    pub pool_size: usize,
}

impl fmt::Debug for Settings {
    /// Without the URL: it may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("timeout", &self.timeout)
            .field("pool_size", &self.pool_size)
            .finish_non_exhaustive()
    }
}

/// Presence in Redis. Cloning shares the connections.
///
/// It heals by itself: a broken connection is replaced by the next call, and one to a server that
/// has become a replica is dropped with all its siblings, so that the next call finds the new primary.
///
/// # Cancel safety
/// Every method may be cancelled at any await; what it was to write may or may not be written.
#[derive(Clone)]
pub struct RedisPresence {
    pool: Pool,
    clock: Clock,
    metrics: PresenceMetrics,
    /// Whether the last lease call has had no answer yet, or never.
    lease_in_doubt: Arc<AtomicBool>,
}

impl RedisPresence {
    /// Connects, measures Redis time, and checks that it can be written.
    ///
    /// `clock` is what [`Presence::skew_ms`] compares with Redis; nothing else uses it.
    ///
    /// # Errors
    /// [`OpenError`] says in one line what to change.
    pub async fn connect(
        settings: Settings,
        metrics: PresenceMetrics,
        clock: Clock,
    ) -> Result<Self, OpenError> {
        // For `rediss://`; whoever was first has chosen the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let address = Address::parse(&settings.url).map_err(OpenError::Url)?;
        let shown = address.to_string();
        let pool = Pool::build(address, &settings, metrics.connects.clone())
            .map_err(|error| OpenError::Url(error.to_string()))?;
        open::check(&pool, &shown).await?;
        Ok(Self { pool, clock, metrics, lease_in_doubt: Arc::default() })
    }

    /// One round trip, counted.
    async fn query<T: FromRedisValue>(
        &self,
        operation: Operation,
        build: impl FnOnce(i64) -> Pipeline + Send,
    ) -> Result<T, PresenceError> {
        let label = PresenceMetrics::label(operation);
        self.metrics.calls.get_or_create(&label).inc();
        let began = Instant::now();
        let answer = self
            .pool
            .query(|now_ms| {
                let pipeline = build(now_ms);
                let commands = u32::try_from(pipeline.len()).unwrap_or(u32::MAX);
                self.metrics.pipeline_commands.observe(f64::from(commands));
                pipeline
            })
            .await;
        self.metrics.seconds.observe(began.elapsed().as_secs_f64());
        answer.map_err(|failure| {
            self.metrics.failures.get_or_create(&label).inc();
            failure.into()
        })
    }
}

impl fmt::Debug for RedisPresence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisPresence")
    }
}

#[async_trait]
impl Presence for RedisPresence {
    async fn lease(&self, lease: &NodeLease, ttl: Duration, first: bool) -> Result<Lease, PresenceError> {
        self.take_lease(lease, ttl, first).await
    }

    async fn release(&self, node: &NodeId, boot: &str) -> Result<(), PresenceError> {
        self.release_lease(node, boot).await
    }

    async fn nodes(&self) -> Result<Vec<NodeLease>, PresenceError> {
        self.live_nodes().await
    }

    async fn dead_nodes(&self) -> Result<Vec<NodeId>, PresenceError> {
        self.nodes_without_lease().await
    }

    async fn claim_users(&self, node: &NodeId, limit: u32) -> Result<Vec<UserId>, PresenceError> {
        self.claim_users_of(node, limit).await
    }

    async fn announce(&self, members: &[Member], ttl: Duration) -> Result<Vec<Vec<Member>>, PresenceError> {
        self.announce_members(members, ttl).await
    }

    async fn refresh(
        &self,
        members: &[Member],
        topics: &[TopicName],
        node: &NodeId,
        ttl: Duration,
    ) -> Result<(), PresenceError> {
        self.refresh_members(members, topics, node, ttl).await
    }

    async fn announce_topics(
        &self,
        topics: &[TopicName],
        node: &NodeId,
        ttl: Duration,
    ) -> Result<(), PresenceError> {
        self.write_topics(Operation::AnnounceTopics, topics, node, ttl).await
    }

    async fn withdraw(&self, members: &[Member]) -> Result<(), PresenceError> {
        self.withdraw_members(members).await
    }

    async fn locate(&self, routes: &[Route]) -> Result<Vec<Located>, PresenceError> {
        self.locate_routes(routes).await
    }

    async fn skew_ms(&self) -> Result<i64, PresenceError> {
        let mut asked = std::time::Instant::now();
        let (time,): ((i64, i64),) = self
            .query(Operation::Skew, |_| {
                asked = std::time::Instant::now();
                let mut pipeline = pipe();
                pipeline.cmd("TIME");
                pipeline
            })
            .await?;
        self.pool.time().observe(asked, time);
        Ok(self.clock.now().as_i64() - self.pool.time().now_ms())
    }

    async fn put_ticket(&self, ticket: &str, value: &str, ttl: Duration) -> Result<(), PresenceError> {
        let (stored,): (Option<String>,) = self
            .query(Operation::PutTicket, |_| {
                let mut pipeline = pipe();
                let set = pipeline.cmd("SET").arg(keys::ticket(ticket)).arg(value);
                set.arg("PX").arg(time::millis(ttl).max(1)).arg("NX");
                pipeline
            })
            .await?;
        match stored {
            Some(_) => Ok(()),
            None => Err(PresenceError::ticket_exists()),
        }
    }

    async fn take_ticket(&self, ticket: &str) -> Result<Option<String>, PresenceError> {
        let (value,): (Option<String>,) = self
            .query(Operation::TakeTicket, |_| {
                let mut pipeline = pipe();
                pipeline.get_del(keys::ticket(ticket));
                pipeline
            })
            .await?;
        Ok(value)
    }
}
