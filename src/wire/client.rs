//! Frames that clients send (JSON text, at most 16 KiB, one object each).
//!
//! Owns their shapes and the errors of a client that got one wrong. A frame that cannot be
//! read harms nothing: the connection stays and gets an `error`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::brief::brief;
use super::marked::Marked;
use super::server::ErrorCode;
use crate::domain::{DeviceId, Epoch, NotificationId, Seq, Stream, TopicName, UserId};

/// The `type` that has been read already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Ignored;

impl<'de> Deserialize<'de> for Ignored {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

/// When a notification counts as acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AckMode {
    /// When the client says so.
    #[default]
    Manual,
    /// When the pong of a later ping has arrived.
    Auto,
}

/// The first frame of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    #[serde(rename = "type", default)]
    _type: Ignored,
    /// Echoed by errors.
    #[serde(default)]
    pub id: Option<u64>,
    /// The user's token, unless the handshake brought one.
    #[serde(default)]
    pub token: Option<String>,
    /// Which device this is; without one there is no cursor.
    #[serde(default)]
    pub device: Option<DeviceId>,
    /// When notifications count as acknowledged.
    #[serde(default)]
    pub ack: AckMode,
    /// Topics to follow from the start.
    #[serde(default)]
    pub topics: Vec<TopicName>,
    /// Where the client is, by its names of the streams (`user`, `topic:<name>`, `everyone`).
    #[serde(default)]
    pub resume: BTreeMap<String, ResumeAt>,
    /// Whether to ping with JSON frames instead of WebSocket pings, for clients that cannot see those.
    #[serde(default)]
    pub ping: bool,
}

/// A place in a stream that a client remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResumeAt {
    /// The epoch it was in.
    #[serde(deserialize_with = "epoch")]
    pub epoch: Epoch,
    /// The last seq it has.
    #[serde(deserialize_with = "seq")]
    pub seq: Seq,
}

impl Hello {
    /// Where the client says it is in `stream`.
    pub fn resume_at(&self, stream: &Stream) -> Option<ResumeAt> {
        self.resume.get(&stream.client_name().to_string()).copied()
    }
}

/// What a client may send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientFrame {
    /// The first frame.
    Hello(Box<Hello>),
    /// Everything in `stream` up to `seq` is acknowledged.
    Ack {
        /// Echoed by errors.
        id: Option<u64>,
        /// Which stream.
        stream: Stream,
        /// Up to where.
        seq: Seq,
    },
    /// The person has read these.
    Read {
        /// Echoed by the answer.
        id: Option<u64>,
        /// In which stream.
        stream: Stream,
        /// Which: some by id, or all up to a seq.
        marked: Marked,
    },
    /// The answer to a `ping` frame.
    Pong,
    /// A ping of the client's own; answered with `pong`.
    Ping {
        /// Echoed by the answer.
        id: Option<u64>,
    },
    /// Follow a topic.
    Subscribe {
        /// Echoed by the answer.
        id: Option<u64>,
        /// Which.
        topic: TopicName,
        /// Start after this seq (of any epoch) instead of at the head.
        since: Option<Seq>,
    },
    /// Stop following a topic.
    Unsubscribe {
        /// Echoed by the answer.
        id: Option<u64>,
        /// Which.
        topic: TopicName,
    },
    /// A newer token of the same user.
    Refresh {
        /// Echoed by the answer.
        id: Option<u64>,
        /// The token.
        token: String,
    },
}

/// Why a client frame cannot be read. Told to the client; the connection stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameError {
    /// The frame's `id`, if that much could be read.
    pub id: Option<u64>,
    /// Its code.
    pub code: ErrorCode,
    /// What is wrong, naming the field and the value; at most [`MAX_BYTES`](super::brief::MAX_BYTES) long.
    pub message: String,
}

#[derive(Deserialize)]
struct Probe<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(default)]
    id: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AckShape {
    #[serde(rename = "type", default)]
    _type: Ignored,
    #[serde(default)]
    id: Option<u64>,
    stream: String,
    #[serde(deserialize_with = "seq")]
    seq: Seq,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadShape {
    #[serde(rename = "type", default)]
    _type: Ignored,
    #[serde(default)]
    id: Option<u64>,
    #[serde(default)]
    stream: Option<String>,
    #[serde(default)]
    ids: Vec<String>,
    #[serde(default, deserialize_with = "some_seq")]
    up_to: Option<Seq>,
}

impl ReadShape {
    fn marked(&self) -> Result<Marked, String> {
        let ids = self.ids.iter().map(|id| id.parse::<NotificationId>());
        let ids = ids.collect::<Result<Vec<_>, _>>().map_err(|error| format!("ids: {error}"))?;
        match (ids.is_empty(), self.up_to) {
            (false, None) => Ok(Marked::Ids(ids)),
            (true, Some(seq)) => Ok(Marked::UpTo(seq)),
            _ => Err("a read frame has either ids (at least one) or up_to".to_owned()),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BareShape {
    #[serde(rename = "type", default)]
    _type: Ignored,
    #[serde(default)]
    id: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TopicShape {
    #[serde(rename = "type", default)]
    _type: Ignored,
    #[serde(default)]
    id: Option<u64>,
    topic: TopicName,
    #[serde(default, deserialize_with = "some_seq")]
    since: Option<Seq>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RefreshShape {
    #[serde(rename = "type", default)]
    _type: Ignored,
    #[serde(default)]
    id: Option<u64>,
    token: String,
}

impl ClientFrame {
    /// Reads one frame of the connection of `user` (whose own stream clients call `user`).
    ///
    /// # Errors
    /// Names the field that is missing, unknown or wrong.
    pub fn parse(text: &str, user: Option<&UserId>) -> Result<Self, FrameError> {
        let probe: Probe<'_> = serde_json::from_str(text).map_err(|error| FrameError {
            id: None,
            code: ErrorCode::InvalidFrame,
            message: brief(format!("a frame is a JSON object with a type; {error}")),
        })?;
        let id = probe.id;
        match &*probe.kind {
            "hello" => shape::<Hello>(text, id).map(|hello| Self::Hello(Box::new(hello))),
            "ack" => {
                let ack: AckShape = shape(text, id)?;
                let stream = client_stream(&ack.stream, user).map_err(|message| invalid(id, message))?;
                Ok(Self::Ack { id: ack.id, stream, seq: ack.seq })
            }
            "read" => {
                let read: ReadShape = shape(text, id)?;
                let stream = client_stream(read.stream.as_deref().unwrap_or("user"), user)
                    .map_err(|message| invalid(id, message))?;
                let marked = read.marked().map_err(|message| invalid(id, message))?;
                Ok(Self::Read { id: read.id, stream, marked })
            }
            "pong" => shape::<BareShape>(text, id).map(|_| Self::Pong),
            "ping" => shape::<BareShape>(text, id).map(|bare| Self::Ping { id: bare.id }),
            "subscribe" => shape::<TopicShape>(text, id).map(|frame| Self::Subscribe {
                id: frame.id,
                topic: frame.topic,
                since: frame.since,
            }),
            "unsubscribe" => shape::<TopicShape>(text, id)
                .map(|frame| Self::Unsubscribe { id: frame.id, topic: frame.topic }),
            "refresh" => shape::<RefreshShape>(text, id)
                .map(|frame| Self::Refresh { id: frame.id, token: frame.token }),
            other => Err(FrameError {
                id,
                code: ErrorCode::UnknownFrameType,
                message: format!(
                    "type must be hello, ack, read, ping, pong, subscribe, unsubscribe or refresh; got {:?}",
                    other.chars().take(64).collect::<String>()
                ),
            }),
        }
    }
}

fn invalid(id: Option<u64>, message: String) -> FrameError {
    FrameError { id, code: ErrorCode::InvalidFrame, message: brief(message) }
}

fn shape<T: DeserializeOwned>(text: &str, id: Option<u64>) -> Result<T, FrameError> {
    let mut json = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let place = if path == "." { String::new() } else { format!("{path}: ") };
        invalid(id, format!("{place}{}", error.into_inner()))
    })
}

/// Reads a client's name of a stream.
fn client_stream(name: &str, user: Option<&UserId>) -> Result<Stream, String> {
    match (name, user) {
        ("user", Some(user)) => Ok(Stream::User(user.clone())),
        ("everyone", _) => Ok(Stream::Everyone),
        _ if name.starts_with("topic:") => Stream::parse(name),
        _ => Err(format!("stream must be user, everyone or topic:<name>; got {name:?}")),
    }
}

fn epoch<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Epoch, D::Error> {
    let text = Cow::<'de, str>::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

fn seq<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Seq, D::Error> {
    u64::deserialize(deserializer).map(Seq)
}

fn some_seq<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Seq>, D::Error> {
    Option::<u64>::deserialize(deserializer).map(|seq| seq.map(Seq))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alice() -> UserId {
        UserId::new("alice").expect("a valid id")
    }

    #[test]
    fn an_ack_names_a_stream_as_the_client_sees_it() {
        let frame = ClientFrame::parse(r#"{"type":"ack","stream":"user","seq":119}"#, Some(&alice()));
        assert_eq!(frame, Ok(ClientFrame::Ack { id: None, stream: Stream::User(alice()), seq: Seq(119) }));
        assert!(ClientFrame::parse(r#"{"type":"ack","stream":"user:bob","seq":1}"#, Some(&alice())).is_err());
    }

    #[test]
    fn a_read_names_notifications_or_a_seq_and_the_users_own_stream_unless_it_says_another() {
        let id = "019ab3f0-c7d2-7f04-a1b2-0123456789ab";
        let parse = |text: &str| ClientFrame::parse(text, Some(&alice()));
        let marked = Marked::Ids(vec![id.parse().expect("an id")]);
        assert_eq!(
            parse(&format!(r#"{{"type":"read","id":4,"ids":["{id}"]}}"#)),
            Ok(ClientFrame::Read { id: Some(4), stream: Stream::User(alice()), marked })
        );
        assert_eq!(
            parse(r#"{"type":"read","stream":"everyone","up_to":119}"#),
            Ok(ClientFrame::Read { id: None, stream: Stream::Everyone, marked: Marked::UpTo(Seq(119)) })
        );
        let both = format!(r#"{{"type":"read","ids":["{id}"],"up_to":1}}"#);
        for wrong in [&both, r#"{"type":"read"}"#, r#"{"type":"read","ids":["x"]}"#] {
            assert_eq!(parse(wrong).map_err(|error| error.code), Err(ErrorCode::InvalidFrame), "{wrong}");
        }
    }

    #[test]
    fn hello_brings_device_topics_and_resume() {
        let text = r#"{"type":"hello","token":"t","device":"web-1","ack":"auto","topics":["news"],
            "resume":{"user":{"epoch":"k3","seq":118}},"ping":true}"#;
        let Ok(ClientFrame::Hello(hello)) = ClientFrame::parse(text, None) else { panic!("a hello") };
        assert_eq!(hello.ack, AckMode::Auto);
        assert_eq!(
            hello.resume_at(&Stream::User(alice())),
            Some(ResumeAt { epoch: Epoch(3), seq: Seq(118) })
        );
        assert_eq!(hello.resume_at(&Stream::Everyone), None);
    }

    #[test]
    fn errors_name_the_field_and_echo_the_id() {
        for (text, code, word) in [
            (r#"{"type":"ack","id":7,"stream":"user","seq":-1}"#, ErrorCode::InvalidFrame, "seq"),
            (r#"{"type":"ack","id":7,"stream":"user","seq":1,"extra":1}"#, ErrorCode::InvalidFrame, "extra"),
            (r#"{"type":"subscribe","id":7,"topic":"a b"}"#, ErrorCode::InvalidFrame, "topic"),
            (r#"{"type":"dance","id":7}"#, ErrorCode::UnknownFrameType, "dance"),
        ] {
            let error = ClientFrame::parse(text, Some(&alice())).expect_err(text);
            assert_eq!((error.id, error.code), (Some(7), code), "{text}");
            assert!(error.message.contains(word), "{text}: {}", error.message);
        }
        assert!(ClientFrame::parse("nonsense", None).is_err());
    }

    #[test]
    fn errors_are_short_whatever_they_are_about() {
        let long = "é".repeat(4_000);
        for text in [
            format!(r#"{{"type":"ack","stream":"{long}","seq":1}}"#),
            format!(r#"{{"type":"ack","id":"{long}"}}"#),
            format!(r#"{{"type":"hello","{long}":1}}"#),
            format!(r#"{{"type":"hello","resume":{{"{long}":7}}}}"#),
            format!(r#"{{"type":"hello","resume":{{"user":{{"epoch":"{long}","seq":1}}}}}}"#),
            format!(r#"{{"type":"read","ids":["{long}"]}}"#),
            format!(r#"{{"type":"{long}"}}"#),
        ] {
            let error = ClientFrame::parse(&text, Some(&alice())).expect_err(&text);
            assert!(error.message.len() <= 512, "{} bytes: {}", error.message.len(), error.message);
        }
    }
}
