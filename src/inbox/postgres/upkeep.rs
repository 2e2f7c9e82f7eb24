//! The rest of the inbox in PostgreSQL.

use async_trait::async_trait;

use super::PostgresInbox;
use crate::domain::{DeviceId, Stream, UnixMillis, UserId};
use crate::inbox::failure::Failure;
use crate::inbox::{Erased, InboxError, OutOfDate, Upkeep, cursors};

/// The lock makes it a write: a standby or a read-only server refuses it.
const CHECK: &str = "select epoch from store for update";

const SEEN: &str = r#"
insert into last_seen as stored (user_id, at)
select user_id, at from unnest($1::text[], $2::bigint[]) as asked (user_id, at)
order by user_id collate "C"
on conflict (user_id) do update set at = excluded.at where stored.at < excluded.at
"#;

const LAST_SEEN: &str = r#"
select last_seen.at
from unnest($1::text[]) with ordinality as asked (user_id, place)
left join last_seen on last_seen.user_id = asked.user_id
order by asked.place
"#;

/// What another node is removing is skipped. A row is found by where it lies (`ctid`), which
/// its lock keeps from changing.
const SWEEP_KEYS: &str = r#"
delete from idempotency where ctid = any(array(
    select ctid from idempotency where created_at < $1
    order by created_at limit $2 for update skip locked
))
"#;

const SWEEP_ENTRIES: &str = r#"
delete from entries where ctid = any(array(
    select ctid from entries where expires_at <= $1
    order by expires_at limit $2 for update skip locked
))
"#;

/// All entries of a body expire with it, so it needs no look at whether some are left: those
/// are out of date, and reads pass them over.
const SWEEP_BODIES: &str = r#"
delete from bodies where ctid = any(array(
    select ctid from bodies where expires_at <= $1
    order by expires_at limit $2 for update skip locked
))
"#;

impl PostgresInbox {
    async fn sweep_kind(
        &self,
        statement: &'static str,
        before: UnixMillis,
        limit: u32,
    ) -> Result<u64, Failure> {
        let done = self
            .calls
            .within("sweep", async {
                let mut lease = self.lease().await?;
                let result = sqlx::query(statement)
                    .bind(before.as_i64())
                    .bind(i64::from(limit))
                    .execute(lease.connection())
                    .await;
                lease.end(result).map_err(|error| self.failure(error))
            })
            .await?;
        self.calls.metrics.swept.inc_by(done.rows_affected());
        Ok(done.rows_affected())
    }

    async fn sweep_all(&self, now: UnixMillis, keys_before: UnixMillis, limit: u32) -> Result<u64, Failure> {
        let keys = self.sweep_kind(SWEEP_KEYS, keys_before, limit).await?;
        let entries = self.sweep_kind(SWEEP_ENTRIES, now, limit).await?;
        let bodies = self.sweep_kind(SWEEP_BODIES, now, limit).await?;
        Ok(keys + entries + bodies)
    }
}

#[async_trait]
impl Upkeep for PostgresInbox {
    async fn check(&self) -> Result<(), InboxError> {
        self.calls
            .within("check", async {
                let mut lease = self.lease().await?;
                let result = sqlx::query(CHECK).fetch_one(lease.connection()).await;
                lease.end(result).map_err(|error| self.failure(error))
            })
            .await
            .map(drop)
            .map_err(|failure| failure.to_error())
    }

    async fn seen(&self, users: Vec<(UserId, UnixMillis)>) -> Result<(), InboxError> {
        let latest = cursors::latest(users);
        let (users, times): (Vec<&str>, Vec<i64>) =
            latest.iter().map(|(user, at)| (user.as_str(), at.as_i64())).unzip();
        self.calls
            .within("seen", async {
                let mut lease = self.lease().await?;
                let result = sqlx::query(SEEN).bind(&users).bind(&times).execute(lease.connection()).await;
                lease.end(result).map_err(|error| self.failure(error))
            })
            .await
            .map(drop)
            .map_err(|failure| failure.to_error())
    }

    async fn last_seen(&self, users: &[UserId]) -> Result<Vec<Option<UnixMillis>>, InboxError> {
        let names: Vec<&str> = users.iter().map(|user| user.as_str()).collect();
        let rows: Vec<Option<i64>> = self
            .calls
            .within("last_seen", async {
                let mut lease = self.lease().await?;
                let result = sqlx::query_scalar(LAST_SEEN).bind(&names).fetch_all(lease.connection()).await;
                lease.end(result).map_err(|error| self.failure(error))
            })
            .await
            .map_err(|failure| failure.to_error())?;
        let time = |at: Option<i64>| at.map(UnixMillis::from_i64);
        Ok(rows.into_iter().map(time).collect())
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
        // Connections that do not end in time are left to the server.
        let _ = tokio::time::timeout(self.timeout(), self.pool.close()).await;
    }
}
