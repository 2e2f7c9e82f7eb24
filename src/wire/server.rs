//! Frames that the server sends, encoded.

use std::fmt::Write;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;

use super::close::CloseCode;
use super::frame::Frame;
use super::marked::Marked;
use crate::domain::{
    ConnectionId, DeviceId, Epoch, NodeId, NotificationId, Seq, Stream, TopicName, UnixMillis, UserId,
};

/// Codes of `error` frames; `docs/protocol.md` lists them, held to this list by a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The frame is not JSON, or a field is missing, unknown or wrong.
    InvalidFrame,
    /// The frame's `type` is none of the client's.
    UnknownFrameType,
    /// A second `hello`.
    UnexpectedHello,
    /// An ack above what was sent.
    AckAboveSent,
    /// The stream is not followed here.
    NotFollowed,
    /// The token does not list the topic.
    TopicForbidden,
    /// One topic more than a connection may follow.
    TooManyTopics,
    /// The token was refused; the old one stays in force until it runs out.
    InvalidToken,
    /// The new token is another user's.
    OtherUser,
    /// The node cannot do that now.
    Unavailable,
    /// As much is unacknowledged as may be: nothing more is sent until an ack arrives.
    WindowFull,
}

impl ErrorCode {
    /// Every code there is.
    pub const ALL: &'static [Self] = &[
        Self::InvalidFrame,
        Self::UnknownFrameType,
        Self::UnexpectedHello,
        Self::AckAboveSent,
        Self::NotFollowed,
        Self::TopicForbidden,
        Self::TooManyTopics,
        Self::InvalidToken,
        Self::OtherUser,
        Self::Unavailable,
        Self::WindowFull,
    ];

    /// The stable word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidFrame => "invalid_frame",
            Self::UnknownFrameType => "unknown_frame_type",
            Self::UnexpectedHello => "unexpected_hello",
            Self::AckAboveSent => "ack_above_sent",
            Self::NotFollowed => "not_followed",
            Self::TopicForbidden => "topic_forbidden",
            Self::TooManyTopics => "too_many_topics",
            Self::InvalidToken => "invalid_token",
            Self::OtherUser => "other_user",
            Self::Unavailable => "unavailable",
            Self::WindowFull => "window_full",
        }
    }

    /// Whether the same frame may succeed later.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Unavailable | Self::WindowFull)
    }
}

/// A notification's JSON and the brace that closes its frame: encoded once, shared by all who get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail(pub Bytes);

impl Tail {
    /// Of a notification's JSON object.
    pub fn of(json: &[u8]) -> Self {
        let mut tail = BytesMut::with_capacity(json.len() + 1);
        tail.put_slice(json);
        tail.put_u8(b'}');
        Self(tail.freeze())
    }

    /// What it adds to a window, in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The notification's id, which is what its JSON begins with.
    pub fn id(&self) -> Option<NotificationId> {
        let id = self.0.strip_prefix(br#"{"id":""#)?.get(..36)?;
        std::str::from_utf8(id).ok()?.parse().ok()
    }

    /// The notification's collapse key, as JSON: equal ones have equal bytes. Only times come after that field, so the last
    /// such name is the notification's own and not one of its `data`.
    pub fn collapse_key(&self) -> Option<Bytes> {
        const NAME: &[u8] = br#""collapse_key":"#;
        let at = self.0.windows(NAME.len()).rposition(|bytes| bytes == NAME)? + NAME.len();
        let (mut end, mut escaped) = (at + 1, false);
        self.0.get(at).filter(|byte| **byte == b'"')?;
        loop {
            match self.0.get(end)? {
                b'"' if !escaped => return Some(self.0.slice(at..=end)),
                byte => escaped = *byte == b'\\' && !escaped,
            }
            end += 1;
        }
    }

    /// Whether it is empty (it never is).
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A `notification` frame; `seq` is `None` for `ttl: 0`.
pub fn notification(stream: &Stream, seq: Option<Seq>, tail: &Tail) -> Frame {
    tailed(stream, seq, false, tail)
}

/// The same of a notification that the user has read elsewhere.
pub fn notification_read(stream: &Stream, seq: Seq, tail: &Tail) -> Frame {
    tailed(stream, Some(seq), true, tail)
}

fn tailed(stream: &Stream, seq: Option<Seq>, read: bool, tail: &Tail) -> Frame {
    let mut head = String::with_capacity(96);
    // Writing to a string does not fail; ids need no escaping in JSON.
    let _ = write!(head, r#"{{"type":"notification","stream":"{}","#, stream.client_name());
    if let Some(seq) = seq {
        let _ = write!(head, r#""seq":{seq},"#);
    }
    if read {
        head.push_str(r#""read":true,"#);
    }
    head.push_str(r#""notification":"#);
    Frame::text(head.as_bytes(), tail.0.clone())
}

/// A `cancelled` frame: the entry `seq` takes the notification `id` back.
pub fn cancelled(stream: &Stream, seq: Seq, id: NotificationId) -> Frame {
    let mut text = String::with_capacity(128);
    // Writing to a string does not fail.
    let _ =
        write!(text, r#"{{"type":"cancelled","stream":"{}","seq":{seq},"id":"{id}"}}"#, stream.client_name());
    Frame::text(text.as_bytes(), Bytes::new())
}

/// A `read` frame: what the user has read on some device, and how much of their own stream is unread now.
/// `id` is that of the frame that asked for it, on the connection that did.
pub fn read(id: Option<u64>, stream: &Stream, marked: &Marked, unread: u64, version: u64) -> Frame {
    #[derive(Serialize)]
    struct Read<'a> {
        stream: String,
        ids: &'a [NotificationId],
        #[serde(skip_serializing_if = "Option::is_none")]
        up_to: Option<u64>,
        unread: u64,
        version: u64,
    }
    let stream = stream.client_name().to_string();
    let up_to = marked.up_to().map(|seq| seq.0);
    frame("read", id, &Read { stream, ids: marked.ids(), up_to, unread, version })
}

/// One stream in `welcome`, or the answer to `subscribe`.
#[derive(Debug, Clone, Serialize)]
pub struct StreamState {
    /// The client's name of it.
    pub stream: String,
    /// Its epoch.
    pub epoch: String,
    /// The highest seq.
    pub head: u64,
    /// The seq after which entries follow.
    pub from: u64,
    /// Whether entries before `from` that the client did not have are gone.
    pub gap: bool,
    /// How many entries are unread, at most 1000; of shared streams only (`welcome` has that of the user's own).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unread: Option<u64>,
}

impl StreamState {
    /// Of a stream that stands at `head` and is read from `from`; `unread` counts for shared streams only.
    pub fn new(stream: &Stream, epoch: Epoch, head: Seq, from: Seq, gap: bool, unread: u64) -> Self {
        Self {
            stream: stream.client_name().to_string(),
            epoch: epoch.to_string(),
            head: head.0,
            from: from.0,
            gap,
            unread: stream.is_shared().then_some(unread),
        }
    }
}

/// The answer to `hello`.
#[derive(Debug, Clone, Serialize)]
pub struct Welcome<'a> {
    /// This connection.
    #[serde(serialize_with = "display")]
    pub connection: ConnectionId,
    /// The node that holds it.
    pub node: &'a NodeId,
    /// Whose it is.
    pub user: &'a UserId,
    /// Of which device.
    pub device: Option<&'a DeviceId>,
    /// The node's time.
    pub time: UnixMillis,
    /// How often the server pings, in milliseconds.
    pub heartbeat_ms: u64,
    /// Unread entries of the user's own stream.
    pub unread: u64,
    /// Grows with each change of `unread`.
    pub version: u64,
    /// What is followed from the start.
    pub streams: Vec<StreamState>,
    /// Whether a part of the service is away, so that live delivery may lag by some seconds.
    pub degraded: bool,
}

fn display<S: serde::Serializer>(value: &impl std::fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

#[derive(Serialize)]
struct Typed<'a, T> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    #[serde(flatten)]
    fields: &'a T,
}

fn frame<T: Serialize>(kind: &'static str, id: Option<u64>, fields: &T) -> Frame {
    let json = serde_json::to_vec(&Typed { kind, id, fields }).expect("server frames have text keys only");
    Frame::text(&json, Bytes::new())
}

/// A `welcome` frame.
pub fn welcome(welcome: &Welcome<'_>) -> Frame {
    frame("welcome", None, welcome)
}

/// A `subscribed` frame.
pub fn subscribed(id: Option<u64>, state: &StreamState) -> Frame {
    frame("subscribed", id, state)
}

/// An `unsubscribed` frame.
pub fn unsubscribed(id: Option<u64>, topic: &TopicName) -> Frame {
    let stream = Stream::Topic(topic.clone()).to_string();
    frame("unsubscribed", id, &serde_json::json!({ "stream": stream }))
}

/// A `caught_up` frame: everything up to `through` was sent.
pub fn caught_up(stream: &Stream, through: Seq) -> Frame {
    frame(
        "caught_up",
        None,
        &serde_json::json!({ "stream": stream.client_name().to_string(), "through": through.0 }),
    )
}

/// A `gap` frame: entries `from..=to` are gone, or (with another `epoch` than before) the stream began anew.
pub fn gap(stream: &Stream, epoch: Epoch, from: Seq, to: Seq) -> Frame {
    let stream = stream.client_name().to_string();
    frame(
        "gap",
        None,
        &serde_json::json!({ "stream": stream, "epoch": epoch.to_string(), "from": from.0, "to": to.0 }),
    )
}

/// A `refreshed` frame.
pub fn refreshed(id: Option<u64>, expires_at: UnixMillis) -> Frame {
    frame("refreshed", id, &serde_json::json!({ "expires_at": expires_at }))
}

/// A `ping` frame, for clients that asked for JSON pings.
pub fn ping() -> Frame {
    Frame::text(br#"{"type":"ping"}"#, Bytes::new())
}

/// The answer to a client's `ping` frame.
pub fn pong(id: Option<u64>) -> Frame {
    frame("pong", id, &serde_json::json!({}))
}

/// An `error` frame.
pub fn error(id: Option<u64>, code: ErrorCode, message: &str) -> Frame {
    let fields =
        serde_json::json!({ "code": code.as_str(), "message": message, "retry": code.is_retryable() });
    frame("error", id, &fields)
}

/// A `bye` frame; the close frame with the same code follows.
pub fn bye(code: CloseCode, reconnect_after: Option<Duration>) -> Frame {
    #[derive(Serialize)]
    struct Bye {
        code: u16,
        reason: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        reconnect_after_ms: Option<u64>,
    }
    let reconnect_after_ms =
        reconnect_after.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
    frame("bye", None, &Bye { code: code.code(), reason: code.reason(), reconnect_after_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(frame: &Frame) -> String {
        let skip = if frame.head[1] == 126 { 4 } else { 2 };
        let bytes: Vec<u8> = frame.head[skip..].iter().chain(frame.body.iter()).copied().collect();
        String::from_utf8(bytes).expect("frames are UTF-8")
    }

    #[test]
    fn a_notification_frame_is_a_short_head_before_the_shared_tail() {
        let tail = Tail::of(br#"{"id":"x"}"#);
        let frame = notification(&Stream::Everyone, Some(Seq(7)), &tail);
        assert_eq!(
            text(&frame),
            r#"{"type":"notification","stream":"everyone","seq":7,"notification":{"id":"x"}}"#
        );
        assert_eq!(frame.body.as_ptr(), tail.0.as_ptr());
        let unstored = notification(&Stream::Everyone, None, &tail);
        assert_eq!(
            text(&unstored),
            r#"{"type":"notification","stream":"everyone","notification":{"id":"x"}}"#
        );
    }

    #[test]
    fn what_was_read_elsewhere_or_taken_back_is_said_in_a_few_words() {
        let tail = Tail::of(br#"{"id":"x"}"#);
        assert_eq!(
            text(&notification_read(&Stream::Everyone, Seq(7), &tail)),
            r#"{"type":"notification","stream":"everyone","seq":7,"read":true,"notification":{"id":"x"}}"#
        );
        let id: NotificationId = "019ab3f0-c7d2-7f04-a1b2-0123456789ab".parse().expect("an id");
        assert_eq!(
            text(&cancelled(&Stream::Everyone, Seq(8), id)),
            r#"{"type":"cancelled","stream":"everyone","seq":8,"id":"019ab3f0-c7d2-7f04-a1b2-0123456789ab"}"#
        );
        assert_eq!(
            text(&read(Some(4), &Stream::Everyone, &Marked::Ids(vec![id]), 3, 45)),
            r#"{"type":"read","id":4,"stream":"everyone","ids":["019ab3f0-c7d2-7f04-a1b2-0123456789ab"],"unread":3,"version":45}"#
        );
        assert_eq!(
            text(&read(None, &Stream::Everyone, &Marked::UpTo(Seq(119)), 0, 46)),
            r#"{"type":"read","stream":"everyone","ids":[],"up_to":119,"unread":0,"version":46}"#
        );
    }

    #[test]
    fn a_tail_knows_its_own_collapse_key_from_one_in_its_data() {
        let tail = |data: &str, key: &str| {
            Tail::of(
                format!(r#"{{"id":"x","data":{data},"collapse_key":{key},"created_at":"t"}}"#).as_bytes(),
            )
        };
        for key in [r#""order-42""#, r#""""#, r#""a\\\"b\\\\""#, r#""\"collapse_key\":\"x""#] {
            let found = tail(r#"{"collapse_key":"other"}"#, key).collapse_key();
            assert_eq!(found.as_deref(), Some(key.as_bytes()));
        }
        assert_eq!(tail(r#"{"collapse_key":"other"}"#, "null").collapse_key(), None);
        assert_eq!(Tail::of(b"{}").collapse_key(), None);
    }

    #[test]
    fn answers_echo_the_id_and_errors_say_whether_to_retry() {
        assert_eq!(
            text(&error(Some(7), ErrorCode::TopicForbidden, "no")),
            r#"{"type":"error","id":7,"code":"topic_forbidden","message":"no","retry":false}"#
        );
        assert_eq!(
            text(&bye(CloseCode::Draining, Some(Duration::from_millis(3120)))),
            r#"{"type":"bye","code":4000,"reason":"draining","reconnect_after_ms":3120}"#
        );
    }
}
