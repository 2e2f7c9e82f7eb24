//! Starting sessions in SQLite.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::{SqliteInbox, count_of, epoch_of, rows};
use crate::domain::{DeviceId, Seq, Stream, UnixMillis, UserId};
use crate::inbox::failure::Failure;
use crate::inbox::start::{Found, Placing, Starts};
use crate::inbox::{MAX_SHARED_UNREAD, Open};

/// Counts the rows of one stream by its primary key. ?1 user, ?2 device, ?3 stream, ?4 whether it is the user's
/// own, ?5 now, ?6 up to how many are counted of a shared one, ?7 and ?8 the seq and epoch of a resume.
/// Unread of a shared stream counts from where the user began to follow it: here, if it is only now.
const FIND: &str = concat!(
    "with standing as materialized (
        select streams.id, coalesce(streams.epoch, store.epoch) as epoch,
            coalesce(streams.last_seq, 0) as head, coalesce(streams.floor_seq, 0) as floor,
            store.version_base + case when streams.id is null then store.erased_seq else 0 end as version_base
        from store
        left join streams on streams.name = ?3
    ),
    own as materialized (
        select epoch, acked_seq, used_at from cursors where user_id = ?1 and device = ?2 and stream = ?3
    ),
    anywhere as materialized (
        -- A cursor that stands where it started has acknowledged nothing.
        select max(acked_seq) as acked
        from cursors
        where user_id = ?1 and stream = ?3 and epoch = (select epoch from standing)
            and acked_seq > start_seq and ?4 and not exists (select 1 from own)
    ),
    waiting as materialized (
        select count(*) as unread,
            min(seq) filter (
                where seq > coalesce((select acked from anywhere), 0) and (device is null or device = ?2)
            ) as lowest
        from entries
        where ?4 and stream = (select id from standing) and seq > (select floor from standing)
            and read_at is null and ",
    current!(),
    " and ",
    alive!("?5"),
    "
    ),
    counted_from as materialized (
        select coalesce(
            (select max(start_seq, read_seq) from follows where user_id = ?1 and stream = ?3),
            case when ?2 is null or ?7 is null then head
                when ?7 > head or coalesce(?8, epoch) <> epoch then floor else ?7 end
        ) as seq
        from standing
    ),
    shared as materialized (
        select count(*) as unread
        from (
            select 1 from entries
            where not ?4 and stream = (select id from standing)
                and seq > max((select seq from counted_from), (select floor from standing)) and ",
    current!(),
    " and ",
    alive!("?5"),
    "
                and not exists (
                    select 1 from reads where user_id = ?1 and reads.stream = ?3 and reads.seq = entries.seq
                )
            limit ?6 + 0
        )
    )
    select standing.epoch, standing.head, standing.floor, standing.version_base,
        own.epoch as cursor_epoch, own.acked_seq as cursor_acked, own.used_at as cursor_used,
        exists (select 1 from follows where user_id = ?1 and stream = ?3) as follows,
        (select last_used from devices where user_id = ?1 and device = ?2) as last_used,
        (select count(*) from devices where user_id = ?1 and device <> ?2) as others,
        waiting.unread + shared.unread as unread, waiting.lowest,
        coalesce((select reads from user_state where user_id = ?1), 0) as reads
    from standing
    join waiting on true
    join shared on true
    left join own on true"
);

/// The lowest free slot: there is one writer, so nobody else wants it.
const ADD_DEVICE: &str = r#"
with recursive slots (slot) as (
    select 0 union all select slot + 1 from slots where slot + 1 < ?3
)
insert into devices (user_id, device, slot, created_at, last_used)
select ?1, ?2, slot, ?4, ?4
from slots
where slot < ?3
    and not exists (select 1 from devices where user_id = ?1 and devices.slot = slots.slot)
limit 1
on conflict do nothing
"#;

const TOUCH_DEVICE: &str =
    "update devices set last_used = ?3 where user_id = ?1 and device = ?2 and last_used < ?3";

/// A cursor that is there stays. Rows: [user, device, stream, epoch, start, replaced epoch, replaced acked]; ?2 now.
const PLACE: &str = r#"
insert into cursors (user_id, device, stream, epoch, start_seq, acked_seq, used_at)
select value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 4, ?2
from json_each(?1)
where true
on conflict do nothing
"#;

/// The same, but one that is there was used now. Rows as above.
const KEEP: &str = r#"
insert into cursors (user_id, device, stream, epoch, start_seq, acked_seq, used_at)
select value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 4, ?2
from json_each(?1)
where true
on conflict do update set used_at = excluded.used_at where used_at < excluded.used_at
"#;

/// The very one that is to be replaced. Rows as above.
const REPLACE: &str = r#"
update cursors
set epoch = asked.value ->> 3, start_seq = asked.value ->> 4, acked_seq = asked.value ->> 4, used_at = ?2
from json_each(?1) as asked
where user_id = asked.value ->> 0 and device = asked.value ->> 1 and stream = asked.value ->> 2
    and epoch = asked.value ->> 5 and acked_seq = asked.value ->> 6
"#;

/// Where a user began to follow a shared stream: with the first cursor of a device in it. Rows as above.
const FOLLOW: &str = r#"
insert into follows (user_id, stream, epoch, start_seq)
select value ->> 0, value ->> 2, value ->> 3, min(value ->> 4)
from json_each(?1)
where substr(value ->> 2, 1, 5) <> 'user:'
group by value ->> 0, value ->> 2
on conflict do nothing
"#;

impl Starts for SqliteInbox {
    async fn find(&self, requests: &[&Open], now: UnixMillis) -> Result<Vec<Found>, Failure> {
        let work = async {
            let acquired = self.readers.acquire().await;
            let mut connection = acquired.map_err(|error| self.failure(error))?;
            let mut found = Vec::with_capacity(requests.len());
            for open in requests {
                let is_own = matches!(&open.stream, Stream::User(user) if *user == open.user);
                let row = sqlx::query(FIND)
                    .bind(open.user.as_str())
                    .bind(open.device.as_ref().map(|device| device.as_str()))
                    .bind(open.stream.to_string())
                    .bind(is_own)
                    .bind(now.as_i64())
                    .bind(i64::try_from(MAX_SHARED_UNREAD).unwrap_or(i64::MAX))
                    .bind(open.resume.map(|resume| resume.seq.as_i64()))
                    .bind(open.resume.and_then(|resume| resume.epoch).map(|epoch| i64::from(epoch.0)))
                    .fetch_one(&mut *connection)
                    .await
                    .and_then(|row| found_in(&row));
                found.push(row.map_err(|error| self.failure(error))?);
            }
            Ok(found)
        };
        self.calls.within("open", work).await
    }

    async fn add_devices(
        &self,
        devices: &[(UserId, DeviceId)],
        now: UnixMillis,
    ) -> Result<Vec<(UserId, DeviceId)>, Failure> {
        let work = async {
            let mut transaction = self.write().await?;
            let mut added = Vec::new();
            for (user, device) in devices {
                let done = sqlx::query(ADD_DEVICE)
                    .bind(user.as_str())
                    .bind(device.as_str())
                    .bind(i64::from(self.max_devices))
                    .bind(now.as_i64())
                    .execute(&mut *transaction)
                    .await
                    .map_err(|error| self.failure(error))?;
                if done.rows_affected() > 0 {
                    added.push((user.clone(), device.clone()));
                }
            }
            self.commit(transaction).await?;
            Ok(added)
        };
        self.calls.within("add_devices", work).await
    }

    async fn touch_devices(&self, devices: &[(UserId, DeviceId)], now: UnixMillis) -> Result<(), Failure> {
        let work = async {
            let mut transaction = self.write().await?;
            for (user, device) in devices {
                sqlx::query(TOUCH_DEVICE)
                    .bind(user.as_str())
                    .bind(device.as_str())
                    .bind(now.as_i64())
                    .execute(&mut *transaction)
                    .await
                    .map_err(|error| self.failure(error))?;
            }
            self.commit(transaction).await
        };
        self.calls.within("touch_devices", work).await
    }

    async fn keep(&self, cursors: &[Placing], now: UnixMillis) -> Result<(), Failure> {
        self.write_cursors("keep", &[KEEP], cursors, now).await
    }

    async fn place(&self, cursors: &[Placing], now: UnixMillis) -> Result<(), Failure> {
        // One that has been swept since it was looked at is not there to be replaced, but placed.
        self.write_cursors("place", &[REPLACE, PLACE], cursors, now).await
    }
}

impl SqliteInbox {
    async fn write_cursors(
        &self,
        call: &'static str,
        statements: &[&'static str],
        cursors: &[Placing],
        now: UnixMillis,
    ) -> Result<(), Failure> {
        let asked = cursors.iter().map(|cursor| {
            (
                &cursor.user,
                &cursor.device,
                cursor.stream.to_string(),
                cursor.epoch.0,
                cursor.start.as_i64(),
                cursor.replaces.map(|(epoch, _)| epoch.0),
                cursor.replaces.map(|(_, acked)| acked.as_i64()),
            )
        });
        let asked = rows(asked.collect());
        let work = async {
            let mut transaction = self.write().await?;
            let done = async {
                for statement in statements {
                    sqlx::query(*statement)
                        .bind(&asked)
                        .bind(now.as_i64())
                        .execute(&mut *transaction)
                        .await?;
                }
                sqlx::query(FOLLOW).bind(&asked).execute(&mut *transaction).await.map(drop)
            };
            let done = done.await;
            self.finish(transaction, done).await
        };
        self.calls.within(call, work).await
    }
}

fn found_in(row: &SqliteRow) -> Result<Found, sqlx::Error> {
    let cursor_epoch: Option<i64> = row.try_get("cursor_epoch")?;
    let cursor_acked: Option<i64> = row.try_get("cursor_acked")?;
    let cursor_used: Option<i64> = row.try_get("cursor_used")?;
    let last_used: Option<i64> = row.try_get("last_used")?;
    let lowest: Option<i64> = row.try_get("lowest")?;
    Ok(Found {
        epoch: epoch_of(row.try_get("epoch")?),
        head: Seq::from_i64(row.try_get("head")?),
        floor: Seq::from_i64(row.try_get("floor")?),
        cursor: cursor_epoch.zip(cursor_acked).map(|(epoch, acked)| (epoch_of(epoch), Seq::from_i64(acked))),
        cursor_used: cursor_used.map(UnixMillis::from_i64),
        follows: row.try_get("follows")?,
        last_used: last_used.map(UnixMillis::from_i64),
        others: u32::try_from(row.try_get::<i64, _>("others")?).unwrap_or(u32::MAX),
        unread: count_of(row.try_get("unread")?),
        lowest: lowest.map(Seq::from_i64),
        version_base: count_of(row.try_get("version_base")?),
        reads: count_of(row.try_get("reads")?),
    })
}
