//! The inbox as people look at it, in SQLite.

use bytes::Bytes;

use super::{SqliteInbox, epoch_of};
use crate::domain::{DeviceId, Seq, Stream, UnixMillis};
use crate::inbox::failure::Failure;
use crate::inbox::{InboxEntry, InboxPage, Look};

/// ?1 user, ?2 stream, ?3 whether it is the user's own, ?4 before, ?5 now, ?6 only unread, ?7 how many.
/// There is always a row; without an entry its `seq` is null.
const LOOK: &str = concat!(
    "select coalesce(streams.epoch, store.epoch), entries.seq, entries.device,
        case when ?3 then entries.read_at is not null else entries.seq <= coalesce(follows.read_seq, 0)
            or exists (select 1 from reads where user_id = ?1 and stream = ?2 and reads.seq = entries.seq) end,
        (select json from bodies where id = entries.body)
    from store
    left join streams on streams.name = ?2
    left join follows on follows.user_id = ?1 and follows.stream = ?2
    left join entries
        on entries.stream = streams.id and entries.seq > streams.floor_seq
        and entries.seq < coalesce(?4, 9223372036854775807) and ",
    current!(),
    " and ",
    alive!("?5"),
    "
        and exists (select 1 from bodies where id = entries.body)
        and (not ?6 or case when ?3 then entries.read_at is null else
            entries.seq > max(coalesce(follows.start_seq, 0), coalesce(follows.read_seq, 0))
            and not exists (
                select 1 from reads where user_id = ?1 and stream = ?2 and reads.seq = entries.seq
            ) end)
    where store.one = 1
    order by entries.seq desc
    limit ?7 + 0"
);

/// A row of [`LOOK`].
type Looked = (i64, Option<i64>, Option<String>, Option<bool>, Option<Vec<u8>>);

impl SqliteInbox {
    /// As [`crate::inbox::ReadState::look`] promises.
    pub(super) async fn page_of(&self, look: &Look, now: UnixMillis) -> Result<InboxPage, Failure> {
        let is_own = look.stream == Stream::User(look.user.clone());
        let work = async {
            let found: Result<Vec<Looked>, _> = sqlx::query_as(LOOK)
                .bind(look.user.as_str())
                .bind(look.stream.to_string())
                .bind(is_own)
                .bind(look.before.map(Seq::as_i64))
                .bind(now.as_i64())
                .bind(look.unread_only)
                .bind(i64::from(look.limit) + 1)
                .fetch_all(&self.readers)
                .await;
            found.and_then(|found| page(look, found)).map_err(|error| self.failure(error))
        };
        self.calls.within("look", work).await
    }
}

fn page(look: &Look, found: Vec<Looked>) -> Result<InboxPage, sqlx::Error> {
    let Some((epoch, ..)) = found.first() else {
        return Err(sqlx::Error::RowNotFound);
    };
    let epoch = epoch_of(*epoch);
    let mut entries = Vec::with_capacity(found.len());
    for (_, seq, device, is_read, json) in found {
        let (Some(seq), Some(json)) = (seq, json) else { continue };
        let device = device.map(DeviceId::new).transpose();
        entries.push(InboxEntry {
            seq: Seq::from_i64(seq),
            is_read: is_read.unwrap_or_default(),
            device: device.map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
            json: Bytes::from(json),
        });
    }
    let limit = look.limit as usize;
    let more = entries.len() > limit;
    entries.truncate(limit);
    Ok(InboxPage { epoch, entries, more })
}
