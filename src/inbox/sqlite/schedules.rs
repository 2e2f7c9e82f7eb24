//! Schedules in SQLite. They end in the transaction that appends them (`append`) or by being cancelled (`cancel`).

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::SqliteConnection;
use uuid::Uuid;

use super::SqliteInbox;
use super::keys::{self, Taken};
use crate::domain::{NotificationId, PublisherId, UnixMillis};
use crate::inbox::failure::Failure;
use crate::inbox::{DueSchedule, InboxError, Schedule, Scheduled, Schedules};

const SCHEDULE: &str = r#"
insert into scheduled (id, fire_at, publisher, request, created_at) values (?1, ?2, ?3, ?4, ?5)
"#;

/// ?1 now, ?2 until when they are claimed, ?3 how many.
const CLAIM: &str = r#"
update scheduled set claimed_until = ?2
where id in (
    select id from scheduled where fire_at <= ?1 and claimed_until <= ?1 order by fire_at limit ?3 + 0
)
returning id, fire_at, publisher, request
"#;

const DROP: &str = "delete from scheduled where id = ?1";

/// A row of [`CLAIM`].
type Claimed = (Uuid, i64, String, Vec<u8>);

impl SqliteInbox {
    async fn claim_due(
        &self,
        now: UnixMillis,
        lease: Duration,
        limit: u32,
    ) -> Result<Vec<DueSchedule>, Failure> {
        let work = async {
            let mut transaction = self.write().await?;
            let done: Result<Vec<Claimed>, _> = sqlx::query_as(CLAIM)
                .bind(now.as_i64())
                .bind(now.after(lease).as_i64())
                .bind(i64::from(limit))
                .fetch_all(&mut *transaction)
                .await;
            let claimed = self.finish(transaction, done).await?;
            let due: Result<Vec<_>, _> = claimed.into_iter().map(due).collect();
            let mut due = due.map_err(|error| self.failure(error))?;
            // What an update returns is in no order.
            due.sort_by_key(|schedule| (schedule.fire_at, schedule.id.0));
            Ok(due)
        };
        self.calls.within("claim_schedules", work).await
    }
}

async fn keep(connection: &mut SqliteConnection, schedule: &Schedule) -> Result<Scheduled, sqlx::Error> {
    let wanted = schedule.idempotency.iter().map(|key| (key, schedule.id, schedule.created_at));
    let wanted: Vec<keys::Wanted<'_>> = wanted.collect();
    match keys::take(connection, &wanted).await?.into_iter().next().flatten() {
        Some(Taken::Same(first)) => return Ok(Scheduled::Replayed(first)),
        Some(Taken::Other) => return Ok(Scheduled::KeyReused),
        None => {}
    }
    sqlx::query(SCHEDULE)
        .bind(schedule.id.0)
        .bind(schedule.fire_at.as_i64())
        .bind(schedule.publisher.as_str())
        .bind(&schedule.request[..])
        .bind(schedule.created_at.as_i64())
        .execute(connection)
        .await?;
    Ok(Scheduled::Kept)
}

fn due((id, fire_at, publisher, request): Claimed) -> Result<DueSchedule, sqlx::Error> {
    Ok(DueSchedule {
        id: NotificationId(id),
        fire_at: UnixMillis::from_i64(fire_at),
        publisher: PublisherId::new(publisher).map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
        request: Bytes::from(request),
    })
}

#[async_trait]
impl Schedules for SqliteInbox {
    async fn schedule(&self, schedule: Schedule) -> Result<Scheduled, InboxError> {
        let work = async {
            let mut transaction = self.write().await?;
            let done = keep(&mut transaction, &schedule).await;
            self.finish(transaction, done).await
        };
        let kept = self.calls.within("schedule", work).await;
        kept.map_err(|failure| failure.to_error())
    }

    async fn claim_schedules(
        &self,
        now: UnixMillis,
        lease: Duration,
        limit: u32,
    ) -> Result<Vec<DueSchedule>, InboxError> {
        let claimed = self.claim_due(now, lease, limit).await;
        claimed.map_err(|failure| failure.to_error())
    }

    async fn drop_schedule(&self, id: NotificationId) -> Result<(), InboxError> {
        let dropped = self.write_one("drop_schedule", sqlx::query(DROP).bind(id.0)).await;
        dropped.map(drop).map_err(|failure| failure.to_error())
    }
}
