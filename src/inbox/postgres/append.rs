//! Appending to PostgreSQL: one statement a group.

use std::collections::HashSet;

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::PostgresInbox;
use crate::domain::{Epoch, NotificationId, PublisherId, Seq};
use crate::inbox::failure::Failure;
use crate::inbox::group::{self, Commit};
use crate::inbox::{Append, Appended, Appender, FirstAnswer, Idempotency, InboxError, Place};

/// How often a key may be swept away between our finding it taken and our reading it.
const ROUNDS: usize = 3;

/// Order is everything here. Keys are taken first, sorted; a key that is being taken by somebody
/// else makes this wait until that is decided. Then the streams' counters are raised, sorted;
/// their locks, held to the end of the statement, make the order of seqs that of commits.
/// Nobody who holds a counter waits for a key. Each of these steps reads all of the one before
/// it, so the server cannot interleave them.
const APPEND: &str = r#"
with item as materialized (
    select *
    from unnest($1::uuid[], $2::bytea[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::bytea[])
        with ordinality as item (id, json, created_at, expires_at, publisher, key, hash, place)
),
taken as (
    insert into idempotency (publisher, key, hash, body, created_at)
    select publisher, key, hash, id, created_at
    from item
    where key is not null
    order by publisher collate "C", key collate "C"
    on conflict do nothing
    returning publisher, key
),
fresh as materialized (
    select * from item
    where key is null or (publisher, key) in (select publisher, key from taken)
),
wanted as materialized (
    select entry.place, fresh.id as body, entry.stream, entry.device, fresh.expires_at
    from unnest($8::bigint[], $9::text[], $10::text[])
        with ordinality as entry (item, stream, device, place)
    join fresh on fresh.place = entry.item
),
counter as (
    insert into streams as stream (name, epoch, last_seq)
    select wanted.stream, (select epoch from store), count(*)
    from wanted
    group by wanted.stream
    order by wanted.stream collate "C"
    on conflict (name) do update set last_seq = stream.last_seq + excluded.last_seq
    returning stream.id, stream.name, stream.epoch, stream.last_seq
),
placed as materialized (
    select wanted.place, counter.id as stream, counter.epoch, wanted.body, wanted.device,
        wanted.expires_at,
        counter.last_seq - count(*) over (partition by counter.id)
            + row_number() over (partition by counter.id order by wanted.place) as seq
    from wanted
    join counter on counter.name = wanted.stream
),
body as (
    insert into bodies (id, json, created_at, expires_at)
    select id, json, created_at, expires_at from fresh
),
entry as (
    insert into entries (stream, seq, body, device, expires_at)
    select stream, seq, body, device, expires_at from placed
)
select
    (select array_agg(place order by place) from fresh) as items,
    array_agg(seq order by place) as seqs,
    array_agg(epoch order by place) as epochs
from placed
"#;

const REPLAY: &str = r#"
select asked.place, first.hash, first.body, first.answered, first.online
from unnest($1::bigint[], $2::text[], $3::text[]) as asked (place, publisher, key)
join idempotency as first on first.publisher = asked.publisher and first.key = asked.key
"#;

const ANSWERED: &str =
    "update idempotency set answered = true, online = $3 where publisher = $1 and key = $2";

/// The arrays that [`APPEND`] takes.
#[derive(Debug, Default)]
struct Columns<'a> {
    ids: Vec<Uuid>,
    jsons: Vec<&'a [u8]>,
    created: Vec<i64>,
    expires: Vec<Option<i64>>,
    publishers: Vec<Option<&'a str>>,
    keys: Vec<Option<&'a str>>,
    hashes: Vec<Option<&'a [u8]>>,
    items: Vec<i64>,
    streams: Vec<String>,
    devices: Vec<Option<&'a str>>,
}

impl<'a> Columns<'a> {
    fn of(items: impl Iterator<Item = &'a Append>) -> Self {
        let mut columns = Self::default();
        for (item, append) in (1_i64..).zip(items) {
            let notification = &append.notification;
            let key = append.idempotency.as_ref();
            columns.ids.push(notification.id.0);
            columns.jsons.push(&notification.json);
            columns.created.push(notification.created_at.as_i64());
            let expires = notification.expires_at.map(|at| at.as_i64());
            columns.expires.push(expires);
            columns
                .publishers
                .push(key.map(|key| key.publisher.as_str()));
            columns.keys.push(key.map(|key| key.key.as_str()));
            columns.hashes.push(key.map(|key| &key.request_hash[..]));
            for recipient in &append.recipients {
                let device = recipient.device.as_ref().map(|device| device.as_str());
                columns.items.push(item);
                columns.streams.push(recipient.stream.to_string());
                columns.devices.push(device);
            }
        }
        columns
    }
}

impl PostgresInbox {
    /// Appends the items at `places`, no two with one key; the places whose key is taken are
    /// left unanswered.
    async fn insert(
        &self,
        items: &[&Append],
        places: &[usize],
        answers: &mut [Option<Result<Appended, Failure>>],
    ) -> Result<(), Failure> {
        let columns = Columns::of(places.iter().map(|place| items[*place]));
        let row = self
            .calls
            .within("append", async {
                let mut lease = self.lease().await?;
                let result = sqlx::query(APPEND)
                    .bind(&columns.ids)
                    .bind(&columns.jsons)
                    .bind(&columns.created)
                    .bind(&columns.expires)
                    .bind(&columns.publishers)
                    .bind(&columns.keys)
                    .bind(&columns.hashes)
                    .bind(&columns.items)
                    .bind(&columns.streams)
                    .bind(&columns.devices)
                    .fetch_one(lease.connection())
                    .await;
                lease.end(result).map_err(|error| self.failure(error))
            })
            .await?;
        let (stored, mut entries) = stored(&row).map_err(|error| self.failure(error))?;
        for item in stored {
            // The statement counts from one, as SQL does.
            let place = places[usize::try_from(item - 1).unwrap_or(usize::MAX)];
            let count = items[place].recipients.len();
            let places = entries.by_ref().take(count).collect();
            answers[place] = Some(Ok(Appended::Stored(places)));
        }
        Ok(())
    }

    /// Answers the items at `places` by what the first with their key was told; those whose key
    /// is gone are left unanswered.
    async fn replay(
        &self,
        items: &[&Append],
        places: &[usize],
        answers: &mut [Option<Result<Appended, Failure>>],
    ) -> Result<(), Failure> {
        let keys: Vec<(i64, &Idempotency)> = places
            .iter()
            .filter_map(|place| Some((*place as i64, items[*place].idempotency.as_ref()?)))
            .collect();
        let numbers: Vec<i64> = keys.iter().map(|(place, _)| *place).collect();
        let publishers: Vec<&str> = keys.iter().map(|(_, key)| key.publisher.as_str()).collect();
        let names: Vec<&str> = keys.iter().map(|(_, key)| key.key.as_str()).collect();
        let rows = self
            .calls
            .within("replay", async {
                let mut lease = self.lease().await?;
                let result = sqlx::query(REPLAY)
                    .bind(&numbers)
                    .bind(&publishers)
                    .bind(&names)
                    .fetch_all(lease.connection())
                    .await;
                lease.end(result).map_err(|error| self.failure(error))
            })
            .await?;
        for row in rows {
            let (place, hash, first) = first(&row).map_err(|error| self.failure(error))?;
            let place = usize::try_from(place).unwrap_or(usize::MAX);
            let is_same = items[place]
                .idempotency
                .as_ref()
                .is_some_and(|key| key.request_hash[..] == hash[..]);
            answers[place] = Some(Ok(if is_same {
                Appended::Replayed(first)
            } else {
                Appended::KeyReused
            }));
        }
        Ok(())
    }
}

impl Commit for PostgresInbox {
    async fn commit(&self, items: &[&Append]) -> Result<Vec<Result<Appended, Failure>>, Failure> {
        let mut answers: Vec<Option<Result<Appended, Failure>>> = vec![None; items.len()];
        let open = |answers: &[Option<_>]| -> Vec<usize> {
            (0..items.len())
                .filter(|place| answers[*place].is_none())
                .collect()
        };
        for round in 0..ROUNDS {
            let fresh = without_repeats(items, open(&answers));
            match self.insert(items, &fresh, &mut answers).await {
                Ok(()) => {}
                Err(failure) if round == 0 => return Err(failure),
                Err(failure) => return Ok(finish(answers, &failure)),
            }
            let taken = open(&answers);
            if taken.is_empty() {
                break;
            }
            // Others of the group may be stored by now: only these are in doubt.
            if let Err(failure) = self.replay(items, &taken, &mut answers).await {
                return Ok(finish(answers, &failure));
            }
        }
        let swept = Failure::unavailable("an idempotency key went while it was read");
        Ok(finish(answers, &swept))
    }
}

/// Leaves out the items whose key an earlier one has: they replay that one.
fn without_repeats(items: &[&Append], mut places: Vec<usize>) -> Vec<usize> {
    let mut seen = HashSet::new();
    places.retain(|place| match &items[*place].idempotency {
        Some(key) => seen.insert((&key.publisher, &key.key)),
        None => true,
    });
    places
}

fn finish(
    answers: Vec<Option<Result<Appended, Failure>>>,
    otherwise: &Failure,
) -> Vec<Result<Appended, Failure>> {
    answers
        .into_iter()
        .map(|answer| answer.unwrap_or_else(|| Err(otherwise.clone())))
        .collect()
}

fn stored(row: &PgRow) -> Result<(Vec<i64>, impl Iterator<Item = Place>), sqlx::Error> {
    let items: Option<Vec<i64>> = row.try_get("items")?;
    let seqs: Option<Vec<i64>> = row.try_get("seqs")?;
    let epochs: Option<Vec<i64>> = row.try_get("epochs")?;
    let places = seqs
        .unwrap_or_default()
        .into_iter()
        .zip(epochs.unwrap_or_default())
        .map(|(seq, epoch)| Place {
            epoch: epoch_of(epoch),
            seq: Seq::from_i64(seq),
        });
    Ok((items.unwrap_or_default(), places))
}

fn first(row: &PgRow) -> Result<(i64, Vec<u8>, FirstAnswer), sqlx::Error> {
    let online: Option<i64> = row.try_get("online")?;
    let first = FirstAnswer {
        id: NotificationId(row.try_get("body")?),
        answered: row.try_get("answered")?,
        online: online.and_then(|online| u32::try_from(online).ok()),
    };
    Ok((row.try_get("place")?, row.try_get("hash")?, first))
}

/// Epochs are written as `bigint`s from `u32`s.
pub(super) fn epoch_of(column: i64) -> Epoch {
    Epoch(u32::try_from(column).unwrap_or_default())
}

#[async_trait]
impl Appender for PostgresInbox {
    async fn append(&self, group: Vec<Append>) -> Vec<Result<Appended, InboxError>> {
        group::append(self, &self.calls.metrics, &group).await
    }

    async fn answered(
        &self,
        publisher: &PublisherId,
        key: &str,
        online: Option<u32>,
    ) -> Result<(), InboxError> {
        self.calls
            .within("answered", async {
                let mut lease = self.lease().await?;
                let result = sqlx::query(ANSWERED)
                    .bind(publisher.as_str())
                    .bind(key)
                    .bind(online.map(i64::from))
                    .execute(lease.connection())
                    .await;
                lease.end(result).map_err(|error| self.failure(error))
            })
            .await
            .map(drop)
            .map_err(|failure| failure.to_error())
    }
}
