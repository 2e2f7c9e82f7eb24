//! Receipts.

use async_trait::async_trait;

use super::PostgresInbox;
use crate::domain::{NotificationId, PublisherId, UnixMillis};
use crate::inbox::{
    AfterRecipient, Cancelled, Counts, Delivered, DeliveredShared, InboxError, Receipt, Receipts,
    RecipientReceipt,
};

#[async_trait]
impl Receipts for PostgresInbox {
    async fn delivered(&self, _: Vec<Delivered>, _: UnixMillis) -> Result<(), InboxError> {
        unimplemented!("delivered")
    }
    async fn delivered_shared(&self, _: Vec<DeliveredShared>, _: UnixMillis) -> Result<(), InboxError> {
        unimplemented!("delivered_shared")
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
