//! Erasing a person from SQLite.
//!
//! Owns the order of it: what is large goes first, in parts, so that publishers never wait long for the one
//! writer; then all that is small at once; then what may still have been written about the person meanwhile.

use sqlx::SqliteConnection;
use uuid::Uuid;

use super::retention::{AT_ONCE, remove_bodies};
use super::{SqliteInbox, rows};
use crate::domain::{Stream, UserId};
use crate::inbox::Erased;
use crate::inbox::erasure::{Without, without};
use crate::inbox::failure::Failure;

/// ?1 the person's stream, ?2 how many.
const SOME_ENTRIES: &str = r#"
delete from entries
where (stream, seq) in (
    select stream, seq from entries where stream = (select id from streams where name = ?1) limit ?2 + 0
)
returning body
"#;

/// ?1 the person's stream, ?2 the person. How far a stream had come counts its unread version; that nothing is
/// unread any more is one version further.
const KEEP_HOW_FAR: &str = r#"
update store set erased_seq = max(erased_seq, come.far)
from (
    select coalesce(streams.last_seq, store.erased_seq) + coalesce(user_state.reads, 0) + 1 as far
    from store
    left join streams on streams.name = ?1
    left join user_state on user_state.user_id = ?2
    where streams.id is not null or user_state.user_id is not null
) as come
"#;

const STREAM: &str = "delete from streams where name = ?1";
const DEVICES: &str = "delete from devices where user_id = ?1";
const CURSORS: &str = "delete from cursors where user_id = ?1";
const READS: &str = "delete from reads where user_id = ?1";
const FOLLOWS: &str = "delete from follows where user_id = ?1";
const USER_STATE: &str = "delete from user_state where user_id = ?1";
const LAST_SEEN: &str = "delete from last_seen where user_id = ?1";

/// ?1 after which, ?2 how many.
const SCHEDULED: &str = "select id, request from scheduled where id > ?1 order by id limit ?2 + 0";
const UNSCHEDULE: &str = "delete from scheduled where id = ?1";
const RESCHEDULE: &str = "update scheduled set request = ?2 where id = ?1";

/// ?1 the person, ?2 after which, ?3 how many are looked at.
const EVENTS: &str = r#"
select rowid, json_extract(cast(json as text), '$.user') is ?1
from events
where rowid > ?2
order by rowid
limit ?3 + 0
"#;
const REMOVE_EVENTS: &str = "delete from events where rowid in (select value from json_each(?1))";

/// How many schedules or events are looked at between two writes.
const LOOK_AT: i64 = 2_000;

impl SqliteInbox {
    /// As [`crate::inbox::Upkeep::erase`] promises.
    pub(super) async fn erase_all(&self, user: &UserId) -> Result<Erased, Failure> {
        let mut erased = Erased::default();
        while self.erase_entries(user, &mut erased).await? > 0 {}
        self.erase_rows(user, &mut erased).await?;
        self.erase_schedules(user, &mut erased).await?;
        self.erase_events(user, &mut erased).await?;
        Ok(erased)
    }

    /// Returns how many entries went.
    async fn erase_entries(&self, user: &UserId, erased: &mut Erased) -> Result<u64, Failure> {
        let stream = Stream::User(user.clone()).to_string();
        let work = async {
            let mut transaction = self.write().await?;
            let done = remove_entries(&mut transaction, &stream, AT_ONCE).await;
            self.finish(transaction, done).await
        };
        let (entries, notifications) = self.calls.within("erase", work).await?;
        erased.entries += entries;
        erased.notifications += notifications;
        Ok(entries)
    }

    /// The stream goes with everything that came into it meanwhile.
    async fn erase_rows(&self, user: &UserId, erased: &mut Erased) -> Result<(), Failure> {
        let work = async {
            let mut transaction = self.write().await?;
            let mut of_rows = Erased::default();
            let done = remove_rows(&mut transaction, user, &mut of_rows).await;
            self.finish(transaction, done.map(|()| of_rows)).await
        };
        let done = self.calls.within("erase", work).await?;
        erased.entries += done.entries;
        erased.notifications += done.notifications;
        erased.devices += done.devices;
        erased.cursors += done.cursors;
        erased.reads += done.reads;
        erased.other += done.other;
        Ok(())
    }

    async fn erase_schedules(&self, user: &UserId, erased: &mut Erased) -> Result<(), Failure> {
        let mut after = Uuid::nil();
        loop {
            let work = async {
                let found: Result<Vec<(Uuid, Vec<u8>)>, _> =
                    sqlx::query_as(SCHEDULED).bind(after).bind(LOOK_AT).fetch_all(&self.readers).await;
                found.map_err(|error| self.failure(error))
            };
            let found = self.calls.within("erase", work).await?;
            let Some((last, _)) = found.last() else {
                return Ok(());
            };
            after = *last;
            for (id, request) in found {
                // What fires meanwhile is gone from here: it is then an entry, made after the erasure.
                let query = match without(&request, user) {
                    Without::Same => continue,
                    Without::Nobody => sqlx::query(UNSCHEDULE).bind(id),
                    Without::Others(request) => {
                        let query = sqlx::query(RESCHEDULE).bind(id).bind(request.to_vec());
                        self.write_one("erase", query).await?;
                        continue;
                    }
                };
                erased.scheduled += self.write_one("erase", query).await?;
            }
        }
    }

    async fn erase_events(&self, user: &UserId, erased: &mut Erased) -> Result<(), Failure> {
        let mut after = 0;
        loop {
            let work = async {
                let found: Result<Vec<(i64, bool)>, _> = sqlx::query_as(EVENTS)
                    .bind(user.as_str())
                    .bind(after)
                    .bind(LOOK_AT)
                    .fetch_all(&self.readers)
                    .await;
                found.map_err(|error| self.failure(error))
            };
            let found = self.calls.within("erase", work).await?;
            let Some((last, _)) = found.last() else {
                return Ok(());
            };
            after = *last;
            let theirs: Vec<i64> =
                found.into_iter().filter(|event| event.1).map(|(number, _)| number).collect();
            if !theirs.is_empty() {
                let query = sqlx::query(REMOVE_EVENTS).bind(rows(theirs));
                erased.events += self.write_one("erase", query).await?;
            }
        }
    }
}

/// Removes entries of a stream, and the notifications that nobody else has; returns how many of each.
async fn remove_entries(
    connection: &mut SqliteConnection,
    stream: &str,
    limit: i64,
) -> Result<(u64, u64), sqlx::Error> {
    let bodies: Vec<Uuid> =
        sqlx::query_scalar(SOME_ENTRIES).bind(stream).bind(limit).fetch_all(&mut *connection).await?;
    let entries = bodies.len() as u64;
    let bodies = rows(bodies.into_iter().map(|body| body.simple().to_string()).collect());
    Ok((entries, remove_bodies(connection, &bodies).await?))
}

async fn remove_rows(
    connection: &mut SqliteConnection,
    user: &UserId,
    erased: &mut Erased,
) -> Result<(), sqlx::Error> {
    let stream = Stream::User(user.clone()).to_string();
    (erased.entries, erased.notifications) = remove_entries(connection, &stream, -1).await?;
    sqlx::query(KEEP_HOW_FAR).bind(&stream).bind(user.as_str()).execute(&mut *connection).await?;
    erased.other += sqlx::query(STREAM).bind(&stream).execute(&mut *connection).await?.rows_affected();
    let mut removed = [0; 6];
    let statements = [DEVICES, CURSORS, READS, FOLLOWS, USER_STATE, LAST_SEEN];
    for (statement, removed) in statements.into_iter().zip(&mut removed) {
        let done = sqlx::query(statement).bind(user.as_str()).execute(&mut *connection).await?;
        *removed = done.rows_affected();
    }
    let [devices, cursors, reads, follows, user_state, last_seen] = removed;
    (erased.devices, erased.cursors, erased.reads) = (devices, cursors, reads + follows);
    erased.other += user_state + last_seen;
    Ok(())
}
