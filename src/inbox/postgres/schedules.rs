//! Schedules in PostgreSQL.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::{PostgresInbox, parsed};
use crate::domain::{NotificationId, PublisherId, UnixMillis};
use crate::inbox::failure::Failure;
use crate::inbox::{DueSchedule, InboxError, Schedule, Scheduled, Schedules};

/// How often a key may be swept away between our finding it taken and our reading it.
const ROUNDS: usize = 3;

/// The key is taken in the statement that keeps the schedule; one that is being taken by somebody else makes
/// this wait until that is decided.
const SCHEDULE: &str = r#"
with taken as (
    insert into idempotency (publisher, key, hash, body, created_at)
    select $6::text, $7::text, $8::bytea, $1, $5
    where $7::text is not null
    on conflict do nothing
    returning key
)
insert into scheduled (id, fire_at, publisher, request, created_at)
select $1, $2, $3, $4, $5
where $7::text is null or exists (select from taken)
"#;

/// $1 now, $2 until when, $3 how many. What another node is claiming is skipped.
const CLAIM: &str = r#"
with claimed as (
    update scheduled set claimed_until = $2
    from (
        select id from scheduled
        where fire_at <= $1 and claimed_until <= $1
        order by fire_at, id
        limit $3
        for update skip locked
    ) as due
    where scheduled.id = due.id
    returning scheduled.id, scheduled.fire_at, scheduled.publisher, scheduled.request
)
select * from claimed order by fire_at, id
"#;

const DROP: &str = "delete from scheduled where id = $1";

impl PostgresInbox {
    async fn keep_schedule(&self, schedule: &Schedule) -> Result<Scheduled, Failure> {
        let key = schedule.idempotency.as_ref();
        for _ in 0..ROUNDS {
            let query = sqlx::query(SCHEDULE)
                .bind(schedule.id.0)
                .bind(schedule.fire_at.as_i64())
                .bind(schedule.publisher.as_str())
                .bind(&schedule.request[..])
                .bind(schedule.created_at.as_i64())
                .bind(key.map(|key| key.publisher.as_str()))
                .bind(key.map(|key| key.key.as_str()))
                .bind(key.map(|key| &key.request_hash[..]));
            if self.written("schedule", query).await? > 0 {
                return Ok(Scheduled::Kept);
            }
            let first = self.first_answers(key.map(|key| (0, key)).into_iter().collect()).await?;
            if let Some((_, first)) = first.into_iter().next() {
                return Ok(first.map_or(Scheduled::KeyReused, Scheduled::Replayed));
            }
        }
        Err(Failure::unavailable("an idempotency key went while it was read"))
    }

    async fn claim_due(
        &self,
        now: UnixMillis,
        lease: Duration,
        limit: u32,
    ) -> Result<Vec<DueSchedule>, Failure> {
        let query =
            sqlx::query(CLAIM).bind(now.as_i64()).bind(now.after(lease).as_i64()).bind(i64::from(limit));
        let rows = self.rows("claim_schedules", query).await?;
        self.read_row(rows.iter().map(due).collect())
    }
}

fn due(row: &PgRow) -> Result<DueSchedule, sqlx::Error> {
    Ok(DueSchedule {
        id: NotificationId(row.try_get("id")?),
        fire_at: UnixMillis::from_i64(row.try_get("fire_at")?),
        publisher: parsed(PublisherId::new(row.try_get::<String, _>("publisher")?))?,
        request: Bytes::from(row.try_get::<Vec<u8>, _>("request")?),
    })
}

#[async_trait]
impl Schedules for PostgresInbox {
    async fn schedule(&self, schedule: Schedule) -> Result<Scheduled, InboxError> {
        let kept = self.keep_schedule(&schedule).await;
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
        let dropped = self.written("drop_schedule", sqlx::query(DROP).bind(id.0)).await;
        dropped.map(drop).map_err(|failure| failure.to_error())
    }
}
