//! The one statement that appends a group.
//!
//! Owns its text and what it is given. Two texts: most groups need nothing but their entries, and what a
//! statement could do costs at every execution.

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;
use tracing::warn;
use uuid::Uuid;

use super::{PostgresInbox, count, epoch_of};
use crate::domain::{Seq, UnixMillis};
use crate::inbox::failure::Failure;
use crate::inbox::{Append, Appended, Place};

/// How often a group is appended that meets an erasure each time: its streams that are new would begin below what was
/// erased, so the server refuses all of it (migration 0005).
const ATTEMPTS: usize = 4;

/// Order is everything here. Keys are taken first, sorted; a key that is being taken by somebody
/// else makes this wait until that is decided. Schedules end next, sorted. Then the streams' counters
/// are raised, sorted; their locks, held to the end of the statement, make the order of seqs that of
/// commits. Last come entries that are superseded, sorted. Nobody who holds one of these waits for one
/// of an earlier kind. Each of these steps reads all of the one before it, so the server cannot
/// interleave them. A trigger locks the store's row at the very end, if a stream was made.
macro_rules! append {
    (
        arrays: $arrays:literal, columns: $columns:literal, first: $first:literal, fresh: $fresh:literal,
        wanted: $wanted:literal, placed: $placed:literal, then: $then:expr, entry: $entry:literal,
        values: $values:literal, superseded: $superseded:literal, overtook: $overtook:literal
    ) => {
        concat!(
            r#"
with item as materialized (
    select *
    from unnest($1::uuid[], $2::bytea[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::bytea[],
        $8::bigint[]"#,
            $arrays,
            r#") with ordinality
        as item (id, json, created_at, expires_at, publisher, key, hash, recipients"#,
            $columns,
            r#", place)
),
taken as (
    insert into idempotency (publisher, key, hash, body, created_at)
    select publisher, key, hash, id, created_at
    from item
    where key is not null
    order by publisher collate "C", key collate "C"
    on conflict do nothing
    returning publisher, key
),"#,
            $first,
            r#"
fresh as materialized (
    select * from item
    where (key is null or (publisher, key) in (select publisher, key from taken))"#,
            $fresh,
            r#"
),
wanted as materialized (
    select entry.place, fresh.id as body, entry.stream, entry.device, fresh.expires_at"#,
            $wanted,
            r#"
    from unnest($9::bigint[], $10::text[], $11::text[])
        with ordinality as entry (item, stream, device, place)
    join fresh on fresh.place = entry.item
),
counter as (
    insert into streams as stream (name, epoch, last_seq, base_seq)
    select wanted.stream, (select epoch from store), (select erased_seq from store) + count(*),
        (select erased_seq from store)
    from wanted
    group by wanted.stream
    order by wanted.stream collate "C"
    on conflict (name)
        do update set last_seq = stream.last_seq + excluded.last_seq - excluded.base_seq
    returning stream.id, stream.name, stream.epoch, stream.last_seq
),
placed as materialized (
    select wanted.place, counter.id as stream, counter.epoch, wanted.body, wanted.device,
        wanted.expires_at, counter.last_seq - count(*) over (partition by counter.id)
            + row_number() over (partition by counter.id order by wanted.place) as seq"#,
            $placed,
            r#"
    from wanted
    join counter on counter.name = wanted.stream
),"#,
            $then,
            r#"
body as (
    insert into bodies (id, json, created_at, expires_at, publisher, recipients)
    select id, json, created_at, expires_at, publisher, recipients from fresh
),
entry as (
    insert into entries (stream, seq, body, device, expires_at"#,
            $entry,
            r#")
    select stream, seq, body, device, expires_at"#,
            $values,
            r#" from placed
)
select
    (select array_agg(place order by place) from fresh) as items,
    array_agg(seq order by place) as seqs,
    array_agg(epoch order by place) as epochs,
    "#,
            $superseded,
            " as superseded, ",
            $overtook,
            r#" as overtook
from placed
"#
        )
    };
}

const PLAIN: &str = append!(
    arrays: "", columns: "", first: "", fresh: "", wanted: "", placed: "", then: "", entry: "", values: "",
    superseded: "0::bigint", overtook: "false"
);

/// $12 collapse keys, $13 which are scheduled, $14 now, $15 whether events are written, $16 after how long
/// nobody's acknowledgement is to be looked for. `overtook`: a stream with a collapse key had grown when its counter
/// was reached, by what the statement does not see.
const FULL: &str = append!(
    arrays: ", $12::text[], $13::boolean[]",
    columns: ", collapse, scheduled",
    first: "
unscheduled as (
    delete from scheduled
    using (
        select scheduled.id
        from item
        join scheduled on scheduled.id = item.id
        where item.scheduled
        order by scheduled.id
        for update of scheduled
    ) as due
    where scheduled.id = due.id
    returning scheduled.id
),",
    fresh: "
        and (not scheduled or id in (select id from unscheduled))",
    wanted: ", fresh.collapse, fresh.publisher",
    placed: ",
        counter.name, wanted.collapse, wanted.publisher,
        wanted.collapse is not null and lead(true) over (
            partition by counter.id, wanted.collapse, wanted.device order by wanted.place
        ) is not null as is_superseded",
    then: concat!(
        replace!(
            "(select stream, device, collapse, max(seq) as seq from placed where collapse is not null
        group by stream, device, collapse)",
            "
    union all
    select body, device, name, publisher from placed where is_superseded",
            "$14::bigint",
            "$15::boolean"
        ),
        ",
due as (
    insert into due (body, at)
    select id, created_at + $16::bigint
    from fresh
    where $16::bigint is not null and recipients is not null
),
told_stored as (",
        tell!("stored", "placed", "$14::bigint", "$15::boolean"),
        "),"
    ),
    entry: ", collapse, state",
    values: ", collapse, is_superseded::int",
    superseded: "(select count(*) from replaced)",
    overtook: "(
        select bool_or(mine.first <> coalesce(streams.last_seq, (select erased_seq from store)) + 1)
        from (select stream, min(seq) as first, bool_or(collapse is not null) as collapses from placed
            group by stream) as mine
        left join streams on streams.id = mine.stream
        where mine.collapses
    )"
);

/// What a group (its notifications' ids are $1) replaces, looked at once it is committed: others that it waited for
/// are visible only now. $2 now, $3 whether events are written.
const REPLACE: &str = concat!(
    "with",
    replace!(
        "(select stream, device, collapse, max(seq) as seq from entries
        where body = any($1::uuid[]) and kind = 0 and collapse is not null
        group by stream, device, collapse)",
        "",
        "$2::bigint",
        "$3::boolean"
    ),
    " select count(*) as superseded from replaced"
);

/// The arrays that the statement takes.
#[derive(Debug, Default)]
struct Columns<'a> {
    ids: Vec<Uuid>,
    jsons: Vec<&'a [u8]>,
    created: Vec<i64>,
    expires: Vec<Option<i64>>,
    publishers: Vec<&'a str>,
    keys: Vec<Option<&'a str>>,
    hashes: Vec<Option<&'a [u8]>>,
    recipients: Vec<Option<i64>>,
    items: Vec<i64>,
    streams: Vec<String>,
    devices: Vec<Option<&'a str>>,
    collapse: Vec<Option<&'a str>>,
    scheduled: Vec<bool>,
}

impl<'a> Columns<'a> {
    fn of(items: impl Iterator<Item = &'a Append>) -> Self {
        let mut columns = Self::default();
        for (item, append) in (1_i64..).zip(items) {
            let notification = &append.notification;
            // Its key, if it had one, was taken when it was scheduled.
            let key = append.idempotency.as_ref().filter(|_| !append.scheduled);
            let is_shared = append.recipients.iter().any(|recipient| recipient.stream.is_shared());
            columns.ids.push(notification.id.0);
            columns.jsons.push(&notification.json);
            columns.created.push(notification.created_at.as_i64());
            columns.expires.push(notification.expires_at.map(UnixMillis::as_i64));
            columns.publishers.push(key.map_or(&append.publisher, |key| &key.publisher).as_str());
            columns.keys.push(key.map(|key| key.key.as_str()));
            columns.hashes.push(key.map(|key| &key.request_hash[..]));
            columns.recipients.push((!is_shared).then(|| count_of(append.recipients.len())));
            columns.collapse.push(append.collapse_key.as_deref());
            columns.scheduled.push(append.scheduled);
            for recipient in &append.recipients {
                columns.items.push(item);
                columns.streams.push(recipient.stream.to_string());
                columns.devices.push(recipient.device.as_ref().map(|device| device.as_str()));
            }
        }
        columns
    }

    fn is_plain(&self) -> bool {
        self.collapse.iter().all(Option::is_none) && !self.scheduled.contains(&true)
    }
}

fn count_of(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

impl PostgresInbox {
    /// Appends the items at `places`, no two with one key; the places whose key is taken are
    /// left unanswered.
    pub(super) async fn insert(
        &self,
        items: &[&Append],
        places: &[usize],
        answers: &mut [Option<Result<Appended, Failure>>],
    ) -> Result<(), Failure> {
        let columns = Columns::of(places.iter().map(|place| items[*place]));
        let row = self.insert_anew(&columns).await?;
        let mut superseded = self.read_row(count(&row, "superseded"))?;
        if self.read_row(overtook(&row))? {
            superseded += self.replace(&columns).await;
        }
        let (stored, mut entries) = self.read_row(stored(&row))?;
        let mut total = 0;
        for item in stored {
            // The statement counts from one, as SQL does.
            let place = places[usize::try_from(item - 1).unwrap_or(usize::MAX)];
            let count = items[place].recipients.len();
            total += count as u64;
            let places = entries.by_ref().take(count).collect();
            answers[place] = Some(Ok(Appended::Stored(places)));
        }
        for place in places {
            if items[*place].scheduled && answers[*place].is_none() {
                answers[*place] = Some(Ok(Appended::NotScheduled));
            }
        }
        self.calls.metrics.count_receipts("stored", total);
        self.calls.metrics.count_receipts("superseded", superseded);
        Ok(())
    }

    /// How many more the group replaces. Reads pass those over in any case; should this fail, the next one of their
    /// key marks them.
    async fn replace(&self, columns: &Columns<'_>) -> u64 {
        let query =
            sqlx::query(REPLACE).bind(&columns.ids).bind(self.clock.now().as_i64()).bind(self.receipt_events);
        let row = self.row("supersede", query).await;
        let replaced = row.and_then(|row| self.read_row(count(&row, "superseded")));
        replaced.unwrap_or_else(|failure| {
            warn!(error = %failure.to_error(), "what a group supersedes is not marked yet");
            0
        })
    }

    async fn insert_anew(&self, columns: &Columns<'_>) -> Result<PgRow, Failure> {
        for _ in 1..ATTEMPTS {
            match self.insert_columns(columns).await {
                Err(failure) if failure.is_outdated() => {}
                done => return done,
            }
        }
        self.insert_columns(columns).await
    }

    async fn insert_columns(&self, columns: &Columns<'_>) -> Result<PgRow, Failure> {
        let is_plain = columns.is_plain() && !self.receipt_events && self.undelivered_after.is_none();
        let mut query = sqlx::query(if is_plain { PLAIN } else { FULL })
            .bind(&columns.ids)
            .bind(&columns.jsons)
            .bind(&columns.created)
            .bind(&columns.expires)
            .bind(&columns.publishers)
            .bind(&columns.keys)
            .bind(&columns.hashes)
            .bind(&columns.recipients)
            .bind(&columns.items)
            .bind(&columns.streams)
            .bind(&columns.devices);
        if !is_plain {
            query = query
                .bind(&columns.collapse)
                .bind(&columns.scheduled)
                .bind(self.clock.now().as_i64())
                .bind(self.receipt_events)
                .bind(self.undelivered_after.map(millis));
        }
        self.row("append", query).await
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

fn overtook(row: &PgRow) -> Result<bool, sqlx::Error> {
    Ok(row.try_get::<Option<bool>, _>("overtook")?.unwrap_or(false))
}

fn stored(row: &PgRow) -> Result<(Vec<i64>, impl Iterator<Item = Place>), sqlx::Error> {
    let items: Option<Vec<i64>> = row.try_get("items")?;
    let seqs: Option<Vec<i64>> = row.try_get("seqs")?;
    let epochs: Option<Vec<i64>> = row.try_get("epochs")?;
    let places = seqs
        .unwrap_or_default()
        .into_iter()
        .zip(epochs.unwrap_or_default())
        .map(|(seq, epoch)| Place { epoch: epoch_of(epoch), seq: Seq::from_i64(seq) });
    Ok((items.unwrap_or_default(), places))
}
