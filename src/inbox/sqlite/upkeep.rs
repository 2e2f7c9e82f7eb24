//! The rest of the inbox in SQLite.

use async_trait::async_trait;
use serde_json::json;

use super::{SqliteInbox, rows};
use crate::domain::{DeviceId, Stream, UnixMillis, UserId};
use crate::inbox::failure::Failure;
use crate::inbox::{Erased, InboxError, OutOfDate, Upkeep, cursors};

/// Writes, so that a full disk or a read-only file is noticed.
const CHECK: &str = "update store set epoch = epoch";

/// Rows: [user, at].
const SEEN: &str = r#"
insert into last_seen (user_id, at)
select value ->> 0, value ->> 1 from json_each(?1)
where true
on conflict (user_id) do update set at = excluded.at where at < excluded.at
"#;

const LAST_SEEN: &str = r#"
select last_seen.at
from json_each(?1) as asked
left join last_seen on last_seen.user_id = asked.value
order by asked.key
"#;

const SWEEP_KEYS: &str = r#"
delete from idempotency where (publisher, key) in (
    select publisher, key from idempotency where created_at < ?1 order by created_at limit ?2
)
"#;

const SWEEP_ENTRIES: &str = r#"
delete from entries where (stream, seq) in (
    select stream, seq from entries where expires_at <= ?1 order by expires_at limit ?2
)
"#;

/// All entries of a body expire with it, so it needs no look at whether some are left: those
/// are out of date, and reads pass them over.
const SWEEP_BODIES: &str = r#"
delete from bodies where id in (
    select id from bodies where expires_at <= ?1 order by expires_at limit ?2
)
"#;

impl SqliteInbox {
    /// One transaction a statement, so that appends get their turn in between.
    async fn write_one(
        &self,
        call: &'static str,
        query: sqlx::query::Query<'_, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>,
    ) -> Result<u64, Failure> {
        let work = async {
            let mut transaction = self.write().await?;
            let done = query.execute(&mut *transaction).await.map_err(|error| self.failure(error))?;
            self.commit(transaction).await?;
            Ok(done.rows_affected())
        };
        self.calls.within(call, work).await
    }

    async fn sweep_all(&self, now: UnixMillis, keys_before: UnixMillis, limit: u32) -> Result<u64, Failure> {
        let kinds = [(SWEEP_KEYS, keys_before), (SWEEP_ENTRIES, now), (SWEEP_BODIES, now)];
        let mut swept = 0;
        for (statement, before) in kinds {
            let query = sqlx::query(statement).bind(before.as_i64()).bind(i64::from(limit));
            let rows = self.write_one("sweep", query).await?;
            self.calls.metrics.swept.inc_by(rows);
            swept += rows;
        }
        Ok(swept)
    }
}

#[async_trait]
impl Upkeep for SqliteInbox {
    async fn check(&self) -> Result<(), InboxError> {
        let checked = self.write_one("check", sqlx::query(CHECK)).await;
        checked.map(drop).map_err(|failure| failure.to_error())
    }

    async fn seen(&self, users: Vec<(UserId, UnixMillis)>) -> Result<(), InboxError> {
        let latest = cursors::latest(users);
        let asked = latest.iter().map(|(user, at)| json!([user, at.as_i64()]));
        let query = sqlx::query(SEEN).bind(rows(asked.collect()));
        let seen = self.write_one("seen", query).await;
        seen.map(drop).map_err(|failure| failure.to_error())
    }

    async fn last_seen(&self, users: &[UserId]) -> Result<Vec<Option<UnixMillis>>, InboxError> {
        let asked = rows(users.iter().map(|user| json!(user)).collect());
        let work = async {
            let found: Result<Vec<Option<i64>>, _> =
                sqlx::query_scalar(LAST_SEEN).bind(asked).fetch_all(&self.readers).await;
            found.map_err(|error| self.failure(error))
        };
        let found = self.calls.within("last_seen", work).await;
        let time = |at: Option<i64>| at.map(UnixMillis::from_i64);
        found.map(|times| times.into_iter().map(time).collect()).map_err(|failure| failure.to_error())
    }

    async fn sweep(&self, before: &OutOfDate, limit: u32) -> Result<u64, InboxError> {
        let swept = self.sweep_all(before.expired, before.keys, limit).await;
        swept.map_err(|failure| failure.to_error())
    }

    async fn expire(&self, _: UnixMillis, _: u32) -> Result<u64, InboxError> {
        unimplemented!("expire")
    }

    async fn retain_by_age(&self, _: UnixMillis, _: u32) -> Result<u64, InboxError> {
        unimplemented!("retain_by_age")
    }

    async fn retain_by_count(&self, _: &[Stream], _: u64) -> Result<u64, InboxError> {
        unimplemented!("retain_by_count")
    }

    async fn overfull(&self, _: u64, _: u32) -> Result<Vec<Stream>, InboxError> {
        unimplemented!("overfull")
    }

    async fn look_for_undelivered(&self, _: UnixMillis, _: u32) -> Result<u64, InboxError> {
        unimplemented!("look_for_undelivered")
    }

    async fn remove_device(&self, _: &UserId, _: &DeviceId) -> Result<bool, InboxError> {
        unimplemented!("remove_device")
    }

    async fn used(&self, _: &[(UserId, DeviceId)], _: UnixMillis) -> Result<(), InboxError> {
        unimplemented!("used")
    }

    async fn erase(&self, _: &UserId) -> Result<Erased, InboxError> {
        unimplemented!("erase")
    }

    async fn close(&self) {
        let both = async { tokio::join!(self.readers.close(), self.writer.close()) };
        // Connections that do not end in time end with the process.
        let _ = tokio::time::timeout(self.calls.timeout, both).await;
    }
}
