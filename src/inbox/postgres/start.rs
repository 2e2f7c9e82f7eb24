//! Starting sessions in PostgreSQL: many in one statement.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::{PostgresInbox, count, epoch_of};
use crate::domain::{DeviceId, Seq, Stream, UnixMillis, UserId};
use crate::inbox::failure::Failure;
use crate::inbox::start::{Found, Placing, Starts};
use crate::inbox::{MAX_SHARED_UNREAD, Open};

/// Counts the rows of one stream by its primary key; of a shared one from where the user began to follow it.
/// $5 now, $6 up to how many are counted there, $7 and $8 the epochs and seqs of resumes: whoever follows it from
/// now on begins where its device does.
const FIND: &str = concat!(
    r#"
select coalesce(stream.epoch, store.epoch) as epoch,
    coalesce(stream.last_seq, 0) as head,
    coalesce(stream.floor_seq, 0) as floor,
    store.version_base + case when stream.id is null then store.erased_seq else 0 end as version_base,
    coalesce(user_state.reads, 0) as reads,
    own.epoch as cursor_epoch, own.acked_seq as cursor_acked, own.used_at as cursor_used,
    follows.start_seq is not null as follows,
    device.last_used, device.others, waiting.unread + shared.unread as unread, waiting.lowest
from unnest($1::text[], $2::text[], $3::text[], $4::boolean[], $7::bigint[], $8::bigint[])
    with ordinality as asked (user_id, device, stream, is_own, resume_epoch, resume_seq, place)
cross join store
left join streams as stream on stream.name = asked.stream
left join user_state on user_state.user_id = asked.user_id and asked.is_own
left join follows
    on follows.user_id = asked.user_id and follows.stream = asked.stream and not asked.is_own
left join cursors as own
    on own.user_id = asked.user_id and own.device = asked.device and own.stream = asked.stream
cross join lateral (
    select max(last_used) filter (where device = asked.device) as last_used,
        count(*) filter (where device <> asked.device) as others
    from devices
    where user_id = asked.user_id and asked.device is not null
) as device
cross join lateral (
    -- A cursor that stands where it started has acknowledged nothing.
    select max(acked_seq) as acked
    from cursors
    where user_id = asked.user_id and cursors.stream = asked.stream
        and cursors.epoch = stream.epoch and acked_seq > start_seq
        and asked.is_own and asked.device is not null and own.acked_seq is null
) as anywhere
cross join lateral (
    select count(*) as unread,
        min(seq) filter (
            where seq > coalesce(anywhere.acked, 0)
                and (entries.device is null or entries.device = asked.device)
        ) as lowest
    from entries
    where asked.is_own and entries.stream = stream.id and seq > stream.floor_seq
        and entries.kind = 0 and entries.read_at is null and "#,
    alive!("entries", "$5"),
    r#"
) as waiting
cross join lateral (
    select count(*) as unread
    from (
        select from entries
        where not asked.is_own and entries.stream = stream.id and entries.kind = 0
            and entries.seq > greatest(
                stream.floor_seq, follows.read_seq,
                case when follows.start_seq is not null then follows.start_seq
                    when asked.device is null or asked.resume_seq is null then stream.last_seq
                    when asked.resume_seq > stream.last_seq or asked.resume_epoch <> stream.epoch
                        then stream.floor_seq
                    else asked.resume_seq end
            ) and "#,
    alive!("entries", "$5"),
    r#"
            and not exists (
                select from reads
                where reads.user_id = asked.user_id and reads.stream = asked.stream
                    and reads.seq = entries.seq
            )
        limit $6
    ) as counted
) as shared
order by asked.place
"#
);

/// Any free slot, as two who want the lowest would meet. Whoever finds it taken meanwhile gets
/// none and asks again.
const ADD_DEVICES: &str = r#"
insert into devices (user_id, device, slot, created_at, last_used)
select asked.user_id, asked.device, free.slot, $4, $4
from unnest($1::text[], $2::text[]) as asked (user_id, device)
cross join lateral (
    select slot
    from generate_series(0, $3 - 1) as slots (slot)
    where not exists (
        select from devices where devices.user_id = asked.user_id and devices.slot = slots.slot
    )
    order by random()
    limit 1
) as free
order by asked.user_id collate "C"
on conflict do nothing
returning user_id, device
"#;

const TOUCH_DEVICES: &str = r#"
update devices set last_used = $3
from (
    select user_id, device
    from devices
    join unnest($1::text[], $2::text[]) as asked (user_id, device) using (user_id, device)
    order by user_id, device
    for update of devices skip locked
) as used
where devices.user_id = used.user_id and devices.device = used.device
    and devices.last_used < $3
"#;

/// With the first cursor in a shared stream its user begins to follow it. $6 now.
macro_rules! place {
    ($conflict:literal) => {
        concat!(
            r#"
with asked as materialized (
    select *
    from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[])
        as asked (user_id, device, stream, epoch, start_seq)
),
placed as (
    insert into cursors as stored (user_id, device, stream, epoch, start_seq, acked_seq, used_at)
    select user_id, device, stream, epoch, start_seq, start_seq, $6
    from asked
    order by user_id collate "C", device collate "C", stream collate "C"
    on conflict (user_id, device, stream) "#,
            $conflict,
            r#"
)
insert into follows (user_id, stream, epoch, start_seq)
select user_id, stream, min(epoch), min(start_seq)
from asked
where stream not like 'user:%'
group by user_id, stream
order by user_id collate "C", stream collate "C"
on conflict (user_id, stream) do nothing
"#
        )
    };
}

/// A cursor that is there stays, unless it is the very one to be replaced.
const PLACE: &str = place!("do nothing");

const KEEP: &str = place!("do update set used_at = excluded.used_at where stored.used_at < excluded.used_at");

/// The same, and $7 and $8 the epochs and seqs of those that are replaced.
const REPLACE: &str = r#"
update cursors
set epoch = stale.epoch, start_seq = stale.start_seq, acked_seq = stale.start_seq, used_at = $6
from (
    select stored.user_id, stored.device, stored.stream, asked.epoch, asked.start_seq,
        asked.old_epoch, asked.old_acked
    from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $7::bigint[], $8::bigint[])
        as asked (user_id, device, stream, epoch, start_seq, old_epoch, old_acked)
    join cursors as stored
        on stored.user_id = asked.user_id and stored.device = asked.device
        and stored.stream = asked.stream
    order by stored.user_id, stored.device, stored.stream
    for update of stored
) as stale
where cursors.user_id = stale.user_id and cursors.device = stale.device
    and cursors.stream = stale.stream
    and cursors.epoch = stale.old_epoch and cursors.acked_seq = stale.old_acked
"#;

/// Users and devices as two arrays.
fn columns(devices: &[(UserId, DeviceId)]) -> (Vec<&str>, Vec<&str>) {
    devices.iter().map(|(user, device)| (user.as_str(), device.as_str())).unzip()
}

impl Starts for PostgresInbox {
    async fn find(&self, requests: &[&Open], now: UnixMillis) -> Result<Vec<Found>, Failure> {
        let users: Vec<&str> = requests.iter().map(|open| open.user.as_str()).collect();
        let devices: Vec<Option<&str>> =
            requests.iter().map(|open| open.device.as_ref().map(|device| device.as_str())).collect();
        let streams: Vec<String> = requests.iter().map(|open| open.stream.to_string()).collect();
        let own: Vec<bool> = requests
            .iter()
            .map(|open| matches!(&open.stream, Stream::User(user) if *user == open.user))
            .collect();
        let (resume_epochs, resume_seqs): (Vec<Option<i64>>, Vec<Option<i64>>) = requests
            .iter()
            .map(|open| {
                let epoch = open.resume.and_then(|resume| resume.epoch);
                (epoch.map(|epoch| i64::from(epoch.0)), open.resume.map(|resume| resume.seq.as_i64()))
            })
            .unzip();
        let query = sqlx::query(FIND)
            .bind(&users)
            .bind(&devices)
            .bind(&streams)
            .bind(&own)
            .bind(now.as_i64())
            .bind(i64::try_from(MAX_SHARED_UNREAD).unwrap_or(i64::MAX))
            .bind(&resume_epochs)
            .bind(&resume_seqs);
        let rows = self.rows("open", query).await?;
        self.read_row(rows.iter().map(found).collect())
    }

    async fn add_devices(
        &self,
        devices: &[(UserId, DeviceId)],
        now: UnixMillis,
    ) -> Result<Vec<(UserId, DeviceId)>, Failure> {
        let (users, names) = columns(devices);
        let slots = i32::try_from(self.max_devices).unwrap_or(i32::MAX);
        let query = sqlx::query(ADD_DEVICES).bind(&users).bind(&names).bind(slots).bind(now.as_i64());
        let rows = self.rows("add_devices", query).await?;
        let added = |row: &PgRow| Ok((row.try_get("user_id")?, row.try_get("device")?));
        let added: Vec<(String, String)> = self.read_row(rows.iter().map(added).collect())?;
        let is_added = |(user, device): &&(UserId, DeviceId)| {
            added.iter().any(|row| row.0 == user.as_str() && row.1 == device.as_str())
        };
        Ok(devices.iter().filter(is_added).cloned().collect())
    }

    async fn touch_devices(&self, devices: &[(UserId, DeviceId)], now: UnixMillis) -> Result<(), Failure> {
        let (users, names) = columns(devices);
        let query = sqlx::query(TOUCH_DEVICES).bind(&users).bind(&names).bind(now.as_i64());
        self.written("touch_devices", query).await.map(drop)
    }

    async fn keep(&self, cursors: &[Placing], now: UnixMillis) -> Result<(), Failure> {
        let cursors: Vec<&Placing> = cursors.iter().collect();
        self.write_cursors("keep", KEEP, &cursors, now).await
    }

    async fn place(&self, cursors: &[Placing], now: UnixMillis) -> Result<(), Failure> {
        let (new, stale): (Vec<&Placing>, Vec<&Placing>) =
            cursors.iter().partition(|cursor| cursor.replaces.is_none());
        if !new.is_empty() {
            self.write_cursors("place", PLACE, &new, now).await?;
        }
        if !stale.is_empty() {
            self.write_cursors("replace", REPLACE, &stale, now).await?;
            // One that has been swept since it was looked at is not there to be replaced.
            let new: Vec<Placing> =
                stale.into_iter().map(|cursor| Placing { replaces: None, ..cursor.clone() }).collect();
            self.write_cursors("place", PLACE, &new.iter().collect::<Vec<_>>(), now).await?;
        }
        Ok(())
    }
}

impl PostgresInbox {
    async fn write_cursors(
        &self,
        call: &'static str,
        statement: &'static str,
        cursors: &[&Placing],
        now: UnixMillis,
    ) -> Result<(), Failure> {
        let users: Vec<&str> = cursors.iter().map(|cursor| cursor.user.as_str()).collect();
        let devices: Vec<&str> = cursors.iter().map(|cursor| cursor.device.as_str()).collect();
        let streams: Vec<String> = cursors.iter().map(|cursor| cursor.stream.to_string()).collect();
        let epochs: Vec<i64> = cursors.iter().map(|cursor| i64::from(cursor.epoch.0)).collect();
        let starts: Vec<i64> = cursors.iter().map(|cursor| cursor.start.as_i64()).collect();
        let replaced: Vec<(i64, i64)> = cursors
            .iter()
            .filter_map(|cursor| cursor.replaces)
            .map(|(epoch, acked)| (i64::from(epoch.0), acked.as_i64()))
            .collect();
        let (old_epochs, old_acked): (Vec<i64>, Vec<i64>) = replaced.into_iter().unzip();
        let mut query = sqlx::query(statement)
            .bind(&users)
            .bind(&devices)
            .bind(&streams)
            .bind(&epochs)
            .bind(&starts)
            .bind(now.as_i64());
        if !old_epochs.is_empty() {
            query = query.bind(&old_epochs).bind(&old_acked);
        }
        self.written(call, query).await.map(drop)
    }
}

fn found(row: &PgRow) -> Result<Found, sqlx::Error> {
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
        unread: count(row, "unread")?,
        lowest: lowest.map(Seq::from_i64),
        version_base: count(row, "version_base")?,
        reads: count(row, "reads")?,
    })
}
