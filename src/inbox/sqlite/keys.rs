//! Idempotency keys in SQLite.
//!
//! Owns taking them and what a taken one means. All in the caller's transaction.

use std::collections::HashSet;
use std::fmt::Write;

use sqlx::{Row, SqliteConnection};
use uuid::Uuid;

use super::rows;
use crate::domain::{NotificationId, UnixMillis};
use crate::inbox::{FirstAnswer, Idempotency};

/// Rows: [publisher, key, hash, notification, at]. Answers the notifications that took theirs.
const TAKE: &str = r#"
insert into idempotency (publisher, key, hash, body, created_at)
select value ->> 0, value ->> 1, unhex(value ->> 2), unhex(value ->> 3), value ->> 4
from json_each(?1)
where true
on conflict do nothing
returning body
"#;

const FIRST: &str = r#"
select hash, body, answered, online from idempotency where publisher = ?1 and key = ?2
"#;

/// A request that wants its key.
pub(super) type Wanted<'a> = (&'a Idempotency, NotificationId, UnixMillis);

/// A key that was taken before.
#[derive(Debug)]
pub(super) enum Taken {
    /// For the same request.
    Same(FirstAnswer),
    /// For another one.
    Other,
}

/// Takes the keys, in order; says of each that was taken before what that means.
pub(super) async fn take(
    connection: &mut SqliteConnection,
    wanted: &[Wanted<'_>],
) -> Result<Vec<Option<Taken>>, sqlx::Error> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let asked = wanted.iter().map(|(key, id, at)| {
        (&key.publisher, &key.key, hex(&key.request_hash), id.0.simple().to_string(), at.as_i64())
    });
    let taken: Vec<Uuid> =
        sqlx::query_scalar(TAKE).bind(rows(asked.collect())).fetch_all(&mut *connection).await?;
    let taken: HashSet<Uuid> = taken.into_iter().collect();
    let mut answers = Vec::with_capacity(wanted.len());
    for (key, id, _) in wanted {
        answers.push(if taken.contains(&id.0) { None } else { Some(first(connection, key).await?) });
    }
    Ok(answers)
}

async fn first(connection: &mut SqliteConnection, key: &Idempotency) -> Result<Taken, sqlx::Error> {
    let row =
        sqlx::query(FIRST).bind(key.publisher.as_str()).bind(&key.key).fetch_one(&mut *connection).await?;
    let hash: Vec<u8> = row.try_get("hash")?;
    if hash != key.request_hash {
        return Ok(Taken::Other);
    }
    let online: Option<i64> = row.try_get("online")?;
    Ok(Taken::Same(FirstAnswer {
        id: NotificationId(row.try_get::<Uuid, _>("body")?),
        answered: row.try_get("answered")?,
        online: online.and_then(|online| u32::try_from(online).ok()),
    }))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String never fails.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
