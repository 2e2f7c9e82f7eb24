//! What the simulation does not model yet of the inbox.

use std::time::Duration;

use async_trait::async_trait;
use fanfare::domain::{NotificationId, PublisherId, Stream, UnixMillis, UserId};
use fanfare::inbox::{
    AfterRecipient, Cancelled, Counts, Delivered, DeliveredShared, DueSchedule, InboxError, InboxPage, Look,
    Mark, Marked, Outbox, OutboxEvent, PresenceChange, ReadChange, ReadState, Receipt, Receipts,
    RecipientReceipt, Schedule, Scheduled, Schedules, Unread,
};

use super::model_inbox::ModelInbox;

#[async_trait]
impl Receipts for ModelInbox {
    async fn delivered_shared(&self, _: Vec<DeliveredShared>, _: UnixMillis) -> Result<(), InboxError> {
        Ok(())
    }

    async fn delivered(&self, _: Vec<Delivered>, _: UnixMillis) -> Result<(), InboxError> {
        Ok(())
    }
    async fn cancel(
        &self,
        _: NotificationId,
        _: &PublisherId,
        _: UnixMillis,
    ) -> Result<Cancelled, InboxError> {
        unimplemented!("cancel")
    }
    async fn receipt(
        &self,
        _: NotificationId,
        _: &PublisherId,
        _: UnixMillis,
    ) -> Result<Option<Receipt>, InboxError> {
        unimplemented!("receipt")
    }
    async fn recipients(
        &self,
        _: NotificationId,
        _: &PublisherId,
        _: Option<&AfterRecipient>,
        _: u32,
        _: UnixMillis,
    ) -> Result<Vec<RecipientReceipt>, InboxError> {
        unimplemented!("recipients")
    }
    async fn counts(&self, _: &[NotificationId], _: UnixMillis) -> Result<Vec<Counts>, InboxError> {
        unimplemented!("counts")
    }
}

#[async_trait]
impl ReadState for ModelInbox {
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

#[async_trait]
impl Schedules for ModelInbox {
    async fn schedule(&self, _: Schedule) -> Result<Scheduled, InboxError> {
        unimplemented!("schedule")
    }
    async fn claim_schedules(
        &self,
        _: UnixMillis,
        _: Duration,
        _: u32,
    ) -> Result<Vec<DueSchedule>, InboxError> {
        unimplemented!("claim_schedules")
    }
    async fn drop_schedule(&self, _: NotificationId) -> Result<(), InboxError> {
        Ok(())
    }
}

#[async_trait]
impl Outbox for ModelInbox {
    async fn claim_events(&self, _: UnixMillis, _: Duration, _: u32) -> Result<Vec<OutboxEvent>, InboxError> {
        unimplemented!("claim_events")
    }
    async fn told(&self, _: &[String]) -> Result<(), InboxError> {
        Ok(())
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
