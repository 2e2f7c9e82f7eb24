//! Metrics of the node as a whole: how its dependencies are.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What a node depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dependency {
    /// SQL.
    Inbox,
    /// Redis.
    Presence,
    /// RabbitMQ.
    Broker,
}

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It works.
    Up,
    /// It is there and takes nothing (RabbitMQ under an alarm).
    Blocked,
    /// It is away, or does not answer.
    Down,
}

/// A dependency and one of the states that it may be in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DependencyLabels {
    /// `inbox`, `presence` or `broker`.
    pub dependency: &'static str,
    /// `up`, `blocked` or `down`.
    pub state: &'static str,
}

/// Gauges of the node. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct NodeMetrics {
    /// 1 for the state that a dependency is in, 0 for the others.
    pub dependencies: Family<DependencyLabels, Gauge>,
}

impl NodeMetrics {
    /// All down, registered.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for dependency in [Dependency::Inbox, Dependency::Presence, Dependency::Broker] {
            metrics.dependency_is(dependency, Condition::Down);
        }
        registry.register(
            "dependency",
            "1 for the state that a dependency is in, 0 for the others",
            metrics.dependencies.clone(),
        );
        metrics
    }

    /// The state that a dependency is in now.
    pub fn dependency_is(&self, dependency: Dependency, now: Condition) {
        let dependency = match dependency {
            Dependency::Inbox => "inbox",
            Dependency::Presence => "presence",
            Dependency::Broker => "broker",
        };
        for (condition, state) in
            [(Condition::Up, "up"), (Condition::Blocked, "blocked"), (Condition::Down, "down")]
        {
            let gauge = self.dependencies.get_or_create(&DependencyLabels { dependency, state });
            gauge.set(i64::from(condition == now));
        }
    }
}
