//! Metrics of publishing and routing.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// By how it came in and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PublishLabels {
    /// `http`, `amqp`, or `schedule` for what was due.
    pub source: &'static str,
    /// `accepted`, `sent`, `scheduled`, `replayed`, `ended` (a schedule that is no more), or the code of the refusal.
    pub outcome: &'static str,
}

/// By how a wait ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WaitLabels {
    /// `settled`, `deadline`, `too_many` (it did not begin) or `gone` (whoever waited).
    pub outcome: &'static str,
}

/// By where an envelope went.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RouteLabels {
    /// `local`, `node` or `all`.
    pub destination: &'static str,
}

/// Counters of publishing and routing. Cloning shares them.
#[derive(Debug, Clone)]
pub struct PublishMetrics {
    /// Publish requests.
    pub requests: Family<PublishLabels, Counter>,
    /// Entries that were committed.
    pub entries: Counter,
    /// Seconds from the request to its commit.
    pub commit_seconds: Histogram,
    /// Locates that failed or timed out: their envelopes went to all nodes.
    pub locate_failures: Counter,
    /// Envelopes handed over, by destination.
    pub envelopes: Family<RouteLabels, Counter>,
    /// Envelopes that the broker did not take; head checks bring their entries.
    pub envelopes_not_taken: Counter,
    /// Ingress messages put back because the inbox was away.
    pub ingress_deferred: Counter,
    /// Requests that wait for what becomes of their notification.
    pub waiting: Gauge,
    /// Those that waited, by how that ended.
    pub waits: Family<WaitLabels, Counter>,
    /// Acknowledged / (accepted - expired - superseded - cancelled) by this node's counters; not a number while
    /// that is nothing. Computed when metrics are scraped.
    pub delivery_rate: Gauge<f64, AtomicU64>,
}

impl PublishMetrics {
    /// All at zero, registered.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            entries: Counter::default(),
            commit_seconds: Histogram::new(exponential_buckets(0.000_5, 2.0, 14)),
            locate_failures: Counter::default(),
            envelopes: Family::default(),
            envelopes_not_taken: Counter::default(),
            ingress_deferred: Counter::default(),
            waiting: Gauge::default(),
            waits: Family::default(),
            delivery_rate: Gauge::default(),
        };
        registry.register(
            "publish_requests",
            "Publish requests by source and outcome",
            metrics.requests.clone(),
        );
        registry.register("publish_entries", "Entries committed", metrics.entries.clone());
        registry.register(
            "publish_commit_seconds",
            "Seconds from a publish request to its commit",
            metrics.commit_seconds.clone(),
        );
        registry.register(
            "routing_locate_failures",
            "Locates that failed or timed out; their envelopes went to all nodes",
            metrics.locate_failures.clone(),
        );
        registry.register("routing_envelopes", "Envelopes handed over", metrics.envelopes.clone());
        registry.register(
            "routing_envelopes_not_taken",
            "Envelopes that the broker did not take; head checks bring their entries",
            metrics.envelopes_not_taken.clone(),
        );
        registry.register(
            "publish_ingress_deferred",
            "Ingress messages put back because the inbox was away",
            metrics.ingress_deferred.clone(),
        );
        registry.register(
            "publish_waiting",
            "Requests that wait for what becomes of their notification",
            metrics.waiting.clone(),
        );
        registry.register(
            "publish_waits",
            "Requests that waited for what became of their notification, by how that ended",
            metrics.waits.clone(),
        );
        registry.register(
            "delivery_rate",
            "Entries acknowledged of those that this node's counters know as accepted and not expired, superseded or cancelled",
            metrics.delivery_rate.clone(),
        );
        metrics
    }
}
