//! Receipts in SQLite.

use std::collections::HashMap;

use async_trait::async_trait;
use sqlx::SqliteConnection;

use super::{SqliteInbox, count_of, rows};
use crate::domain::{DeviceId, NotificationId, PublisherId, UnixMillis, UserId};
use crate::inbox::failure::Failure;
use crate::inbox::{
    AfterRecipient, Cancelled, Counts, Delivered, DeliveredShared, InboxError, Receipt, Receipts,
    RecipientReceipt, State,
};

/// Acknowledgements a transaction, so that appends get their turn in between.
const AT_ONCE: usize = 500;

/// Rows: [user, epoch, seq]; ?2 when.
const DELIVERED: &str = r#"
update entries set delivered_at = ?2
from json_each(?1) as asked
join streams on streams.name = 'user:' || (asked.value ->> 0) and streams.epoch = asked.value ->> 1
where entries.stream = streams.id and entries.seq = asked.value ->> 2
    and entries.kind = 0 and entries.delivered_at is null
returning stream, seq, state = 0
"#;

/// Rows as below: how many of these entries no device had.
const FIRST_SHARED: &str = r#"
select count(*)
from json_each(?1) as asked
cross join streams on streams.name = asked.value ->> 0 and streams.epoch = asked.value ->> 1
join entries on entries.stream = streams.id and entries.seq = asked.value ->> 2
where entries.kind = 0 and entries.delivered_count = 0 and entries.state = 0
"#;

/// Rows: [stream, epoch, seq, devices]; ?2 when.
const DELIVERED_SHARED: &str = r#"
update entries
set delivered_count = delivered_count + (asked.value ->> 3), delivered_at = coalesce(delivered_at, ?2)
from json_each(?1) as asked
join streams on streams.name = asked.value ->> 0 and streams.epoch = asked.value ->> 1
where entries.stream = streams.id and entries.seq = asked.value ->> 2 and entries.kind = 0
"#;

const SCHEDULED: &str = "select created_at, fire_at from scheduled where id = ?1 and publisher = ?2";

const BODY: &str =
    "select created_at, recipients, cancelled_at is not null from bodies where id = ?1 and publisher = ?2";

/// The first that is true; ?2 now.
macro_rules! state {
    () => {
        concat!(
            "case when entries.read_at is not null then 'read'
                when entries.delivered_at is not null then 'delivered'
                when entries.state = 2 then 'cancelled'
                when entries.state = 1 or ",
            replaced!(),
            " then 'superseded'
                when entries.state = 3 or not ",
            alive!("?2"),
            " then 'expired'
                when entries.state = 4 or entries.seq <= streams.floor_seq then 'dropped'
                else 'stored' end"
        )
    };
}

/// ?1 notifications. Of each: what state, how many entries, how many devices.
const COUNTS: &str = concat!(
    "select asked.key, ",
    state!(),
    " as became, count(*), sum(entries.delivered_count)
    from json_each(?1) as asked
    cross join entries on entries.body = unhex(asked.value) and entries.kind = 0
    join streams on streams.id = entries.stream
    group by asked.key, became
    order by asked.key"
);

/// ?1 notification, ?2 now, ?3 and ?4 the user and device to go on after, ?5 how many.
const RECIPIENTS: &str = concat!(
    "select substr(streams.name, 6), entries.device, ",
    state!(),
    ", entries.delivered_at, entries.read_at
    from entries
    join streams on streams.id = entries.stream
    where entries.body = ?1 and entries.kind = 0
        and exists (select 1 from bodies where id = ?1 and publisher = ?6)
        and substr(streams.name, 1, 5) = 'user:'
        and (?3 is null or (substr(streams.name, 6), coalesce(entries.device, '')) > (?3, ?4))
    order by 1, coalesce(entries.device, '')
    limit ?5 + 0"
);

/// A row of [`COUNTS`].
type Counted = (i64, String, i64, i64);

/// A row of [`RECIPIENTS`].
type Recipient = (String, Option<String>, String, Option<i64>, Option<i64>);

impl SqliteInbox {
    async fn note_delivered(&self, entries: &[Delivered], at: UnixMillis) -> Result<(), Failure> {
        for part in entries.chunks(AT_ONCE) {
            let asked = part.iter().map(|entry| (&entry.user, entry.epoch.0, entry.seq.as_i64()));
            let asked = rows(asked.collect());
            let work = async {
                let mut transaction = self.write().await?;
                let done = async {
                    let noted: Vec<(i64, i64, bool)> = sqlx::query_as(DELIVERED)
                        .bind(asked)
                        .bind(at.as_i64())
                        .fetch_all(&mut *transaction)
                        .await?;
                    // What was counted as superseded, cancelled or expired before is not counted again.
                    let count = noted.iter().filter(|(_, _, open)| *open).count();
                    let noted = noted.into_iter().map(|(stream, seq, _)| (stream, seq)).collect();
                    self.tell(&mut transaction, State::Delivered, noted, at).await?;
                    Ok(count)
                };
                let done = done.await;
                self.finish(transaction, done).await
            };
            let noted = self.calls.within("delivered", work).await?;
            self.count_receipts(State::Delivered, noted);
        }
        Ok(())
    }

    async fn note_shared(&self, entries: &[DeliveredShared], at: UnixMillis) -> Result<(), Failure> {
        // A statement updates a row once, so what names an entry twice is added up before.
        let mut devices: HashMap<_, i64> = HashMap::new();
        for entry in entries {
            let more = i64::try_from(entry.devices).unwrap_or(i64::MAX);
            let sum =
                devices.entry((entry.stream.to_string(), entry.epoch.0, entry.seq.as_i64())).or_default();
            *sum = sum.saturating_add(more);
        }
        let asked: Vec<_> = devices.into_iter().collect();
        for part in asked.chunks(AT_ONCE) {
            let asked = part.iter().map(|((stream, epoch, seq), devices)| (stream, epoch, seq, devices));
            let asked = rows(asked.collect());
            let work = async {
                let mut transaction = self.write().await?;
                let done = note_shared(&mut transaction, &asked, at).await;
                self.finish(transaction, done).await
            };
            let first = self.calls.within("delivered", work).await?;
            self.count_receipts(State::Delivered, first);
        }
        Ok(())
    }

    async fn receipt_of(
        &self,
        id: NotificationId,
        publisher: &PublisherId,
        now: UnixMillis,
    ) -> Result<Option<Receipt>, Failure> {
        let work = async {
            let mut snapshot = self.snapshot().await?;
            let found = receipt(&mut snapshot, id, publisher, now).await;
            found.map_err(|error| self.failure(error))
        };
        self.calls.within("receipt", work).await
    }

    async fn recipients_of(
        &self,
        id: NotificationId,
        publisher: &PublisherId,
        after: Option<&AfterRecipient>,
        limit: u32,
        now: UnixMillis,
    ) -> Result<Vec<RecipientReceipt>, Failure> {
        let device = after.and_then(|(_, device)| device.as_ref()).map_or("", |device| device.as_str());
        let work = async {
            let found: Result<Vec<Recipient>, _> = sqlx::query_as(RECIPIENTS)
                .bind(id.0)
                .bind(now.as_i64())
                .bind(after.map(|(user, _)| user.as_str()))
                .bind(device)
                .bind(i64::from(limit))
                .bind(publisher.as_str())
                .fetch_all(&self.readers)
                .await;
            let found = found.map_err(|error| self.failure(error))?;
            let recipients: Result<Vec<_>, _> = found.into_iter().map(recipient).collect();
            recipients.map_err(|error| self.failure(error))
        };
        self.calls.within("recipients", work).await
    }

    async fn counts_of(&self, ids: &[NotificationId], now: UnixMillis) -> Result<Vec<Counts>, Failure> {
        let work = async {
            let mut reader = self.readers.acquire().await.map_err(|error| self.failure(error))?;
            let counted = counts(&mut reader, ids, now).await;
            counted.map_err(|error| self.failure(error))
        };
        self.calls.within("counts", work).await
    }
}

/// Adds to the counts; returns how many entries got their first.
async fn note_shared(
    connection: &mut SqliteConnection,
    asked: &str,
    at: UnixMillis,
) -> Result<usize, sqlx::Error> {
    let first: i64 = sqlx::query_scalar(FIRST_SHARED).bind(asked).fetch_one(&mut *connection).await?;
    sqlx::query(DELIVERED_SHARED).bind(asked).bind(at.as_i64()).execute(connection).await?;
    Ok(usize::try_from(first).unwrap_or_default())
}

async fn receipt(
    connection: &mut SqliteConnection,
    id: NotificationId,
    publisher: &PublisherId,
    now: UnixMillis,
) -> Result<Option<Receipt>, sqlx::Error> {
    let scheduled: Option<(i64, i64)> = sqlx::query_as(SCHEDULED)
        .bind(id.0)
        .bind(publisher.as_str())
        .fetch_optional(&mut *connection)
        .await?;
    if let Some((created_at, fire_at)) = scheduled {
        return Ok(Some(Receipt {
            created_at: UnixMillis::from_i64(created_at),
            deliver_at: Some(UnixMillis::from_i64(fire_at)),
            is_cancelled: false,
            recipients: None,
            counts: Counts::default(),
        }));
    }
    let body: Option<(i64, Option<i64>, bool)> =
        sqlx::query_as(BODY).bind(id.0).bind(publisher.as_str()).fetch_optional(&mut *connection).await?;
    let Some((created_at, recipients, is_cancelled)) = body else {
        return Ok(None);
    };
    let counts = counts(connection, &[id], now).await?.swap_remove(0);
    Ok(Some(Receipt {
        created_at: UnixMillis::from_i64(created_at),
        deliver_at: None,
        is_cancelled,
        recipients: recipients.map(count_of),
        counts,
    }))
}

/// The counts of each.
async fn counts(
    connection: &mut SqliteConnection,
    ids: &[NotificationId],
    now: UnixMillis,
) -> Result<Vec<Counts>, sqlx::Error> {
    let asked = rows(ids.iter().map(|id| id.0.simple().to_string()).collect());
    let rows: Vec<Counted> =
        sqlx::query_as(COUNTS).bind(asked).bind(now.as_i64()).fetch_all(connection).await?;
    let mut answers = vec![Counts::default(); ids.len()];
    for (place, state, entries, devices) in rows {
        let Some(counts) = usize::try_from(place).ok().and_then(|place| answers.get_mut(place)) else {
            continue;
        };
        // Of a shared stream the devices count, not the entry.
        let count = if state == "delivered" { count_of(entries.max(devices)) } else { count_of(entries) };
        match state_of(&state)? {
            State::Stored => counts.stored += count,
            State::Delivered => counts.delivered += count,
            State::Read => counts.read += count,
            State::Expired => counts.expired += count,
            State::Superseded => counts.superseded += count,
            State::Cancelled => counts.cancelled += count,
            State::Dropped => counts.dropped += count,
        }
    }
    Ok(answers)
}

fn state_of(word: &str) -> Result<State, sqlx::Error> {
    let state = State::ALL.into_iter().find(|state| state.as_str() == word);
    state.ok_or_else(|| sqlx::Error::Decode(format!("no state is called {word:?}").into()))
}

fn recipient(
    (user, device, state, delivered_at, read_at): Recipient,
) -> Result<RecipientReceipt, sqlx::Error> {
    let unreadable = |error: crate::domain::IdError| sqlx::Error::Decode(Box::new(error));
    Ok(RecipientReceipt {
        user: UserId::new(user).map_err(unreadable)?,
        device: device.map(DeviceId::new).transpose().map_err(unreadable)?,
        state: state_of(&state)?,
        delivered_at: delivered_at.map(UnixMillis::from_i64),
        read_at: read_at.map(UnixMillis::from_i64),
    })
}

#[async_trait]
impl Receipts for SqliteInbox {
    async fn delivered(&self, entries: Vec<Delivered>, at: UnixMillis) -> Result<(), InboxError> {
        let noted = self.note_delivered(&entries, at).await;
        noted.map_err(|failure| failure.to_error())
    }

    async fn delivered_shared(
        &self,
        entries: Vec<DeliveredShared>,
        at: UnixMillis,
    ) -> Result<(), InboxError> {
        let noted = self.note_shared(&entries, at).await;
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
        let receipt = self.receipt_of(id, publisher, now).await;
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
        let recipients = self.recipients_of(id, publisher, after, limit, now).await;
        recipients.map_err(|failure| failure.to_error())
    }

    async fn counts(&self, ids: &[NotificationId], now: UnixMillis) -> Result<Vec<Counts>, InboxError> {
        let counts = self.counts_of(ids, now).await;
        counts.map_err(|failure| failure.to_error())
    }
}
