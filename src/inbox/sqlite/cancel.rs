//! Cancelling in SQLite.
//!
//! Owns which entries a cancellation is for. One transaction: an entry is marked if and only if its
//! cancellation has a place.

use sqlx::SqliteConnection;

use super::entries::{self, NewEntry};
use super::tell::EntryKey;
use super::{SqliteInbox, count_of};
use crate::domain::{DeviceId, NotificationId, PublisherId, Recipient, Seq, Stream, UnixMillis};
use crate::inbox::failure::Failure;
use crate::inbox::{Cancelled, Place, State};

const UNSCHEDULE: &str = "delete from scheduled where id = ?1 and publisher = ?2";

const KNOWN: &str = r#"
select recipients, expires_at, cancelled_at is not null from bodies where id = ?1 and publisher = ?2
"#;

/// ?1 notification, ?2 now.
const CANCEL: &str = "update bodies set cancelled_at = ?2 where id = ?1";

/// ?1 notification, ?2 now. Answers where, for which device, and whether nobody had it.
const MARK: &str = concat!(
    "update entries set state = 2
    where body = ?1 and ",
    current!(),
    " and ",
    alive!("?2"),
    " and seq > (select floor_seq from streams where streams.id = entries.stream)
    returning stream, seq, (select name from streams where streams.id = entries.stream), device, ",
    untouched!()
);

/// The same of what was superseded, once the rest is marked: a device may show it, and the newer one may be gone.
const SUPERSEDED: &str = concat!(
    "select stream, seq, (select name from streams where streams.id = entries.stream), device, false
    from entries
    where body = ?1 and kind = 0 and state in (0, 1) and ",
    alive!("?2"),
    " and seq > (select floor_seq from streams where streams.id = entries.stream)"
);

/// What [`MARK`] and [`SUPERSEDED`] answer.
type Marked = (i64, i64, String, Option<String>, bool);

/// An entry that gets a cancellation.
struct Target {
    recipient: Recipient,
    untouched: Option<EntryKey>,
}

impl SqliteInbox {
    /// As [`crate::inbox::Receipts::cancel`] promises.
    pub(super) async fn cancel_one(
        &self,
        id: NotificationId,
        publisher: &PublisherId,
        now: UnixMillis,
    ) -> Result<Cancelled, Failure> {
        let work = async {
            let mut transaction = self.write().await?;
            let done = self.cancel_in(&mut transaction, id, publisher, now).await;
            self.finish(transaction, done).await
        };
        let (cancelled, untouched) = self.calls.within("cancel", work).await?;
        self.count_receipts(State::Cancelled, untouched);
        Ok(cancelled)
    }

    async fn cancel_in(
        &self,
        connection: &mut SqliteConnection,
        id: NotificationId,
        publisher: &PublisherId,
        now: UnixMillis,
    ) -> Result<(Cancelled, usize), sqlx::Error> {
        let ended =
            sqlx::query(UNSCHEDULE).bind(id.0).bind(publisher.as_str()).execute(&mut *connection).await?;
        if ended.rows_affected() > 0 {
            return Ok((Cancelled::Unscheduled, 0));
        }
        let found: Option<(Option<i64>, Option<i64>, bool)> = sqlx::query_as(KNOWN)
            .bind(id.0)
            .bind(publisher.as_str())
            .fetch_optional(&mut *connection)
            .await?;
        let Some((recipients, expires_at, was_cancelled)) = found else {
            return Ok((Cancelled::Unknown, 0));
        };
        let marked = if was_cancelled { Vec::new() } else { mark(connection, id, now).await? };
        let targets = marked.into_iter().map(target).collect::<Result<Vec<_>, _>>()?;
        let untouched: Vec<EntryKey> = targets.iter().filter_map(|target| target.untouched).collect();
        let count = untouched.len();
        self.tell(connection, State::Cancelled, untouched, now).await?;
        let entries = add(connection, id, targets, expires_at).await?;
        let cancelled = Cancelled::Stored {
            recipients: recipients.map(count_of),
            expires_at: expires_at.map(UnixMillis::from_i64),
            entries,
        };
        Ok((cancelled, count))
    }
}

/// Cancels the notification, which was not before; answers what gets a cancellation.
async fn mark(
    connection: &mut SqliteConnection,
    id: NotificationId,
    now: UnixMillis,
) -> Result<Vec<Marked>, sqlx::Error> {
    let mut found = Vec::new();
    sqlx::query(CANCEL).bind(id.0).bind(now.as_i64()).execute(&mut *connection).await?;
    for statement in [MARK, SUPERSEDED] {
        let marked: Vec<Marked> =
            sqlx::query_as(statement).bind(id.0).bind(now.as_i64()).fetch_all(&mut *connection).await?;
        found.extend(marked);
    }
    Ok(found)
}

fn target((stream, seq, name, device, untouched): Marked) -> Result<Target, sqlx::Error> {
    let unreadable = |error: String| sqlx::Error::Decode(error.into());
    let device = device.map(DeviceId::new).transpose().map_err(|error| unreadable(error.to_string()))?;
    let recipient = Recipient { stream: Stream::parse(&name).map_err(unreadable)?, device };
    Ok(Target { recipient, untouched: untouched.then_some((stream, seq)) })
}

/// Gives each its cancellation, with a seq of its own.
async fn add(
    connection: &mut SqliteConnection,
    id: NotificationId,
    targets: Vec<Target>,
    expires_at: Option<i64>,
) -> Result<Vec<(Recipient, Place)>, sqlx::Error> {
    if targets.is_empty() {
        return Ok(Vec::new());
    }
    let streams = targets.iter().map(|target| &target.recipient.stream);
    let mut counted = entries::count(connection, streams).await?;
    let id = id.0.simple().to_string();
    let (mut places, mut new) = (Vec::with_capacity(targets.len()), Vec::with_capacity(targets.len()));
    for Target { recipient, .. } in &targets {
        let stream = counted.get_mut(&recipient.stream).ok_or(sqlx::Error::RowNotFound)?;
        let seq = stream.next;
        stream.next += 1;
        let device = recipient.device.as_ref().map(|device| device.as_str());
        new.push(NewEntry(stream.id, seq, &id, device, expires_at, 1, None));
        places.push(Place { epoch: stream.epoch, seq: Seq::from_i64(seq) });
    }
    entries::add(connection, new).await?;
    Ok(targets.into_iter().map(|target| target.recipient).zip(places).collect())
}
