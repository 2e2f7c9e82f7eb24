//! Metrics of the broker.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// Counters and gauges of the broker. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct BrokerMetrics {
    /// Calls that failed or timed out.
    pub failures: Counter,
}

impl BrokerMetrics {
    /// All at zero, registered.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("broker_failures", "Calls that failed or timed out", metrics.failures.clone());
        metrics
    }
}
