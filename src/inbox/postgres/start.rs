//! Starting sessions in PostgreSQL: many in one statement.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::PostgresInbox;
use super::append::epoch_of;
use crate::domain::{DeviceId, Seq, Stream, UnixMillis, UserId};
use crate::inbox::Open;
use crate::inbox::failure::Failure;
use crate::inbox::start::{Found, Placing, Starts};

/// Counts the rows of one stream by its primary key.
const FIND: &str = r#"
select coalesce(stream.epoch, (select epoch from store)) as epoch,
    coalesce(stream.last_seq, 0) as head,
    coalesce(stream.floor_seq, 0) as floor,
    own.epoch as cursor_epoch, own.acked_seq as cursor_acked,
    device.last_used, device.others, waiting.unread, waiting.lowest
from unnest($1::text[], $2::text[], $3::text[], $4::boolean[])
    with ordinality as asked (user_id, device, stream, is_own, place)
left join streams as stream on stream.name = asked.stream
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
    select count(*) as unread, min(seq) filter (where seq > coalesce(anywhere.acked, 0)) as lowest
    from entries
    where asked.is_own and entries.stream = stream.id and seq > stream.floor_seq
        and (expires_at is null or expires_at > $5)
        and (entries.device is null or entries.device = asked.device)
) as waiting
order by asked.place
"#;

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

/// A cursor that is there stays, unless it is the very one to be replaced.
const PLACE: &str = r#"
insert into cursors as stored (user_id, device, stream, epoch, start_seq, acked_seq)
select user_id, device, stream, epoch, start_seq, start_seq
from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[])
    as asked (user_id, device, stream, epoch, start_seq)
order by user_id collate "C", device collate "C", stream collate "C"
on conflict (user_id, device, stream) do nothing
"#;

const REPLACE: &str = r#"
update cursors
set epoch = stale.epoch, start_seq = stale.start_seq, acked_seq = stale.start_seq
from (
    select stored.user_id, stored.device, stored.stream, asked.epoch, asked.start_seq,
        asked.old_epoch, asked.old_acked
    from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
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
        let rows = self
            .calls
            .within("open", async {
                let mut lease = self.lease().await?;
                let result = sqlx::query(FIND)
                    .bind(&users)
                    .bind(&devices)
                    .bind(&streams)
                    .bind(&own)
                    .bind(now.as_i64())
                    .fetch_all(lease.connection())
                    .await;
                lease.end(result).map_err(|error| self.failure(error))
            })
            .await?;
        let found: Result<Vec<Found>, sqlx::Error> = rows.iter().map(found).collect();
        found.map_err(|error| self.failure(error))
    }

    async fn add_devices(
        &self,
        devices: &[(UserId, DeviceId)],
        now: UnixMillis,
    ) -> Result<Vec<(UserId, DeviceId)>, Failure> {
        let (users, names) = columns(devices);
        let rows: Vec<(String, String)> = self
            .calls
            .within("add_devices", async {
                let mut lease = self.lease().await?;
                let slots = i32::try_from(self.max_devices).unwrap_or(i32::MAX);
                let result = sqlx::query_as(ADD_DEVICES)
                    .bind(&users)
                    .bind(&names)
                    .bind(slots)
                    .bind(now.as_i64())
                    .fetch_all(lease.connection())
                    .await;
                lease.end(result).map_err(|error| self.failure(error))
            })
            .await?;
        let is_added = |(user, device): &&(UserId, DeviceId)| {
            rows.iter().any(|row| row.0 == user.as_str() && row.1 == device.as_str())
        };
        Ok(devices.iter().filter(is_added).cloned().collect())
    }

    async fn touch_devices(&self, devices: &[(UserId, DeviceId)], now: UnixMillis) -> Result<(), Failure> {
        let (users, names) = columns(devices);
        self.calls
            .within("touch_devices", async {
                let mut lease = self.lease().await?;
                let result = sqlx::query(TOUCH_DEVICES)
                    .bind(&users)
                    .bind(&names)
                    .bind(now.as_i64())
                    .execute(lease.connection())
                    .await;
                lease.end(result).map_err(|error| self.failure(error))
            })
            .await
            .map(drop)
    }

    async fn place(&self, cursors: &[Placing]) -> Result<(), Failure> {
        let (new, stale): (Vec<&Placing>, Vec<&Placing>) =
            cursors.iter().partition(|cursor| cursor.replaces.is_none());
        if !new.is_empty() {
            self.write_cursors("place", PLACE, &new).await?;
        }
        if !stale.is_empty() {
            self.write_cursors("replace", REPLACE, &stale).await?;
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
        self.calls
            .within(call, async {
                let mut lease = self.lease().await?;
                let mut query = sqlx::query(statement)
                    .bind(&users)
                    .bind(&devices)
                    .bind(&streams)
                    .bind(&epochs)
                    .bind(&starts);
                if !old_epochs.is_empty() {
                    query = query.bind(&old_epochs).bind(&old_acked);
                }
                let result = query.execute(lease.connection()).await;
                lease.end(result).map_err(|error| self.failure(error))
            })
            .await
            .map(drop)
    }
}

fn found(row: &PgRow) -> Result<Found, sqlx::Error> {
    let cursor_epoch: Option<i64> = row.try_get("cursor_epoch")?;
    let cursor_acked: Option<i64> = row.try_get("cursor_acked")?;
    let last_used: Option<i64> = row.try_get("last_used")?;
    let lowest: Option<i64> = row.try_get("lowest")?;
    Ok(Found {
        epoch: epoch_of(row.try_get("epoch")?),
        head: Seq::from_i64(row.try_get("head")?),
        floor: Seq::from_i64(row.try_get("floor")?),
        cursor: cursor_epoch.zip(cursor_acked).map(|(epoch, acked)| (epoch_of(epoch), Seq::from_i64(acked))),
        last_used: last_used.map(UnixMillis::from_i64),
        others: u32::try_from(row.try_get::<i64, _>("others")?).unwrap_or(u32::MAX),
        unread: u64::try_from(row.try_get::<i64, _>("unread")?).unwrap_or_default(),
        lowest: lowest.map(Seq::from_i64),
        version_base: 0,
        reads: 0,
    })
}
