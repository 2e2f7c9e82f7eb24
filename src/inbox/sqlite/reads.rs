//! Read state in SQLite.

use std::collections::HashSet;

use async_trait::async_trait;
use sqlx::SqliteConnection;
use uuid::Uuid;

use super::tell::EntryKey;
use super::{SqliteInbox, rows, unread};
use crate::domain::{NotificationId, Seq, Stream, UnixMillis, UserId};
use crate::inbox::failure::Failure;
use crate::inbox::{InboxError, InboxPage, Look, Mark, Marked, ReadChange, ReadState, State, Unread};

/// What the user's counter will stand at once something is marked. ?1 user.
macro_rules! next_version {
    () => {
        "(select coalesce(max(reads), 0) + 1 from user_state where user_id = ?1)"
    };
}

/// What retention has passed is not there to be marked. ?1 user, ?2 the user's stream, ?3 now, ?4 notifications.
const MARK: &str = concat!(
    "update entries indexed by entries_body_idx set read_at = ?3, read_version = ",
    next_version!(),
    "
    where body in (select unhex(value) from json_each(?4))
        and stream = (select id from streams where name = ?2)
        and seq > (select floor_seq from streams where name = ?2)
        and kind = 0 and read_at is null
    returning stream, seq, body"
);

/// What is not there to be read (superseded, cancelled, expired) is not marked. ?4 seq.
const MARK_UP_TO: &str = concat!(
    "update entries set read_at = ?3, read_version = ",
    next_version!(),
    "
    where stream = (select id from streams where name = ?2)
        and seq > (select floor_seq from streams where name = ?2) and seq <= ?4
        and read_at is null and ",
    current!(),
    " and ",
    alive!("?3"),
    "
    returning stream, seq, body"
);

/// Which of these the user has not read in a shared stream. ?1 user, ?2 stream, ?3 notifications.
const UNMARKED: &str = r#"
select distinct entries.seq, entries.body
from streams
join json_each(?3) as asked
cross join entries on entries.body = unhex(asked.value) and entries.stream = streams.id
where streams.name = ?2 and entries.kind = 0 and entries.seq > streams.floor_seq
    and entries.seq > coalesce((select read_seq from follows where user_id = ?1 and stream = ?2), 0)
    and not exists (
        select 1 from reads where user_id = ?1 and stream = ?2 and reads.seq = entries.seq
    )
order by entries.seq
"#;

/// ?1 user, ?2 stream, ?3 seqs.
const MARK_SHARED: &str = concat!(
    "insert into reads (user_id, stream, seq, read_version)
    select ?1, ?2, value, ",
    next_version!(),
    " from json_each(?3)"
);

/// Whoever marks a stream that no device of theirs follows begins at its head. ?1 user, ?2 stream, ?3 seq.
const MARK_SHARED_UP_TO: &str = concat!(
    "insert into follows (user_id, stream, epoch, start_seq, read_seq, read_version)
    select ?1, ?2, epoch, last_seq, min(?3, last_seq), ",
    next_version!(),
    "
    from streams
    where name = ?2 and min(?3, last_seq) > 0
    on conflict (user_id, stream) do update
    set read_seq = excluded.read_seq, read_version = excluded.read_version
    where read_seq < excluded.read_seq
    returning read_seq"
);

/// Marks that say nothing any more. ?1 user, ?2 stream.
const FORGET: &str = r#"
delete from reads
where user_id = ?1 and stream = ?2 and seq <= max(
    (select floor_seq from streams where name = ?2),
    coalesce((select read_seq from follows where user_id = ?1 and stream = ?2), 0)
)
"#;

const RAISE: &str = r#"
insert into user_state (user_id, reads) values (?1, 1)
on conflict (user_id) do update set reads = reads + 1
"#;

/// ?1 user, ?2 the user's stream, ?3 after which count, ?4 how many.
const SINCE: &str = r#"
select version, stream, body, up_to
from (
    select entries.read_version as version, ?2 as stream, entries.body, null as up_to, entries.seq
    from entries
    where entries.stream = (select id from streams where name = ?2) and entries.read_version > ?3
    union all
    select reads.read_version, reads.stream, entries.body, null, reads.seq
    from reads
    join streams on streams.name = reads.stream
    join entries on entries.stream = streams.id and entries.seq = reads.seq
    where reads.user_id = ?1 and reads.read_version > ?3
    union all
    select read_version, stream, null, read_seq, 0
    from follows
    where user_id = ?1 and read_version > ?3
)
order by version, seq
limit ?4 + 0
"#;

/// A row of [`SINCE`].
type Since = (i64, String, Option<Uuid>, Option<i64>);

/// What a mark changed: nothing, or this; and which entries of the own stream.
type Changed = Option<(Marked, Vec<EntryKey>)>;

impl SqliteInbox {
    async fn mark(&self, user: &UserId, mark: &Mark, now: UnixMillis) -> Result<(Marked, Unread), Failure> {
        let work = async {
            let mut transaction = self.write().await?;
            let done = self.mark_in(&mut transaction, user, mark, now).await;
            self.finish(transaction, done).await
        };
        let (marked, read, unread) = self.calls.within("mark_read", work).await?;
        self.count_receipts(State::Read, read);
        Ok((marked, unread))
    }

    async fn mark_in(
        &self,
        connection: &mut SqliteConnection,
        user: &UserId,
        mark: &Mark,
        now: UnixMillis,
    ) -> Result<(Marked, usize, Unread), sqlx::Error> {
        let changed = if mark.stream == Stream::User(user.clone()) {
            mark_own(connection, user, mark, now).await?
        } else {
            mark_shared(connection, user, mark).await?
        };
        let (marked, read) = match changed {
            Some((marked, entries)) => {
                sqlx::query(RAISE).bind(user.as_str()).execute(&mut *connection).await?;
                let count = entries.len();
                self.tell(connection, State::Read, entries, now).await?;
                (marked, count)
            }
            None => (Marked::Ids(Vec::new()), 0),
        };
        Ok((marked, read, unread::own(connection, user, now).await?))
    }

    async fn changes_since(
        &self,
        user: &UserId,
        reads: u64,
        limit: u32,
        now: UnixMillis,
    ) -> Result<(Vec<ReadChange>, Unread), Failure> {
        let work = async {
            let mut snapshot = self.snapshot().await?;
            let found = changes_since(&mut snapshot, user, reads, limit, now).await;
            found.map_err(|error| self.failure(error))
        };
        self.calls.within("read_since", work).await
    }

    async fn standing(
        &self,
        user: &UserId,
        now: UnixMillis,
    ) -> Result<(Unread, Vec<(Stream, u64)>), Failure> {
        let work = async {
            let mut snapshot = self.snapshot().await?;
            let found = async {
                let own = unread::own(&mut snapshot, user, now).await?;
                Ok((own, unread::shared(&mut snapshot, user, now).await?))
            };
            found.await.map_err(|error| self.failure(error))
        };
        self.calls.within("unread", work).await
    }
}

fn texts(ids: &[NotificationId]) -> String {
    rows(ids.iter().map(|id| id.0.simple().to_string()).collect())
}

/// Those of `ids` that are among the `marked`, each once, in their order.
fn among(ids: &[NotificationId], marked: impl Iterator<Item = Uuid>) -> Vec<NotificationId> {
    let mut marked: HashSet<Uuid> = marked.collect();
    ids.iter().copied().filter(|id| marked.remove(&id.0)).collect()
}

async fn mark_own(
    connection: &mut SqliteConnection,
    user: &UserId,
    mark: &Mark,
    now: UnixMillis,
) -> Result<Changed, sqlx::Error> {
    let stream = mark.stream.to_string();
    let query = match &mark.marked {
        Marked::Ids(_) => sqlx::query_as(MARK),
        Marked::UpTo(_) => sqlx::query_as(MARK_UP_TO),
    };
    let query = query.bind(user.as_str()).bind(&stream).bind(now.as_i64());
    let query = match &mark.marked {
        Marked::Ids(ids) => query.bind(texts(ids)),
        Marked::UpTo(seq) => query.bind(seq.as_i64()),
    };
    let found: Vec<(i64, i64, Uuid)> = query.fetch_all(connection).await?;
    let last = found.iter().map(|(_, seq, _)| *seq).max();
    let marked = match &mark.marked {
        Marked::Ids(ids) => Marked::Ids(among(ids, found.iter().map(|(_, _, body)| *body))),
        // Not further than what was there to be read: what comes later is unread.
        Marked::UpTo(seq) => Marked::UpTo((*seq).min(Seq::from_i64(last.unwrap_or_default()))),
    };
    let entries = found.into_iter().map(|(stream, seq, _)| (stream, seq)).collect();
    Ok(last.map(|_| (marked, entries)))
}

async fn mark_shared(
    connection: &mut SqliteConnection,
    user: &UserId,
    mark: &Mark,
) -> Result<Changed, sqlx::Error> {
    let stream = mark.stream.to_string();
    let marked = match &mark.marked {
        Marked::Ids(ids) => {
            let found: Vec<(i64, Uuid)> = sqlx::query_as(UNMARKED)
                .bind(user.as_str())
                .bind(&stream)
                .bind(texts(ids))
                .fetch_all(&mut *connection)
                .await?;
            if found.is_empty() {
                return Ok(None);
            }
            sqlx::query(MARK_SHARED)
                .bind(user.as_str())
                .bind(&stream)
                .bind(rows(found.iter().map(|(seq, _)| seq).collect()))
                .execute(&mut *connection)
                .await?;
            Marked::Ids(among(ids, found.into_iter().map(|(_, body)| body)))
        }
        Marked::UpTo(seq) => {
            let moved: Option<i64> = sqlx::query_scalar(MARK_SHARED_UP_TO)
                .bind(user.as_str())
                .bind(&stream)
                .bind(seq.as_i64())
                .fetch_optional(&mut *connection)
                .await?;
            let Some(seq) = moved else {
                return Ok(None);
            };
            Marked::UpTo(Seq::from_i64(seq))
        }
    };
    sqlx::query(FORGET).bind(user.as_str()).bind(&stream).execute(connection).await?;
    Ok(Some((marked, Vec::new())))
}

async fn changes_since(
    connection: &mut SqliteConnection,
    user: &UserId,
    reads: u64,
    limit: u32,
    now: UnixMillis,
) -> Result<(Vec<ReadChange>, Unread), sqlx::Error> {
    let found: Vec<Since> = sqlx::query_as(SINCE)
        .bind(user.as_str())
        .bind(Stream::User(user.clone()).to_string())
        .bind(i64::try_from(reads).unwrap_or(i64::MAX))
        .bind(i64::from(limit))
        .fetch_all(&mut *connection)
        .await?;
    let mut changes: Vec<ReadChange> = Vec::new();
    for (_, stream, body, up_to) in found {
        let stream = Stream::parse(&stream).map_err(|error| sqlx::Error::Decode(error.into()))?;
        let id = body.map(NotificationId);
        match (changes.last_mut(), id) {
            (Some(ReadChange { stream: of, marked: Marked::Ids(ids) }), Some(id)) if *of == stream => {
                if !ids.contains(&id) {
                    ids.push(id);
                }
            }
            (_, Some(id)) => changes.push(ReadChange { stream, marked: Marked::Ids(vec![id]) }),
            (_, None) => {
                let seq = Seq::from_i64(up_to.unwrap_or_default());
                changes.push(ReadChange { stream, marked: Marked::UpTo(seq) });
            }
        }
    }
    Ok((changes, unread::own(connection, user, now).await?))
}

#[async_trait]
impl ReadState for SqliteInbox {
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
        let standing = self.standing(user, now).await;
        standing.map_err(|failure| failure.to_error())
    }

    async fn look(&self, look: &Look, now: UnixMillis) -> Result<InboxPage, InboxError> {
        let page = self.page_of(look, now).await;
        page.map_err(|failure| failure.to_error())
    }
}
