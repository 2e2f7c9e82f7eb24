//! Outbox.

use async_trait::async_trait;

use super::SqliteInbox;
use crate::domain::{UnixMillis, UserId};
use crate::inbox::{InboxError, Outbox, OutboxEvent, PresenceChange};
use std::time::Duration;

#[async_trait]
impl Outbox for SqliteInbox {
    async fn claim_events(&self, _: UnixMillis, _: Duration, _: u32) -> Result<Vec<OutboxEvent>, InboxError> {
        unimplemented!("claim_events")
    }
    async fn told(&self, _: &[String]) -> Result<(), InboxError> {
        unimplemented!("told")
    }
    async fn waiting(&self) -> Result<(u64, Option<UnixMillis>), InboxError> {
        unimplemented!("waiting")
    }
    async fn presence_changed(&self, _: &[PresenceChange]) -> Result<Vec<bool>, InboxError> {
        unimplemented!("presence_changed")
    }
    async fn online_users(&self, _: Option<&UserId>, _: u32) -> Result<Vec<UserId>, InboxError> {
        unimplemented!("online_users")
    }
}
