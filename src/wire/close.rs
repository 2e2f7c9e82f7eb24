//! The one table of WebSocket close codes.
//!
//! 4000-4499: come back, after `reconnect_after_ms` if a `bye` named one, else with full-jitter
//! backoff. 4500-4999: do not come back as you are. 1002, 1003, 1007 and 1009 are RFC 6455
//! section 7.4.1's own. `docs/protocol.md` has the same table, held to this one by a test.

macro_rules! close_codes {
    ($($name:ident = $code:literal, $reason:literal, $meaning:literal;)*) => {
        /// Why the server closed a connection.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum CloseCode {
            $(#[doc = $meaning] $name,)*
        }

        impl CloseCode {
            /// Every code there is.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The number in the close frame.
            pub fn code(self) -> u16 {
                match self { $(Self::$name => $code),* }
            }

            /// The stable word in `bye` and in the close frame.
            pub fn reason(self) -> &'static str {
                match self { $(Self::$name => $reason),* }
            }

            /// A sentence for people.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning),* }
            }
        }
    };
}

close_codes! {
    Normal = 1000, "normal", "The client closed; nothing is wrong.";
    ProtocolError = 1002, "protocol_error", "A frame broke RFC 6455.";
    UnsupportedData = 1003, "unsupported_data", "A binary frame; Fanfare speaks text frames only.";
    InvalidText = 1007, "invalid_text", "A text frame was not UTF-8.";
    TooBig = 1009, "too_big", "A message was larger than the limit (16 KiB).";
    Draining = 4000, "draining", "The node is stopping; another one takes over.";
    TokenExpired = 4001, "token_expired", "The token ran out and was not refreshed in time.";
    HeartbeatTimeout = 4002, "heartbeat_timeout", "No pong arrived for two heartbeats.";
    SlowConsumer = 4003, "slow_consumer", "The client read nothing until the write deadline.";
    ClosedByOperator = 4004, "closed_by_operator", "An operator closed this connection.";
    Unavailable = 4005, "unavailable", "The node cannot serve this connection now (the inbox is away, or the keys of tokens are, or its user may have too many).";
    StreamReset = 4006, "stream_reset", "The store was restored; come back and resume.";
    Recycled = 4007, "recycled", "The connection has lasted long enough; the next one may be on another node.";
    RateLimited = 4008, "rate_limited", "The client sent frames too fast for too long.";
    Displaced = 4500, "displaced", "A newer connection of the same device took over.";
    InvalidToken = 4501, "invalid_token", "The token was refused.";
    InvalidFrame = 4502, "invalid_frame", "A frame was not what the protocol allows at that point.";
    HelloExpected = 4503, "hello_expected", "No hello arrived within 8 seconds.";
    TooManyDevices = 4504, "too_many_devices", "The user has as many devices as allowed.";
    Removed = 4505, "removed", "This device was removed, or its user was erased.";
    TooManyConnections = 4506, "too_many_connections", "The user has as many other connections as allowed.";
}

impl CloseCode {
    /// Whether the client should come back by itself.
    pub fn is_reconnectable(self) -> bool {
        (4000..4500).contains(&self.code())
    }
}
