//! Read state in PostgreSQL: marking, and what was marked.

use std::collections::HashSet;

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::{PostgresInbox, Query, count, parsed};
use crate::domain::{NotificationId, Seq, Stream, UnixMillis, UserId};
use crate::inbox::failure::Failure;
use crate::inbox::{InboxError, InboxPage, Look, Mark, Marked, ReadChange, ReadState, State, Unread};

/// What a mark wrote.
struct Written {
    /// How much was marked.
    marked: u64,
    /// Which notifications, where these are told.
    ids: Vec<NotificationId>,
    /// Which mark of the user's it is.
    reads: u64,
}

/// $1 user, $2 the user's stream, $3 what, $4 now, $5 whether events are written. The entries are locked
/// first, sorted; only if there are some is the counter raised, so it grows with what it counts.
macro_rules! mark_own {
    ($what:expr) => {
        concat!(
            r#"
with found as materialized (
    select entries.stream, entries.seq
    from streams
    join entries on entries.stream = streams.id
    where streams.name = $2 and entries.kind = 0 and entries.read_at is null
        and entries.seq > streams.floor_seq and "#,
            $what,
            r#"
    order by entries.stream, entries.seq
    for no key update of entries
),
bumped as (
    insert into user_state as stored (user_id, reads)
    select $1, 1 where exists (select from found)
    on conflict (user_id) do update set reads = stored.reads + 1
    returning stored.reads
),
marked as (
    update entries set read_at = $4, read_version = bumped.reads
    from found cross join bumped
    where entries.stream = found.stream and entries.seq = found.seq and entries.read_at is null
    returning entries.stream, entries.seq, entries.body, entries.device
),
told as ("#,
            tell!("read", whose!("marked"), "$4", "$5"),
            r#")
select array_agg(body order by seq) as ids, count(*) as marked, (select reads from bumped) as reads from marked
"#
        )
    };
}

const MARK_OWN_IDS: &str = mark_own!("entries.body = any($3::uuid[])");

/// Only what is there to be read: nobody has read what was replaced or cancelled before.
const MARK_OWN_UP_TO: &str = mark_own!(concat!("entries.seq <= $3::bigint and ", alive!("entries", "$4")));

/// $1 user, $2 stream, $3 notifications. Marks of what retention has taken go as new ones come.
const MARK_SHARED_IDS: &str = r#"
with found as materialized (
    select entries.seq, entries.body
    from streams
    join entries on entries.stream = streams.id
    left join follows on follows.user_id = $1 and follows.stream = $2
    where streams.name = $2 and entries.kind = 0 and entries.body = any($3::uuid[])
        and entries.seq > greatest(streams.floor_seq, follows.read_seq)
        and not exists (
            select from reads where reads.user_id = $1 and reads.stream = $2 and reads.seq = entries.seq
        )
),
bumped as (
    insert into user_state as stored (user_id, reads)
    select $1, 1 where exists (select from found)
    on conflict (user_id) do update set reads = stored.reads + 1
    returning stored.reads
),
marked as (
    insert into reads (user_id, stream, seq, read_version)
    select $1, $2, found.seq, bumped.reads
    from found cross join bumped
    order by found.seq
    on conflict do nothing
    returning seq
),
fallen as (
    delete from reads using streams
    where reads.user_id = $1 and reads.stream = $2 and streams.name = $2 and reads.seq <= streams.floor_seq
)
select array_agg(found.body order by found.seq) as ids, count(*) as marked, (select reads from bumped) as reads
from found join marked on marked.seq = found.seq
"#;

/// $1 user, $2 stream, $3 up to where. Single marks below are of no use any more. Whoever marks a stream that no
/// device of theirs follows begins at its head.
const MARK_SHARED_UP_TO: &str = r#"
with behind as materialized (
    select streams.epoch, streams.last_seq, least($3::bigint, streams.last_seq) as up_to
    from streams
    left join follows on follows.user_id = $1 and follows.stream = $2
    where streams.name = $2 and coalesce(follows.read_seq, 0) < least($3::bigint, streams.last_seq)
),
bumped as (
    insert into user_state as stored (user_id, reads)
    select $1, 1 where exists (select from behind)
    on conflict (user_id) do update set reads = stored.reads + 1
    returning stored.reads
),
followed as (
    insert into follows as stored (user_id, stream, epoch, start_seq, read_seq, read_version)
    select $1, $2, behind.epoch, behind.last_seq, behind.up_to, bumped.reads
    from behind cross join bumped
    on conflict (user_id, stream) do update
        set read_seq = greatest(stored.read_seq, excluded.read_seq), read_version = excluded.read_version
    returning stored.read_seq
),
folded as (
    delete from reads using followed
    where reads.user_id = $1 and reads.stream = $2 and reads.seq <= followed.read_seq
)
select null::uuid[] as ids, count(*) as marked, (select reads from bumped) as reads from followed
"#;

const HEAD: &str = "select coalesce(max(last_seq), 0) as head from streams where name = $1";

/// $1 user, $2 the user's stream, $3 after which count, $4 how many. Single marks of an own stream are looked
/// for among all of its entries: an index for the rare look would cost every mark.
const CHANGES: &str = r#"
select change.stream, change.read_version, change.body, change.up_to
from (
    select $2::text as stream, entries.read_version, entries.seq, entries.body, null::bigint as up_to
    from streams
    join entries on entries.stream = streams.id
    where streams.name = $2 and entries.seq > streams.floor_seq and entries.read_version > $3
    union all
    select stream, read_version, 0, null, read_seq
    from follows
    where user_id = $1 and read_version > $3
    union all
    select reads.stream, reads.read_version, reads.seq, entries.body, null
    from reads
    join streams on streams.name = reads.stream
    join entries on entries.stream = streams.id and entries.seq = reads.seq
    where reads.user_id = $1 and reads.read_version > $3
) as change
order by change.read_version, change.stream, change.seq
limit $4
"#;

impl PostgresInbox {
    async fn mark(&self, user: &UserId, mark: &Mark, now: UnixMillis) -> Result<(Marked, Unread), Failure> {
        let stream = mark.stream.to_string();
        let is_own = matches!(&mark.stream, Stream::User(of) if of == user);
        let (marked, written) = match &mark.marked {
            Marked::Ids(asked) => {
                let ids: Vec<Uuid> = asked.iter().map(|id| id.0).collect();
                let text = if is_own { MARK_OWN_IDS } else { MARK_SHARED_IDS };
                let query = sqlx::query(text).bind(user.as_str()).bind(&stream).bind(&ids);
                let written = self.write_marks(query, is_own, now).await?;
                let mut marked: HashSet<NotificationId> = written.ids.iter().copied().collect();
                (Marked::Ids(asked.iter().copied().filter(|id| marked.remove(id)).collect()), written)
            }
            Marked::UpTo(seq) => {
                // Nobody has read what is not there yet. The head only grows, so it may be asked for before.
                let row = self.row("mark_read", sqlx::query(HEAD).bind(&stream)).await?;
                let head = self.read_row(row.try_get("head"))?;
                let up_to = seq.as_i64().min(head);
                let text = if is_own { MARK_OWN_UP_TO } else { MARK_SHARED_UP_TO };
                let query = sqlx::query(text).bind(user.as_str()).bind(&stream).bind(up_to);
                let written = self.write_marks(query, is_own, now).await?;
                let is_new = written.marked > 0;
                (if is_new { Marked::UpTo(Seq::from_i64(up_to)) } else { Marked::Ids(Vec::new()) }, written)
            }
        };
        // Other marks may come between the two statements, and are counted; this one keeps its number.
        let unread = self.own_unread(user, now).await?;
        let reads = if marked.is_empty() { unread.reads } else { written.reads };
        Ok((marked, Unread { reads, ..unread }))
    }

    async fn write_marks(&self, query: Query<'_>, is_own: bool, now: UnixMillis) -> Result<Written, Failure> {
        let query = if is_own { query.bind(now.as_i64()).bind(self.receipt_events) } else { query };
        let row = self.row("mark_read", query).await?;
        let marked = self.read_row(count(&row, "marked"))?;
        if is_own {
            self.calls.metrics.count_receipts(State::Read.as_str(), marked);
        }
        let ids: Option<Vec<Uuid>> = self.read_row(row.try_get("ids"))?;
        let ids = ids.unwrap_or_default().into_iter().map(NotificationId).collect();
        Ok(Written { marked, ids, reads: self.read_row(count(&row, "reads"))? })
    }

    /// How things stand is looked at first: what is marked meanwhile is told now, and once more after.
    async fn changes_since(
        &self,
        user: &UserId,
        reads: u64,
        limit: u32,
        now: UnixMillis,
    ) -> Result<(Vec<ReadChange>, Unread), Failure> {
        let unread = self.own_unread(user, now).await?;
        let query = sqlx::query(CHANGES)
            .bind(user.as_str())
            .bind(Stream::User(user.clone()).to_string())
            .bind(i64::try_from(reads).unwrap_or(i64::MAX))
            .bind(i64::from(limit));
        let rows = self.rows("read_since", query).await?;
        Ok((self.read_row(changes(&rows))?, unread))
    }
}

/// What was marked at once in one stream is one change.
fn changes(rows: &[PgRow]) -> Result<Vec<ReadChange>, sqlx::Error> {
    let mut changes: Vec<ReadChange> = Vec::new();
    let mut last: Option<(String, i64)> = None;
    for row in rows {
        let name: String = row.try_get("stream")?;
        let stream = parsed(Stream::parse(&name))?;
        if let Some(up_to) = row.try_get::<Option<i64>, _>("up_to")? {
            changes.push(ReadChange { stream, marked: Marked::UpTo(Seq::from_i64(up_to)) });
            last = None;
            continue;
        }
        let id = NotificationId(row.try_get("body")?);
        let of = Some((name, row.try_get("read_version")?));
        match changes.last_mut() {
            Some(ReadChange { marked: Marked::Ids(ids), .. }) if last == of => ids.push(id),
            _ => changes.push(ReadChange { stream, marked: Marked::Ids(vec![id]) }),
        }
        last = of;
    }
    Ok(changes)
}

#[async_trait]
impl ReadState for PostgresInbox {
    async fn mark_read(
        &self,
        user: &UserId,
        mark: &Mark,
        now: UnixMillis,
    ) -> Result<(Marked, Unread), InboxError> {
        let marked = self.mark(user, mark, now).await;
        marked.map_err(|failure| failure.to_error())
    }

    async fn read_since(
        &self,
        user: &UserId,
        reads: u64,
        limit: u32,
        now: UnixMillis,
    ) -> Result<(Vec<ReadChange>, Unread), InboxError> {
        let changes = self.changes_since(user, reads, limit, now).await;
        changes.map_err(|failure| failure.to_error())
    }

    async fn unread(
        &self,
        user: &UserId,
        now: UnixMillis,
    ) -> Result<(Unread, Vec<(Stream, u64)>), InboxError> {
        let unread = self.all_unread(user, now).await;
        unread.map_err(|failure| failure.to_error())
    }

    async fn look(&self, look: &Look, now: UnixMillis) -> Result<InboxPage, InboxError> {
        let page = self.look_at(look, now).await;
        page.map_err(|failure| failure.to_error())
    }
}
