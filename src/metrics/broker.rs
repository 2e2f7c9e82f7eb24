//! Metrics of the broker.
//!
//! Owns what is counted of envelopes, control requests and ingress. Labels are fixed texts only:
//! a lane, an outcome, a reason; never a node or a user.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Why something was dropped, or how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// A fixed word.
    pub reason: &'static str,
}

/// How an ingress message of a lane ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Settled {
    /// `high`, `normal` or `low`.
    pub lane: &'static str,
    /// `done`, `dead` or `later`.
    pub outcome: &'static str,
}

/// Counters and gauges of the broker. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct BrokerMetrics {
    /// Calls that failed or timed out.
    pub failures: Counter,
    /// 1 while connected and taking messages, else 0.
    pub up: Gauge,
    /// 1 while connected but blocked by an alarm, else 0.
    pub blocked: Gauge,
    /// Sessions (connections with topology and consumers) that were opened.
    pub sessions: Counter,
    /// Envelopes that were handed over to go.
    pub envelopes: Counter,
    /// Messages that carried them; several envelopes go as one.
    pub messages: Counter,
    /// Empty messages to nobody, sent while there is nothing else, to hear of an alarm.
    pub probes: Counter,
    /// Envelopes waiting to go.
    pub waiting: Gauge,
    /// Messages whose confirm has not come yet.
    pub unconfirmed: Gauge,
    /// Messages that came in, each one or more envelopes.
    pub arrived: Counter,
    /// Envelopes or messages dropped: `full`, `down`, `blocked`, `disconnected`, `refused`, `inlet_full`.
    pub dropped: Family<Reason, Counter>,
    /// Messages for a node that is not there.
    pub unroutable: Counter,
    /// Control requests by how they ended: `answered`, `no_answer`, `not_taken`.
    pub requests: Family<Reason, Counter>,
    /// Events for backends by how they ended: `confirmed`, `refused`; `not_confirmed` counts calls, not events.
    pub events: Family<Reason, Counter>,
    /// Ingress messages by lane and how they were settled.
    pub ingress: Family<Settled, Counter>,
    /// Ingress messages taken and not settled yet.
    pub unsettled: Gauge,
    /// Ingress messages that outlived their expiration in a lane.
    pub expired: Counter,
    /// Dead letters in `fanfare.dead`, as last counted.
    pub dead_letters_kept: Gauge,
    /// Dead letters that operators took out: `requeued`, `deleted`.
    pub dead_letters_settled: Family<Reason, Counter>,
    /// Messages kept in `fanfare.dead`, by the code of the reason.
    pub dead_letters: Family<Reason, Counter>,
}

impl BrokerMetrics {
    /// All at zero, registered.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        metrics.register_transport(registry);
        metrics.register_ingress(registry);
        metrics
    }

    /// Counts one drop of `count` for `reason`.
    pub fn drop_for(&self, reason: &'static str, count: u64) {
        if count > 0 {
            self.dropped.get_or_create(&Reason { reason }).inc_by(count);
        }
    }

    /// Counts one control request that ended so.
    pub fn request_ended(&self, reason: &'static str) {
        self.requests.get_or_create(&Reason { reason }).inc();
    }

    /// Counts one event, or one call without confirms.
    pub fn event_ended(&self, reason: &'static str) {
        self.events.get_or_create(&Reason { reason }).inc();
    }

    /// Counts one settled ingress message.
    pub fn settled(&self, lane: &'static str, outcome: &'static str) {
        self.ingress.get_or_create(&Settled { lane, outcome }).inc();
    }

    /// Counts one dead letter that an operator took out.
    pub fn dead_letter_settled(&self, reason: &'static str) {
        self.dead_letters_settled.get_or_create(&Reason { reason }).inc();
    }

    /// Counts one message kept as a dead letter.
    pub fn dead_letter(&self, reason: &'static str) {
        self.dead_letters.get_or_create(&Reason { reason }).inc();
    }

    fn register_transport(&self, registry: &mut Registry) {
        registry.register("broker_failures", "Calls that failed or timed out", self.failures.clone());
        registry.register("broker_up", "1 while connected and taking messages", self.up.clone());
        registry.register(
            "broker_blocked",
            "1 while connected but blocked by an alarm of the broker",
            self.blocked.clone(),
        );
        registry.register(
            "broker_sessions",
            "Sessions opened: connections, topology and consumers",
            self.sessions.clone(),
        );
        registry.register(
            "broker_envelopes",
            "Envelopes that were taken to go to nodes",
            self.envelopes.clone(),
        );
        registry.register(
            "broker_messages",
            "Messages published to nodes; each carries one or more envelopes",
            self.messages.clone(),
        );
        registry.register(
            "broker_probes",
            "Empty messages to nobody, to hear whether the broker has an alarm",
            self.probes.clone(),
        );
        registry.register(
            "broker_waiting_envelopes",
            "Envelopes waiting to be published",
            self.waiting.clone(),
        );
        registry.register(
            "broker_unconfirmed_messages",
            "Published messages whose confirm has not come",
            self.unconfirmed.clone(),
        );
        registry.register(
            "broker_arrived_messages",
            "Messages with envelopes that arrived at this node",
            self.arrived.clone(),
        );
        registry.register(
            "broker_dropped",
            "Envelopes and messages dropped, by reason",
            self.dropped.clone(),
        );
        registry.register(
            "broker_unroutable",
            "Messages for nodes that were not there",
            self.unroutable.clone(),
        );
        registry.register("broker_requests", "Control requests, by how they ended", self.requests.clone());
        registry.register(
            "broker_events",
            "Events for backends, by whether the broker confirmed them",
            self.events.clone(),
        );
    }

    fn register_ingress(&self, registry: &mut Registry) {
        registry.register(
            "broker_ingress_settled",
            "Ingress messages settled, by lane and outcome",
            self.ingress.clone(),
        );
        registry.register(
            "broker_ingress_unsettled",
            "Ingress messages taken and not settled yet",
            self.unsettled.clone(),
        );
        registry.register(
            "broker_ingress_expired",
            "Ingress messages that outlived their expiration in a lane",
            self.expired.clone(),
        );
        registry.register(
            "broker_dead_letters",
            "Messages kept in fanfare.dead, by reason code",
            self.dead_letters.clone(),
        );
        registry.register(
            "broker_dead_letters_kept",
            "Dead letters in fanfare.dead, as last counted",
            self.dead_letters_kept.clone(),
        );
        registry.register(
            "broker_dead_letters_settled",
            "Dead letters that operators requeued or deleted",
            self.dead_letters_settled.clone(),
        );
    }
}
