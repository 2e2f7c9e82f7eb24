//! How much is unread, in SQLite.
//!
//! Owns what counts.

use sqlx::SqliteConnection;

use super::count_of;
use crate::domain::{Stream, UnixMillis, UserId};
use crate::inbox::{MAX_SHARED_UNREAD, Unread};

/// ?1 user, ?2 the user's own stream, ?3 now. Who has no stream may have had one that was erased.
const OWN: &str = concat!(
    "select store.version_base + coalesce(streams.last_seq, store.erased_seq), coalesce(user_state.reads, 0), (
        select count(*) from entries
        where entries.stream = streams.id and entries.seq > streams.floor_seq
            and entries.read_at is null and ",
    current!(),
    " and ",
    alive!("?3"),
    ")
    from store
    left join streams on streams.name = ?2
    left join user_state on user_state.user_id = ?1"
);

/// ?1 user, ?2 now, ?3 up to how many.
const SHARED: &str = concat!(
    "select followed.stream, (
        select count(*) from (
            select 1 from entries
            where entries.stream = streams.id
                and entries.seq > max(follows.start_seq, follows.read_seq, streams.floor_seq) and ",
    current!(),
    " and ",
    alive!("?2"),
    "
                and not exists (
                    select 1 from reads
                    where reads.user_id = ?1 and reads.stream = followed.stream and reads.seq = entries.seq
                )
            limit ?3 + 0
        )
    )
    from (select distinct stream from cursors where user_id = ?1 and substr(stream, 1, 5) <> 'user:') as followed
    left join streams on streams.name = followed.stream
    left join follows on follows.user_id = ?1 and follows.stream = followed.stream
    order by followed.stream"
);

/// The own stream.
pub(super) async fn own(
    connection: &mut SqliteConnection,
    user: &UserId,
    now: UnixMillis,
) -> Result<Unread, sqlx::Error> {
    let (version, reads, unread): (i64, i64, i64) = sqlx::query_as(OWN)
        .bind(user.as_str())
        .bind(Stream::User(user.clone()).to_string())
        .bind(now.as_i64())
        .fetch_one(connection)
        .await?;
    Ok(Unread { unread: count_of(unread), version: count_of(version + reads), reads: count_of(reads) })
}

/// Each shared stream that a device of the user has a cursor in.
pub(super) async fn shared(
    connection: &mut SqliteConnection,
    user: &UserId,
    now: UnixMillis,
) -> Result<Vec<(Stream, u64)>, sqlx::Error> {
    let found: Vec<(String, i64)> = sqlx::query_as(SHARED)
        .bind(user.as_str())
        .bind(now.as_i64())
        .bind(i64::try_from(MAX_SHARED_UNREAD).unwrap_or(i64::MAX))
        .fetch_all(connection)
        .await?;
    let stream = |(name, unread): (String, i64)| {
        let stream = Stream::parse(&name).map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok((stream, count_of(unread)))
    };
    found.into_iter().map(stream).collect()
}
