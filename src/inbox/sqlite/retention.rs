//! Retention in SQLite: what expired, what is too old, what is too much.
//!
//! Owns the floors. Every transaction touches a bounded number of entries, so that publishers never wait long
//! for the one writer.

use std::collections::BTreeMap;

use sqlx::SqliteConnection;
use uuid::Uuid;

use super::tell::EntryKey;
use super::{SqliteInbox, rows};
use crate::domain::{Stream, UnixMillis};
use crate::inbox::State;
use crate::inbox::failure::Failure;

/// The most entries that one transaction changes.
pub(super) const AT_ONCE: i64 = 500;

/// ?1 now, ?2 how many. What somebody has is not noted: it was delivered.
const EXPIRE: &str = concat!(
    "update entries set state = 3
    where (stream, seq) in (
        select stream, seq from entries
        where expires_at <= ?1 and expires_at is not null and kind = 0 and state = 0 and ",
    untouched!(),
    "
        order by expires_at
        limit ?2 + 0
    )
    returning stream, seq"
);

/// The oldest notifications and how many entries they have. ?1 created before, ?2 how many.
const OLDEST: &str = r#"
select id, (select count(*) from entries where body = bodies.id and kind = 0)
from bodies
where created_at < ?1
order by created_at
limit ?2 + 0
"#;

/// Entries of these notifications (?1), at most ?2.
const ENTRIES_OF: &str = r#"
select entries.stream, entries.seq
from json_each(?1) as asked
cross join entries on entries.body = unhex(asked.value) and entries.kind = 0
limit ?2 + 0
"#;

/// Of these entries those that nobody had and that nothing else had become of. Rows: [stream, seq].
const DROPPED: &str = concat!(
    "update entries set state = 4
    from json_each(?1) as asked
    where entries.stream = asked.value ->> 0 and entries.seq = asked.value ->> 1
        and entries.kind = 0 and entries.state = 0 and ",
    untouched!(),
    "
    returning stream, seq"
);

/// Rows: [stream, floor]. A floor never goes back.
const RAISE: &str = r#"
update streams set floor_seq = asked.value ->> 1
from json_each(?1) as asked
where streams.id = asked.value ->> 0 and floor_seq < asked.value ->> 1
"#;

/// Rows: [stream, seq].
const REMOVE: &str = r#"
delete from entries where (stream, seq) in (select value ->> 0, value ->> 1 from json_each(?1))
"#;

/// Cancellations under the floors of these streams (?1 rows [stream, floor]), at most ?2.
const REMOVE_CANCELLATIONS: &str = r#"
delete from entries where (stream, seq) in (
    select entries.stream, entries.seq
    from json_each(?1) as asked
    cross join entries on entries.stream = asked.value ->> 0 and entries.seq <= asked.value ->> 1
    where entries.kind = 1
    limit ?2 + 0
)
"#;

/// Those of these notifications (?1) that have no entry any more.
const REMOVE_BODIES: &str = r#"
delete from bodies
where id in (select unhex(value) from json_each(?1))
    and not exists (select 1 from entries where body = bodies.id and kind = 0)
"#;

const REMOVE_DUE: &str = r#"
delete from due
where body in (select unhex(value) from json_each(?1))
    and not exists (select 1 from bodies where id = due.body)
"#;

/// Where a stream is to be cut next. ?1 name, ?2 how many seqs it may keep, ?3 how many entries at once.
/// Nothing is where a stream had not begun.
const NEXT_CUT: &str = r#"
select id, max(floor_seq, base_seq), min(last_seq - ?2, max(floor_seq, base_seq) + ?3)
from streams
where name = ?1 and last_seq - ?2 > max(floor_seq, base_seq)
"#;

/// ?1 stream, ?2 the old floor, ?3 the new one.
const CUT: &str = r#"
select seq, body from entries where stream = ?1 and seq > ?2 and seq <= ?3
"#;

/// Those of these notifications (?1) that no stream has above its floor.
const FALLEN: &str = r#"
select lower(asked.value)
from json_each(?1) as asked
where not exists (
    select 1
    from entries
    join streams on streams.id = entries.stream
    where entries.body = unhex(asked.value) and entries.kind = 0 and entries.seq > streams.floor_seq
)
"#;

/// What a transaction of retention by age did.
#[derive(Debug)]
struct Done {
    /// Entries that went.
    entries: u64,
    /// Those of them that nobody had.
    dropped: usize,
    /// Notifications that were begun with; 0: nothing was left.
    notifications: u32,
}

/// What a transaction of retention by count did.
#[derive(Debug)]
struct Cut {
    /// Entries that went.
    entries: u64,
    /// Those of them that nobody had.
    dropped: usize,
    /// Notifications that no stream has above its floor any more. One that somebody still has keeps its
    /// entries, which tell what became of it for the others.
    fallen: Vec<String>,
}

impl SqliteInbox {
    /// As [`crate::inbox::Upkeep::expire`] promises.
    pub(super) async fn expire_some(&self, now: UnixMillis, limit: u32) -> Result<u64, Failure> {
        let work = async {
            let mut transaction = self.write().await?;
            let done = async {
                let expired: Vec<EntryKey> = sqlx::query_as(EXPIRE)
                    .bind(now.as_i64())
                    .bind(i64::from(limit).min(AT_ONCE))
                    .fetch_all(&mut *transaction)
                    .await?;
                let count = expired.len();
                self.tell(&mut transaction, State::Expired, expired, now).await?;
                Ok(count)
            };
            let done = done.await;
            self.finish(transaction, done).await
        };
        let expired = self.calls.within("expire", work).await?;
        self.count_receipts(State::Expired, expired);
        Ok(expired as u64)
    }

    /// As [`crate::inbox::Upkeep::retain_by_age`] promises.
    pub(super) async fn retain_younger(
        &self,
        created_before: UnixMillis,
        limit: u32,
    ) -> Result<u64, Failure> {
        let (mut entries, mut left) = (0, limit);
        while left > 0 {
            let work = async {
                let mut transaction = self.write().await?;
                let done = self.remove_oldest(&mut transaction, created_before, left).await;
                self.finish(transaction, done).await
            };
            let done = self.calls.within("retain_by_age", work).await?;
            self.count_receipts(State::Dropped, done.dropped);
            if done.notifications == 0 {
                break;
            }
            entries += done.entries;
            left = left.saturating_sub(done.notifications);
        }
        Ok(entries)
    }

    async fn remove_oldest(
        &self,
        connection: &mut SqliteConnection,
        created_before: UnixMillis,
        limit: u32,
    ) -> Result<Done, sqlx::Error> {
        let oldest: Vec<(Uuid, i64)> = sqlx::query_as(OLDEST)
            .bind(created_before.as_i64())
            .bind(i64::from(limit).min(AT_ONCE))
            .fetch_all(&mut *connection)
            .await?;
        let mut room = AT_ONCE;
        let fitting = oldest.into_iter().take_while(|(_, entries)| {
            let fits = room > 0;
            room -= entries;
            fits
        });
        let bodies: Vec<String> = fitting.map(|(id, _)| id.simple().to_string()).collect();
        let notifications = u32::try_from(bodies.len()).unwrap_or(u32::MAX);
        let bodies = rows(bodies);
        let entries: Vec<EntryKey> =
            sqlx::query_as(ENTRIES_OF).bind(&bodies).bind(AT_ONCE).fetch_all(&mut *connection).await?;
        let dropped = self.drop_entries(connection, &entries).await?;
        let mut floors: BTreeMap<i64, i64> = BTreeMap::new();
        for (stream, seq) in &entries {
            let floor = floors.entry(*stream).or_default();
            *floor = *seq.max(floor);
        }
        raise(connection, &rows(floors.into_iter().collect())).await?;
        sqlx::query(REMOVE).bind(rows(entries.iter().collect())).execute(&mut *connection).await?;
        remove_bodies(connection, &bodies).await?;
        Ok(Done { entries: entries.len() as u64, dropped, notifications })
    }

    /// As [`crate::inbox::Upkeep::retain_by_count`] promises.
    pub(super) async fn retain_last(&self, streams: &[Stream], max_entries: u64) -> Result<u64, Failure> {
        let mut entries = 0;
        for stream in streams {
            loop {
                let work = async {
                    let mut transaction = self.write().await?;
                    let done = self.cut(&mut transaction, stream, max_entries).await;
                    self.finish(transaction, done).await
                };
                let Some(cut) = self.calls.within("retain_by_count", work).await? else { break };
                self.count_receipts(State::Dropped, cut.dropped);
                entries += cut.entries;
                self.remove_fallen(&cut.fallen).await?;
            }
        }
        Ok(entries)
    }

    /// Raises a stream's floor by a part of what it has too much; nothing if it has not.
    async fn cut(
        &self,
        connection: &mut SqliteConnection,
        stream: &Stream,
        max_entries: u64,
    ) -> Result<Option<Cut>, sqlx::Error> {
        let found: Option<(i64, i64, i64)> = sqlx::query_as(NEXT_CUT)
            .bind(stream.to_string())
            .bind(i64::try_from(max_entries).unwrap_or(i64::MAX))
            .bind(AT_ONCE)
            .fetch_optional(&mut *connection)
            .await?;
        let Some((stream, old, new)) = found else {
            return Ok(None);
        };
        let cut: Vec<(i64, Uuid)> =
            sqlx::query_as(CUT).bind(stream).bind(old).bind(new).fetch_all(&mut *connection).await?;
        let keys: Vec<EntryKey> = cut.iter().map(|(seq, _)| (stream, *seq)).collect();
        let dropped = self.drop_entries(connection, &keys).await?;
        raise(connection, &rows(vec![(stream, new)])).await?;
        let bodies: Vec<String> = cut.iter().map(|(_, body)| body.simple().to_string()).collect();
        let fallen: Vec<String> =
            sqlx::query_scalar(FALLEN).bind(rows(bodies)).fetch_all(&mut *connection).await?;
        Ok(Some(Cut { entries: keys.len() as u64, dropped, fallen }))
    }

    /// Removes notifications with their entries. Should it not come to its end, their age will.
    async fn remove_fallen(&self, fallen: &[String]) -> Result<(), Failure> {
        let bodies = rows(fallen.iter().collect());
        let mut is_more = !fallen.is_empty();
        while is_more {
            let work = async {
                let mut transaction = self.write().await?;
                let done = async {
                    let entries: Vec<EntryKey> = sqlx::query_as(ENTRIES_OF)
                        .bind(&bodies)
                        .bind(AT_ONCE)
                        .fetch_all(&mut *transaction)
                        .await?;
                    let count = entries.len();
                    sqlx::query(REMOVE).bind(rows(entries)).execute(&mut *transaction).await?;
                    remove_bodies(&mut transaction, &bodies).await?;
                    Ok(count)
                };
                let done = done.await;
                self.finish(transaction, done).await
            };
            let removed = self.calls.within("retain_by_count", work).await?;
            is_more = removed > 0;
        }
        Ok(())
    }

    /// Counts and tells which of these nobody had; returns how many.
    async fn drop_entries(
        &self,
        connection: &mut SqliteConnection,
        entries: &[EntryKey],
    ) -> Result<usize, sqlx::Error> {
        let dropped: Vec<EntryKey> =
            sqlx::query_as(DROPPED).bind(rows(entries.iter().collect())).fetch_all(&mut *connection).await?;
        let count = dropped.len();
        self.tell(connection, State::Dropped, dropped, self.clock.now()).await?;
        Ok(count)
    }
}

/// Raises floors, and removes the cancellations under them. Rows: [stream, floor].
async fn raise(connection: &mut SqliteConnection, floors: &str) -> Result<(), sqlx::Error> {
    sqlx::query(RAISE).bind(floors).execute(&mut *connection).await?;
    sqlx::query(REMOVE_CANCELLATIONS).bind(floors).bind(AT_ONCE).execute(connection).await.map(drop)
}

/// Removes those of these notifications that have no entry any more.
pub(super) async fn remove_bodies(
    connection: &mut SqliteConnection,
    bodies: &str,
) -> Result<u64, sqlx::Error> {
    let removed = sqlx::query(REMOVE_BODIES).bind(bodies).execute(&mut *connection).await?;
    sqlx::query(REMOVE_DUE).bind(bodies).execute(connection).await?;
    Ok(removed.rows_affected())
}
