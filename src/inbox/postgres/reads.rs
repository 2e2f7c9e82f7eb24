//! ReadState.

use async_trait::async_trait;

use super::PostgresInbox;
use crate::domain::{Stream, UnixMillis, UserId};
use crate::inbox::{InboxError, InboxPage, Look, Mark, Marked, ReadChange, ReadState, Unread};

#[async_trait]
impl ReadState for PostgresInbox {
    async fn mark_read(&self, _: &UserId, _: &Mark, _: UnixMillis) -> Result<(Marked, Unread), InboxError> {
        unimplemented!("mark_read")
    }
    async fn read_since(
        &self,
        _: &UserId,
        _: u64,
        _: u32,
        _: UnixMillis,
    ) -> Result<(Vec<ReadChange>, Unread), InboxError> {
        unimplemented!("read_since")
    }
    async fn unread(&self, _: &UserId, _: UnixMillis) -> Result<(Unread, Vec<(Stream, u64)>), InboxError> {
        unimplemented!("unread")
    }
    async fn look(&self, _: &Look, _: UnixMillis) -> Result<InboxPage, InboxError> {
        unimplemented!("look")
    }
}
