//! The rest of the inbox in PostgreSQL.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::{PostgresInbox, count, parsed, time};
use crate::domain::{DeviceId, Stream, UnixMillis, UserId};
use crate::inbox::failure::Failure;
use crate::inbox::start::Starts;
use crate::inbox::{CursorKey, Erased, InboxError, OutOfDate, Unused, Upkeep, cursors};

/// What an append needs before it can write: the locks of its tables, in its order, and a server that takes writes (a
/// standby or a read-only one refuses). It changes no row, and one autocommit statement holds its locks for no longer. The
/// row is shared, as appends that make streams share it: one after the other they would let nobody have it alone.
const CHECK: &str = r#"
with idempotency_lock as (delete from idempotency where false),
stream_lock as (delete from streams where false),
body_lock as (delete from bodies where false),
entry_lock as (delete from entries where false)
select epoch from store for share
"#;

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

/// What nobody looks at, as looking was switched off.
const SWEEP_DUE: &str = r#"
delete from due where ctid = any(array(
    select ctid from due where at < $1
    order by at limit $2 for update skip locked
))
"#;

/// One that replaced an older one stays until that is marked, or its end would bring the older one back.
const SWEEP_ENTRIES: &str = r#"
delete from entries where ctid = any(array(
    select ctid from entries
    where expires_at <= $1 and (collapse is null or not exists (
        select from entries as older
        where older.stream = entries.stream and older.collapse = entries.collapse
            and older.seq < entries.seq and older.state = 0
            and older.device is not distinct from entries.device
            and (older.expires_at is null or older.expires_at > $1)
    ))
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

const SWEEP_REVOCATIONS: &str = r#"
delete from revocations where ctid = any(array(
    select ctid from revocations where lapses_at <= $1
    order by lapses_at limit $2 for update skip locked
))
"#;

/// Idle devices with their cursors, sorted as those who move them do.
const SWEEP_DEVICES: &str = concat!(
    r#"
with idle as (
    delete from devices
    using (
        select user_id, device from devices
        where last_used < $1
        order by last_used
        limit $2
        for update skip locked
    ) as unused
    where devices.user_id = unused.user_id and devices.device = unused.device
    returning devices.user_id, devices.device
),
cursor as (
    delete from cursors
    using (
        select cursors.user_id, cursors.device, cursors.stream
        from idle
        join cursors on cursors.user_id = idle.user_id and cursors.device = idle.device
        order by cursors.user_id, cursors.device, cursors.stream
        for update of cursors
    ) as theirs
    where cursors.user_id = theirs.user_id and cursors.device = theirs.device
        and cursors.stream = theirs.stream
    returning cursors.user_id, cursors.stream
),
"#,
    leave!("cursor"),
    r#"
select (select count(*) from idle) + (select count(*) from cursor) as rows
"#
);

const REMOVE_DEVICE: &str = concat!(
    r#"
with gone as (
    delete from devices where user_id = $1 and device = $2 returning device
),
cursor as (
    delete from cursors
    using (
        select user_id, device, stream from cursors
        where user_id = $1 and device = $2
        order by user_id, device, stream
        for update
    ) as theirs
    where cursors.user_id = theirs.user_id and cursors.device = theirs.device
        and cursors.stream = theirs.stream
    returning cursors.user_id, cursors.stream
),
"#,
    leave!("cursor"),
    r#"
select count(*) as devices from gone
"#
);

/// Whole streams are looked at, but no lock is taken.
const OVERFULL: &str = r#"
select name from streams where last_seq - greatest(floor_seq, base_seq) > $1 limit $2
"#;

/// $1 now, $2 how many. Told for users none of whose entries of it anybody acknowledged or read, if one of
/// these still waits to be or expired before it was.
const LOOK_FOR_UNDELIVERED: &str = concat!(
    r#"
with looked as (
    delete from due
    using (
        select body from due where at <= $1 order by at limit $2 for update skip locked
    ) as ripe
    where due.body = ripe.body
    returning due.body
),
waiting as materialized (
    select bodies.id as body, bodies.publisher, streams.name, null::text as device
    from looked
    join bodies on bodies.id = looked.body
    join entries on entries.body = bodies.id
    join streams on streams.id = entries.stream
    where entries.kind = 0 and streams.name like 'user:%'
    group by bodies.id, bodies.publisher, streams.name
    having bool_and(entries.delivered_at is null and entries.read_at is null)
        and bool_or((entries.state = 3 or entries.state = 0 and entries.seq > streams.floor_seq)
            and (entries.collapse is null or not "#,
    newer!("entries"),
    r#"))
),
told as ("#,
    tell!(@ "undelivered", "waiting", "$1", "true"),
    r#")
select count(*) as looked from looked
"#
);

impl PostgresInbox {
    async fn sweep_kind(
        &self,
        statement: &'static str,
        before: UnixMillis,
        limit: u32,
    ) -> Result<u64, Failure> {
        let query = sqlx::query(statement).bind(before.as_i64()).bind(i64::from(limit));
        let rows = self.written("sweep", query).await?;
        self.calls.metrics.swept.inc_by(rows);
        Ok(rows)
    }

    async fn sweep_devices(&self, before: UnixMillis, limit: u32) -> Result<u64, Failure> {
        let query = sqlx::query(SWEEP_DEVICES).bind(before.as_i64()).bind(i64::from(limit));
        let row = self.row("sweep", query).await?;
        let rows = self.read_row(count(&row, "rows"))?;
        self.calls.metrics.swept.inc_by(rows);
        Ok(rows)
    }

    async fn sweep_all(&self, before: &OutOfDate, limit: u32) -> Result<u64, Failure> {
        let keys = self.sweep_kind(SWEEP_KEYS, before.keys, limit).await?;
        let due = self.sweep_kind(SWEEP_DUE, before.due, limit).await?;
        let entries = self.sweep_kind(SWEEP_ENTRIES, before.expired, limit).await?;
        let bodies = self.sweep_kind(SWEEP_BODIES, before.expired, limit).await?;
        // Each may have a thousand cursors, and those of its user are counted for each topic.
        let devices = self.sweep_devices(before.devices, (limit / 10).max(1)).await?;
        let revocations = self.sweep_kind(SWEEP_REVOCATIONS, before.revocations, limit).await?;
        Ok(keys + due + entries + bodies + devices + revocations)
    }

    async fn find_overfull(&self, max_entries: u64, limit: u32) -> Result<Vec<Stream>, Failure> {
        let query =
            sqlx::query(OVERFULL).bind(i64::try_from(max_entries).unwrap_or(i64::MAX)).bind(i64::from(limit));
        let rows = self.rows("overfull", query).await?;
        let stream = |row: &PgRow| parsed(Stream::parse(row.try_get("name")?));
        self.read_row(rows.iter().map(stream).collect())
    }

    /// One number of the only row that a statement returns.
    async fn number(
        &self,
        call: &'static str,
        query: super::Query<'_>,
        column: &str,
    ) -> Result<u64, InboxError> {
        let row = self.row(call, query).await;
        let number = row.and_then(|row| self.read_row(count(&row, column)));
        number.map_err(|failure| failure.to_error())
    }
}

#[async_trait]
impl Upkeep for PostgresInbox {
    async fn check(&self) -> Result<(), InboxError> {
        let checked = self.row("check", sqlx::query(CHECK)).await;
        checked.map(drop).map_err(|failure| failure.to_error())
    }

    async fn seen(&self, users: Vec<(UserId, UnixMillis)>) -> Result<(), InboxError> {
        let latest = cursors::latest(users);
        let (users, times): (Vec<&str>, Vec<i64>) =
            latest.iter().map(|(user, at)| (user.as_str(), at.as_i64())).unzip();
        let seen = self.written("seen", sqlx::query(SEEN).bind(&users).bind(&times)).await;
        seen.map(drop).map_err(|failure| failure.to_error())
    }

    async fn last_seen(&self, users: &[UserId]) -> Result<Vec<Option<UnixMillis>>, InboxError> {
        let names: Vec<&str> = users.iter().map(|user| user.as_str()).collect();
        let rows = self.rows("last_seen", sqlx::query(LAST_SEEN).bind(&names)).await;
        let times = rows.and_then(|rows| self.read_row(rows.iter().map(|row| time(row, "at")).collect()));
        times.map_err(|failure| failure.to_error())
    }

    async fn expire(&self, now: UnixMillis, limit: u32) -> Result<u64, InboxError> {
        let expired = self.expire_some(now, limit).await;
        expired.map_err(|failure| failure.to_error())
    }

    async fn sweep(&self, before: &OutOfDate, limit: u32) -> Result<u64, InboxError> {
        let swept = self.sweep_all(before, limit).await;
        swept.map_err(|failure| failure.to_error())
    }

    async fn retain_by_age(&self, created_before: UnixMillis, limit: u32) -> Result<u64, InboxError> {
        let retained = self.retain_younger(created_before, limit).await;
        retained.map_err(|failure| failure.to_error())
    }

    async fn retain_by_count(&self, streams: &[Stream], max_entries: u64) -> Result<u64, InboxError> {
        let retained = self.retain_last(streams, max_entries).await;
        retained.map_err(|failure| failure.to_error())
    }

    async fn overfull(&self, max_entries: u64, limit: u32) -> Result<Vec<Stream>, InboxError> {
        let overfull = self.find_overfull(max_entries, limit).await;
        overfull.map_err(|failure| failure.to_error())
    }

    async fn look_for_undelivered(&self, now: UnixMillis, limit: u32) -> Result<u64, InboxError> {
        let query = sqlx::query(LOOK_FOR_UNDELIVERED).bind(now.as_i64()).bind(i64::from(limit));
        self.number("look_for_undelivered", query, "looked").await
    }

    async fn remove_device(&self, user: &UserId, device: &DeviceId) -> Result<bool, InboxError> {
        let query = sqlx::query(REMOVE_DEVICE).bind(user.as_str()).bind(device.as_str());
        self.number("remove_device", query, "devices").await.map(|devices| devices > 0)
    }

    async fn used(&self, devices: &[(UserId, DeviceId)], now: UnixMillis) -> Result<(), InboxError> {
        let touched = self.touch_devices(devices, now).await;
        touched.map_err(|failure| failure.to_error())
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
        // Connections that do not end in time are left to the server.
        let _ = tokio::time::timeout(self.timeout(), self.pool.close()).await;
    }
}
