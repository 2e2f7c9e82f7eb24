//! Revocations in SQLite.

use async_trait::async_trait;
use sqlx::SqliteConnection;

use super::{SqliteInbox, count_of};
use crate::domain::UnixMillis;
use crate::domain::revocation::{Revocation, Revoked};
use crate::inbox::failure::Failure;
use crate::inbox::revocations::{Row, columns, revocation};
use crate::inbox::{InboxError, RevocationStore, StoredRevocations};

/// Whether there is room: ?1 kind, ?2 subject, ?3 how many there may be.
const ROOM: &str = r#"
select (select count(*) from revocations) < ?3
    or exists (select 1 from revocations where kind = ?1 and subject = ?2)
"#;

/// ?1 kind, ?2 subject, ?3 issued before, ?4 now, ?5 when it lapses.
const KEEP: &str = r#"
insert into revocations (kind, subject, issued_before, created_at, lapses_at)
values (?1, ?2, ?3, ?4, ?5)
on conflict (kind, subject) do update set
    issued_before = max(issued_before, excluded.issued_before),
    lapses_at = max(lapses_at, excluded.lapses_at)
returning kind, subject, issued_before, created_at, lapses_at
"#;

const LIFT: &str = "delete from revocations where kind = ?1 and subject = ?2";

const CHANGED: &str = "update store set revocations = revocations + 1";

const VERSION: &str = "select revocations from store";

const ALL: &str = r#"
select kind, subject, issued_before, created_at, lapses_at from revocations where lapses_at > ?1
"#;

impl SqliteInbox {
    async fn read_revocations(&self, now: UnixMillis) -> Result<StoredRevocations, Failure> {
        let work = async {
            let mut snapshot = self.snapshot().await?;
            let read = async {
                let version: i64 = sqlx::query_scalar(VERSION).fetch_one(&mut *snapshot).await?;
                let rows: Vec<Row> = sqlx::query_as(ALL).bind(now.as_i64()).fetch_all(&mut *snapshot).await?;
                let all = rows.into_iter().filter_map(revocation).collect();
                Ok(StoredRevocations { version: count_of(version), all })
            };
            read.await.map_err(|error| self.failure(error))
        };
        self.calls.within("revocations", work).await
    }
}

async fn keep(
    connection: &mut SqliteConnection,
    wanted: &Revocation,
    limit: u32,
) -> Result<Option<Revocation>, sqlx::Error> {
    let (kind, subject) = columns(&wanted.of);
    let room: bool = sqlx::query_scalar(ROOM)
        .bind(kind)
        .bind(subject)
        .bind(i64::from(limit))
        .fetch_one(&mut *connection)
        .await?;
    if !room {
        return Ok(None);
    }
    let kept: Row = sqlx::query_as(KEEP)
        .bind(kind)
        .bind(subject)
        .bind(wanted.issued_before.as_i64())
        .bind(wanted.created_at.as_i64())
        .bind(wanted.lapses_at.as_i64())
        .fetch_one(&mut *connection)
        .await?;
    sqlx::query(CHANGED).execute(connection).await?;
    Ok(revocation(kept))
}

async fn lift(connection: &mut SqliteConnection, of: &Revoked) -> Result<bool, sqlx::Error> {
    let (kind, subject) = columns(of);
    let gone = sqlx::query(LIFT).bind(kind).bind(subject).execute(&mut *connection).await?;
    let was_there = gone.rows_affected() > 0;
    if was_there {
        sqlx::query(CHANGED).execute(connection).await?;
    }
    Ok(was_there)
}

#[async_trait]
impl RevocationStore for SqliteInbox {
    async fn revoke(&self, revocation: &Revocation, limit: u32) -> Result<Option<Revocation>, InboxError> {
        let work = async {
            let mut transaction = self.write().await?;
            let done = keep(&mut transaction, revocation, limit).await;
            self.finish(transaction, done).await
        };
        let kept = self.calls.within("revoke", work).await;
        kept.map_err(|failure| failure.to_error())
    }

    async fn lift(&self, of: &Revoked) -> Result<bool, InboxError> {
        let work = async {
            let mut transaction = self.write().await?;
            let done = lift(&mut transaction, of).await;
            self.finish(transaction, done).await
        };
        let lifted = self.calls.within("lift", work).await;
        lifted.map_err(|failure| failure.to_error())
    }

    async fn revocations_version(&self) -> Result<u64, InboxError> {
        let work = async {
            let version: Result<i64, _> = sqlx::query_scalar(VERSION).fetch_one(&self.readers).await;
            version.map(count_of).map_err(|error| self.failure(error))
        };
        let version = self.calls.within("revocations_version", work).await;
        version.map_err(|failure| failure.to_error())
    }

    async fn revocations(&self, now: UnixMillis) -> Result<StoredRevocations, InboxError> {
        let read = self.read_revocations(now).await;
        read.map_err(|failure| failure.to_error())
    }
}
