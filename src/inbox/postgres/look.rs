//! What people see of their inbox in PostgreSQL: how much is unread, and pages of it.

use bytes::Bytes;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::{PostgresInbox, count, epoch_of, parsed};
use crate::domain::{DeviceId, Seq, Stream, UnixMillis, UserId};
use crate::inbox::failure::Failure;
use crate::inbox::{InboxEntry, InboxPage, Look, MAX_SHARED_UNREAD, Unread};

/// $1 user, $2 the user's stream, $3 now. One snapshot: the version is of the count. Who has no stream may have
/// had one that was erased.
const OWN: &str = concat!(
    r#"
select store.version_base + coalesce(streams.last_seq, store.erased_seq) + coalesce(user_state.reads, 0)
        as version,
    coalesce(user_state.reads, 0) as reads,
    (
        select count(*) from entries
        where entries.stream = streams.id and entries.seq > streams.floor_seq and entries.kind = 0
            and entries.read_at is null and "#,
    alive!("entries", "$3"),
    r#"
    ) as unread
from store
left join streams on streams.name = $2
left join user_state on user_state.user_id = $1
"#
);

/// $1 user, $2 now, $3 up to how many. What was never begun to be followed has nothing unread.
const SHARED: &str = concat!(
    r#"
select followed.stream, (
    select count(*) from (
        select from entries
        where entries.stream = streams.id and entries.kind = 0
            and entries.seq > greatest(
                streams.floor_seq, coalesce(follows.start_seq, streams.last_seq), follows.read_seq
            )
            and "#,
    alive!("entries", "$2"),
    r#"
            and not exists (
                select from reads
                where reads.user_id = $1 and reads.stream = followed.stream and reads.seq = entries.seq
            )
        limit $3
    ) as counted
) as unread
from (select distinct stream from cursors where user_id = $1 and stream not like 'user:%') as followed
left join streams on streams.name = followed.stream
left join follows on follows.user_id = $1 and follows.stream = followed.stream
order by followed.stream
"#
);

/// $1 user, $2 stream, $3 whether it is the user's own, $4 before which seq, $5 only what is unread, $6 how
/// many, $7 now. At least one row, for the epoch.
const LOOK: &str = concat!(
    r#"
select coalesce(streams.epoch, store.epoch) as epoch, found.seq, found.device, found.json, found.is_read
from store
left join streams on streams.name = $2
left join follows on follows.user_id = $1 and follows.stream = $2
left join lateral (
    select entries.seq, entries.device, bodies.json,
        case when $3 then entries.read_at is not null else single.is_read or entries.seq <= follows.read_seq end
            as is_read
    from entries
    join bodies on bodies.id = entries.body
    cross join lateral (
        select not $3 and exists (
            select from reads where reads.user_id = $1 and reads.stream = $2 and reads.seq = entries.seq
        ) as is_read
    ) as single
    where entries.stream = streams.id and entries.kind = 0 and entries.seq > streams.floor_seq
        and ($4::bigint is null or entries.seq < $4) and "#,
    alive!("entries", "$7"),
    r#"
        and (not $5 or case when $3 then entries.read_at is null
            else not single.is_read
                and entries.seq > greatest(coalesce(follows.start_seq, 0), follows.read_seq)
            end)
    order by entries.seq desc
    limit $6
) as found on true
order by found.seq desc
"#
);

impl PostgresInbox {
    /// How the user's own stream stands.
    pub(super) async fn own_unread(&self, user: &UserId, now: UnixMillis) -> Result<Unread, Failure> {
        let query = sqlx::query(OWN)
            .bind(user.as_str())
            .bind(Stream::User(user.clone()).to_string())
            .bind(now.as_i64());
        let row = self.row("unread", query).await?;
        self.read_row(unread(&row))
    }

    /// The own stream, and each shared one.
    pub(super) async fn all_unread(
        &self,
        user: &UserId,
        now: UnixMillis,
    ) -> Result<(Unread, Vec<(Stream, u64)>), Failure> {
        let own = self.own_unread(user, now).await?;
        let query = sqlx::query(SHARED)
            .bind(user.as_str())
            .bind(now.as_i64())
            .bind(i64::try_from(MAX_SHARED_UNREAD).unwrap_or(i64::MAX));
        let rows = self.rows("unread_shared", query).await?;
        let shared = |row: &PgRow| {
            let stream = parsed(Stream::parse(row.try_get("stream")?))?;
            Ok((stream, count(row, "unread")?))
        };
        Ok((own, self.read_row(rows.iter().map(shared).collect())?))
    }

    pub(super) async fn look_at(&self, look: &Look, now: UnixMillis) -> Result<InboxPage, Failure> {
        let is_own = matches!(&look.stream, Stream::User(user) if *user == look.user);
        let query = sqlx::query(LOOK)
            .bind(look.user.as_str())
            .bind(look.stream.to_string())
            .bind(is_own)
            .bind(look.before.map(Seq::as_i64))
            .bind(look.unread_only)
            // One more tells whether there are more.
            .bind(i64::from(look.limit) + 1)
            .bind(now.as_i64());
        let rows = self.rows("look", query).await?;
        let mut page = self.read_row(page(&rows))?;
        let limit = usize::try_from(look.limit).unwrap_or(usize::MAX);
        page.more = page.entries.len() > limit;
        page.entries.truncate(limit);
        Ok(page)
    }
}

fn unread(row: &PgRow) -> Result<Unread, sqlx::Error> {
    Ok(Unread { unread: count(row, "unread")?, version: count(row, "version")?, reads: count(row, "reads")? })
}

fn page(rows: &[PgRow]) -> Result<InboxPage, sqlx::Error> {
    let first = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    let entries = rows.iter().filter_map(|row| entry(row).transpose());
    Ok(InboxPage {
        epoch: epoch_of(first.try_get("epoch")?),
        entries: entries.collect::<Result<_, _>>()?,
        more: false,
    })
}

fn entry(row: &PgRow) -> Result<Option<InboxEntry>, sqlx::Error> {
    let Some(seq) = row.try_get::<Option<i64>, _>("seq")? else {
        return Ok(None);
    };
    let device: Option<String> = row.try_get("device")?;
    Ok(Some(InboxEntry {
        seq: Seq::from_i64(seq),
        is_read: row.try_get::<Option<bool>, _>("is_read")?.unwrap_or_default(),
        device: parsed(device.map(DeviceId::new).transpose())?,
        json: Bytes::from(row.try_get::<Vec<u8>, _>("json")?),
    }))
}
