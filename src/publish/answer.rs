//! What publishers are told.
//!
//! Owns the words for what was done with a request, and the stable codes for why it was not.

use super::Refused;
use crate::batch::BatchError;
use crate::domain::NotificationId;
use crate::inbox::InboxError;

/// What an accepted request is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// The notification's id.
    pub id: NotificationId,
    /// How many recipients it has; `None` for a topic or everyone.
    pub recipients: Option<u32>,
    /// How many of them are connected; `None` where that is unknown.
    pub online: Option<u32>,
    /// What was done.
    pub how: How,
}

/// What was done with an accepted request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Committed.
    Stored,
    /// Sent to who is connected (`ttl: 0`).
    Sent,
    /// It had been committed before under the same key; sent again.
    Replayed,
    /// Kept until its time.
    Scheduled,
    /// It had been kept before under the same key.
    ScheduleReplayed,
}

impl How {
    /// The word for it in metrics.
    pub(super) fn outcome(self) -> &'static str {
        match self {
            Self::Stored => "accepted",
            Self::Sent => "sent",
            Self::Scheduled => "scheduled",
            Self::Replayed | Self::ScheduleReplayed => "replayed",
        }
    }
}

/// Why a request was not accepted. [`PublishError::code`] is stable.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The request is not acceptable.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The publisher may not publish to that target.
    #[error("{0}")]
    Forbidden(String),
    /// The idempotency key was used for another request.
    #[error("the idempotency key was used before for another request")]
    KeyReused,
    /// A request with the same key is still being committed.
    #[error("a request with this idempotency key is still in progress")]
    KeyInProgress,
    /// Too much is waiting to be committed, or to be sent.
    #[error("too many requests are waiting")]
    Overloaded,
    /// Its TTL ran out while it waited to be committed: nothing was stored. Safe to retry.
    #[error("its ttl ran out while it waited to be stored")]
    Expired,
    /// The inbox will never take it, for what it is: nothing was stored. What the store says is for operators.
    #[error("the inbox will never take this request")]
    NotStorable(#[source] InboxError),
    /// The inbox is away; whether the request was committed is unknown. Safe to retry with the same key.
    #[error("the inbox is not available")]
    Unavailable(#[source] Option<InboxError>),
}

impl PublishError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused(refused) => refused.code,
            Self::Forbidden(_) => "forbidden_target",
            Self::KeyReused => "idempotency_key_reused",
            Self::KeyInProgress => "idempotency_key_in_progress",
            Self::Overloaded => "overloaded",
            Self::Expired => "expired",
            Self::NotStorable(_) => "not_storable",
            Self::Unavailable(_) => "inbox_unavailable",
        }
    }

    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::KeyInProgress | Self::Overloaded | Self::Expired | Self::Unavailable(_) => true,
            Self::Refused(_) | Self::Forbidden(_) | Self::KeyReused | Self::NotStorable(_) => false,
        }
    }

    /// A call of the inbox that failed; `keyed`: it had an idempotency key.
    pub(super) fn of_inbox(error: InboxError, keyed: bool) -> Self {
        match error {
            InboxError::Timeout(_) if keyed => Self::KeyInProgress,
            error @ InboxError::Refused(_) => Self::NotStorable(error),
            error => Self::Unavailable(Some(error)),
        }
    }
}

impl From<BatchError> for PublishError {
    fn from(error: BatchError) -> Self {
        match error {
            BatchError::Full => Self::Overloaded,
            BatchError::Stopped => Self::Unavailable(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_store_refuses_is_not_tried_again_and_what_it_did_not_answer_is() {
        let refused = || InboxError::Refused("it has a NUL".into());
        for keyed in [false, true] {
            let error = PublishError::of_inbox(refused(), keyed);
            assert_eq!((error.code(), error.is_retryable()), ("not_storable", false));
            assert!(!error.to_string().contains("NUL"), "what the store says is not for publishers");
            let away = PublishError::of_inbox(InboxError::Unavailable("gone".into()), keyed);
            assert_eq!((away.code(), away.is_retryable()), ("inbox_unavailable", true));
        }
    }
}
