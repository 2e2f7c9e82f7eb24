//! Metrics of authentication: the keys that are fetched, the tokens that are revoked.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// How a fetch ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FetchLabels {
    /// `ok` or `failed`.
    pub outcome: &'static str,
}

/// What is counted of keys and tokens. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct AuthMetrics {
    /// Fetches of the set.
    pub fetches: Family<FetchLabels, Counter>,
    /// Keys of the set in force.
    pub keys: Gauge,
    /// Keys of the last good set that are left out.
    pub left_out: Gauge,
    /// Tokens of an unknown `kid` that caused no fetch, since another had only just done so.
    pub suppressed: Counter,
    /// Revocations that this node knows.
    pub revocations: Gauge,
    /// Tokens that were refused because they are revoked.
    pub revoked: Counter,
}

impl AuthMetrics {
    /// All at zero, registered.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for outcome in ["ok", "failed"] {
            let _ = metrics.fetches.get_or_create(&FetchLabels { outcome });
        }
        registry.register("auth_jwks_fetches", "Fetches of the key set by outcome", metrics.fetches.clone());
        registry.register("auth_jwks_keys", "Keys of the key set in force", metrics.keys.clone());
        registry.register(
            "auth_jwks_left_out",
            "Keys of the last good key set that are left out",
            metrics.left_out.clone(),
        );
        registry.register(
            "auth_jwks_suppressed",
            "Tokens of an unknown kid that caused no fetch of the key set",
            metrics.suppressed.clone(),
        );
        registry.register(
            "auth_revocations",
            "Revocations that this node knows",
            metrics.revocations.clone(),
        );
        registry.register(
            "auth_revoked",
            "Tokens that were refused because they are revoked",
            metrics.revoked.clone(),
        );
        metrics
    }

    /// A fetch has ended.
    pub fn fetched(&self, well: bool) {
        let outcome = if well { "ok" } else { "failed" };
        self.fetches.get_or_create(&FetchLabels { outcome }).inc();
    }
}
