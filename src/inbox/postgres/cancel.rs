//! Cancelling in PostgreSQL: one statement, so an entry is marked only if its cancellation is there.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::{PostgresInbox, Query, count, epoch_of, parsed, time};
use crate::domain::{DeviceId, NotificationId, PublisherId, Recipient, Seq, Stream, UnixMillis};
use crate::inbox::failure::Failure;
use crate::inbox::{Cancelled, Place};

/// $1 notification, $2 publisher, $3 now, $4 whether events are written.
///
/// Locks in the order of the append: the body first, whose mark makes a second cancellation find nothing after
/// its wait; then the counters, sorted; then the entries, sorted. What was superseded gets a cancellation, too: a device
/// may show it, and the newer one may be gone. Only what nothing has replaced is marked. A stream that was erased
/// meanwhile is passed over: a cancellation makes none.
const CANCEL: &str = concat!(
    r#"
with unscheduled as (
    delete from scheduled where id = $1 and publisher = $2
    returning id
),
known as materialized (
    select recipients, expires_at from bodies where id = $1 and publisher = $2
),
cancelled as (
    update bodies set cancelled_at = $3
    where id = $1 and publisher = $2 and cancelled_at is null
    returning id
),
target as materialized (
    select streams.id as stream, streams.name, entries.seq, entries.device, entries.expires_at,
        "#,
    alive!("entries", "$3"),
    r#" as is_alive
    from cancelled
    join entries on entries.body = cancelled.id
    join streams on streams.id = entries.stream
    where entries.kind = 0 and entries.seq > streams.floor_seq and entries.state in (0, 1)
        and (entries.expires_at is null or entries.expires_at > $3)
),
held as materialized (
    select streams.id
    from streams
    where streams.id in (select stream from target)
    order by streams.name
    for no key update
),
counter as (
    update streams set last_seq = streams.last_seq + needed.seqs
    from (
        select held.id, count(*) as seqs
        from held join target on target.stream = held.id
        group by held.id
    ) as needed
    where streams.id = needed.id
    returning streams.id, streams.epoch, streams.last_seq
),
placed as materialized (
    select counter.id as stream, counter.epoch, target.name, target.device, target.expires_at, target.seq as old,
        target.is_alive,
        counter.last_seq - count(*) over (partition by counter.id)
            + row_number() over (partition by counter.id order by target.seq) as seq
    from target
    join counter on counter.id = target.stream
),
locked as materialized (
    select entries.stream, entries.seq
    from placed
    join entries on entries.stream = placed.stream and entries.seq = placed.old
    where placed.is_alive and entries.state = 0
    order by entries.stream, entries.seq
    for no key update of entries
),
marked as (
    update entries set state = 2
    from locked
    where entries.stream = locked.stream and entries.seq = locked.seq and entries.state = 0
    returning entries.stream, entries.body, entries.device,
        entries.delivered_at is null and entries.read_at is null as is_open
),
entry as (
    insert into entries (stream, seq, body, device, expires_at, kind)
    select stream, seq, $1, device, expires_at, 1 from placed
),
told as ("#,
    tell!("cancelled", whose!("(select * from marked where is_open)"), "$3", "$4"),
    r#")
select
    exists (select from unscheduled) as is_unscheduled,
    exists (select from known) as is_known,
    (select recipients from known) as recipients,
    (select expires_at from known) as expires_at,
    (select count(*) from marked where is_open) as open,
    (select array_agg(name order by name, seq) from placed) as names,
    (select array_agg(device order by name, seq) from placed) as devices,
    (select array_agg(seq order by name, seq) from placed) as seqs,
    (select array_agg(epoch order by name, seq) from placed) as epochs
"#
);

impl PostgresInbox {
    pub(super) async fn cancel_one(
        &self,
        id: NotificationId,
        publisher: &PublisherId,
        now: UnixMillis,
    ) -> Result<Cancelled, Failure> {
        let first = self.try_to_cancel(id, publisher, now).await?;
        if first != Cancelled::Unknown {
            return Ok(first);
        }
        // Its schedule may have fired while the first statement waited for it; then there is a body now, which
        // that statement's snapshot did not have.
        self.try_to_cancel(id, publisher, now).await
    }

    async fn try_to_cancel(
        &self,
        id: NotificationId,
        publisher: &PublisherId,
        now: UnixMillis,
    ) -> Result<Cancelled, Failure> {
        let query: Query<'_> = sqlx::query(CANCEL)
            .bind(id.0)
            .bind(publisher.as_str())
            .bind(now.as_i64())
            .bind(self.receipt_events);
        let row = self.row("cancel", query).await?;
        let open = self.read_row(count(&row, "open"))?;
        self.calls.metrics.count_receipts("cancelled", open);
        self.read_row(cancelled(&row))
    }
}

fn cancelled(row: &PgRow) -> Result<Cancelled, sqlx::Error> {
    if row.try_get("is_unscheduled")? {
        return Ok(Cancelled::Unscheduled);
    }
    if !row.try_get::<bool, _>("is_known")? {
        return Ok(Cancelled::Unknown);
    }
    let recipients: Option<i64> = row.try_get("recipients")?;
    Ok(Cancelled::Stored {
        recipients: recipients.map(|count| u64::try_from(count).unwrap_or_default()),
        expires_at: time(row, "expires_at")?,
        entries: entries(row)?,
    })
}

fn entries(row: &PgRow) -> Result<Vec<(Recipient, Place)>, sqlx::Error> {
    let names: Option<Vec<String>> = row.try_get("names")?;
    let devices: Option<Vec<Option<String>>> = row.try_get("devices")?;
    let seqs: Option<Vec<i64>> = row.try_get("seqs")?;
    let epochs: Option<Vec<i64>> = row.try_get("epochs")?;
    let places = seqs.unwrap_or_default().into_iter().zip(epochs.unwrap_or_default());
    let recipients = names.unwrap_or_default().into_iter().zip(devices.unwrap_or_default());
    let entry = |((name, device), (seq, epoch)): ((String, Option<String>), (i64, i64))| {
        let recipient = Recipient {
            stream: parsed(Stream::parse(&name))?,
            device: parsed(device.map(DeviceId::new).transpose())?,
        };
        Ok((recipient, Place { epoch: epoch_of(epoch), seq: Seq::from_i64(seq) }))
    };
    recipients.zip(places).map(entry).collect()
}
