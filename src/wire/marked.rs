//! What a person has marked as read: one shape for frames, envelopes, HTTP and the inbox.

use crate::domain::{NotificationId, Seq};

/// What was read, in one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Marked {
    /// These; those that are not in the stream are passed over.
    Ids(Vec<NotificationId>),
    /// Everything up to and with this seq.
    UpTo(Seq),
}

impl Marked {
    /// The ids, where it names them.
    pub fn ids(&self) -> &[NotificationId] {
        match self {
            Self::Ids(ids) => ids,
            Self::UpTo(_) => &[],
        }
    }

    /// The seq, where it names one.
    pub fn up_to(&self) -> Option<Seq> {
        match self {
            Self::Ids(_) => None,
            Self::UpTo(seq) => Some(*seq),
        }
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Ids(ids) if ids.is_empty())
    }
}
