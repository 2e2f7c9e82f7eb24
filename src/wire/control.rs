//! Control requests between nodes and their answers (JSON).

use serde::{Deserialize, Serialize};

use crate::domain::revocation::Revoked;
use crate::domain::{DeviceId, NodeId, UserId};

/// What one node asks of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Ask {
    /// Close a connection because a newer one of the same device is there.
    Displace {
        /// Which (16 hexadecimal digits).
        connection: String,
    },
    /// Close a connection because its user has newer ones, as many as allowed.
    Crowd {
        /// Which.
        connection: String,
    },
    /// Close a connection because an operator wants it.
    Close {
        /// Which.
        connection: String,
    },
    /// List connections: all, or one user's.
    Connections {
        /// Whose.
        user: Option<UserId>,
        /// At most so many.
        limit: u32,
    },
    /// Close the connections of a user, or of one device of a user, for good: what was stored of them is
    /// removed, and nothing is to be stored of their end.
    Remove {
        /// Whose.
        user: UserId,
        /// Of which device; `None`: all.
        device: Option<DeviceId>,
    },
    /// Refuse these tokens from now on, and close the connections by them. It is stored already.
    Revoke {
        /// Whose.
        of: Revoked,
        /// Those issued before this, in milliseconds since 1970.
        issued_before_ms: u64,
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// Whether the connection was there and is being closed.
    Closed {
        /// True if it was there.
        found: bool,
    },
    /// The connections asked for.
    Connections {
        /// In order of id.
        connections: Vec<ConnectionState>,
    },
    /// The connections that were to be removed are being closed.
    Removed {
        /// How many.
        connections: u64,
    },
}

/// A connection, as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionState {
    /// Its id.
    pub connection: String,
    /// The node that holds it.
    pub node: NodeId,
    /// Whose it is.
    pub user: UserId,
    /// Of which device.
    pub device: Option<DeviceId>,
    /// Since when (RFC 3339).
    pub connected_at: String,
    /// From where (address and port as the node saw it).
    pub peer: String,
    /// What it follows.
    pub streams: Vec<FollowState>,
}

/// A followed stream, as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowState {
    /// The stream.
    pub stream: String,
    /// How far the session has gone.
    pub position: u64,
    /// How many entries are sent and not acknowledged.
    pub unacked: u64,
    /// `live`, `replaying`, `gap` or `lagged`.
    pub state: String,
}
