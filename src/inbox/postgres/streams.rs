//! Reading streams and moving cursors in PostgreSQL.

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::{PostgresInbox, epoch_of, parsed, time};
use crate::domain::{DeviceId, NotificationId, Seq, Stream, UnixMillis};
use crate::inbox::failure::Failure;
use crate::inbox::page::{self, Found};
use crate::inbox::{
    Audience, Content, Cursor, Entry, Head, InboxError, Open, Opened, Page, Read, Streams, cursors, start,
};

/// One statement, so one snapshot: no entry above the head, none below it that is missing. The
/// sum over the bodies before an entry stops the server from sending what the page cannot hold;
/// the first that does not fit is sent, so that the page knows it was cut. That is the second if
/// the first, which goes in any case, is too large alone. A cancellation counts as its id does.
const READ: &str = concat!(
    r#"
select asked.place, coalesce(stream.epoch, (select epoch from store)) as epoch,
    coalesce(stream.floor_seq, 0) as floor, coalesce(stream.last_seq, 0) as head,
    found.seq, found.device, found.expires_at, found.kind, found.body, found.is_read, found.json
from unnest($1::text[], $2::bigint[], $3::boolean[], $4::text[], $5::bigint[], $6::bigint[])
    with ordinality as asked (stream, after, all_devices, device, entries, bytes, place)
left join streams as stream on stream.name = asked.stream
left join lateral (
    select candidate.*
    from (
        select entries.seq, entries.device, entries.expires_at, entries.kind, entries.body,
            entries.read_at is not null as is_read, bodies.json,
            row_number() over before as place,
            sum(coalesce(octet_length(bodies.json), 36)) over before
                - coalesce(octet_length(bodies.json), 36) as bytes_before
        from entries
        left join bodies on bodies.id = entries.body and entries.kind = 0
        where entries.stream = stream.id
            and entries.seq > greatest(asked.after, stream.floor_seq)
            and (entries.kind = 1 or bodies.id is not null) and "#,
    alive!("entries", "$7"),
    r#"
            and (asked.all_devices or entries.device is null or entries.device = asked.device)
        window before as (order by entries.seq rows unbounded preceding)
        order by entries.seq
        limit asked.entries
    ) as candidate
    where candidate.bytes_before <= asked.bytes or candidate.place = 2
) as found on true
order by asked.place, found.seq
"#
);

const HEADS: &str = r#"
select coalesce(stream.epoch, (select epoch from store)), coalesce(stream.last_seq, 0),
    coalesce(user_state.reads, 0)
from unnest($1::text[], $2::text[]) with ordinality as asked (stream, user_id, place)
left join streams as stream on stream.name = asked.stream
left join user_state on user_state.user_id = asked.user_id
order by asked.place
"#;

/// The rows are locked in order first; after a wait the server looks at them anew.
const COMMIT: &str = r#"
update cursors set acked_seq = further.acked, used_at = $6
from (
    select stored.user_id, stored.device, stored.stream, asked.epoch, asked.acked
    from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[])
        as asked (user_id, device, stream, epoch, acked)
    join cursors as stored
        on stored.user_id = asked.user_id and stored.device = asked.device
        and stored.stream = asked.stream
    where stored.epoch = asked.epoch and stored.acked_seq < asked.acked
    order by stored.user_id, stored.device, stored.stream
    for update of stored
) as further
where cursors.user_id = further.user_id and cursors.device = further.device
    and cursors.stream = further.stream
    and cursors.epoch = further.epoch and cursors.acked_seq < further.acked
"#;

impl PostgresInbox {
    async fn pages(&self, requests: &[Read], now: UnixMillis) -> Result<Vec<Page>, Failure> {
        let streams: Vec<String> = requests.iter().map(|read| read.stream.to_string()).collect();
        let after: Vec<i64> = requests.iter().map(|read| read.after.as_i64()).collect();
        let all: Vec<bool> = requests.iter().map(|read| read.audience == Audience::All).collect();
        let devices: Vec<Option<&str>> = requests.iter().map(device).collect();
        let entries: Vec<i64> = requests.iter().map(page::wanted).collect();
        let bytes: Vec<i64> =
            requests.iter().map(|read| i64::try_from(read.max_bytes).unwrap_or(i64::MAX)).collect();
        let query = sqlx::query(READ)
            .bind(&streams)
            .bind(&after)
            .bind(&all)
            .bind(&devices)
            .bind(&entries)
            .bind(&bytes)
            .bind(now.as_i64());
        let rows = self.rows("read", query).await?;
        let found = self.read_row(found(&rows))?;
        Ok(requests.iter().zip(found).map(|(request, found)| page::cut(request, found)).collect())
    }

    async fn stand(&self, streams: &[Stream]) -> Result<Vec<Head>, Failure> {
        let names: Vec<String> = streams.iter().map(ToString::to_string).collect();
        let users: Vec<Option<&str>> = streams.iter().map(owner).collect();
        let rows = self.rows("heads", sqlx::query(HEADS).bind(&names).bind(&users)).await?;
        let head = |row: &PgRow| {
            Ok(Head {
                epoch: epoch_of(row.try_get(0)?),
                head: Seq::from_i64(row.try_get(1)?),
                reads: u64::try_from(row.try_get::<i64, _>(2)?).unwrap_or_default(),
            })
        };
        self.read_row(rows.iter().map(head).collect())
    }

    async fn move_cursors(&self, cursors: &[Cursor]) -> Result<(), Failure> {
        let users: Vec<&str> = cursors.iter().map(|cursor| cursor.user.as_str()).collect();
        let devices: Vec<&str> = cursors.iter().map(|cursor| cursor.device.as_str()).collect();
        let streams: Vec<String> = cursors.iter().map(|cursor| cursor.stream.to_string()).collect();
        let epochs: Vec<i64> = cursors.iter().map(|cursor| i64::from(cursor.epoch.0)).collect();
        let acked: Vec<i64> = cursors.iter().map(|cursor| cursor.acked.as_i64()).collect();
        let query = sqlx::query(COMMIT)
            .bind(&users)
            .bind(&devices)
            .bind(&streams)
            .bind(&epochs)
            .bind(&acked)
            .bind(self.clock.now().as_i64());
        self.written("commit", query).await.map(drop)
    }
}

/// Whose own stream it is.
fn owner(stream: &Stream) -> Option<&str> {
    match stream {
        Stream::User(user) => Some(user.as_str()),
        _ => None,
    }
}

fn device(read: &Read) -> Option<&str> {
    match &read.audience {
        Audience::All => None,
        Audience::Device(device) => device.as_ref().map(|device| device.as_str()),
    }
}

/// Gathers the rows of each request; every request has at least one.
fn found(rows: &[PgRow]) -> Result<Vec<Found>, sqlx::Error> {
    let mut pages: Vec<Found> = Vec::new();
    let mut last = None;
    for row in rows {
        let place: i64 = row.try_get("place")?;
        if last != Some(place) {
            last = Some(place);
            pages.push(Found {
                epoch: epoch_of(row.try_get("epoch")?),
                floor: Seq::from_i64(row.try_get("floor")?),
                head: Seq::from_i64(row.try_get("head")?),
                entries: Vec::new(),
            });
        }
        if let (Some(page), Some(entry)) = (pages.last_mut(), entry(row)?) {
            page.entries.push(entry);
        }
    }
    Ok(pages)
}

fn entry(row: &PgRow) -> Result<Option<Entry>, sqlx::Error> {
    let Some(seq) = row.try_get::<Option<i64>, _>("seq")? else {
        return Ok(None);
    };
    let device: Option<String> = row.try_get("device")?;
    let content = match row.try_get::<i16, _>("kind")? {
        0 => Content::Notification {
            json: Bytes::from(row.try_get::<Vec<u8>, _>("json")?),
            is_read: row.try_get("is_read")?,
        },
        _ => Content::Cancelled(NotificationId(row.try_get("body")?)),
    };
    Ok(Some(Entry {
        seq: Seq::from_i64(seq),
        device: parsed(device.map(DeviceId::new).transpose())?,
        expires_at: time(row, "expires_at")?,
        content,
    }))
}

#[async_trait]
impl Streams for PostgresInbox {
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
