//! How a node uses RabbitMQ.
//!
//! Owns every bound, deadline and pace of this driver, and their defaults. Its `Debug` must never show a URL:
//! URLs hold passwords.

use std::fmt;
use std::time::Duration;

use crate::clock::Clock;
use crate::domain::{NodeId, Priority};

/// Where RabbitMQ is, who this node is, and all bounds.
#[derive(Clone)]
pub struct Settings {
    /// `amqp://` or `amqps://` URLs, tried in turn; at least one.
    pub urls: Vec<String>,
    /// This node.
    pub node: NodeId,
    /// This run of the node: names its queues apart from those of the run before. At most 64 bytes.
    pub boot: String,
    /// How often each side shows that it lives, in whole seconds; a silent peer is given up after two of them.
    pub heartbeat: Duration,
    /// For one connection, from the name lookup to the open virtual host. A frozen broker accepts TCP and says nothing.
    pub connect_timeout: Duration,
    /// For one declaration, publish or settlement that waits for an answer.
    pub operation_timeout: Duration,
    /// Messages of each lane that one node holds unsettled.
    pub prefetch: Prefetch,
    /// Sizes of queues.
    pub bounds: Bounds,
    /// Unconfirmed messages with envelopes in flight.
    pub window: usize,
    /// The pause before a lost connection is tried again: doubles from `.0` to `.1`, with full jitter.
    pub backoff: (Duration, Duration),
    /// Dates dead letters.
    pub clock: Clock,
}

/// Unsettled messages per lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefetch {
    /// Of `fanfare.ingress.high`.
    pub high: u16,
    /// Of `fanfare.ingress.normal`.
    pub normal: u16,
    /// Of `fanfare.ingress.low`.
    pub low: u16,
}

impl Prefetch {
    /// That of one lane.
    pub fn of(&self, lane: Priority) -> u16 {
        match lane {
            Priority::High => self.high,
            Priority::Normal => self.normal,
            Priority::Low => self.low,
        }
    }

    /// Of all lanes together: the bound of the ingress inlet.
    pub fn total(&self) -> usize {
        Priority::ALL.into_iter().map(|lane| usize::from(self.of(lane))).sum()
    }
}

/// How long queues may grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Messages in each lane; beyond, publishes are rejected. All nodes must agree: the queues are durable.
    pub ingress_messages: u32,
    /// Messages in a node's queue; beyond, the oldest are dropped.
    pub node_messages: u32,
    /// Messages in a node's control queue; beyond, requests are rejected.
    pub control_messages: u32,
    /// Envelopes that wait in this process to be published.
    pub outgoing_envelopes: usize,
    /// Their bytes.
    pub outgoing_bytes: usize,
}

impl Settings {
    /// The defaults for a node.
    pub fn new(urls: Vec<String>, node: NodeId, boot: impl Into<String>) -> Self {
        Self {
            urls,
            node,
            boot: boot.into(),
            heartbeat: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            operation_timeout: Duration::from_secs(5),
            prefetch: Prefetch { high: 256, normal: 256, low: 64 },
            bounds: Bounds {
                ingress_messages: 1_000_000,
                node_messages: 10_000,
                control_messages: 1_000,
                outgoing_envelopes: 8_192,
                outgoing_bytes: 32 * 1024 * 1024,
            },
            window: 500,
            backoff: (Duration::from_millis(200), Duration::from_secs(10)),
            clock: Clock::system(),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("urls", &self.urls.len())
            .field("node", &self.node.as_str())
            .field("boot", &self.boot)
            .field("heartbeat", &self.heartbeat)
            .field("connect_timeout", &self.connect_timeout)
            .field("operation_timeout", &self.operation_timeout)
            .field("prefetch", &self.prefetch)
            .field("bounds", &self.bounds)
            .finish_non_exhaustive()
    }
}
