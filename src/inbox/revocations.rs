//! Revocations, kept: so that a node that was away, or starts, knows of them.
//!
//! Owns their contract. Who is told of them at once, and who is refused, is decided elsewhere.

use async_trait::async_trait;

use super::InboxError;
use crate::domain::UnixMillis;
use crate::domain::UserId;
use crate::domain::revocation::{Revocation, Revoked, TokenId};

/// All revocations that are stored, of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRevocations {
    /// [`RevocationStore::revocations_version`] of the same snapshot.
    pub version: u64,
    /// In no order.
    pub all: Vec<Revocation>,
}

/// Keeps revocations.
#[async_trait]
pub trait RevocationStore: Send + Sync {
    /// Keeps one, and answers how it stands now: where there is one about the same already, the later of both
    /// `issued_before`s and `lapses_at`s holds. `None`: `limit` others are kept, and nothing was changed (two at
    /// once may go beyond it by one).
    async fn revoke(&self, revocation: &Revocation, limit: u32) -> Result<Option<Revocation>, InboxError>;

    /// Forgets one. Returns whether it was there.
    async fn lift(&self, of: &Revoked) -> Result<bool, InboxError>;

    /// A number that is another one after each `revoke` and `lift` that changed something. Cheap.
    async fn revocations_version(&self) -> Result<u64, InboxError>;

    /// All that have not lapsed `now`. Those that have are removed by [`Upkeep::sweep`](super::Upkeep::sweep).
    async fn revocations(&self, now: UnixMillis) -> Result<StoredRevocations, InboxError>;
}

/// The columns `kind` and `subject`.
pub(super) fn columns(of: &Revoked) -> (i16, &str) {
    match of {
        Revoked::Token(id) => (0, id.as_str()),
        Revoked::User(user) => (1, user.as_str()),
        Revoked::Everyone => (2, ""),
    }
}

/// A row: `kind`, `subject`, `issued_before`, `created_at`, `lapses_at`.
pub(super) type Row = (i64, String, i64, i64, i64);

/// Reads a row. What a newer version has written and this one does not know revokes nothing here.
pub(super) fn revocation((kind, subject, issued_before, created_at, lapses_at): Row) -> Option<Revocation> {
    let of = match kind {
        0 => Revoked::Token(TokenId::new(subject).ok()?),
        1 => Revoked::User(UserId::new(subject).ok()?),
        2 => Revoked::Everyone,
        _ => return None,
    };
    Some(Revocation {
        of,
        issued_before: UnixMillis::from_i64(issued_before),
        created_at: UnixMillis::from_i64(created_at),
        lapses_at: UnixMillis::from_i64(lapses_at),
    })
}
