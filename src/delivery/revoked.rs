//! Tokens that are revoked while their connections are open: these are ended, at once.
//!
//! Owns the order that lets none through: a revocation is entered before connections are looked at, and a connection
//! is entered in the hub (or gets its newer token) before the register is looked at.

use std::sync::Arc;

use super::Delivery;
use super::connection::Connection;
use crate::domain::UnixMillis;
use crate::domain::revocation::Revoked;
use crate::inbox::InboxError;
use crate::wire::CloseCode;

impl Delivery {
    /// From now on these tokens are refused on this node, and connections by them are ended. Returns how many were.
    pub fn revoke(&self, of: &Revoked, issued_before: UnixMillis) -> u64 {
        self.tokens.revocations().add(of, issued_before);
        let concerned = match of {
            Revoked::User(user) => self.hub.of_user(user),
            Revoked::Token(_) | Revoked::Everyone => self.hub.all(),
        };
        self.end_revoked(concerned)
    }

    /// Reads all revocations that are stored, and obeys them instead of those known before. Returns their version.
    /// One call at a time.
    ///
    /// # Errors
    /// The inbox's; then those known before hold on.
    pub async fn read_revocations(&self) -> Result<u64, InboxError> {
        self.tokens.revocations().begin_read();
        let stored = self.inbox.revocations(self.clock.now()).await?;
        self.tokens.revocations().replace(&stored.all);
        self.end_revoked(self.hub.all());
        Ok(stored.version)
    }

    fn end_revoked(&self, connections: Vec<Arc<Connection>>) -> u64 {
        connections.iter().map(|connection| u64::from(self.end_if_revoked(connection))).sum()
    }

    /// Ends it if its token is revoked, and says whether it is.
    pub(super) fn end_if_revoked(&self, connection: &Arc<Connection>) -> bool {
        let is_revoked = connection.with_claims(|claims| self.tokens.is_revoked(claims));
        if is_revoked {
            connection.bye(CloseCode::InvalidToken, None);
        }
        is_revoked
    }
}
