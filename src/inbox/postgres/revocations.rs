//! Revocations in PostgreSQL.

use async_trait::async_trait;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::{PostgresInbox, count};
use crate::domain::UnixMillis;
use crate::domain::revocation::{Revocation, Revoked};
use crate::inbox::failure::Failure;
use crate::inbox::revocations::{columns, revocation};
use crate::inbox::{InboxError, RevocationStore, StoredRevocations};

/// $1 kind, $2 subject, $3 issued before, $4 now, $5 when it lapses, $6 how many there may be.
const KEEP: &str = r#"
with kept as (
    insert into revocations as stored (kind, subject, issued_before, created_at, lapses_at)
    select $1, $2, $3, $4, $5
    where (select count(*) from revocations) < $6
        or exists (select from revocations where kind = $1 and subject = $2)
    on conflict (kind, subject) do update set
        issued_before = greatest(stored.issued_before, excluded.issued_before),
        lapses_at = greatest(stored.lapses_at, excluded.lapses_at)
    returning kind, subject, issued_before, created_at, lapses_at
),
changed as (
    update store set revocations = revocations + 1 where exists (select from kept)
)
select * from kept
"#;

const LIFT: &str = r#"
with lifted as (
    delete from revocations where kind = $1 and subject = $2 returning kind
),
changed as (
    update store set revocations = revocations + 1 where exists (select from lifted)
)
select count(*) as lifted from lifted
"#;

const VERSION: &str = "select revocations as version from store";

/// The version, and beside it each of them: of one snapshot, as it is one statement.
const ALL: &str = r#"
select store.revocations as version, stored.*
from store
left join revocations as stored on stored.lapses_at > $1
"#;

impl PostgresInbox {
    async fn keep_revocation(&self, wanted: &Revocation, limit: u32) -> Result<Option<Revocation>, Failure> {
        let (kind, subject) = columns(&wanted.of);
        let query = sqlx::query(KEEP)
            .bind(kind)
            .bind(subject)
            .bind(wanted.issued_before.as_i64())
            .bind(wanted.created_at.as_i64())
            .bind(wanted.lapses_at.as_i64())
            .bind(i64::from(limit));
        let rows = self.rows("revoke", query).await?;
        let kept: Result<Vec<_>, _> = rows.iter().map(read).collect();
        Ok(self.read_row(kept)?.into_iter().flatten().next())
    }

    async fn lift_revocation(&self, of: &Revoked) -> Result<bool, Failure> {
        let (kind, subject) = columns(of);
        let row = self.row("lift", sqlx::query(LIFT).bind(kind).bind(subject)).await?;
        Ok(self.read_row(count(&row, "lifted"))? > 0)
    }

    async fn read_version(&self) -> Result<u64, Failure> {
        let row = self.row("revocations_version", sqlx::query(VERSION)).await?;
        self.read_row(count(&row, "version"))
    }

    async fn read_revocations(&self, now: UnixMillis) -> Result<StoredRevocations, Failure> {
        let rows = self.rows("revocations", sqlx::query(ALL).bind(now.as_i64())).await?;
        let version = rows.first().map_or(Ok(0), |row| count(row, "version"));
        let all: Result<Vec<_>, _> = rows.iter().map(read).collect();
        let all = self.read_row(all)?.into_iter().flatten().collect();
        Ok(StoredRevocations { version: self.read_row(version)?, all })
    }
}

/// `None` where the row stands for no revocation.
fn read(row: &PgRow) -> Result<Option<Revocation>, sqlx::Error> {
    let Some(kind) = row.try_get::<Option<i16>, _>("kind")? else { return Ok(None) };
    Ok(revocation((
        i64::from(kind),
        row.try_get("subject")?,
        row.try_get("issued_before")?,
        row.try_get("created_at")?,
        row.try_get("lapses_at")?,
    )))
}

#[async_trait]
impl RevocationStore for PostgresInbox {
    async fn revoke(&self, revocation: &Revocation, limit: u32) -> Result<Option<Revocation>, InboxError> {
        let kept = self.keep_revocation(revocation, limit).await;
        kept.map_err(|failure| failure.to_error())
    }

    async fn lift(&self, of: &Revoked) -> Result<bool, InboxError> {
        let lifted = self.lift_revocation(of).await;
        lifted.map_err(|failure| failure.to_error())
    }

    async fn revocations_version(&self) -> Result<u64, InboxError> {
        let version = self.read_version().await;
        version.map_err(|failure| failure.to_error())
    }

    async fn revocations(&self, now: UnixMillis) -> Result<StoredRevocations, InboxError> {
        let read = self.read_revocations(now).await;
        read.map_err(|failure| failure.to_error())
    }
}
