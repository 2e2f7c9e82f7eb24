//! Erasing a person from PostgreSQL.
//!
//! Owns the order of it. No lock spans a round trip: several statements, each of which may be done again, and
//! what the earlier ones must not miss is looked for once more at the end.

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::{PostgresInbox, count};
use crate::domain::{Stream, UserId};
use crate::inbox::Erased;
use crate::inbox::erasure::{Without, without};
use crate::inbox::failure::Failure;

/// How many schedules are looked at at once.
const LOOK_AT: i64 = 500;

const SCHEDULED: &str = "select id, request from scheduled where id > $1 order by id limit $2";
const UNSCHEDULE: &str = "delete from scheduled where id = $1";
const RESCHEDULE: &str = "update scheduled set request = $2 where id = $1 and request = $3";

/// $1 the person's stream. Bodies alone, sorted: a cancellation holds a body while it waits for streams. Whether others
/// have one is a value, here and below, as tables without statistics have `not exists` planned as a join of all with all.
const BODIES: &str = r#"
with theirs as materialized (
    select bodies.id
    from (
        select distinct entries.body
        from streams
        join entries on entries.stream = streams.id
        where streams.name = $1 and (
            select true
            from entries as others
            where others.body = entries.body and others.stream <> streams.id
            limit 1
        ) is null
    ) as alone
    join bodies on bodies.id = alone.body
    order by bodies.id
    for update of bodies
),
undue as (
    delete from due using theirs where due.body = theirs.id
)
delete from bodies using theirs where bodies.id = theirs.id
"#;

/// $1 notifications: those of them that nobody has.
const LEFT_BODIES: &str = r#"
with theirs as materialized (
    select id from bodies
    where id = any($1::uuid[]) and (select true from entries where entries.body = bodies.id limit 1) is null
    order by id
    for update
),
undue as (
    delete from due using theirs where due.body = theirs.id
)
delete from bodies using theirs where bodies.id = theirs.id
"#;

/// $1 the person, $2 the person's stream. How far a stream had come counts its unread version; that nothing is
/// unread any more is one version further.
const STREAM: &str = r#"
with gone as (
    delete from streams where name = $2 returning id, last_seq
),
entry as (
    delete from entries
    using (
        select entries.stream, entries.seq
        from gone
        join entries on entries.stream = gone.id
        order by entries.stream, entries.seq
        for update of entries
    ) as theirs
    where entries.stream = theirs.stream and entries.seq = theirs.seq
    returning entries.body
),
counter as (
    delete from user_state where user_id = $1 returning reads
),
seen as (
    delete from last_seen where user_id = $1 returning user_id
),
furthest as (
    update store
    set erased_seq = greatest(
        store.erased_seq, coalesce(come.last_seq, store.erased_seq) + coalesce(come.reads, 0) + 1
    )
    from (select (select last_seq from gone) as last_seq, (select reads from counter) as reads) as come
    where come.last_seq is not null or come.reads is not null
)
select (select id from gone) as id, (select count(*) from entry) as entries,
    (select array_agg(distinct body) from entry) as bodies,
    (select count(*) from gone) + (select count(*) from counter) + (select count(*) from seen) as other
"#;

/// What was appended while the stream went. Nobody adds to it after.
const LEFT_ENTRIES: &str = "delete from entries where stream = $1 returning body";

/// $1 the person. Sorted as those who write them do.
const DEVICES: &str = r#"
with device as (
    delete from devices where user_id = $1 returning device
),
cursor as (
    delete from cursors
    using (
        select user_id, device, stream from cursors
        where user_id = $1
        order by user_id, device, stream
        for update
    ) as theirs
    where cursors.user_id = theirs.user_id and cursors.device = theirs.device
        and cursors.stream = theirs.stream
    returning cursors.stream
),
follow as (
    delete from follows where user_id = $1 returning stream
),
mark as (
    delete from reads where user_id = $1 returning seq
)
select (select count(*) from device) as devices, (select count(*) from cursor) as cursors,
    (select count(*) from follow) + (select count(*) from mark) as reads
"#;

/// $1 the person. Ids have the person second or third; what they are about is in the JSON.
const EVENTS: &str = r#"
delete from events
using (
    select id from events
    where (split_part(id, '/', 3) = $1 or split_part(id, '/', 2) = $1)
        and convert_from(json, 'UTF8')::json ->> 'user' = $1
    order by id
    for update
) as theirs
where events.id = theirs.id
"#;

impl PostgresInbox {
    pub(super) async fn erase_all(&self, user: &UserId) -> Result<Erased, Failure> {
        let mut erased = Erased { scheduled: self.erase_schedules(user).await?, ..Erased::default() };
        self.erase_stream(user, &mut erased).await?;
        let row = self.row("erase", sqlx::query(DEVICES).bind(user.as_str())).await?;
        erased.devices = self.read_row(count(&row, "devices"))?;
        erased.cursors = self.read_row(count(&row, "cursors"))?;
        erased.reads = self.read_row(count(&row, "reads"))?;
        erased.events = self.written("erase", sqlx::query(EVENTS).bind(user.as_str())).await?;
        Ok(erased)
    }

    /// What nobody else has goes first: should a later statement fail, the entries still lead to it.
    async fn erase_stream(&self, user: &UserId, erased: &mut Erased) -> Result<(), Failure> {
        let stream = Stream::User(user.clone()).to_string();
        erased.notifications = self.written("erase", sqlx::query(BODIES).bind(&stream)).await?;
        let query = sqlx::query(STREAM).bind(user.as_str()).bind(&stream);
        let row = self.row("erase", query).await?;
        let (id, mut bodies) = self.read_row(stream_gone(&row, erased))?;
        if let Some(id) = id {
            let late = self.rows("erase", sqlx::query(LEFT_ENTRIES).bind(id)).await?;
            erased.entries += late.len() as u64;
            for row in &late {
                bodies.push(self.read_row(row.try_get("body"))?);
            }
        }
        erased.notifications += self.written("erase", sqlx::query(LEFT_BODIES).bind(&bodies)).await?;
        Ok(())
    }

    async fn erase_schedules(&self, user: &UserId) -> Result<u64, Failure> {
        let (mut erased, mut after) = (0, Uuid::nil());
        loop {
            let query = sqlx::query(SCHEDULED).bind(after).bind(LOOK_AT);
            let rows = self.rows("erase", query).await?;
            let found: Result<Vec<(Uuid, Vec<u8>)>, _> =
                rows.iter().map(|row| Ok((row.try_get("id")?, row.try_get("request")?))).collect();
            let found = self.read_row(found)?;
            let Some((last, _)) = found.last() else {
                return Ok(erased);
            };
            after = *last;
            for (id, request) in found {
                // What fires meanwhile is gone from here: it is then an entry like others.
                match without(&request, user) {
                    Without::Same => {}
                    Without::Nobody => {
                        erased += self.written("erase", sqlx::query(UNSCHEDULE).bind(id)).await?;
                    }
                    Without::Others(left) => {
                        let query = sqlx::query(RESCHEDULE).bind(id).bind(&left[..]).bind(request);
                        self.written("erase", query).await?;
                    }
                }
            }
        }
    }
}

/// Adds to what was erased; answers the stream and its notifications.
fn stream_gone(row: &PgRow, erased: &mut Erased) -> Result<(Option<i64>, Vec<Uuid>), sqlx::Error> {
    erased.entries += count(row, "entries")?;
    erased.other += count(row, "other")?;
    let bodies: Option<Vec<Uuid>> = row.try_get("bodies")?;
    Ok((row.try_get("id")?, bodies.unwrap_or_default()))
}
