//! Schedules.

use async_trait::async_trait;

use super::SqliteInbox;
use crate::domain::{NotificationId, UnixMillis};
use crate::inbox::{DueSchedule, InboxError, Schedule, Scheduled, Schedules};
use std::time::Duration;

#[async_trait]
impl Schedules for SqliteInbox {
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
        unimplemented!("drop_schedule")
    }
}
