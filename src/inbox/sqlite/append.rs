//! Appending to SQLite: one transaction, and one wait for the disk, a group.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde_json::json;
use sqlx::{Row, SqliteConnection};
use uuid::Uuid;

use super::{SqliteInbox, epoch_of, rows};
use crate::domain::{NotificationId, PublisherId, Seq, Stream};
use crate::inbox::failure::Failure;
use crate::inbox::group::{self, Commit};
use crate::inbox::{Append, Appended, Appender, FirstAnswer, Idempotency, InboxError, Place};

const TAKE_KEY: &str = r#"
insert into idempotency (publisher, key, hash, body, created_at) values (?1, ?2, ?3, ?4, ?5)
on conflict do nothing
"#;

const REPLAY: &str = r#"
select hash, body, answered, online from idempotency where publisher = ?1 and key = ?2
"#;

const ADD_BODY: &str =
    "insert into bodies (id, json, created_at, expires_at) values (?1, ?2, ?3, ?4)";

/// Rows: [name, entries]. "where true" keeps the parser from reading "on" as a join's.
const COUNT: &str = r#"
insert into streams (name, epoch, last_seq)
select asked.value ->> 0, store.epoch, asked.value ->> 1
from json_each(?1) as asked, store
where true
on conflict (name) do update set last_seq = last_seq + excluded.last_seq
returning name, id, epoch, last_seq
"#;

/// Rows: [stream, seq, body, device, expires_at].
const ADD_ENTRIES: &str = r#"
insert into entries (stream, seq, body, device, expires_at)
select value ->> 0, value ->> 1, unhex(value ->> 2), value ->> 3, value ->> 4
from json_each(?1)
"#;

const ANSWERED: &str =
    "update idempotency set answered = 1, online = ?3 where publisher = ?1 and key = ?2";

/// A stream whose counter was raised for this group.
#[derive(Debug)]
struct Counted {
    id: i64,
    epoch: i64,
    /// The next seq to give out.
    next: i64,
}

impl Commit for SqliteInbox {
    async fn commit(&self, items: &[&Append]) -> Result<Vec<Result<Appended, Failure>>, Failure> {
        let work = async {
            let mut transaction = self.write().await?;
            let appended = append(&mut transaction, items).await;
            let appended = appended.map_err(|error| self.failure(error))?;
            self.commit(transaction).await?;
            Ok(appended)
        };
        let appended = self.calls.within("append", work).await?;
        Ok(appended.into_iter().map(Ok).collect())
    }
}

async fn append(
    connection: &mut SqliteConnection,
    items: &[&Append],
) -> Result<Vec<Appended>, sqlx::Error> {
    let mut answers: Vec<Option<Appended>> = Vec::with_capacity(items.len());
    for item in items {
        let earlier = match &item.idempotency {
            Some(key) => take_key(connection, key, item).await?,
            None => None,
        };
        if earlier.is_none() {
            add_body(connection, item).await?;
        }
        answers.push(earlier);
    }
    let fresh: Vec<&Append> = items
        .iter()
        .zip(&answers)
        .filter(|(_, answer)| answer.is_none())
        .map(|(item, _)| *item)
        .collect();
    let mut stored = add_entries(connection, &fresh).await?.into_iter();
    Ok(answers
        .into_iter()
        .map(|answer| answer.unwrap_or_else(|| Appended::Stored(stored.next().unwrap_or_default())))
        .collect())
}

/// Takes the key; if it is taken, says what that means.
async fn take_key(
    connection: &mut SqliteConnection,
    key: &Idempotency,
    item: &Append,
) -> Result<Option<Appended>, sqlx::Error> {
    let taken = sqlx::query(TAKE_KEY)
        .bind(key.publisher.as_str())
        .bind(&key.key)
        .bind(&key.request_hash[..])
        .bind(item.notification.id.0)
        .bind(item.notification.created_at.as_i64())
        .execute(&mut *connection)
        .await?;
    if taken.rows_affected() > 0 {
        return Ok(None);
    }
    let row = sqlx::query(REPLAY)
        .bind(key.publisher.as_str())
        .bind(&key.key)
        .fetch_one(&mut *connection)
        .await?;
    let hash: Vec<u8> = row.try_get("hash")?;
    if hash != key.request_hash {
        return Ok(Some(Appended::KeyReused));
    }
    let online: Option<i64> = row.try_get("online")?;
    Ok(Some(Appended::Replayed(FirstAnswer {
        id: NotificationId(row.try_get::<Uuid, _>("body")?),
        answered: row.try_get("answered")?,
        online: online.and_then(|online| u32::try_from(online).ok()),
    })))
}

async fn add_body(connection: &mut SqliteConnection, item: &Append) -> Result<(), sqlx::Error> {
    let notification = &item.notification;
    sqlx::query(ADD_BODY)
        .bind(notification.id.0)
        .bind(&notification.json[..])
        .bind(notification.created_at.as_i64())
        .bind(notification.expires_at.map(|at| at.as_i64()))
        .execute(connection)
        .await
        .map(drop)
}

/// The places of each item's entries, in order.
async fn add_entries(
    connection: &mut SqliteConnection,
    items: &[&Append],
) -> Result<Vec<Vec<Place>>, sqlx::Error> {
    let mut counted = count(connection, items).await?;
    let mut entries = Vec::new();
    let mut places = Vec::with_capacity(items.len());
    for item in items {
        let body = item.notification.id.0.simple().to_string();
        let expires_at = item.notification.expires_at.map(|at| at.as_i64());
        let mut of_item = Vec::with_capacity(item.recipients.len());
        for recipient in &item.recipients {
            let stream = counted
                .get_mut(&recipient.stream)
                .ok_or(sqlx::Error::RowNotFound)?;
            let seq = stream.next;
            stream.next += 1;
            let device = recipient.device.as_ref().map(|device| device.as_str());
            entries.push(json!([stream.id, seq, body, device, expires_at]));
            of_item.push(Place {
                epoch: epoch_of(stream.epoch),
                seq: Seq::from_i64(seq),
            });
        }
        places.push(of_item);
    }
    sqlx::query(ADD_ENTRIES)
        .bind(rows(entries))
        .execute(connection)
        .await?;
    Ok(places)
}

/// Raises each stream's counter by how many entries it gets.
async fn count<'a>(
    connection: &mut SqliteConnection,
    items: &[&'a Append],
) -> Result<BTreeMap<&'a Stream, Counted>, sqlx::Error> {
    let mut wanted: BTreeMap<&Stream, i64> = BTreeMap::new();
    for recipient in items.iter().flat_map(|item| &item.recipients) {
        *wanted.entry(&recipient.stream).or_default() += 1;
    }
    let asked = wanted
        .iter()
        .map(|(stream, entries)| json!([stream.to_string(), entries]));
    let raised = sqlx::query_as(COUNT)
        .bind(rows(asked.collect()))
        .fetch_all(connection)
        .await?;
    let by_name: BTreeMap<String, (i64, i64, i64)> = raised
        .into_iter()
        .map(|(name, id, epoch, last_seq)| (name, (id, epoch, last_seq)))
        .collect();
    wanted
        .into_iter()
        .map(|(stream, entries)| {
            let (id, epoch, last_seq) = *by_name
                .get(&stream.to_string())
                .ok_or(sqlx::Error::RowNotFound)?;
            let next = last_seq - entries + 1;
            Ok((stream, Counted { id, epoch, next }))
        })
        .collect()
}

#[async_trait]
impl Appender for SqliteInbox {
    async fn append(&self, group: Vec<Append>) -> Vec<Result<Appended, InboxError>> {
        group::append(self, &self.calls.metrics, &group).await
    }

    async fn answered(
        &self,
        publisher: &PublisherId,
        key: &str,
        online: Option<u32>,
    ) -> Result<(), InboxError> {
        let work = async {
            let mut transaction = self.write().await?;
            sqlx::query(ANSWERED)
                .bind(publisher.as_str())
                .bind(key)
                .bind(online.map(i64::from))
                .execute(&mut *transaction)
                .await
                .map_err(|error| self.failure(error))?;
            self.commit(transaction).await
        };
        let answered = self.calls.within("answered", work).await;
        answered.map_err(|failure| failure.to_error())
    }
}
