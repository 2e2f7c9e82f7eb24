//! Receipts in PostgreSQL.

use std::collections::BTreeMap;

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::{PostgresInbox, count, parsed, time};
use crate::domain::{DeviceId, NotificationId, PublisherId, UnixMillis, UserId};
use crate::inbox::failure::Failure;
use crate::inbox::{
    AfterRecipient, Cancelled, Counts, Delivered, DeliveredShared, InboxError, Receipt, Receipts,
    RecipientReceipt, State,
};

/// What was counted as superseded, cancelled or expired before is not counted again. $4 when, $5 whether events
/// are written. The rows are locked in order first; after a wait the server looks
/// at them anew.
const DELIVERED: &str = concat!(
    r#"
with found as materialized (
    select entries.stream, entries.seq
    from unnest($1::text[], $2::bigint[], $3::bigint[]) as asked (name, epoch, seq)
    join streams on streams.name = asked.name and streams.epoch = asked.epoch
    join entries on entries.stream = streams.id and entries.seq = asked.seq
    where entries.kind = 0 and entries.delivered_at is null
    order by entries.stream, entries.seq
    for no key update of entries
),
marked as (
    update entries set delivered_at = $4
    from found
    where entries.stream = found.stream and entries.seq = found.seq and entries.delivered_at is null
    returning entries.stream, entries.body, entries.device, entries.state
),
told as ("#,
    tell!("delivered", whose!("marked"), "$4", "$5"),
    r#")
select count(*) filter (where state = 0) as marked from marked
"#
);

/// $5 when.
const DELIVERED_SHARED: &str = r#"
with found as materialized (
    select entries.stream, entries.seq, entries.delivered_at is null as is_first, asked.devices
    from unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[]) as asked (name, epoch, seq, devices)
    join streams on streams.name = asked.name and streams.epoch = asked.epoch
    join entries on entries.stream = streams.id and entries.seq = asked.seq
    where entries.kind = 0
    order by entries.stream, entries.seq
    for no key update of entries
),
marked as (
    update entries
    set delivered_count = entries.delivered_count + found.devices,
        delivered_at = coalesce(entries.delivered_at, $5)
    from found
    where entries.stream = found.stream and entries.seq = found.seq
    returning found.is_first, entries.state
)
select count(*) as marked from marked where is_first and state = 0
"#;

/// $1 notification, $2 publisher. A notification that fires meanwhile is in one of both.
const RECEIPT: &str = r#"
select created_at, null::bigint as fire_at, recipients,
    cancelled_at is not null as is_cancelled
from bodies where id = $1 and publisher = $2
union all
select created_at, fire_at, null, false
from scheduled where id = $1 and publisher = $2
"#;

/// $2 now. Of shared streams the devices count, once there are some.
const COUNTS: &str = concat!(
    "select asked.place, became.state,
        sum(case became.delivered_count when 0 then 1 else became.delivered_count end)::bigint as entries
    from unnest($1::uuid[]) with ordinality as asked (body, place)
    cross join lateral (
        select entries.delivered_count, ",
    state!("$2"),
    " as state
        from entries
        join streams on streams.id = entries.stream
        where entries.body = asked.body and entries.kind = 0
    ) as became
    group by asked.place, became.state"
);

/// $1 notification, $2 publisher, $3 now, $4 and $5 the user's stream and the device to go on after, $6 how
/// many.
const RECIPIENTS: &str = concat!(
    r#"
select substr(streams.name, 6) as user_id, entries.device, entries.delivered_at, entries.read_at, "#,
    state!("$3"),
    r#" as state
from bodies
join entries on entries.body = bodies.id
join streams on streams.id = entries.stream
where bodies.id = $1 and bodies.publisher = $2 and entries.kind = 0 and streams.name like 'user:%'
    and ($4::text is null
        or (streams.name, coalesce(entries.device, '')) > ($4::text collate "C", $5::text collate "C"))
order by streams.name, coalesce(entries.device, '')
limit $6
"#
);

impl PostgresInbox {
    async fn note_delivered(&self, mut entries: Vec<Delivered>, at: UnixMillis) -> Result<(), Failure> {
        entries.sort_unstable_by(|one, other| (&one.user, one.seq).cmp(&(&other.user, other.seq)));
        entries.dedup();
        if entries.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = entries.iter().map(|entry| format!("user:{}", entry.user)).collect();
        let epochs: Vec<i64> = entries.iter().map(|entry| i64::from(entry.epoch.0)).collect();
        let seqs: Vec<i64> = entries.iter().map(|entry| entry.seq.as_i64()).collect();
        let query = sqlx::query(DELIVERED)
            .bind(&names)
            .bind(&epochs)
            .bind(&seqs)
            .bind(at.as_i64())
            .bind(self.receipt_events);
        let row = self.row("delivered", query).await?;
        let marked = self.read_row(count(&row, "marked"))?;
        self.calls.metrics.count_receipts(State::Delivered.as_str(), marked);
        Ok(())
    }

    async fn note_delivered_shared(
        &self,
        entries: &[DeliveredShared],
        at: UnixMillis,
    ) -> Result<(), Failure> {
        // A statement changes a row once, so what is said of one entry is added up before.
        let mut sums: BTreeMap<(String, i64, i64), i64> = BTreeMap::new();
        for entry in entries {
            let key = (entry.stream.to_string(), i64::from(entry.epoch.0), entry.seq.as_i64());
            let sum = sums.entry(key).or_default();
            *sum = sum.saturating_add(i64::try_from(entry.devices).unwrap_or(i64::MAX));
        }
        if sums.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = sums.keys().map(|(name, ..)| name.as_str()).collect();
        let epochs: Vec<i64> = sums.keys().map(|(_, epoch, _)| *epoch).collect();
        let seqs: Vec<i64> = sums.keys().map(|(.., seq)| *seq).collect();
        let devices: Vec<i64> = sums.values().copied().collect();
        let query = sqlx::query(DELIVERED_SHARED)
            .bind(&names)
            .bind(&epochs)
            .bind(&seqs)
            .bind(&devices)
            .bind(at.as_i64());
        let row = self.row("delivered_shared", query).await?;
        let marked = self.read_row(count(&row, "marked"))?;
        self.calls.metrics.count_receipts(State::Delivered.as_str(), marked);
        Ok(())
    }

    async fn count_states(&self, ids: &[NotificationId], now: UnixMillis) -> Result<Vec<Counts>, Failure> {
        let uuids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        let rows = self.rows("counts", sqlx::query(COUNTS).bind(&uuids).bind(now.as_i64())).await?;
        let mut counts = vec![Counts::default(); ids.len()];
        for row in &rows {
            let place = self.read_row(count(row, "place"))?;
            let place = usize::try_from(place).unwrap_or(usize::MAX);
            // The statement counts from one, as SQL does.
            if let Some(counts) = counts.get_mut(place.wrapping_sub(1)) {
                self.read_row(add(counts, row))?;
            }
        }
        Ok(counts)
    }

    async fn find_receipt(
        &self,
        id: NotificationId,
        publisher: &PublisherId,
        now: UnixMillis,
    ) -> Result<Option<Receipt>, Failure> {
        let query = sqlx::query(RECEIPT).bind(id.0).bind(publisher.as_str());
        let rows = self.rows("receipt", query).await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let mut receipt = self.read_row(receipt(row))?;
        if receipt.deliver_at.is_none() {
            receipt.counts = self.count_states(&[id], now).await?.swap_remove(0);
        }
        Ok(Some(receipt))
    }

    async fn list_recipients(
        &self,
        id: NotificationId,
        publisher: &PublisherId,
        after: Option<&AfterRecipient>,
        limit: u32,
        now: UnixMillis,
    ) -> Result<Vec<RecipientReceipt>, Failure> {
        let device = after.and_then(|(_, device)| device.as_ref()).map_or("", |device| device.as_str());
        let query = sqlx::query(RECIPIENTS)
            .bind(id.0)
            .bind(publisher.as_str())
            .bind(now.as_i64())
            .bind(after.map(|(user, _)| format!("user:{user}")))
            .bind(device)
            .bind(i64::from(limit));
        let rows = self.rows("recipients", query).await?;
        self.read_row(rows.iter().map(recipient).collect())
    }
}

fn state_of(row: &PgRow) -> Result<State, sqlx::Error> {
    let word: &str = row.try_get("state")?;
    let state = State::ALL.into_iter().find(|state| state.as_str() == word);
    parsed(state.ok_or_else(|| format!("no state is called {word:?}")))
}

fn add(counts: &mut Counts, row: &PgRow) -> Result<(), sqlx::Error> {
    let entries = count(row, "entries")?;
    match state_of(row)? {
        State::Stored => counts.stored += entries,
        State::Delivered => counts.delivered += entries,
        State::Read => counts.read += entries,
        State::Expired => counts.expired += entries,
        State::Superseded => counts.superseded += entries,
        State::Cancelled => counts.cancelled += entries,
        State::Dropped => counts.dropped += entries,
    }
    Ok(())
}

fn receipt(row: &PgRow) -> Result<Receipt, sqlx::Error> {
    let recipients: Option<i64> = row.try_get("recipients")?;
    Ok(Receipt {
        created_at: UnixMillis::from_i64(row.try_get("created_at")?),
        deliver_at: time(row, "fire_at")?,
        is_cancelled: row.try_get("is_cancelled")?,
        recipients: recipients.map(|count| u64::try_from(count).unwrap_or_default()),
        counts: Counts::default(),
    })
}

fn recipient(row: &PgRow) -> Result<RecipientReceipt, sqlx::Error> {
    let device: Option<String> = row.try_get("device")?;
    Ok(RecipientReceipt {
        user: parsed(UserId::new(row.try_get::<String, _>("user_id")?))?,
        device: parsed(device.map(DeviceId::new).transpose())?,
        state: state_of(row)?,
        delivered_at: time(row, "delivered_at")?,
        read_at: time(row, "read_at")?,
    })
}

#[async_trait]
impl Receipts for PostgresInbox {
    async fn delivered(&self, entries: Vec<Delivered>, at: UnixMillis) -> Result<(), InboxError> {
        let noted = self.note_delivered(entries, at).await;
        noted.map_err(|failure| failure.to_error())
    }

    async fn delivered_shared(
        &self,
        entries: Vec<DeliveredShared>,
        at: UnixMillis,
    ) -> Result<(), InboxError> {
        let noted = self.note_delivered_shared(&entries, at).await;
        noted.map_err(|failure| failure.to_error())
    }

    async fn cancel(
        &self,
        id: NotificationId,
        publisher: &PublisherId,
        now: UnixMillis,
    ) -> Result<Cancelled, InboxError> {
        let cancelled = self.cancel_one(id, publisher, now).await;
        cancelled.map_err(|failure| failure.to_error())
    }

    async fn receipt(
        &self,
        id: NotificationId,
        publisher: &PublisherId,
        now: UnixMillis,
    ) -> Result<Option<Receipt>, InboxError> {
        let receipt = self.find_receipt(id, publisher, now).await;
        receipt.map_err(|failure| failure.to_error())
    }

    async fn recipients(
        &self,
        id: NotificationId,
        publisher: &PublisherId,
        after: Option<&AfterRecipient>,
        limit: u32,
        now: UnixMillis,
    ) -> Result<Vec<RecipientReceipt>, InboxError> {
        let recipients = self.list_recipients(id, publisher, after, limit, now).await;
        recipients.map_err(|failure| failure.to_error())
    }

    async fn counts(&self, ids: &[NotificationId], now: UnixMillis) -> Result<Vec<Counts>, InboxError> {
        let counts = self.count_states(ids, now).await;
        counts.map_err(|failure| failure.to_error())
    }
}
