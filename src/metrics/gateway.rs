//! Metrics of the gateway.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// Counters and gauges of the gateway. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct GatewayMetrics {
    /// Calls that failed or timed out.
    pub failures: Counter,
}

impl GatewayMetrics {
    /// All at zero, registered.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("gateway_failures", "Calls that failed or timed out", metrics.failures.clone());
        metrics
    }
}
