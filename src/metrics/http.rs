//! Metrics of the HTTP endpoints, on both listeners.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// By endpoint and outcome.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// The path's template, such as `/v1/notifications`; `unmatched` for paths that there are not.
    pub route: &'static str,
    /// `GET`, `HEAD`, `POST`, `DELETE`, `OPTIONS` or `other`.
    pub method: &'static str,
    /// `2xx`, `3xx`, `4xx` or `5xx`; `gone`: the client left before it had the answer.
    pub status: &'static str,
}

/// By endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RouteLabels {
    /// The path's template.
    pub route: &'static str,
}

/// Counters of the HTTP endpoints. Cloning shares them.
#[derive(Debug, Clone)]
pub struct HttpMetrics {
    /// Requests.
    pub requests: Family<RequestLabels, Counter>,
    /// Seconds from a request's head to its answer, the reading of its body included.
    pub seconds: Family<RouteLabels, Histogram>,
}

impl HttpMetrics {
    /// All at zero, registered.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.000_5, 2.0, 14))),
        };
        registry.register(
            "http_requests",
            "HTTP requests by route, method and class of status",
            metrics.requests.clone(),
        );
        registry.register(
            "http_request_seconds",
            "Seconds from the head of an HTTP request to its answer",
            metrics.seconds.clone(),
        );
        metrics
    }
}
