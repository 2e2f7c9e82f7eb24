//! Appending to SQLite: one transaction, and one wait for the disk, a group.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use sqlx::SqliteConnection;
use uuid::Uuid;

use super::entries::{self, NewEntry};
use super::keys::{self, Taken};
use super::tell::EntryKey;
use super::{SqliteInbox, rows};
use crate::domain::{PublisherId, Seq, UnixMillis};
use crate::inbox::failure::Failure;
use crate::inbox::group::{self, Commit};
use crate::inbox::{Append, Appended, Appender, InboxError, Place, State};

/// Ends schedules; answers those that were there.
const UNSCHEDULE: &str = r#"
delete from scheduled where id in (select unhex(value) from json_each(?1)) returning id
"#;

/// Rows: [id, start, length, created_at, expires_at, publisher, recipients]; ?2 holds all JSON, end to end.
const ADD_BODIES: &str = r#"
insert into bodies (id, json, created_at, expires_at, publisher, recipients)
select unhex(value ->> 0), substr(?2, value ->> 1, value ->> 2), value ->> 3, value ->> 4, value ->> 5,
    value ->> 6
from json_each(?1)
"#;

/// Rows: [stream, collapse, device, seq]: what they replace. Answers whether nobody had it by then.
const SUPERSEDE: &str = concat!(
    "update entries indexed by entries_replaceable_idx set state = 1
    from json_each(?1) as asked
    where entries.stream = asked.value ->> 0 and entries.collapse = asked.value ->> 1
        and entries.device is asked.value ->> 2 and entries.seq < asked.value ->> 3
        and entries.state = 0 and entries.collapse is not null
    returning stream, seq, ",
    untouched!()
);

/// Rows: [body, at].
const ADD_DUE: &str = "insert into due (body, at) select unhex(value ->> 0), value ->> 1 from json_each(?1)";

const ANSWERED: &str = "update idempotency set answered = 1, online = ?3 where publisher = ?1 and key = ?2";

/// What a group did.
#[derive(Debug, Default)]
struct Done {
    answers: Vec<Option<Appended>>,
    /// How many entries were stored.
    stored: usize,
    /// How many were superseded that nobody had.
    superseded: usize,
}

/// The highest new seq of each (stream, collapse key, device).
type Newest<'a> = HashMap<(i64, &'a str, Option<&'a str>), i64>;

impl Commit for SqliteInbox {
    async fn commit(&self, items: &[&Append]) -> Result<Vec<Result<Appended, Failure>>, Failure> {
        let work = async {
            let mut transaction = self.write().await?;
            let done = self.append_all(&mut transaction, items).await;
            self.finish(transaction, done).await
        };
        let done = self.calls.within("append", work).await?;
        self.count_receipts(State::Stored, done.stored);
        self.count_receipts(State::Superseded, done.superseded);
        let answer = |answer: Option<Appended>| Ok(answer.unwrap_or_else(|| Appended::Stored(Vec::new())));
        Ok(done.answers.into_iter().map(answer).collect())
    }
}

impl SqliteInbox {
    async fn append_all(
        &self,
        connection: &mut SqliteConnection,
        items: &[&Append],
    ) -> Result<Done, sqlx::Error> {
        let mut done = Done { answers: vec![None; items.len()], ..Done::default() };
        end_schedules(connection, items, &mut done.answers).await?;
        take_keys(connection, items, &mut done.answers).await?;
        let fresh: Vec<usize> = (0..items.len()).filter(|place| done.answers[*place].is_none()).collect();
        if fresh.is_empty() {
            return Ok(done);
        }
        let new: Vec<&Append> = fresh.iter().map(|place| items[*place]).collect();
        add_bodies(connection, &new).await?;
        let (stored, places, newest) = add_entries(connection, &new).await?;
        for (place, places) in fresh.into_iter().zip(places) {
            done.answers[place] = Some(Appended::Stored(places));
        }
        done.stored = stored.len();
        let now = self.clock.now();
        self.tell(connection, State::Stored, stored, now).await?;
        done.superseded = self.supersede(connection, newest, now).await?;
        self.add_due(connection, &new).await?;
        Ok(done)
    }

    /// Marks what the new entries replace; returns how many of these nobody had.
    async fn supersede(
        &self,
        connection: &mut SqliteConnection,
        newest: Newest<'_>,
        now: UnixMillis,
    ) -> Result<usize, sqlx::Error> {
        if newest.is_empty() {
            return Ok(0);
        }
        let asked =
            newest.into_iter().map(|((stream, collapse, device), seq)| (stream, collapse, device, seq));
        let marked: Vec<(i64, i64, bool)> =
            sqlx::query_as(SUPERSEDE).bind(rows(asked.collect())).fetch_all(&mut *connection).await?;
        let untouched: Vec<EntryKey> =
            marked.into_iter().filter(|entry| entry.2).map(|(stream, seq, _)| (stream, seq)).collect();
        let count = untouched.len();
        self.tell(connection, State::Superseded, untouched, now).await?;
        Ok(count)
    }

    /// Notes when to look whether anybody has acknowledged them; of shared streams nobody in particular has to.
    async fn add_due(&self, connection: &mut SqliteConnection, items: &[&Append]) -> Result<(), sqlx::Error> {
        let Some(after) = self.undelivered_after else {
            return Ok(());
        };
        let personal = items.iter().filter(|item| !is_shared(item));
        let due = personal.map(|item| (id_text(item), item.notification.created_at.after(after).as_i64()));
        let due: Vec<_> = due.collect();
        if due.is_empty() {
            return Ok(());
        }
        sqlx::query(ADD_DUE).bind(rows(due)).execute(connection).await.map(drop)
    }
}

/// A notification goes to users, or to one shared stream.
fn is_shared(item: &Append) -> bool {
    item.recipients.iter().any(|recipient| recipient.stream.is_shared())
}

fn id_text(item: &Append) -> String {
    item.notification.id.0.simple().to_string()
}

/// Ends the schedules of items that were scheduled; answers those whose schedule is gone.
async fn end_schedules(
    connection: &mut SqliteConnection,
    items: &[&Append],
    answers: &mut [Option<Appended>],
) -> Result<(), sqlx::Error> {
    let scheduled: Vec<usize> = (0..items.len()).filter(|place| items[*place].scheduled).collect();
    if scheduled.is_empty() {
        return Ok(());
    }
    let asked = scheduled.iter().map(|place| id_text(items[*place]));
    let ended: Vec<Uuid> =
        sqlx::query_scalar(UNSCHEDULE).bind(rows(asked.collect())).fetch_all(connection).await?;
    let mut ended: HashSet<Uuid> = ended.into_iter().collect();
    for place in scheduled {
        if !ended.remove(&items[place].notification.id.0) {
            answers[place] = Some(Appended::NotScheduled);
        }
    }
    Ok(())
}

/// Takes the keys of the items that have one; answers those whose key was taken before.
async fn take_keys(
    connection: &mut SqliteConnection,
    items: &[&Append],
    answers: &mut [Option<Appended>],
) -> Result<(), sqlx::Error> {
    let open = (0..items.len()).filter(|place| answers[*place].is_none());
    let (places, wanted): (Vec<usize>, Vec<keys::Wanted<'_>>) = open
        .filter_map(|place| {
            let notification = &items[place].notification;
            let key = items[place].idempotency.as_ref()?;
            Some((place, (key, notification.id, notification.created_at)))
        })
        .unzip();
    for (place, taken) in places.into_iter().zip(keys::take(connection, &wanted).await?) {
        answers[place] = taken.map(|taken| match taken {
            Taken::Same(first) => Appended::Replayed(first),
            Taken::Other => Appended::KeyReused,
        });
    }
    Ok(())
}

async fn add_bodies(connection: &mut SqliteConnection, items: &[&Append]) -> Result<(), sqlx::Error> {
    let mut jsons = Vec::with_capacity(items.iter().map(|item| item.notification.json.len()).sum());
    let bodies = items.iter().map(|item| {
        let notification = &item.notification;
        // SQL counts from one.
        let start = jsons.len() + 1;
        jsons.extend_from_slice(&notification.json);
        (
            id_text(item),
            start,
            notification.json.len(),
            notification.created_at.as_i64(),
            notification.expires_at.map(UnixMillis::as_i64),
            &item.publisher,
            (!is_shared(item)).then_some(item.recipients.len()),
        )
    });
    let bodies = rows(bodies.collect());
    sqlx::query(ADD_BODIES).bind(bodies).bind(jsons).execute(connection).await.map(drop)
}

/// All entries, the places of each item's, and what the new ones replace.
async fn add_entries<'a>(
    connection: &mut SqliteConnection,
    items: &[&'a Append],
) -> Result<(Vec<EntryKey>, Vec<Vec<Place>>, Newest<'a>), sqlx::Error> {
    let streams = items.iter().flat_map(|item| &item.recipients).map(|recipient| &recipient.stream);
    let mut counted = entries::count(connection, streams).await?;
    let ids: Vec<String> = items.iter().map(|item| id_text(item)).collect();
    let (mut stored, mut newest, mut new) = (Vec::new(), Newest::new(), Vec::new());
    let mut places = Vec::with_capacity(items.len());
    for (item, id) in items.iter().zip(&ids) {
        let expires_at = item.notification.expires_at.map(UnixMillis::as_i64);
        let mut of_item = Vec::with_capacity(item.recipients.len());
        for recipient in &item.recipients {
            let stream = counted.get_mut(&recipient.stream).ok_or(sqlx::Error::RowNotFound)?;
            let seq = stream.next;
            stream.next += 1;
            let device = recipient.device.as_ref().map(|device| device.as_str());
            let collapse = item.collapse_key.as_deref();
            if let Some(collapse) = collapse {
                newest.insert((stream.id, collapse, device), seq);
            }
            new.push(NewEntry(stream.id, seq, id, device, expires_at, 0, collapse));
            stored.push((stream.id, seq));
            of_item.push(Place { epoch: stream.epoch, seq: Seq::from_i64(seq) });
        }
        places.push(of_item);
    }
    entries::add(connection, new).await?;
    Ok((stored, places, newest))
}

#[async_trait]
impl Appender for SqliteInbox {
    async fn append(&self, group: Vec<Append>) -> Vec<Result<Appended, InboxError>> {
        group::append(self, &self.calls.metrics, &group).await
    }

    async fn answered(
        &self,
        publisher: &PublisherId,
        key: &str,
        online: Option<u32>,
    ) -> Result<(), InboxError> {
        let query = sqlx::query(ANSWERED).bind(publisher.as_str()).bind(key).bind(online.map(i64::from));
        let answered = self.write_one("answered", query).await;
        answered.map(drop).map_err(|failure| failure.to_error())
    }
}
