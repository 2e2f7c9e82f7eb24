//! Envelopes: what nodes send each other about notifications.
//!
//! An envelope is a run of items, each a version byte and a postcard encoding, so envelopes
//! for one node may simply be put one after the other. Bodies travel once and are handed on
//! without being copied, unless other items came in the same message: whoever keeps a body for long (a slow
//! client's queue, a tail) would keep those, too.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::marked::Marked;
use super::server::Tail;
use crate::domain::{DeviceId, Epoch, NodeId, NotificationId, Seq, Stream, UnixMillis, UserId};

/// The encoding's version; a node that does not know it drops the rest (head checks heal). Kinds of items
/// are only ever added at the end: an older node drops those as damaged, with the same cure.
const VERSION: u8 = 1;

/// One thing to tell a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A stored notification, and where it was entered.
    Stored {
        /// Its body, as it ends the frame.
        tail: Tail,
        /// When it stops being worth delivering.
        expires_at: Option<UnixMillis>,
        /// Its entries that concern the node.
        entries: Vec<EntryRef>,
    },
    /// A notification for now or never.
    Unstored {
        /// Its body, as it ends the frame.
        tail: Tail,
        /// The node that took it in, and has served its own connections already.
        origin: NodeId,
        /// For whom.
        recipients: Vec<(Stream, Option<DeviceId>)>,
    },
    /// Streams stand at these heads: whoever is behind should read.
    Heads(Vec<(Stream, Epoch, Seq)>),
    /// `node` cannot refresh its presence: for this long, send it everything.
    Blind {
        /// Who.
        node: NodeId,
        /// From when this arrives, in milliseconds; 0 ends it.
        for_ms: u32,
    },
    /// A notification was taken back: each entry says so in a stream that has it.
    Cancelled {
        /// The notification.
        id: NotificationId,
        /// When nobody needs to hear of it any more: the notification expires.
        expires_at: Option<UnixMillis>,
        /// The cancellation's own entries that concern the node.
        entries: Vec<EntryRef>,
    },
    /// A user has read something on some device.
    Read {
        /// Who.
        user: UserId,
        /// In which stream.
        stream: Stream,
        /// What.
        marked: Marked,
        /// How much is unread in the user's own stream now.
        unread: u64,
        /// Of `unread`; never goes back.
        version: u64,
        /// The user's counter of read marks, after this one.
        reads: u64,
    },
    /// `node` could not send for a while: whoever hears this compares all heads soon.
    CheckHeads {
        /// Who.
        node: NodeId,
    },
}

/// An entry, without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryRef {
    /// In which stream.
    pub stream: Stream,
    /// Of which epoch.
    pub epoch: Epoch,
    /// Where.
    pub seq: Seq,
    /// The only device it is for.
    pub device: Option<DeviceId>,
}

/// Why an envelope cannot be read (to its end).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Made by another version.
    #[error("envelope version must be {VERSION}; got {0}")]
    Version(u8),
    /// Damaged.
    #[error("the envelope is damaged: {0}")]
    Damaged(String),
}

#[derive(Serialize, Deserialize)]
enum Shape<'a> {
    Stored(#[serde(borrow)] Blob<'a>, Option<u64>, #[serde(borrow)] Vec<EntryShape<'a>>),
    Unstored(#[serde(borrow)] Blob<'a>, &'a str, #[serde(borrow)] Vec<(StreamShape<'a>, Option<&'a str>)>),
    Heads(#[serde(borrow)] Vec<(StreamShape<'a>, u32, u64)>),
    Blind(&'a str, u32),
    Cancelled(u128, Option<u64>, #[serde(borrow)] Vec<EntryShape<'a>>),
    Read(#[serde(borrow)] ReadShape<'a>),
    CheckHeads(&'a str),
}

#[derive(Serialize, Deserialize)]
struct ReadShape<'a> {
    user: &'a str,
    #[serde(borrow)]
    stream: StreamShape<'a>,
    ids: Vec<u128>,
    up_to: Option<u64>,
    unread: u64,
    version: u64,
    reads: u64,
}

#[derive(Serialize, Deserialize)]
enum StreamShape<'a> {
    User(&'a str),
    Topic(&'a str),
    Everyone,
}

#[derive(Serialize, Deserialize)]
struct EntryShape<'a> {
    #[serde(borrow)]
    stream: StreamShape<'a>,
    epoch: u32,
    seq: u64,
    device: Option<&'a str>,
}

/// Bytes that are read without being copied.
struct Blob<'a>(&'a [u8]);

impl Serialize for Blob<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Blob<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&[u8]>::deserialize(deserializer).map(Blob)
    }
}

impl<'a> StreamShape<'a> {
    fn of(stream: &'a Stream) -> Self {
        match stream {
            Stream::User(user) => Self::User(user.as_str()),
            Stream::Topic(topic) => Self::Topic(topic.as_str()),
            Stream::Everyone => Self::Everyone,
        }
    }

    fn into_stream(self) -> Result<Stream, EnvelopeError> {
        match self {
            Self::User(user) => crate::domain::UserId::new(user).map(Stream::User).map_err(damaged),
            Self::Topic(topic) => crate::domain::TopicName::new(topic).map(Stream::Topic).map_err(damaged),
            Self::Everyone => Ok(Stream::Everyone),
        }
    }
}

fn damaged(error: impl std::fmt::Display) -> EnvelopeError {
    EnvelopeError::Damaged(error.to_string())
}

fn device(text: Option<&str>) -> Result<Option<DeviceId>, EnvelopeError> {
    text.map(DeviceId::new).transpose().map_err(damaged)
}

impl Item {
    /// Its bytes: an envelope of one item.
    pub fn encode(&self) -> Bytes {
        let shape = match self {
            Self::Stored { tail, expires_at, entries } => Shape::Stored(
                Blob(&tail.0),
                expires_at.map(|at| at.0),
                entries.iter().map(EntryRef::shape).collect(),
            ),
            Self::Unstored { tail, origin, recipients } => Shape::Unstored(
                Blob(&tail.0),
                origin.as_str(),
                recipients
                    .iter()
                    .map(|(stream, device)| (StreamShape::of(stream), device.as_ref().map(DeviceId::as_str)))
                    .collect(),
            ),
            Self::Heads(heads) => Shape::Heads(
                heads
                    .iter()
                    .map(|(stream, epoch, head)| (StreamShape::of(stream), epoch.0, head.0))
                    .collect(),
            ),
            Self::Blind { node, for_ms } => Shape::Blind(node.as_str(), *for_ms),
            Self::Cancelled { id, expires_at, entries } => Shape::Cancelled(
                id.0.as_u128(),
                expires_at.map(|at| at.0),
                entries.iter().map(EntryRef::shape).collect(),
            ),
            Self::Read { user, stream, marked, unread, version, reads } => Shape::Read(ReadShape {
                user: user.as_str(),
                stream: StreamShape::of(stream),
                ids: marked.ids().iter().map(|id| id.0.as_u128()).collect(),
                up_to: marked.up_to().map(|seq| seq.0),
                unread: *unread,
                version: *version,
                reads: *reads,
            }),
            Self::CheckHeads { node } => Shape::CheckHeads(node.as_str()),
        };
        let bytes = postcard::to_extend(&shape, vec![VERSION]).expect("writing to a vector does not fail");
        bytes.into()
    }

    /// Reads one item from the front of `envelope`, which is shortened; `None` at its end.
    ///
    /// # Errors
    /// When the item is of another version or damaged: nothing behind it can be read either.
    pub fn decode(envelope: &mut Bytes) -> Result<Option<Self>, EnvelopeError> {
        let Some((version, rest)) = envelope.split_first() else {
            return Ok(None);
        };
        if *version != VERSION {
            return Err(EnvelopeError::Version(*version));
        }
        let (shape, rest) = postcard::take_from_bytes::<Shape<'_>>(rest).map_err(damaged)?;
        let item = Self::of_shape(shape, envelope)?;
        let read = envelope.len() - rest.len();
        *envelope = envelope.slice(read..);
        Ok(Some(item))
    }

    fn of_shape(shape: Shape<'_>, envelope: &Bytes) -> Result<Self, EnvelopeError> {
        Ok(match shape {
            Shape::Stored(tail, expires_at, entries) => Self::Stored {
                tail: body(&tail, envelope),
                expires_at: expires_at.map(UnixMillis),
                entries: EntryRef::all(entries)?,
            },
            Shape::Unstored(tail, origin, recipients) => Self::Unstored {
                tail: body(&tail, envelope),
                origin: NodeId::new(origin).map_err(damaged)?,
                recipients: recipients
                    .into_iter()
                    .map(|(stream, to)| Ok((stream.into_stream()?, device(to)?)))
                    .collect::<Result<_, EnvelopeError>>()?,
            },
            Shape::Heads(heads) => Self::Heads(
                heads
                    .into_iter()
                    .map(|(stream, epoch, head)| Ok((stream.into_stream()?, Epoch(epoch), Seq(head))))
                    .collect::<Result<_, EnvelopeError>>()?,
            ),
            Shape::Blind(node, for_ms) => Self::Blind { node: NodeId::new(node).map_err(damaged)?, for_ms },
            Shape::Cancelled(id, expires_at, entries) => Self::Cancelled {
                id: notification(id),
                expires_at: expires_at.map(UnixMillis),
                entries: EntryRef::all(entries)?,
            },
            Shape::Read(read) => Self::Read {
                user: UserId::new(read.user).map_err(damaged)?,
                stream: read.stream.into_stream()?,
                marked: match read.up_to {
                    Some(seq) => Marked::UpTo(Seq(seq)),
                    None => Marked::Ids(read.ids.into_iter().map(notification).collect()),
                },
                unread: read.unread,
                version: read.version,
                reads: read.reads,
            },
            Shape::CheckHeads(node) => Self::CheckHeads { node: NodeId::new(node).map_err(damaged)? },
        })
    }
}

fn body(tail: &Blob<'_>, envelope: &Bytes) -> Tail {
    let is_most_of_it = tail.0.len() * 2 >= envelope.len();
    Tail(if is_most_of_it { envelope.slice_ref(tail.0) } else { Bytes::copy_from_slice(tail.0) })
}

fn notification(id: u128) -> NotificationId {
    NotificationId(uuid::Uuid::from_u128(id))
}

impl EntryRef {
    fn shape(&self) -> EntryShape<'_> {
        EntryShape {
            stream: StreamShape::of(&self.stream),
            epoch: self.epoch.0,
            seq: self.seq.0,
            device: self.device.as_ref().map(DeviceId::as_str),
        }
    }

    fn all(shapes: Vec<EntryShape<'_>>) -> Result<Vec<Self>, EnvelopeError> {
        shapes.into_iter().map(Self::of_shape).collect()
    }

    fn of_shape(shape: EntryShape<'_>) -> Result<Self, EnvelopeError> {
        Ok(Self {
            stream: shape.stream.into_stream()?,
            epoch: Epoch(shape.epoch),
            seq: Seq(shape.seq),
            device: device(shape.device)?,
        })
    }
}

#[cfg(test)]
mod tests;
