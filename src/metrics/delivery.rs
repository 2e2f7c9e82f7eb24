//! Metrics of delivery: connections, what they got, what had to be healed.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// By close code.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByeLabels {
    /// The close code's reason, such as `draining`.
    pub reason: &'static str,
}

/// By why a read was needed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReadLabels {
    /// `session` (one connection is behind) or `shared` (the node is, in a topic or everyone).
    pub why: &'static str,
}

/// Counters and gauges of delivery. Cloning shares them.
#[derive(Debug, Clone)]
pub struct DeliveryMetrics {
    /// Connections that are attached now.
    pub connections: Gauge,
    /// Connections that were attached.
    pub attached: Counter,
    /// Seconds from `hello` to `welcome`.
    pub attach_seconds: Histogram,
    /// Notification frames handed to connections.
    pub delivered: Counter,
    /// Notifications acknowledged, on each device.
    pub acks: Counter,
    /// Calls to note acknowledgements that failed.
    pub receipt_failures: Counter,
    /// Acknowledgements that no receipt tells of: too many waited, or the inbox did not take them.
    pub receipts_lost: Counter,
    /// Pushed entries that a connection had already.
    pub duplicates: Counter,
    /// Pushed entries that were past their time.
    pub expired: Counter,
    /// Pushed entries that were replaced by a newer one of their collapse key before they were written.
    pub merged: Counter,
    /// Times that a connection was held back in a stream: its window or socket was full.
    pub lagged: Counter,
    /// Connections that are held back now, as seen within the last heartbeat.
    pub lagged_connections: Gauge,
    /// Connections that are past their age and not sent away yet.
    pub overdue_connections: Gauge,
    /// Clients that were told `window_full`.
    pub window_full: Counter,
    /// Pages read, by why.
    pub reads: Family<ReadLabels, Counter>,
    /// Reads that failed.
    pub read_failures: Counter,
    /// Streams that a head check found behind.
    pub head_repairs: Counter,
    /// Connections that missed what their user had read, and were told after all.
    pub read_repairs: Counter,
    /// `bye` frames, by reason.
    pub byes: Family<ByeLabels, Counter>,
    /// Envelopes that could not be read.
    pub damaged_envelopes: Counter,
    /// 1 while this node cannot refresh its presence.
    pub blind: Gauge,
    /// 1 from when this node is drained on.
    pub draining: Gauge,
    /// Streams that several connections read as one: everyone, and the topics that somebody here follows.
    pub shared_streams: Gauge,
    /// Items for shared streams that were dropped because the intake was full; head checks heal.
    pub intake_dropped: Counter,
}

impl DeliveryMetrics {
    /// All at zero, registered.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            connections: Gauge::default(),
            attached: Counter::default(),
            attach_seconds: Histogram::new(exponential_buckets(0.000_5, 2.0, 14)),
            delivered: Counter::default(),
            acks: Counter::default(),
            receipt_failures: Counter::default(),
            receipts_lost: Counter::default(),
            duplicates: Counter::default(),
            expired: Counter::default(),
            merged: Counter::default(),
            lagged: Counter::default(),
            lagged_connections: Gauge::default(),
            overdue_connections: Gauge::default(),
            window_full: Counter::default(),
            reads: Family::default(),
            read_failures: Counter::default(),
            head_repairs: Counter::default(),
            read_repairs: Counter::default(),
            byes: Family::default(),
            damaged_envelopes: Counter::default(),
            blind: Gauge::default(),
            draining: Gauge::default(),
            shared_streams: Gauge::default(),
            intake_dropped: Counter::default(),
        };
        metrics.enter(registry);
        metrics
    }

    fn enter(&self, registry: &mut Registry) {
        registry.register("connections", "Connections attached now", self.connections.clone());
        registry.register("connections_attached", "Connections that were attached", self.attached.clone());
        registry.register("attach_seconds", "Seconds from hello to welcome", self.attach_seconds.clone());
        registry.register(
            "delivery_notifications",
            "Notification frames handed to connections",
            self.delivered.clone(),
        );
        registry.register("delivery_acks", "Notifications acknowledged", self.acks.clone());
        registry.register(
            "delivery_receipt_failures",
            "Calls to note acknowledgements that failed",
            self.receipt_failures.clone(),
        );
        registry.register(
            "delivery_receipts_lost",
            "Acknowledgements that no receipt tells of",
            self.receipts_lost.clone(),
        );
        registry.register(
            "delivery_duplicates",
            "Pushed entries that a connection had already",
            self.duplicates.clone(),
        );
        registry.register(
            "delivery_expired",
            "Pushed entries that were past their time",
            self.expired.clone(),
        );
        registry.register(
            "delivery_merged",
            "Pushed entries that a newer one of their collapse key replaced before they were written",
            self.merged.clone(),
        );
        registry.register("delivery_lagged", "Times that a connection was held back", self.lagged.clone());
        registry.register(
            "delivery_lagged_connections",
            "Connections that are held back now",
            self.lagged_connections.clone(),
        );
        registry.register(
            "delivery_overdue_connections",
            "Connections that are past their age and not sent away yet",
            self.overdue_connections.clone(),
        );
        registry.register(
            "delivery_window_full",
            "Clients that were told window_full",
            self.window_full.clone(),
        );
        registry.register("delivery_reads", "Pages read from the inbox, by why", self.reads.clone());
        registry.register(
            "delivery_read_failures",
            "Reads from the inbox that failed",
            self.read_failures.clone(),
        );
        registry.register(
            "delivery_head_repairs",
            "Streams that a head check found behind",
            self.head_repairs.clone(),
        );
        registry.register(
            "delivery_read_repairs",
            "Connections that missed what their user had read and were told",
            self.read_repairs.clone(),
        );
        registry.register("delivery_byes", "Connections closed by the node, by reason", self.byes.clone());
        registry.register(
            "delivery_damaged_envelopes",
            "Envelopes that could not be read",
            self.damaged_envelopes.clone(),
        );
        registry.register(
            "delivery_blind",
            "1 while this node cannot refresh its presence",
            self.blind.clone(),
        );
        registry.register("delivery_draining", "1 from when this node is drained on", self.draining.clone());
        registry.register(
            "delivery_shared_streams",
            "Everyone, and the topics that somebody here follows",
            self.shared_streams.clone(),
        );
        registry.register(
            "delivery_intake_dropped",
            "Items dropped because the intake was full; head checks heal",
            self.intake_dropped.clone(),
        );
    }
}
