//! Every metric's name, type and help, one file a part of the system.
//!
//! Owns the registry that `/metrics` prints in the OpenMetrics text format. Metrics start with
//! `fanfare_`; labels are of low cardinality (never a user, device or topic).
//! `docs/metrics.md` lists them all, held to this module by a test.

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

pub mod auth;
pub mod broker;
pub mod delivery;
pub mod gateway;
pub mod http;
pub mod inbox;
pub mod jobs;
pub mod node;
pub mod presence;
pub mod publish;

/// All metrics of one node.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Of [`crate::auth`].
    pub auth: auth::AuthMetrics,
    /// Of [`crate::broker`].
    pub broker: broker::BrokerMetrics,
    /// Of delivery.
    pub delivery: delivery::DeliveryMetrics,
    /// Of the gateway: sockets and handshakes.
    pub gateway: gateway::GatewayMetrics,
    /// Of the HTTP endpoints.
    pub http: http::HttpMetrics,
    /// Of [`crate::inbox`].
    pub inbox: inbox::InboxMetrics,
    /// Of the jobs in the background.
    pub jobs: jobs::JobMetrics,
    /// Of the node as a whole.
    pub node: node::NodeMetrics,
    /// Of [`crate::presence`].
    pub presence: presence::PresenceMetrics,
    /// Of publishing and routing.
    pub publish: publish::PublishMetrics,
}

impl Metrics {
    /// A registry with everything at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("fanfare");
        let auth = auth::AuthMetrics::register(&mut registry);
        let broker = broker::BrokerMetrics::register(&mut registry);
        let gateway = gateway::GatewayMetrics::register(&mut registry);
        let http = http::HttpMetrics::register(&mut registry);
        let inbox = inbox::InboxMetrics::register(&mut registry);
        let jobs = jobs::JobMetrics::register(&mut registry);
        let node = node::NodeMetrics::register(&mut registry);
        let presence = presence::PresenceMetrics::register(&mut registry);
        Self {
            auth,
            broker,
            delivery: delivery::DeliveryMetrics::register(&mut registry),
            gateway,
            http,
            inbox,
            jobs,
            node,
            presence,
            publish: publish::PublishMetrics::register(&mut registry),
            registry,
        }
    }

    /// The text that Prometheus scrapes.
    pub fn encode(&self) -> String {
        self.publish.delivery_rate.set(self.inbox.delivery_rate());
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delivery_rate_is_what_was_acknowledged_of_what_was_worth_it() {
        let metrics = Metrics::new();
        assert!(metrics.encode().contains("\nfanfare_delivery_rate NaN\n"), "{}", metrics.encode());
        for (state, entries) in
            [("stored", 10), ("delivered", 3), ("expired", 1), ("superseded", 2), ("cancelled", 3)]
        {
            metrics.inbox.count_receipts(state, entries);
        }
        metrics.inbox.count_receipts("dropped", 1);
        assert!(metrics.encode().contains("\nfanfare_delivery_rate 0.75\n"), "{}", metrics.encode());
    }
}
