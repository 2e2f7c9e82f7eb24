//! Dead letters: ingress messages that were refused for good, as operators see and settle them.
//!
//! Owns the contract. A letter stays until somebody requeues or deletes it, whatever dies. Ids are stable: the same letter
//! has the same id on every node, after a restart, and when it was requeued and failed again. Order is that of the last failure.
//! Looking at letters never changes them; two nodes never look at the same time.

use async_trait::async_trait;
use bytes::Bytes;

use crate::domain::{Priority, UnixMillis};

/// A dead letter, without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Names it: 1 to 64 characters of `A-Za-z0-9-`.
    pub id: String,
    /// The stable code of the reason, such as `invalid_json`.
    pub code: String,
    /// The reason, a sentence.
    pub reason: String,
    /// When it first failed; `None` if nobody noted it.
    pub first_failed_at: Option<UnixMillis>,
    /// When it last failed; `None` if nobody noted it.
    pub last_failed_at: Option<UnixMillis>,
    /// How often it failed: 1, and one more each time that it was requeued in vain.
    pub failures: u64,
    /// The lane that it came by, and goes back to.
    pub lane: Priority,
    /// The routing key that it was published with.
    pub routing_key: String,
    /// The AMQP `user_id` of who published it, checked by the broker then.
    pub publisher: Option<String>,
    /// Its idempotency key.
    pub message_id: Option<String>,
    /// Its TTL in milliseconds, as text.
    pub expiration: Option<String>,
    /// The length of its body, in bytes.
    pub size: usize,
}

/// Some dead letters, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeadLetters {
    /// At most as many as were asked for.
    pub letters: Vec<DeadLetter>,
    /// Whether there are more behind the last one.
    pub more: bool,
}

/// Why nothing was done with a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeadLetterError {
    /// There is none of that id among those that are looked through (10 000).
    #[error("there is no dead letter {0}")]
    Unknown(String),
    /// The broker is away or blocked, or went away meanwhile. A requeued letter may be there twice then.
    #[error("the broker cannot be asked for dead letters now")]
    Unavailable,
    /// Another node is looking, for too long.
    #[error("another node is going through the dead letters")]
    Busy,
    /// The letter could not go back, and is still there.
    #[error("{0}")]
    NotRequeued(String),
}

/// Where dead letters are kept. Any number may call at once; they take turns. Each call ends within fifteen seconds,
/// however the broker is.
#[async_trait]
pub trait Graveyard: Send + Sync {
    /// At most `limit` letters (1 to 1000), from the oldest, or from the one behind `after`.
    ///
    /// # Errors
    /// [`DeadLetterError::Unknown`] if `after` is gone: begin again.
    async fn list(&self, after: Option<&str>, limit: usize) -> Result<DeadLetters, DeadLetterError>;

    /// One letter and its body.
    ///
    /// # Errors
    /// [`DeadLetterError`].
    async fn find(&self, id: &str) -> Result<(DeadLetter, Bytes), DeadLetterError>;

    /// Puts a letter back into its lane as it was published, and only then removes it: a crash in between doubles
    /// it (its idempotency key finds that), and never loses it. It counts for the same publisher, its TTL begins
    /// anew, and if it fails again it is the same letter with one failure more.
    ///
    /// # Errors
    /// [`DeadLetterError`]; the letter is still there.
    ///
    /// # Cancel safety
    /// Dropped, it is done or not.
    async fn requeue(&self, id: &str) -> Result<DeadLetter, DeadLetterError>;

    /// Removes a letter for good.
    ///
    /// # Errors
    /// [`DeadLetterError`].
    ///
    /// # Cancel safety
    /// Dropped, it is done or not.
    async fn delete(&self, id: &str) -> Result<DeadLetter, DeadLetterError>;
}
