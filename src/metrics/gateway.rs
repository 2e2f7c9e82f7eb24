//! Metrics of the gateway: sockets, handshakes, frames.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// How a handshake ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HandshakeLabels {
    /// `accepted`, `malformed`, `version`, `full`, `address` (as many as may come from one), `rate` (more
    /// a second than are let in), `rejected` (by authentication) or `lost`.
    pub outcome: &'static str,
}

/// How a WebSocket ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CloseLabels {
    /// The close code; `other` for codes that clients make up, `none` without a close frame.
    pub code: String,
    /// Who closed: `server`, `client`, or `network`.
    pub side: &'static str,
}

/// Counters and gauges of the gateway. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct GatewayMetrics {
    /// TCP connections accepted.
    pub accepted: Counter,
    /// TCP connections refused because as many as allowed were open.
    pub refused: Counter,
    /// Failures of `accept` (such as: out of file descriptors).
    pub accept_errors: Counter,
    /// Handshakes by outcome.
    pub handshakes: Family<HandshakeLabels, Counter>,
    /// WebSockets open now.
    pub sockets: Gauge,
    /// WebSockets ended, by code and side.
    pub closes: Family<CloseLabels, Counter>,
    /// WebSockets dropped because nothing could be written until the write deadline.
    pub write_deadlines: Counter,
    /// WebSockets dropped because more was queued for them than may be.
    pub overfull: Counter,
    /// Times that reading from a WebSocket paused because it sent frames too fast.
    pub throttled: Counter,
    /// Bytes read from WebSockets.
    pub bytes_in: Counter,
    /// Bytes written to WebSockets.
    pub bytes_out: Counter,
    /// Frames read from WebSockets, of any kind.
    pub frames_in: Counter,
    /// Frames taken for WebSockets, of any kind.
    pub frames_out: Counter,
    /// Frames dropped because they expired while they waited for a client that reads slowly.
    pub frames_expired: Counter,
}

impl GatewayMetrics {
    /// All at zero, registered.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for (name, help, counter) in metrics.counters() {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            "gateway_handshakes",
            "WebSocket handshakes by outcome",
            metrics.handshakes.clone(),
        );
        registry.register("gateway_sockets", "WebSockets open now", metrics.sockets.clone());
        registry.register(
            "gateway_closes",
            "WebSockets ended, by close code and side",
            metrics.closes.clone(),
        );
        metrics
    }

    fn counters(&self) -> [(&'static str, &'static str, &Counter); 11] {
        [
            ("gateway_accepted", "TCP connections accepted", &self.accepted),
            ("gateway_refused", "TCP connections refused at the connection limit", &self.refused),
            ("gateway_accept_errors", "Failures to accept a TCP connection", &self.accept_errors),
            ("gateway_write_deadlines", "WebSockets dropped at the write deadline", &self.write_deadlines),
            ("gateway_overfull", "WebSockets dropped because too much was queued for them", &self.overfull),
            (
                "gateway_throttled",
                "Pauses of reading from WebSockets that sent frames too fast",
                &self.throttled,
            ),
            ("gateway_bytes_in", "Bytes read from WebSockets", &self.bytes_in),
            ("gateway_bytes_out", "Bytes written to WebSockets", &self.bytes_out),
            ("gateway_frames_in", "Frames read from WebSockets", &self.frames_in),
            ("gateway_frames_out", "Frames taken for WebSockets", &self.frames_out),
            (
                "gateway_frames_expired",
                "Frames that expired while they waited for a WebSocket",
                &self.frames_expired,
            ),
        ]
    }

    /// Counts one handshake.
    pub fn handshake(&self, outcome: &'static str) {
        self.handshakes.get_or_create(&HandshakeLabels { outcome }).inc();
    }

    /// Counts one end of a WebSocket. Only well-known codes may be given: a client can make up
    /// two thousand.
    pub fn close(&self, side: &'static str, code: String) {
        self.closes.get_or_create(&CloseLabels { code, side }).inc();
    }
}
