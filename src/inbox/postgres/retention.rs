//! Retention in PostgreSQL: what expired, what is too old, what is too much.
//!
//! Owns the floors. Statements are bounded, and lock as the append does: bodies, streams by name, entries by
//! (stream, seq); or they skip what is locked.

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::{PostgresInbox, count};
use crate::domain::{Stream, UnixMillis};
use crate::inbox::State;
use crate::inbox::failure::Failure;

/// How many seqs one statement passes by at most, over all its streams.
const SEQS_AT_ONCE: i64 = 10_000;

/// How often a call goes on that met only what somebody had acknowledged.
const ROUNDS: usize = 32;

/// $1 now, $2 how many, $3 whether events are written. All are marked, or they would be looked at again and
/// again; only what nobody had is noted.
const EXPIRE: &str = concat!(
    r#"
with due as materialized (
    select stream, seq
    from entries
    where expires_at <= $1 and expires_at is not null and state = 0
    order by expires_at
    limit $2
    for no key update skip locked
),
marked as (
    update entries set state = 3
    from due
    where entries.stream = due.stream and entries.seq = due.seq and entries.state = 0
    returning entries.stream, entries.body, entries.device,
        entries.kind = 0 and entries.delivered_at is null and entries.read_at is null as is_open
),
told as ("#,
    tell!("expired", whose!("(select * from marked where is_open)"), "$1", "$3"),
    r#")
select (select count(*) from due) as met, count(*) filter (where is_open) as open from marked
"#
);

/// $1 created before, $2 how many notifications, $3 now, $4 whether events are written. A cancellation is younger
/// than what it cancels: it raises no floor, and goes when a floor has passed it. Two bounds ($5 is 0) make the
/// planner expect few rows whatever they are, so it takes the index.
const RETAIN_BY_AGE: &str = concat!(
    r#"
with old as materialized (
    select id from bodies where created_at < $1 and created_at >= $5
    order by created_at, id
    limit $2
    for update skip locked
),
floors as materialized (
    select entries.stream, max(entries.seq) as floor
    from old
    join entries on entries.body = old.id
    where entries.kind = 0
    group by entries.stream
),
raised as (
    update streams set floor_seq = higher.floor
    from (
        select streams.id, floors.floor
        from floors
        join streams on streams.id = floors.stream
        where streams.floor_seq < floors.floor
        order by streams.name
        for no key update of streams
    ) as higher
    where streams.id = higher.id and streams.floor_seq < higher.floor
    returning streams.id, streams.floor_seq
),
theirs as materialized (
    select entries.stream, entries.seq
    from old
    join entries on entries.body = old.id
    where entries.kind = 0
    union all
    select entries.stream, entries.seq
    from raised
    join entries on entries.stream = raised.id and entries.seq <= raised.floor_seq
    where entries.kind = 1
),
gone as materialized (
    select entries.stream, entries.seq
    from theirs
    join entries on entries.stream = theirs.stream and entries.seq = theirs.seq
    order by entries.stream, entries.seq
    for update of entries
),
removed as (
    delete from entries
    using gone
    where entries.stream = gone.stream and entries.seq = gone.seq
    returning entries.stream, entries.body, entries.device, entries.kind,
        entries.kind = 0 and entries.state = 0 and entries.delivered_at is null and entries.read_at is null
            as is_open
),
undue as (
    delete from due using old where due.body = old.id
),
body as (
    delete from bodies using old where bodies.id = old.id
),
told as ("#,
    tell!("dropped", whose!("(select * from removed where is_open)"), "$3", "$4"),
    r#")
select (select count(*) from old) as met, count(*) filter (where kind = 0) as entries,
    count(*) filter (where is_open) as open
from removed
"#
);

/// $1 streams, $2 how many seqs they keep, $3 how many each is cut by at most, $4 now, $5 whether events are
/// written. Entries stay, as their receipts do, until their notification goes.
const CUT: &str = concat!(
    r#"
with raised as (
    update streams set floor_seq = cut.floor
    from (
        select id, greatest(floor_seq, base_seq) as old,
            least(last_seq - $2, greatest(floor_seq, base_seq) + $3) as floor
        from streams
        where name = any($1::text[]) and last_seq - greatest(floor_seq, base_seq) > $2
        order by name
        for no key update
    ) as cut
    where streams.id = cut.id and streams.floor_seq < cut.floor
    returning streams.id, cut.old, cut.floor
),
gone as materialized (
    select entries.stream, entries.seq, entries.body
    from raised
    join entries on entries.stream = raised.id and entries.seq > raised.old and entries.seq <= raised.floor
    order by entries.stream, entries.seq
    for update of entries
),
passed as (
    delete from entries
    using gone
    where entries.stream = gone.stream and entries.seq = gone.seq and entries.kind = 1
),
dropped as (
    update entries set state = 4
    from gone
    where entries.stream = gone.stream and entries.seq = gone.seq and entries.kind = 0 and entries.state = 0
        and entries.delivered_at is null and entries.read_at is null
    returning entries.stream, entries.body, entries.device
),
told as ("#,
    tell!("dropped", whose!("dropped"), "$4", "$5"),
    r#")
select (select count(*) from raised) as met, (select count(*) from gone) as entries,
    (select count(*) from dropped) as open, (select array_agg(distinct body) from gone) as bodies
"#
);

/// Those of these notifications that no stream has above its floor, with their entries. The question is a value and
/// not `not exists`, which tables without statistics would have planned as a join of all with all.
const REMOVE_FALLEN: &str = r#"
with fallen as materialized (
    select id from bodies
    where id = any($1::uuid[]) and (
        select true
        from entries
        join streams on streams.id = entries.stream
        where entries.body = bodies.id and entries.kind = 0 and entries.seq > streams.floor_seq
        limit 1
    ) is null
    for update skip locked
),
gone as materialized (
    select entries.stream, entries.seq
    from fallen
    join entries on entries.body = fallen.id
    where entries.kind = 0
    order by entries.stream, entries.seq
    for update of entries
),
entry as (
    delete from entries using gone where entries.stream = gone.stream and entries.seq = gone.seq
),
undue as (
    delete from due using fallen where due.body = fallen.id
)
delete from bodies using fallen where bodies.id = fallen.id
"#;

impl PostgresInbox {
    pub(super) async fn expire_some(&self, now: UnixMillis, limit: u32) -> Result<u64, Failure> {
        for _ in 0..ROUNDS {
            let query =
                sqlx::query(EXPIRE).bind(now.as_i64()).bind(i64::from(limit)).bind(self.receipt_events);
            let row = self.row("expire", query).await?;
            let met = self.read_row(count(&row, "met"))?;
            let open = self.read_row(count(&row, "open"))?;
            self.calls.metrics.count_receipts(State::Expired.as_str(), open);
            if open > 0 || met < u64::from(limit) || limit == 0 {
                return Ok(open);
            }
        }
        Ok(0)
    }

    /// One that is for very many takes long; when a statement takes too long, fewer at once are tried.
    pub(super) async fn retain_younger(
        &self,
        created_before: UnixMillis,
        limit: u32,
    ) -> Result<u64, Failure> {
        let mut at_once = limit;
        let row = loop {
            let query = sqlx::query(RETAIN_BY_AGE)
                .bind(created_before.as_i64())
                .bind(i64::from(at_once))
                .bind(self.clock.now().as_i64())
                .bind(self.receipt_events)
                .bind(0_i64);
            match self.row("retain_by_age", query).await {
                Err(Failure::Timeout(_)) if at_once > 1 => at_once = (at_once / 16).max(1),
                done => break done?,
            }
        };
        let open = self.read_row(count(&row, "open"))?;
        self.calls.metrics.count_receipts(State::Dropped.as_str(), open);
        self.read_row(count(&row, "entries"))
    }

    pub(super) async fn retain_last(&self, streams: &[Stream], max_entries: u64) -> Result<u64, Failure> {
        let names: Vec<String> = streams.iter().map(ToString::to_string).collect();
        if names.is_empty() {
            return Ok(0);
        }
        let each = (SEQS_AT_ONCE / i64::try_from(names.len()).unwrap_or(i64::MAX)).max(1);
        let mut total = 0;
        loop {
            let query = sqlx::query(CUT)
                .bind(&names)
                .bind(i64::try_from(max_entries).unwrap_or(i64::MAX))
                .bind(each)
                .bind(self.clock.now().as_i64())
                .bind(self.receipt_events);
            let row = self.row("retain_by_count", query).await?;
            let (met, entries, open, bodies) = self.read_row(cut(&row))?;
            self.calls.metrics.count_receipts(State::Dropped.as_str(), open);
            total += entries;
            if !bodies.is_empty() {
                // Should it not come to this, their age will.
                self.written("retain_by_count", sqlx::query(REMOVE_FALLEN).bind(&bodies)).await?;
            }
            // Each round brings each of them nearer to its end, and the head moves on by a round trip's worth.
            if met == 0 {
                return Ok(total);
            }
        }
    }
}

fn cut(row: &PgRow) -> Result<(u64, u64, u64, Vec<Uuid>), sqlx::Error> {
    let bodies: Option<Vec<Uuid>> = row.try_get("bodies")?;
    Ok((count(row, "met")?, count(row, "entries")?, count(row, "open")?, bodies.unwrap_or_default()))
}
