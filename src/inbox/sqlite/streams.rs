//! Reading streams and moving cursors in SQLite.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryStreamExt;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};
use uuid::Uuid;

use super::{SqliteInbox, count_of, epoch_of, rows};
use crate::domain::{DeviceId, NotificationId, Seq, Stream, UnixMillis};
use crate::inbox::failure::Failure;
use crate::inbox::page::{self, Found};
use crate::inbox::{
    Audience, Content, Cursor, Entry, Head, InboxError, Open, Opened, Page, Read, Streams, cursors, start,
};

/// One statement, so one snapshot. ?1 stream, ?2 after, ?3 whether for all devices, ?4 device,
/// ?5 now, ?6 how many. There is always a row; without an entry its `seq` is null. That the store has one row is
/// said so that entries are read in order, only as far as they are wanted, rather than all of them sorted.
const READ: &str = concat!(
    "select coalesce(streams.epoch, store.epoch) as epoch, coalesce(streams.floor_seq, 0) as floor,
        coalesce(streams.last_seq, 0) as head, entries.seq, entries.device, entries.expires_at,
        entries.kind, entries.body, entries.read_at, bodies.json
    from store
    left join streams on streams.name = ?1
    left join entries
        on entries.stream = streams.id and entries.seq > max(?2, streams.floor_seq)
        and ",
    alive!("?5"),
    " and (?3 or entries.device is null or entries.device = ?4)
        and (entries.kind = 1 or (",
    current!(),
    ") and exists (select 1 from bodies where bodies.id = entries.body))
    left join bodies on bodies.id = entries.body and entries.kind = 0
    where store.one = 1
    order by entries.seq
    limit ?6 + 0"
);

/// Rows: [name, the user whose own it is].
const HEADS: &str = r#"
select coalesce(streams.epoch, store.epoch), coalesce(streams.last_seq, 0), coalesce(user_state.reads, 0)
from json_each(?1) as asked
join store on true
left join streams on streams.name = asked.value ->> 0
left join user_state on user_state.user_id = asked.value ->> 1
order by asked.key
"#;

/// Rows: [user, device, stream, epoch, acked]; ?2 now.
const COMMIT: &str = r#"
update cursors set acked_seq = asked.value ->> 4, used_at = ?2
from json_each(?1) as asked
where user_id = asked.value ->> 0 and device = asked.value ->> 1 and stream = asked.value ->> 2
    and epoch = asked.value ->> 3 and acked_seq < asked.value ->> 4
"#;

impl SqliteInbox {
    async fn pages(&self, requests: &[Read], now: UnixMillis) -> Result<Vec<Page>, Failure> {
        let work = async {
            let acquired = self.readers.acquire().await;
            let mut connection = acquired.map_err(|error| self.failure(error))?;
            let mut pages = Vec::with_capacity(requests.len());
            for request in requests {
                let found = find(&mut connection, request, now).await;
                let found = found.map_err(|error| self.failure(error))?;
                pages.push(page::cut(request, found));
            }
            Ok(pages)
        };
        self.calls.within("read", work).await
    }

    async fn stand(&self, streams: &[Stream]) -> Result<Vec<Head>, Failure> {
        let asked = streams.iter().map(|stream| {
            let owner = if let Stream::User(user) = stream { Some(user) } else { None };
            (stream.to_string(), owner)
        });
        let asked = rows(asked.collect());
        let work = async {
            let found: Result<Vec<(i64, i64, i64)>, _> =
                sqlx::query_as(HEADS).bind(asked).fetch_all(&self.readers).await;
            found.map_err(|error| self.failure(error))
        };
        let found = self.calls.within("heads", work).await?;
        let head = |(epoch, head, reads)| Head {
            epoch: epoch_of(epoch),
            head: Seq::from_i64(head),
            reads: count_of(reads),
        };
        Ok(found.into_iter().map(head).collect())
    }

    async fn move_cursors(&self, cursors: &[Cursor]) -> Result<(), Failure> {
        let asked = cursors.iter().map(|cursor| {
            let stream = cursor.stream.to_string();
            (&cursor.user, &cursor.device, stream, cursor.epoch.0, cursor.acked.as_i64())
        });
        let asked = rows(asked.collect());
        let work = async {
            let mut transaction = self.write().await?;
            sqlx::query(COMMIT)
                .bind(asked)
                .bind(self.clock.now().as_i64())
                .execute(&mut *transaction)
                .await
                .map_err(|error| self.failure(error))?;
            self.commit(transaction).await
        };
        self.calls.within("commit", work).await
    }
}

/// Steps through the rows only as far as the page can reach, so that a page of large bodies
/// does not fill the memory.
async fn find(
    connection: &mut SqliteConnection,
    request: &Read,
    now: UnixMillis,
) -> Result<Found, sqlx::Error> {
    let device = match &request.audience {
        Audience::All => None,
        Audience::Device(device) => device.as_ref().map(|device| device.as_str()),
    };
    let mut rows = sqlx::query(READ)
        .bind(request.stream.to_string())
        .bind(request.after.as_i64())
        .bind(request.audience == Audience::All)
        .bind(device)
        .bind(now.as_i64())
        .bind(page::wanted(request))
        .fetch(connection);
    let mut page: Option<Found> = None;
    let mut bytes = 0_usize;
    while let Some(row) = rows.try_next().await? {
        let found = match &mut page {
            Some(found) => found,
            None => page.insert(standing(&row)?),
        };
        let Some(entry) = entry(&row)? else { break };
        bytes = bytes.saturating_add(entry.content.len());
        found.entries.push(entry);
        // One more than fits was kept, so the page knows that it is cut.
        if bytes > request.max_bytes && found.entries.len() > 1 {
            break;
        }
    }
    page.ok_or(sqlx::Error::RowNotFound)
}

fn standing(row: &SqliteRow) -> Result<Found, sqlx::Error> {
    Ok(Found {
        epoch: epoch_of(row.try_get("epoch")?),
        floor: Seq::from_i64(row.try_get("floor")?),
        head: Seq::from_i64(row.try_get("head")?),
        entries: Vec::new(),
    })
}

fn entry(row: &SqliteRow) -> Result<Option<Entry>, sqlx::Error> {
    let Some(seq) = row.try_get::<Option<i64>, _>("seq")? else {
        return Ok(None);
    };
    let device: Option<String> = row.try_get("device")?;
    let expires_at: Option<i64> = row.try_get("expires_at")?;
    Ok(Some(Entry {
        seq: Seq::from_i64(seq),
        device: device
            .map(DeviceId::new)
            .transpose()
            .map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
        expires_at: expires_at.map(UnixMillis::from_i64),
        content: match row.try_get::<i64, _>("kind")? {
            0 => Content::Notification {
                json: Bytes::from(row.try_get::<Vec<u8>, _>("json")?),
                is_read: row.try_get::<Option<i64>, _>("read_at")?.is_some(),
            },
            _ => Content::Cancelled(NotificationId(row.try_get::<Uuid, _>("body")?)),
        },
    }))
}

#[async_trait]
impl Streams for SqliteInbox {
    async fn open(&self, requests: Vec<Open>) -> Vec<Result<Opened, InboxError>> {
        start::open(self, &requests, self.max_devices, self.clock.now()).await
    }

    async fn read(&self, requests: Vec<Read>, now: UnixMillis) -> Result<Vec<Page>, InboxError> {
        let pages = self.pages(&requests, now).await;
        pages.map_err(|failure| failure.to_error())
    }

    async fn heads(&self, streams: &[Stream]) -> Result<Vec<Head>, InboxError> {
        let heads = self.stand(streams).await;
        heads.map_err(|failure| failure.to_error())
    }

    async fn commit(&self, cursors: Vec<Cursor>) -> Result<(), InboxError> {
        let moved = self.move_cursors(&cursors::furthest(cursors)).await;
        moved.map_err(|failure| failure.to_error())
    }
}
