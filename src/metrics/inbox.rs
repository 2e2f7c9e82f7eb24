//! Metrics of the inbox.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// What was asked of the inbox.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CallLabels {
    /// The method, such as `append`.
    pub call: &'static str,
}

/// Why a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum InboxFailure {
    /// The store could not be reached, or failed.
    Unavailable,
    /// A deadline or lock time-out passed.
    Timeout,
    /// The store will never take an item.
    Refused,
}

/// A call and why it failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FailureLabels {
    /// The method, such as `append`.
    pub call: &'static str,
    /// Why.
    pub kind: InboxFailure,
}

/// What became of notifications for recipients.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReceiptLabels {
    /// The state's word, such as `delivered`.
    pub state: &'static str,
}

/// Counters and histograms of the inbox. Cloning shares them.
#[derive(Debug, Clone)]
pub struct InboxMetrics {
    /// How long a statement or transaction took, waiting for a connection included.
    pub call_seconds: Family<CallLabels, Histogram>,
    /// Calls that failed or timed out.
    pub failures: Family<FailureLabels, Counter>,
    /// Notifications committed.
    pub appended: Counter,
    /// Entries committed: a notification has one for each recipient.
    pub entries: Counter,
    /// Requests answered by an idempotency key's first answer.
    pub replays: Counter,
    /// Groups that were halved because an item in them was refused.
    pub halved: Counter,
    /// Rows that the sweep removed.
    pub swept: Counter,
    /// Entries that came into a state, each counted once a state: one of a user's stream for each
    /// recipient, one of a topic or everyone for all who follow it.
    pub receipts: Family<ReceiptLabels, Counter>,
}

impl InboxMetrics {
    /// All at zero, registered.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register_with_unit(
            "inbox_call",
            "How long the store took, waiting for a connection included",
            Unit::Seconds,
            metrics.call_seconds.clone(),
        );
        registry.register("inbox_failures", "Calls that failed or timed out", metrics.failures.clone());
        registry.register("inbox_appended", "Notifications committed", metrics.appended.clone());
        registry.register(
            "inbox_entries",
            "Entries committed: a notification has one for each recipient",
            metrics.entries.clone(),
        );
        registry.register(
            "inbox_replays",
            "Requests answered by the first answer of their idempotency key",
            metrics.replays.clone(),
        );
        registry.register(
            "inbox_halved_groups",
            "Groups halved because an item in them was refused",
            metrics.halved.clone(),
        );
        registry.register(
            "inbox_swept_rows",
            "Rows removed because they were out of date",
            metrics.swept.clone(),
        );
        registry.register(
            "receipts",
            "Entries that came to be stored, delivered, read, expired, superseded, cancelled or dropped",
            metrics.receipts.clone(),
        );
        metrics
    }

    /// Acknowledged / (accepted - expired - superseded - cancelled), by these counters.
    pub fn delivery_rate(&self) -> f64 {
        let count = |state| self.receipts.get_or_create(&ReceiptLabels { state }).get() as f64;
        let worth = count("stored") - count("expired") - count("superseded") - count("cancelled");
        // What others accepted may end here: then these counters alone say nothing.
        if worth > 0.0 { count("delivered") / worth } else { f64::NAN }
    }

    /// Counts entries that came into a state, by its word.
    pub fn count_receipts(&self, state: &'static str, entries: u64) {
        if entries > 0 {
            self.receipts.get_or_create(&ReceiptLabels { state }).inc_by(entries);
        }
    }
}

impl Default for InboxMetrics {
    fn default() -> Self {
        // From a commit on a fast disk (0.5 ms) to the default deadline.
        let buckets = || Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0, 5.0]);
        Self {
            call_seconds: Family::new_with_constructor(buckets),
            failures: Family::default(),
            appended: Counter::default(),
            entries: Counter::default(),
            replays: Counter::default(),
            halved: Counter::default(),
            swept: Counter::default(),
            receipts: Family::default(),
        }
    }
}
