//! The nodes that cannot refresh their presence, and so must be sent everything.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::NodeId;

/// Which nodes are blind, each until a time. A node says it again every second or so while it lasts,
/// so one that dies blind is forgotten.
#[derive(Debug, Default)]
pub struct BlindNodes(Mutex<BTreeMap<NodeId, Instant>>);

impl BlindNodes {
    /// `node` is blind for this long from now; zero ends it.
    pub fn set(&self, node: NodeId, lasts: Duration) {
        let mut nodes = self.lock();
        if lasts.is_zero() {
            nodes.remove(&node);
        } else {
            nodes.insert(node, Instant::now() + lasts);
        }
    }

    /// Those that are blind now, in order of id.
    pub fn now(&self) -> Vec<NodeId> {
        let mut nodes = self.lock();
        if nodes.is_empty() {
            return Vec::new();
        }
        let now = Instant::now();
        nodes.retain(|_, until| *until > now);
        nodes.keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Instant>> {
        // Nothing under this lock can panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
