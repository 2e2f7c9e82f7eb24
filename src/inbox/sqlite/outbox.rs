//! The outbox in SQLite, and who backends believe to be online.

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::SqliteConnection;

use super::{SqliteInbox, count_of, rows};
use crate::domain::{UnixMillis, UserId};
use crate::inbox::failure::Failure;
use crate::inbox::{InboxError, Outbox, OutboxEvent, PresenceChange};

/// Changes a transaction, so that appends get their turn in between.
const AT_ONCE: usize = 500;

/// ?1 now, ?2 until when they are claimed, ?3 how many. Rows are numbered as they come.
const CLAIM: &str = r#"
update events set claimed_until = ?2
where rowid in (select rowid from events where claimed_until <= ?1 order by rowid limit ?3 + 0)
returning rowid, id, routing_key, json
"#;

const TOLD: &str = "delete from events where id in (select value from json_each(?1))";

const WAITING: &str = "select count(*), (select created_at from events order by rowid limit 1) from events";

/// Rows: [user, online, at]. Who is not known is offline. Answers whose state changed, and the number of the
/// change: numbers grow with time, so that none comes again after an erasure or a restore.
const CHANGE: &str = r#"
insert into last_seen (user_id, at, online, changes)
select asked.value ->> 0, asked.value ->> 2, asked.value ->> 1, asked.value ->> 2
from json_each(?1) as asked
where asked.value ->> 1 = 1 or exists (select 1 from last_seen where user_id = asked.value ->> 0)
on conflict (user_id) do update
set online = excluded.online, changes = max(changes + 1, excluded.changes),
    at = case when excluded.online = 1 then max(at, excluded.at) else at end
where online <> excluded.online
returning user_id, changes
"#;

/// Rows: [user, word, number of the change, at].
const TELL: &str = concat!(
    "insert into events (id, routing_key, json, created_at)
    select id, type, cast(json_object('id', id, 'type', type, 'user', user, 'at', ",
    time_text!("at"),
    ") as blob), at
    from (
        select 'presence/' || (value ->> 0) || '/' || (value ->> 2) as id,
            'presence.' || (value ->> 1) as type, value ->> 0 as user, value ->> 3 as at
        from json_each(?1)
    )
    where true
    on conflict do nothing"
);

const ONLINE: &str = r#"
select user_id from last_seen where online = 1 and user_id > coalesce(?1, '') order by user_id limit ?2 + 0
"#;

/// The number of its row, and the event.
type Claimed = (i64, String, String, Vec<u8>);

impl SqliteInbox {
    async fn claim(&self, now: UnixMillis, lease: Duration, limit: u32) -> Result<Vec<OutboxEvent>, Failure> {
        let work = async {
            let mut transaction = self.write().await?;
            let done: Result<Vec<Claimed>, _> = sqlx::query_as(CLAIM)
                .bind(now.as_i64())
                .bind(now.after(lease).as_i64())
                .bind(i64::from(limit))
                .fetch_all(&mut *transaction)
                .await;
            let mut claimed = self.finish(transaction, done).await?;
            // What an update returns is in no order.
            claimed.sort_by_key(|(number, ..)| *number);
            let event = |(_, id, routing_key, json)| OutboxEvent { id, routing_key, json: Bytes::from(json) };
            Ok(claimed.into_iter().map(event).collect())
        };
        self.calls.within("claim_events", work).await
    }

    async fn change_presence(&self, changes: &[PresenceChange]) -> Result<Vec<bool>, Failure> {
        let mut changed = Vec::with_capacity(changes.len());
        let mut left = changes;
        while !left.is_empty() {
            // Each user once: what is said of one twice is said one after the other.
            let mut seen = HashSet::new();
            let part = left.iter().take(AT_ONCE).take_while(|change| seen.insert(&change.user)).count();
            let (part, rest) = left.split_at(part);
            let work = async {
                let mut transaction = self.write().await?;
                let done = change(&mut transaction, part).await;
                self.finish(transaction, done).await
            };
            changed.extend(self.calls.within("presence_changed", work).await?);
            left = rest;
        }
        Ok(changed)
    }
}

async fn change(
    connection: &mut SqliteConnection,
    changes: &[PresenceChange],
) -> Result<Vec<bool>, sqlx::Error> {
    let asked = changes.iter().map(|change| (&change.user, u8::from(change.is_online), change.at.as_i64()));
    let found: Vec<(String, i64)> =
        sqlx::query_as(CHANGE).bind(rows(asked.collect())).fetch_all(&mut *connection).await?;
    let numbers: std::collections::HashMap<&str, i64> =
        found.iter().map(|(user, number)| (user.as_str(), *number)).collect();
    let told = changes.iter().filter_map(|change| {
        let number = numbers.get(change.user.as_str())?;
        let word = if change.is_online { "online" } else { "offline" };
        Some((&change.user, word, number, change.at.as_i64()))
    });
    let told: Vec<_> = told.collect();
    if !told.is_empty() {
        sqlx::query(TELL).bind(rows(told)).execute(connection).await?;
    }
    Ok(changes.iter().map(|change| numbers.contains_key(change.user.as_str())).collect())
}

#[async_trait]
impl Outbox for SqliteInbox {
    async fn claim_events(
        &self,
        now: UnixMillis,
        lease: Duration,
        limit: u32,
    ) -> Result<Vec<OutboxEvent>, InboxError> {
        let claimed = self.claim(now, lease, limit).await;
        claimed.map_err(|failure| failure.to_error())
    }

    async fn told(&self, ids: &[String]) -> Result<(), InboxError> {
        let query = sqlx::query(TOLD).bind(rows(ids.iter().collect()));
        let told = self.write_one("told", query).await;
        told.map(drop).map_err(|failure| failure.to_error())
    }

    async fn waiting(&self) -> Result<(u64, Option<UnixMillis>), InboxError> {
        let work = async {
            let found: Result<(i64, Option<i64>), _> = sqlx::query_as(WAITING).fetch_one(&self.readers).await;
            found.map_err(|error| self.failure(error))
        };
        let found = self.calls.within("waiting", work).await;
        found
            .map(|(count, since)| (count_of(count), since.map(UnixMillis::from_i64)))
            .map_err(|failure| failure.to_error())
    }

    async fn presence_changed(&self, changes: &[PresenceChange]) -> Result<Vec<bool>, InboxError> {
        let changed = self.change_presence(changes).await;
        changed.map_err(|failure| failure.to_error())
    }

    async fn online_users(&self, after: Option<&UserId>, limit: u32) -> Result<Vec<UserId>, InboxError> {
        let work = async {
            let found: Result<Vec<String>, _> = sqlx::query_scalar(ONLINE)
                .bind(after.map(|user| user.as_str()))
                .bind(i64::from(limit))
                .fetch_all(&self.readers)
                .await;
            let users = found.and_then(|found| {
                let users: Result<Vec<_>, _> = found.into_iter().map(UserId::new).collect();
                users.map_err(|error| sqlx::Error::Decode(Box::new(error)))
            });
            users.map_err(|error| self.failure(error))
        };
        let users = self.calls.within("online_users", work).await;
        users.map_err(|failure| failure.to_error())
    }
}
