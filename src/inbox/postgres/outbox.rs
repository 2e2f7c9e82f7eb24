//! The outbox in PostgreSQL.

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::{PostgresInbox, count, parsed, time};
use crate::domain::{UnixMillis, UserId};
use crate::inbox::failure::Failure;
use crate::inbox::{InboxError, Outbox, OutboxEvent, PresenceChange};

/// $1 now, $2 until when, $3 how many. What another node is claiming is skipped.
const CLAIM: &str = r#"
with claimed as (
    update events set claimed_until = $2
    from (
        select id from events
        where claimed_until <= $1
        order by created_at, id
        limit $3
        for update skip locked
    ) as oldest
    where events.id = oldest.id
    returning events.id, events.routing_key, events.json, events.created_at
)
select id, routing_key, json from claimed order by created_at, id
"#;

/// Sorted, as two may have told the same.
const TOLD: &str = r#"
delete from events
using (
    select id from events where id = any($1::text[]) order by id for update
) as told
where events.id = told.id
"#;

const WAITING: &str = "select count(*) as events, min(created_at) as oldest from events";

/// Who was never online has not gone. The number of the change comes from the row that it changes, so no two
/// changes have one.
const PRESENCE_CHANGED: &str = concat!(
    r#"
with asked as materialized (
    select * from unnest($1::text[], $2::boolean[], $3::bigint[]) as asked (user_id, is_online, at)
),
changed as (
    insert into last_seen as stored (user_id, at, online, changes)
    -- Numbers grow with time, so that none comes again after an erasure or a restore.
    select asked.user_id, asked.at, asked.is_online, asked.at
    from asked
    where asked.is_online
        or exists (select from last_seen where last_seen.user_id = asked.user_id and last_seen.online)
    order by asked.user_id collate "C"
    on conflict (user_id) do update
        set online = excluded.online, changes = greatest(stored.changes + 1, excluded.changes),
            at = case when excluded.online then greatest(stored.at, excluded.at) else stored.at end
        where stored.online <> excluded.online
    returning stored.user_id, stored.online, stored.changes
),
told as (
    insert into events (id, routing_key, json, created_at)
    select about.id, about.routing_key,
        convert_to(json_build_object(
            'id', about.id, 'type', about.routing_key, 'user', about.user_id, 'at', "#,
    at!("about.at"),
    r#"
        )::text, 'UTF8'), about.at
    from (
        select changed.user_id, asked.at, 'presence/' || changed.user_id || '/' || changed.changes as id,
            case when changed.online then 'presence.online' else 'presence.offline' end as routing_key
        from changed
        join asked on asked.user_id = changed.user_id
    ) as about
    order by about.id collate "C"
    on conflict do nothing
)
select user_id from changed
"#
);

const ONLINE_USERS: &str = r#"
select user_id from last_seen
where online and ($1::text is null or user_id > $1::text collate "C")
order by user_id
limit $2
"#;

impl PostgresInbox {
    async fn claim(&self, now: UnixMillis, lease: Duration, limit: u32) -> Result<Vec<OutboxEvent>, Failure> {
        let query =
            sqlx::query(CLAIM).bind(now.as_i64()).bind(now.after(lease).as_i64()).bind(i64::from(limit));
        let rows = self.rows("claim_events", query).await?;
        self.read_row(rows.iter().map(event).collect())
    }

    /// Changes of different users at once; of one user one after the other.
    async fn change_presence(&self, changes: &[PresenceChange]) -> Result<Vec<bool>, Failure> {
        let mut answers = vec![false; changes.len()];
        let mut left: Vec<usize> = (0..changes.len()).collect();
        while !left.is_empty() {
            let mut users = HashSet::new();
            let (now, later): (Vec<usize>, Vec<usize>) =
                left.into_iter().partition(|place| users.insert(&changes[*place].user));
            let changed = self.change_once(now.iter().map(|place| &changes[*place])).await?;
            for place in now {
                answers[place] = changed.contains(changes[place].user.as_str());
            }
            left = later;
        }
        Ok(answers)
    }

    async fn change_once(
        &self,
        changes: impl Iterator<Item = &PresenceChange> + Clone,
    ) -> Result<HashSet<String>, Failure> {
        let users: Vec<&str> = changes.clone().map(|change| change.user.as_str()).collect();
        let online: Vec<bool> = changes.clone().map(|change| change.is_online).collect();
        let times: Vec<i64> = changes.map(|change| change.at.as_i64()).collect();
        let query = sqlx::query(PRESENCE_CHANGED).bind(&users).bind(&online).bind(&times);
        let rows = self.rows("presence_changed", query).await?;
        self.read_row(rows.iter().map(|row| row.try_get("user_id")).collect())
    }
}

fn event(row: &PgRow) -> Result<OutboxEvent, sqlx::Error> {
    Ok(OutboxEvent {
        id: row.try_get("id")?,
        routing_key: row.try_get("routing_key")?,
        json: Bytes::from(row.try_get::<Vec<u8>, _>("json")?),
    })
}

#[async_trait]
impl Outbox for PostgresInbox {
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
        let told = self.written("told", sqlx::query(TOLD).bind(ids)).await;
        told.map(drop).map_err(|failure| failure.to_error())
    }

    async fn waiting(&self) -> Result<(u64, Option<UnixMillis>), InboxError> {
        let row = self.row("waiting", sqlx::query(WAITING)).await;
        let waiting = row.and_then(|row| {
            let waiting = count(&row, "events").and_then(|events| Ok((events, time(&row, "oldest")?)));
            self.read_row(waiting)
        });
        waiting.map_err(|failure| failure.to_error())
    }

    async fn presence_changed(&self, changes: &[PresenceChange]) -> Result<Vec<bool>, InboxError> {
        let changed = self.change_presence(changes).await;
        changed.map_err(|failure| failure.to_error())
    }

    async fn online_users(&self, after: Option<&UserId>, limit: u32) -> Result<Vec<UserId>, InboxError> {
        let query = sqlx::query(ONLINE_USERS).bind(after.map(|user| user.as_str())).bind(i64::from(limit));
        let users = self.rows("online_users", query).await.and_then(|rows| {
            let user = |row: &PgRow| parsed(UserId::new(row.try_get::<String, _>("user_id")?));
            self.read_row(rows.iter().map(user).collect())
        });
        users.map_err(|failure| failure.to_error())
    }
}
