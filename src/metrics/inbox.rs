//! Metrics of the inbox.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// Counters and gauges of the inbox. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct InboxMetrics {
    /// Calls that failed or timed out.
    pub failures: Counter,
}

impl InboxMetrics {
    /// All at zero, registered.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("inbox_failures", "Calls that failed or timed out", metrics.failures.clone());
        metrics
    }
}
