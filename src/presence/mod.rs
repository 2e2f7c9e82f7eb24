//! Presence: who is connected where, with deadlines. A hint that is healed, never the truth.
//!
//! Owns the contract that Redis ([`redis`]) and the embedded twin ([`embedded`]) obey alike; one
//! contract suite runs against both. It promises little on purpose: it may forget everything at
//! any time. It must never be asked whether a notification was delivered.
//!
//! All methods may be called concurrently. Each has a deadline inside the implementation.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;

use crate::domain::{ConnectionId, DeviceId, NodeId, TopicName, UserId};

pub mod embedded;
pub mod redis;

/// Why presence did not answer.
#[derive(Debug, thiserror::Error)]
pub enum PresenceError {
    /// It cannot be reached, refuses writes or answers nothing. What was to be written may or may not be.
    #[error("presence is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A deadline passed; the same doubt.
    #[error("presence did not answer within {0:?}")]
    Timeout(Duration),
}

impl PresenceError {
    /// A ticket of this name is kept already; random names never meet.
    fn ticket_exists() -> Self {
        Self::Unavailable("a ticket of this name is kept already".into())
    }
}

/// One connection of one user, as announced.
///
/// In Redis a member `node/connection/device` (device empty if it has none) of the sorted set `presence:{user}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Member {
    /// Whose.
    pub user: UserId,
    /// On which node.
    pub node: NodeId,
    /// Which connection; fences removal: a late goodbye cannot remove a successor.
    pub connection: ConnectionId,
    /// On which device.
    pub device: Option<DeviceId>,
}

impl Member {
    /// The order of members in every answer: by node, connection, device.
    fn in_order(&self, other: &Self) -> Ordering {
        let by_node = self.node.cmp(&other.node);
        by_node.then(self.connection.cmp(&other.connection)).then_with(|| self.device.cmp(&other.device))
    }
}

/// A thing that nodes hold someone for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Route {
    /// A user.
    User(UserId),
    /// A topic, at node level.
    Topic(TopicName),
}

/// Who is at the end of a route.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Located {
    /// The nodes, each once, in order of id.
    pub nodes: Vec<NodeId>,
    /// For a user: the live connections, by node, connection, device. Empty for a topic.
    pub members: Vec<Member>,
}

impl Located {
    /// What is known of a user whose live members these are.
    fn of_members(members: Vec<Member>) -> Self {
        let nodes: BTreeSet<NodeId> = members.iter().map(|member| member.node.clone()).collect();
        Self { nodes: nodes.into_iter().collect(), members }
    }

    /// What is known of a topic that these nodes read.
    fn of_nodes(nodes: BTreeSet<NodeId>) -> Self {
        Self { nodes: nodes.into_iter().collect(), members: Vec::new() }
    }
}

/// A node's lease, as others see it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NodeLease {
    /// The node.
    pub node: NodeId,
    /// Random, made at each start: a lease with another one is another life of the node.
    pub boot: String,
    /// Where its client listener is, for ops.
    pub http: String,
    /// Where its admin listener is, for ops.
    pub admin: String,
    /// Its version.
    pub version: String,
    /// How many connections it holds.
    pub connections: u64,
    /// Whether it is draining.
    pub draining: bool,
}

/// What became of a node's wish for its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lease {
    /// It has the lease, and it is the one it had (or nobody had any): nothing was forgotten since.
    Kept,
    /// It has the lease, but the store no longer knew of it: announce everything again.
    Renewed,
    /// A living node with another boot nonce has it, for so long.
    Held {
        /// The other's nonce.
        boot: String,
        /// Until it runs out if the other does not refresh it.
        remaining: Duration,
    },
}

/// Who is where.
#[async_trait]
pub trait Presence: Send + Sync {
    /// Takes or refreshes the lease of `lease.node` for `ttl`. `first` is true for the first call of a
    /// boot: then an absent lease is `Kept`; later an absent one is `Renewed` (the store forgot it), and so is
    /// the first answer after a call that failed or was cancelled, since that call may have hidden the loss.
    /// Never overwrites a live lease of another boot.
    async fn lease(&self, lease: &NodeLease, ttl: Duration, first: bool) -> Result<Lease, PresenceError>;

    /// Gives the lease back, if it is still of this boot.
    async fn release(&self, node: &NodeId, boot: &str) -> Result<(), PresenceError>;

    /// All live leases, in order of node id.
    async fn nodes(&self) -> Result<Vec<NodeLease>, PresenceError>;

    /// Nodes that are remembered and hold no live lease, in order of id: they died, or are frozen, or cut off. A
    /// node that gave its lease back may be among them. What was forgotten is not remembered.
    /// One that keeps no such list answers none.
    async fn dead_nodes(&self) -> Result<Vec<NodeId>, PresenceError> {
        Ok(Vec::new())
    }

    /// Takes over at most `limit` users that `node` has left without a goodbye, and removes its connections of them;
    /// each is answered to one caller only. Of a node with a live lease nothing is taken but what an earlier life
    /// of it may have left; those connections run out by themselves. Fewer than `limit`: that was all.
    ///
    /// A node that takes up its lease in the middle of it may lose connections that it had announced, until it
    /// refreshes them.
    async fn claim_users(&self, node: &NodeId, limit: u32) -> Result<Vec<UserId>, PresenceError> {
        let _ = (node, limit);
        Ok(Vec::new())
    }

    /// Makes these connections known for `ttl` from now, or known anew: announce and refresh are the same full
    /// write, so that whatever was forgotten is there again. When it returns, every later `locate` sees them.
    /// Answers, for each, the *other* live members of that user, those of the same call included: in the same order.
    async fn announce(&self, members: &[Member], ttl: Duration) -> Result<Vec<Vec<Member>>, PresenceError>;

    /// Refreshes without an answer about others: one pipelined batch.
    async fn refresh(
        &self,
        members: &[Member],
        topics: &[TopicName],
        node: &NodeId,
        ttl: Duration,
    ) -> Result<(), PresenceError>;

    /// Makes `node` known as a reader of these topics for `ttl`. There is no opposite: at no reader a
    /// node stops refreshing, since a removal could overtake a later announce.
    async fn announce_topics(
        &self,
        topics: &[TopicName],
        node: &NodeId,
        ttl: Duration,
    ) -> Result<(), PresenceError>;

    /// Removes exactly these connections.
    async fn withdraw(&self, members: &[Member]) -> Result<(), PresenceError>;

    /// Who is at the end of each route now (by the store's own time); answers in the same order. Prunes nothing.
    async fn locate(&self, routes: &[Route]) -> Result<Vec<Located>, PresenceError>;

    /// How far the local clock is ahead (positive) of the store's, in milliseconds. The embedded twin: 0.
    async fn skew_ms(&self) -> Result<i64, PresenceError>;

    /// Keeps a single-use secret for `ttl`. A name that is taken is an error and overwrites nothing: names are random.
    async fn put_ticket(&self, ticket: &str, value: &str, ttl: Duration) -> Result<(), PresenceError>;

    /// Takes a secret out: only one caller in the cluster gets it.
    async fn take_ticket(&self, ticket: &str) -> Result<Option<String>, PresenceError>;
}
