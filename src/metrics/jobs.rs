//! Metrics of the jobs in the background, and of what they do.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// All jobs, so that each counter is there at zero before its first round.
pub const JOBS: [&str; 13] = [
    "events",
    "events_backlog",
    "expiry",
    "presence",
    "reconcile",
    "retention_age",
    "retention_count",
    "retention_scan",
    "revocations",
    "schedule",
    "survivor",
    "sweep",
    "undelivered",
];

/// Which job. Not `job`, which is what Prometheus calls the target: it would rename ours.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct JobLabels {
    /// One of [`JOBS`].
    pub name: &'static str,
}

/// Which change.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ChangeLabels {
    /// `online` or `offline`.
    pub change: &'static str,
}

/// Counters and gauges of the jobs. Cloning shares them.
#[derive(Debug, Clone)]
pub struct JobMetrics {
    /// Rounds that were done, by job.
    pub rounds: Family<JobLabels, Counter>,
    /// Rounds that failed, by job.
    pub failures: Family<JobLabels, Counter>,
    /// Things done, by job.
    pub done: Family<JobLabels, Counter>,
    /// How late scheduled notifications were published.
    pub schedule_late: Histogram,
    /// Events that wait to be told, of all nodes.
    pub events_waiting: Gauge,
    /// How long the oldest of them has waited, in seconds.
    pub events_oldest: Gauge,
    /// Changes of presence that backends are told.
    pub presence_changes: Family<ChangeLabels, Counter>,
    /// Comings and goings that were not looked at because too many were waiting.
    pub watch_dropped: Counter,
}

impl JobMetrics {
    /// All at zero, registered.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for job in JOBS {
            let labels = JobLabels { name: job };
            let _ = metrics.rounds.get_or_create(&labels);
            let _ = metrics.failures.get_or_create(&labels);
            let _ = metrics.done.get_or_create(&labels);
        }
        for change in ["online", "offline"] {
            let _ = metrics.presence_changes.get_or_create(&ChangeLabels { change });
        }
        metrics.enter(registry);
        metrics
    }

    fn enter(&self, registry: &mut Registry) {
        registry.register("jobs_rounds", "Rounds of the jobs in the background, by job", self.rounds.clone());
        registry.register("jobs_failures", "Rounds that failed, by job", self.failures.clone());
        registry.register("jobs_done", "Things done in the background, by job", self.done.clone());
        registry.register_with_unit(
            "jobs_schedule_late",
            "How late scheduled notifications were published",
            Unit::Seconds,
            self.schedule_late.clone(),
        );
        registry.register(
            "events_waiting",
            "Events that wait to be told to backends, of all nodes",
            self.events_waiting.clone(),
        );
        registry.register_with_unit(
            "events_oldest",
            "How long the oldest event that waits has waited",
            Unit::Seconds,
            self.events_oldest.clone(),
        );
        registry.register(
            "presence_changes",
            "Users who came or went, as told to backends",
            self.presence_changes.clone(),
        );
        registry.register(
            "presence_watch_dropped",
            "Comings and goings that were not looked at because too many were waiting",
            self.watch_dropped.clone(),
        );
    }
}

impl Default for JobMetrics {
    fn default() -> Self {
        Self {
            rounds: Family::default(),
            failures: Family::default(),
            done: Family::default(),
            schedule_late: Histogram::new(exponential_buckets(0.062_5, 2.0, 14)),
            events_waiting: Gauge::default(),
            events_oldest: Gauge::default(),
            presence_changes: Family::default(),
            watch_dropped: Counter::default(),
        }
    }
}
