//! Metrics of the presence.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// Counters and gauges of the presence. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct PresenceMetrics {
    /// Calls that failed or timed out.
    pub failures: Counter,
}

impl PresenceMetrics {
    /// All at zero, registered.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("presence_failures", "Calls that failed or timed out", metrics.failures.clone());
        metrics
    }
}
