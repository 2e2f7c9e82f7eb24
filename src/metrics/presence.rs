//! Metrics of the presence.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// What was asked of presence; the label `operation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Operation {
    /// A lease was taken or refreshed.
    Lease,
    /// A lease was given back.
    Release,
    /// The live nodes were listed.
    Nodes,
    /// The dead nodes were listed.
    DeadNodes,
    /// The users of a dead node were taken over.
    ClaimUsers,
    /// Connections were made known.
    Announce,
    /// Connections and topics were refreshed.
    Refresh,
    /// A node was made known as a reader of topics.
    AnnounceTopics,
    /// Connections were removed.
    Withdraw,
    /// Routes were resolved.
    Locate,
    /// The clocks were compared.
    Skew,
    /// A ticket was kept.
    PutTicket,
    /// A ticket was taken.
    TakeTicket,
}

impl Operation {
    /// All of them, so that each counter is there at zero before its first event.
    pub const ALL: [Self; 13] = [
        Self::Lease,
        Self::Release,
        Self::Nodes,
        Self::DeadNodes,
        Self::ClaimUsers,
        Self::Announce,
        Self::Refresh,
        Self::AnnounceTopics,
        Self::Withdraw,
        Self::Locate,
        Self::Skew,
        Self::PutTicket,
        Self::TakeTicket,
    ];
}

/// The one label of [`PresenceMetrics::calls`] and [`PresenceMetrics::failures`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OperationLabel {
    /// What was asked.
    pub operation: Operation,
}

/// Counters and gauges of the presence. Cloning shares them.
#[derive(Debug, Clone)]
pub struct PresenceMetrics {
    /// Round trips begun (a pipeline counts once).
    pub calls: Family<OperationLabel, Counter>,
    /// Those of them that failed or timed out.
    pub failures: Family<OperationLabel, Counter>,
    /// How long a round trip took, the wait for a connection included; failures too.
    pub seconds: Histogram,
    /// How many commands went in one pipeline.
    pub pipeline_commands: Histogram,
    /// Connections and topics that were refreshed.
    pub refreshed: Counter,
    /// Connections to Redis that were opened; a steady rise means that they break.
    pub connects: Counter,
}

impl PresenceMetrics {
    /// All at zero, registered.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("presence_calls", "Round trips to presence, by operation", metrics.calls.clone());
        registry.register(
            "presence_failures",
            "Round trips to presence that failed or timed out, by operation",
            metrics.failures.clone(),
        );
        registry.register_with_unit(
            "presence_call",
            "Duration of a round trip to presence, the wait for a connection included",
            Unit::Seconds,
            metrics.seconds.clone(),
        );
        registry.register(
            "presence_pipeline_commands",
            "Commands in one pipeline to presence",
            metrics.pipeline_commands.clone(),
        );
        registry.register(
            "presence_refreshed",
            "Connections and topics whose presence was refreshed",
            metrics.refreshed.clone(),
        );
        registry.register(
            "presence_connects",
            "Connections to presence that were opened",
            metrics.connects.clone(),
        );
        metrics
    }

    /// The label of an operation.
    pub fn label(operation: Operation) -> OperationLabel {
        OperationLabel { operation }
    }
}

impl Default for PresenceMetrics {
    fn default() -> Self {
        let metrics = Self {
            calls: Family::default(),
            failures: Family::default(),
            seconds: Histogram::new(exponential_buckets(0.000_25, 2.0, 14)),
            pipeline_commands: Histogram::new(exponential_buckets(1.0, 4.0, 7)),
            refreshed: Counter::default(),
            connects: Counter::default(),
        };
        for operation in Operation::ALL {
            let label = OperationLabel { operation };
            let _ = metrics.calls.get_or_create(&label);
            let _ = metrics.failures.get_or_create(&label);
        }
        metrics
    }
}
