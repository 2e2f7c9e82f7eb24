//! What frames mean to a client: positions in streams, doubles, gaps.
//!
//! Owns the client's half of the protocol, as any other client would write it. Pure: no I/O.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::domain::{DeviceId, TopicName};

/// What the client asks for in `hello`.
pub(super) struct Hello {
    pub(super) device: DeviceId,
    pub(super) manual_ack: bool,
    pub(super) topics: Vec<TopicName>,
}

/// How far the client has come in each stream, over all its connections.
pub(super) struct Follower {
    hello: Hello,
    positions: BTreeMap<String, Position>,
}

#[derive(Default)]
struct Position {
    /// Which life of the stream; empty until the server said so.
    epoch: String,
    seq: u64,
}

/// A server frame (the protocol's page says what each means); what is not listed here is left
/// to later clients.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Frame {
    Welcome(Welcome),
    Subscribed(StreamStart),
    Notification {
        stream: String,
        seq: Option<u64>,
        notification: Value,
    },
    Cancelled {
        stream: String,
        seq: u64,
        id: String,
    },
    CaughtUp {
        stream: String,
        through: u64,
    },
    Gap {
        stream: String,
        from: u64,
        to: u64,
    },
    Ping,
    Error {
        code: String,
        message: String,
    },
    Bye(Bye),
    #[serde(other)]
    Other,
}

/// The session has begun.
#[derive(Debug, PartialEq, Deserialize)]
pub(super) struct Welcome {
    node: String,
    user: String,
    device: Option<String>,
    heartbeat_ms: u64,
    unread: u64,
    #[serde(default)]
    streams: Vec<StreamStart>,
}

impl Welcome {
    /// How often the server pings.
    pub(super) fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat_ms)
    }

    /// For people.
    pub(super) fn in_words(&self) -> String {
        let device = self.device.as_deref().unwrap_or("no device");
        let (node, user, unread) = (&self.node, &self.user, self.unread);
        format!("connected to {node} as {user}, {device}; {unread} unread")
    }
}

/// Why the close frame follows.
#[derive(Debug, PartialEq, Deserialize)]
pub(super) struct Bye {
    pub(super) code: u16,
    pub(super) reason: String,
    reconnect_after_ms: Option<u64>,
}

impl Bye {
    /// When to come back, if the server says so.
    pub(super) fn after(&self) -> Option<Duration> {
        self.reconnect_after_ms.map(Duration::from_millis)
    }
}

/// Where a stream goes on, in `welcome` and `subscribed`.
#[derive(Debug, PartialEq, Deserialize)]
pub(super) struct StreamStart {
    stream: String,
    epoch: Option<String>,
    from: Option<u64>,
}

/// What a frame is to this client.
#[derive(Debug, PartialEq)]
pub(super) enum Taken {
    /// To be acted on.
    New(Frame),
    /// Shown before: to be acknowledged again, since the first time may have been lost.
    Double { stream: String, seq: u64 },
}

impl Follower {
    pub(super) fn new(hello: Hello) -> Self {
        Self {
            hello,
            positions: BTreeMap::new(),
        }
    }

    /// The `hello` frame; from the second connection on it says where to go on.
    pub(super) fn hello(&self, token: &str) -> String {
        let resume: Map<String, Value> = self
            .positions
            .iter()
            .filter(|(_, position)| !position.epoch.is_empty())
            .map(|(stream, at)| {
                let value = json!({"epoch": at.epoch, "seq": at.seq});
                (stream.clone(), value)
            })
            .collect();
        let mut hello = json!({
            "type": "hello",
            "token": token,
            "device": self.hello.device,
            "ack": if self.hello.manual_ack { "manual" } else { "auto" },
            "topics": self.hello.topics,
        });
        if !resume.is_empty() {
            hello["resume"] = Value::Object(resume);
        }
        hello.to_string()
    }

    /// The `ack` frame, unless the server acknowledges by itself.
    pub(super) fn ack(&self, stream: &str, seq: u64) -> Option<String> {
        let ack = || json!({"type": "ack", "stream": stream, "seq": seq}).to_string();
        self.hello.manual_ack.then(ack)
    }

    /// Takes a frame, and moves on in its stream.
    ///
    /// # Errors
    /// The frame is none of the protocol's; in words.
    pub(super) fn take(&mut self, text: &str) -> Result<Taken, String> {
        let frame = serde_json::from_str(text)
            .map_err(|error| format!("the server sent a frame that cannot be read: {error}"))?;
        let (stream, seq, is_entry) = match &frame {
            Frame::Notification {
                stream,
                seq: Some(seq),
                ..
            }
            | Frame::Cancelled { stream, seq, .. } => (stream, *seq, true),
            Frame::CaughtUp { stream, through } => (stream, *through, false),
            Frame::Gap { stream, to, .. } => (stream, *to, false),
            Frame::Welcome(welcome) => {
                welcome.streams.iter().for_each(|start| self.start(start));
                return Ok(Taken::New(frame));
            }
            Frame::Subscribed(start) => {
                self.start(start);
                return Ok(Taken::New(frame));
            }
            _ => return Ok(Taken::New(frame)),
        };
        let is_new = self.moves(stream, seq);
        if is_entry && !is_new {
            let stream = stream.clone();
            return Ok(Taken::Double { stream, seq });
        }
        Ok(Taken::New(frame))
    }

    /// Where a stream goes on. In the same epoch never back: what comes again is a double.
    fn start(&mut self, start: &StreamStart) {
        let position = self.positions.entry(start.stream.clone()).or_default();
        let from = start.from.unwrap_or(position.seq);
        match &start.epoch {
            Some(epoch) if *epoch != position.epoch => {
                // What was known is of another life; without `from` the stream starts at 0.
                *position = Position {
                    epoch: epoch.clone(),
                    seq: start.from.unwrap_or(0),
                };
            }
            _ => position.seq = position.seq.max(from),
        }
    }

    /// Moves on to `seq`; `false` if the client has been there.
    fn moves(&mut self, stream: &str, seq: u64) -> bool {
        let position = self.positions.entry(stream.to_owned()).or_default();
        let is_new = seq > position.seq;
        position.seq = position.seq.max(seq);
        is_new
    }
}
