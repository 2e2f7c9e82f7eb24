//! Signs: what a node counts or logs when it notices that something is wrong.
//!
//! A fault that no node notices would prove nothing, so each waits for its sign; one that does not come is a complaint.

use std::time::Duration;

use crate::stage::{NODES, Stage};

/// How long a node may take to notice, or to say that all is well.
pub const NOTICE: Duration = Duration::from_secs(45);
/// How often is looked.
const LOOK: Duration = Duration::from_millis(200);

/// What rises when a node notices.
#[derive(Debug, Clone, Copy)]
pub enum Sign {
    /// This counter.
    Counter(&'static str),
    /// The number of lines in its log that say this.
    Line(&'static str),
}

impl Sign {
    /// A session with RabbitMQ was opened anew.
    pub const NEW_SESSION: Self = Self::Counter("fanfare_broker_sessions_total");
    /// A call to Redis failed.
    pub const NO_PRESENCE: Self = Self::Counter("fanfare_presence_failures_total");
    /// The node's queue was gone, and another one is declared.
    pub const QUEUE_GONE: Self = Self::Line("the node queue was deleted; declaring the next one");
    /// Redis knows nothing of the node any more.
    pub const FORGOTTEN: Self = Self::Line("presence has forgotten this node");
}

/// A sign as it was before the fault.
#[derive(Debug)]
pub struct Watch {
    node: usize,
    sign: Sign,
    before: f64,
}

impl Stage {
    /// How a node's sign is now. The node must answer.
    pub async fn watch(&mut self, node: usize, sign: Sign) -> Watch {
        let before = self.read(node, sign).await;
        Watch { node, sign, before }
    }

    /// The same on all nodes.
    pub async fn watch_both(&mut self, sign: Sign) -> Vec<Watch> {
        let mut watches = vec![];
        for node in 0..self.nodes.len() {
            watches.push(self.watch(node, sign).await);
        }
        watches
    }

    /// Waits until each of these has risen; a complaint for each that does not.
    pub async fn notice(&mut self, watches: Vec<Watch>) {
        for Watch { node, sign, before } in watches {
            let waiting = async {
                while self.read(node, sign).await <= before {
                    tokio::time::sleep(LOOK).await;
                }
            };
            if tokio::time::timeout(NOTICE, waiting).await.is_err() {
                self.complaints
                    .push(format!("{} did not notice within {NOTICE:?}: no {sign:?}", NODES[node]));
            }
        }
    }

    async fn read(&mut self, node: usize, sign: Sign) -> f64 {
        match sign {
            Sign::Counter(name) => self.operator(node).metric(name).await,
            Sign::Line(words) => self.nodes[node].process().log().matches(words).count() as f64,
        }
    }
}
