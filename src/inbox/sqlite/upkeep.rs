//! The rest of the inbox in SQLite.

use async_trait::async_trait;
use sqlx::SqliteConnection;

use super::retention::AT_ONCE;
use super::unused::leave;
use super::{SqliteInbox, rows};
use crate::domain::{DeviceId, Stream, UnixMillis, UserId};
use crate::inbox::failure::Failure;
use crate::inbox::{CursorKey, Erased, InboxError, OutOfDate, Unused, Upkeep, cursors};

/// Writes, so that a full disk or a read-only file is noticed, and whoever holds the one write lock that appends need.
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
    select publisher, key from idempotency where created_at < ?1 order by created_at limit ?2 + 0
)
"#;

/// What nobody looks at, as looking was switched off.
const SWEEP_DUE: &str = r#"
delete from due where body in (
    select body from due where at < ?1 order by at limit ?2 + 0
)
"#;

const SWEEP_ENTRIES: &str = r#"
delete from entries where (stream, seq) in (
    select stream, seq from entries where expires_at <= ?1 order by expires_at limit ?2 + 0
)
"#;

/// All entries of a body expire with it, so it needs no look at whether some are left: those
/// are out of date, and reads pass them over.
const SWEEP_BODIES: &str = r#"
delete from bodies where id in (
    select id from bodies where expires_at <= ?1 order by expires_at limit ?2 + 0
)
"#;

const SWEEP_REVOCATIONS: &str = r#"
delete from revocations where (kind, subject) in (
    select kind, subject from revocations where lapses_at <= ?1 order by lapses_at limit ?2 + 0
)
"#;

/// Idle devices. Answers which.
const SWEEP_DEVICES: &str = r#"
delete from devices where (user_id, device) in (
    select user_id, device from devices where last_used < ?1 order by last_used limit ?2 + 0
)
returning user_id, device
"#;

/// Rows: [user, device].
const REMOVE_CURSORS: &str = r#"
delete from cursors where (user_id, device, stream) in (
    select user_id, device, stream
    from json_each(?1) as asked
    cross join cursors on user_id = asked.value ->> 0 and device = asked.value ->> 1
)
returning user_id, device, stream
"#;

const REMOVE_DEVICE: &str =
    "delete from devices where user_id = ?1 and device = ?2 returning user_id, device";

/// Rows: [user, device]; ?2 now.
const USED: &str = r#"
update devices set last_used = ?2
from json_each(?1) as asked
where user_id = asked.value ->> 0 and device = asked.value ->> 1 and last_used < ?2
"#;

/// Whole streams are looked at, but beside the writer.
const OVERFULL: &str = r#"
select name from streams where last_seq - max(floor_seq, base_seq) > ?1 limit ?2 + 0
"#;

/// What is due, oldest first, and how many entries it has. ?1 now, ?2 how many.
const DUE: &str = r#"
select lower(hex(due.body)), coalesce(bodies.recipients, 0)
from due
left join bodies on bodies.id = due.body
where due.at <= ?1
order by due.at
limit ?2 + 0
"#;

/// Each user with an entry of one of these notifications (?1), none of which anybody acknowledged or read, and
/// one of which waits to be or expired before it was. ?2 now.
const UNDELIVERED: &str = concat!(
    "insert into events (id, routing_key, json, created_at)
    select id, 'undelivered', cast(json_object(
        'id', id, 'type', 'undelivered', 'notification', notification, 'publisher', publisher,
        'user', user, 'device', null, 'at', ",
    time_text!("?2"),
    ") as blob), ?2
    from (
        select 'undelivered/' || notification || '/' || user as id, notification, publisher, user
        from (
            select ",
    uuid_text!("bodies.id"),
    " as notification, bodies.publisher, substr(streams.name, 6) as user
            from json_each(?1) as asked
            cross join bodies on bodies.id = unhex(asked.value)
            cross join entries on entries.body = bodies.id and entries.kind = 0
            join streams on streams.id = entries.stream
            where substr(streams.name, 1, 5) = 'user:'
            group by bodies.id, streams.id
            having sum(not (",
    untouched!(),
    ")) = 0 and sum(entries.state in (0, 3) and not ",
    replaced!(),
    ") > 0
        )
    )
    where true
    on conflict do nothing"
);

const LOOKED_AT: &str = "delete from due where body in (select unhex(value) from json_each(?1))";

impl SqliteInbox {
    /// One transaction a statement, so that appends get their turn in between.
    pub(super) async fn write_one(
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

    async fn sweep_all(&self, before: &OutOfDate, limit: u32) -> Result<u64, Failure> {
        let kinds = [
            (SWEEP_KEYS, before.keys),
            (SWEEP_DUE, before.due),
            (SWEEP_ENTRIES, before.expired),
            (SWEEP_BODIES, before.expired),
            (SWEEP_REVOCATIONS, before.revocations),
        ];
        let mut swept = 0;
        for (statement, before) in kinds {
            let query = sqlx::query(statement).bind(before.as_i64()).bind(i64::from(limit));
            let rows = self.write_one("sweep", query).await?;
            swept += rows;
        }
        let idle = sqlx::query_as(SWEEP_DEVICES).bind(before.devices.as_i64()).bind(i64::from(limit));
        swept += self.forget_devices("sweep", idle).await?;
        self.calls.metrics.swept.inc_by(swept);
        Ok(swept)
    }

    /// Removes devices with their cursors; returns how many.
    async fn forget_devices(
        &self,
        call: &'static str,
        query: sqlx::query::QueryAs<'_, sqlx::Sqlite, (String, String), sqlx::sqlite::SqliteArguments>,
    ) -> Result<u64, Failure> {
        let work = async {
            let mut transaction = self.write().await?;
            let done = async {
                let devices = query.fetch_all(&mut *transaction).await?;
                let count = devices.len() as u64;
                if count > 0 {
                    let removed: Vec<(String, String, String)> = sqlx::query_as(REMOVE_CURSORS)
                        .bind(rows(devices))
                        .fetch_all(&mut *transaction)
                        .await?;
                    leave(&mut transaction, &rows(removed)).await?;
                }
                Ok(count)
            };
            let done = done.await;
            self.finish(transaction, done).await
        };
        self.calls.within(call, work).await
    }

    async fn look_at_due(&self, now: UnixMillis, limit: u32) -> Result<u64, Failure> {
        let work = async {
            let mut transaction = self.write().await?;
            let done = look_at_due(&mut transaction, now, limit).await;
            self.finish(transaction, done).await
        };
        self.calls.within("look_for_undelivered", work).await
    }
}

/// Looks at as many as have a bounded number of recipients together, but at one at least.
async fn look_at_due(
    connection: &mut SqliteConnection,
    now: UnixMillis,
    limit: u32,
) -> Result<u64, sqlx::Error> {
    let due: Vec<(String, i64)> =
        sqlx::query_as(DUE).bind(now.as_i64()).bind(i64::from(limit)).fetch_all(&mut *connection).await?;
    let mut room = AT_ONCE;
    let fitting = due.into_iter().take_while(|(_, recipients)| {
        let fits = room > 0;
        room -= recipients.max(&1);
        fits
    });
    let bodies: Vec<String> = fitting.map(|(body, _)| body).collect();
    let count = bodies.len() as u64;
    if count > 0 {
        let bodies = rows(bodies);
        sqlx::query(UNDELIVERED).bind(&bodies).bind(now.as_i64()).execute(&mut *connection).await?;
        sqlx::query(LOOKED_AT).bind(&bodies).execute(connection).await?;
    }
    Ok(count)
}

#[async_trait]
impl Upkeep for SqliteInbox {
    async fn check(&self) -> Result<(), InboxError> {
        let checked = self.write_one("check", sqlx::query(CHECK)).await;
        checked.map(drop).map_err(|failure| failure.to_error())
    }

    async fn seen(&self, users: Vec<(UserId, UnixMillis)>) -> Result<(), InboxError> {
        let latest = cursors::latest(users);
        let asked = latest.iter().map(|(user, at)| (user, at.as_i64()));
        let query = sqlx::query(SEEN).bind(rows(asked.collect()));
        let seen = self.write_one("seen", query).await;
        seen.map(drop).map_err(|failure| failure.to_error())
    }

    async fn last_seen(&self, users: &[UserId]) -> Result<Vec<Option<UnixMillis>>, InboxError> {
        let asked = rows(users.iter().collect());
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
        let swept = self.sweep_all(before, limit).await;
        swept.map_err(|failure| failure.to_error())
    }

    async fn expire(&self, now: UnixMillis, limit: u32) -> Result<u64, InboxError> {
        let expired = self.expire_some(now, limit).await;
        expired.map_err(|failure| failure.to_error())
    }

    async fn retain_by_age(&self, created_before: UnixMillis, limit: u32) -> Result<u64, InboxError> {
        let removed = self.retain_younger(created_before, limit).await;
        removed.map_err(|failure| failure.to_error())
    }

    async fn retain_by_count(&self, streams: &[Stream], max_entries: u64) -> Result<u64, InboxError> {
        let removed = self.retain_last(streams, max_entries).await;
        removed.map_err(|failure| failure.to_error())
    }

    async fn overfull(&self, max_entries: u64, limit: u32) -> Result<Vec<Stream>, InboxError> {
        let work = async {
            let found: Result<Vec<String>, _> = sqlx::query_scalar(OVERFULL)
                .bind(i64::try_from(max_entries).unwrap_or(i64::MAX))
                .bind(i64::from(limit))
                .fetch_all(&self.readers)
                .await;
            let streams = found.and_then(|names| {
                let streams: Result<Vec<_>, _> = names.iter().map(|name| Stream::parse(name)).collect();
                streams.map_err(|error| sqlx::Error::Decode(error.into()))
            });
            streams.map_err(|error| self.failure(error))
        };
        let streams = self.calls.within("overfull", work).await;
        streams.map_err(|failure| failure.to_error())
    }

    async fn look_for_undelivered(&self, now: UnixMillis, limit: u32) -> Result<u64, InboxError> {
        let looked = self.look_at_due(now, limit).await;
        looked.map_err(|failure| failure.to_error())
    }

    async fn remove_device(&self, user: &UserId, device: &DeviceId) -> Result<bool, InboxError> {
        let query = sqlx::query_as(REMOVE_DEVICE).bind(user.as_str()).bind(device.as_str());
        let removed = self.forget_devices("remove_device", query).await;
        removed.map(|count| count > 0).map_err(|failure| failure.to_error())
    }

    async fn used(&self, devices: &[(UserId, DeviceId)], now: UnixMillis) -> Result<(), InboxError> {
        let query = sqlx::query(USED).bind(rows(devices.iter().collect())).bind(now.as_i64());
        let used = self.write_one("used", query).await;
        used.map(drop).map_err(|failure| failure.to_error())
    }

    async fn used_cursors(&self, cursors: &[CursorKey], now: UnixMillis) -> Result<(), InboxError> {
        let touched = self.touch_cursors(cursors, now).await;
        touched.map_err(|failure| failure.to_error())
    }

    async fn remove_unused_cursors(
        &self,
        after: Option<&CursorKey>,
        before: UnixMillis,
        limit: u32,
    ) -> Result<Unused, InboxError> {
        let removed = self.remove_unused(after, before, limit).await;
        removed.map_err(|failure| failure.to_error())
    }

    async fn erase(&self, user: &UserId) -> Result<Erased, InboxError> {
        let erased = self.erase_all(user).await;
        erased.map_err(|failure| failure.to_error())
    }

    async fn close(&self) {
        let both = async { tokio::join!(self.readers.close(), self.writer.close()) };
        // Connections that do not end in time end with the process.
        let _ = tokio::time::timeout(self.calls.timeout, both).await;
    }
}
