//! What an entry brings, as pushed envelopes and tails hold it: encoded once for all who get it.

use bytes::Bytes;

use crate::domain::{NotificationId, Seq, Stream};
use crate::inbox::Content;
use crate::wire::{Frame, Tail, server};

/// What is at one place of a stream.
#[derive(Debug, Clone)]
pub(super) enum Parcel {
    /// A notification.
    Notification(Tail),
    /// The cancellation of this one.
    Cancelled(NotificationId),
}

impl Parcel {
    /// Of what the inbox holds there.
    pub(super) fn of(content: &Content) -> Self {
        match content {
            Content::Notification { json, .. } => Self::Notification(Tail::of(json)),
            Content::Cancelled(id) => Self::Cancelled(*id),
        }
    }

    /// As the inbox would give it.
    pub(super) fn content(&self) -> Content {
        match self {
            // Without the brace that ends the frame.
            Self::Notification(tail) => {
                Content::Notification { json: tail.0.slice(..tail.len() - 1), is_read: false }
            }
            Self::Cancelled(id) => Content::Cancelled(*id),
        }
    }

    /// Its frame at a place.
    pub(super) fn frame(&self, stream: &Stream, seq: Seq) -> Frame {
        match self {
            Self::Notification(tail) => server::notification(stream, Some(seq), tail),
            Self::Cancelled(id) => server::cancelled(stream, seq, *id),
        }
    }

    /// What it adds to a window and a tail, in bytes.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Notification(tail) => tail.len(),
            Self::Cancelled(id) => Content::Cancelled(*id).len(),
        }
    }

    /// Its collapse key, as JSON.
    pub(super) fn collapse_key(&self) -> Option<Bytes> {
        match self {
            Self::Notification(tail) => tail.collapse_key(),
            Self::Cancelled(_) => None,
        }
    }

    /// Whether it may end what came before it: a cancellation, or a notification with a collapse key.
    pub(super) fn ends_others(&self) -> bool {
        match self {
            Self::Notification(tail) => tail.collapse_key().is_some(),
            Self::Cancelled(_) => true,
        }
    }

    /// Whether an acknowledgement of it is a receipt.
    pub(super) fn has_receipt(&self) -> bool {
        matches!(self, Self::Notification(_))
    }
}
