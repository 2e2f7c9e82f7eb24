//! Cursors that nobody uses in SQLite.
//!
//! Owns when cursors of those who are connected were last used, and the end of those of topics that a device has long
//! left: a device that is in use would gather them for ever. The user's own stream and everyone are one each and go with
//! the device.

use sqlx::SqliteConnection;

use super::{SqliteInbox, rows};
use crate::domain::{DeviceId, Stream, UnixMillis, UserId};
use crate::inbox::failure::Failure;
use crate::inbox::{CursorKey, Unused};

/// Rows: [user, device, stream]; ?2 now.
const TOUCH: &str = r#"
update cursors set used_at = ?2
from json_each(?1) as asked
where user_id = asked.value ->> 0 and device = asked.value ->> 1 and stream = asked.value ->> 2
    and used_at < ?2
"#;

/// ?1, ?2 and ?3 the cursor to go on after, ?4 how many, ?5 used before (0: by a version that did not know).
const PAGE: &str = r#"
select user_id, device, stream, substr(stream, 1, 6) = 'topic:' and used_at > 0 and used_at < ?5
from cursors
where (user_id, device, stream) > (?1, ?2, ?3)
order by user_id, device, stream
limit ?4 + 0
"#;

/// Rows: [user, device, stream]; ?2 used before.
const REMOVE: &str = r#"
delete from cursors
where (user_id, device, stream) in (select value ->> 0, value ->> 1, value ->> 2 from json_each(?1))
    and used_at < ?2
"#;

/// Whose last cursor in a topic is gone does not follow it any more. Rows as above.
const LEAVE: &str = r#"
delete from follows where (user_id, stream) in (
        select value ->> 0, value ->> 2 from json_each(?1) where substr(value ->> 2, 1, 6) = 'topic:'
    )
    and not exists (
        select 1 from cursors where cursors.user_id = follows.user_id and cursors.stream = follows.stream
    )
"#;

/// Rows as above.
const FORGET: &str = r#"
delete from reads where (user_id, stream) in (select value ->> 0, value ->> 2 from json_each(?1))
    and not exists (
        select 1 from follows where follows.user_id = reads.user_id and follows.stream = reads.stream
    )
"#;

type Row = (String, String, String, bool);

impl SqliteInbox {
    pub(super) async fn touch_cursors(&self, cursors: &[CursorKey], now: UnixMillis) -> Result<(), Failure> {
        let asked = cursors.iter().map(|(user, device, stream)| (user, device, stream.to_string()));
        let query = sqlx::query(TOUCH).bind(rows(asked.collect())).bind(now.as_i64());
        self.write_one("touch_cursors", query).await.map(drop)
    }

    /// Looks beside the writer, and writes only if there is something to remove.
    pub(super) async fn remove_unused(
        &self,
        after: Option<&CursorKey>,
        before: UnixMillis,
        limit: u32,
    ) -> Result<Unused, Failure> {
        let (user, device, stream) = match after {
            Some((user, device, stream)) => (user.as_str(), device.as_str(), stream.to_string()),
            None => ("", "", String::new()),
        };
        let query = sqlx::query_as(PAGE).bind(user).bind(device).bind(stream).bind(i64::from(limit));
        let query = query.bind(before.as_i64()).fetch_all(&self.readers);
        let look = async { query.await.map_err(|error| self.failure(error)) };
        let page: Vec<Row> = self.calls.within("remove_unused", look).await?;
        let next = match page.last() {
            Some((user, device, stream, _)) if page.len() >= limit as usize => {
                Some(key(user, device, stream).map_err(|error| self.failure(error))?)
            }
            _ => None,
        };
        let unused = page.iter().filter(|(.., is_unused)| *is_unused);
        let unused: Vec<_> = unused.map(|(user, device, stream, _)| (user, device, stream)).collect();
        if unused.is_empty() {
            return Ok(Unused { removed: 0, next });
        }
        let unused = rows(unused);
        let work = async {
            let mut transaction = self.write().await?;
            let done = remove(&mut transaction, &unused, before).await;
            self.finish(transaction, done).await
        };
        let removed = self.calls.within("remove_unused", work).await?;
        self.calls.metrics.swept.inc_by(removed);
        Ok(Unused { removed, next })
    }
}

async fn remove(
    connection: &mut SqliteConnection,
    unused: &str,
    before: UnixMillis,
) -> Result<u64, sqlx::Error> {
    let removed = sqlx::query(REMOVE).bind(unused).bind(before.as_i64()).execute(&mut *connection).await?;
    leave(connection, unused).await?;
    Ok(removed.rows_affected())
}

/// Forgets the following of topics, and what was read of them, of those whose last cursor there was among these.
pub(super) async fn leave(connection: &mut SqliteConnection, removed: &str) -> Result<(), sqlx::Error> {
    sqlx::query(LEAVE).bind(removed).execute(&mut *connection).await?;
    sqlx::query(FORGET).bind(removed).execute(connection).await.map(drop)
}

fn key(user: &str, device: &str, stream: &str) -> Result<CursorKey, sqlx::Error> {
    let unreadable = |error: crate::domain::IdError| sqlx::Error::Decode(Box::new(error));
    let stream = Stream::parse(stream).map_err(|error| sqlx::Error::Decode(error.into()))?;
    Ok((UserId::new(user).map_err(unreadable)?, DeviceId::new(device).map_err(unreadable)?, stream))
}
