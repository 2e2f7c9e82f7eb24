//! New entries in SQLite: seqs given out, entries written.
//!
//! Owns both, for notifications and cancellations alike. All in the caller's transaction: there is one
//! writer, so seqs are gapless and in order of commits.

use std::collections::HashMap;

use serde::Serialize;
use sqlx::SqliteConnection;

use super::{epoch_of, rows};
use crate::domain::{Epoch, Stream};

/// Rows: [name, entries]. "where true" keeps the parser from reading "on" as a join's.
const COUNT: &str = r#"
insert into streams (name, epoch, last_seq, base_seq)
select asked.value ->> 0, store.epoch, store.erased_seq + (asked.value ->> 1), store.erased_seq
from json_each(?1) as asked, store
where true
on conflict (name) do update set last_seq = last_seq + excluded.last_seq - excluded.base_seq
returning name, id, epoch, last_seq
"#;

/// Rows: [stream, seq, body, device, expires_at, kind, collapse].
const ADD: &str = r#"
insert into entries (stream, seq, body, device, expires_at, kind, collapse)
select value ->> 0, value ->> 1, unhex(value ->> 2), value ->> 3, value ->> 4, value ->> 5, value ->> 6
from json_each(?1)
"#;

/// A stream whose counter was raised.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) id: i64,
    pub(super) epoch: Epoch,
    /// The next seq to give out.
    pub(super) next: i64,
}

/// Raises each stream's counter by how many entries it gets: by one for each time it is named.
pub(super) async fn count<'a>(
    connection: &mut SqliteConnection,
    streams: impl Iterator<Item = &'a Stream>,
) -> Result<HashMap<&'a Stream, Counted>, sqlx::Error> {
    let mut wanted: HashMap<&Stream, i64> = HashMap::new();
    for stream in streams {
        *wanted.entry(stream).or_default() += 1;
    }
    let by_name: HashMap<String, (&Stream, i64)> =
        wanted.into_iter().map(|(stream, entries)| (stream.to_string(), (stream, entries))).collect();
    let asked = by_name.iter().map(|(name, (_, entries))| (name, entries));
    let raised: Vec<(String, i64, i64, i64)> =
        sqlx::query_as(COUNT).bind(rows(asked.collect())).fetch_all(connection).await?;
    let counted = raised.into_iter().map(|(name, id, epoch, last_seq)| {
        let (stream, entries) = *by_name.get(&name).ok_or(sqlx::Error::RowNotFound)?;
        Ok((stream, Counted { id, epoch: epoch_of(epoch), next: last_seq - entries + 1 }))
    });
    counted.collect()
}

/// An entry to be written: the row of [`ADD`].
#[derive(Debug, Serialize)]
pub(super) struct NewEntry<'a>(
    pub(super) i64,
    pub(super) i64,
    pub(super) &'a str,
    pub(super) Option<&'a str>,
    pub(super) Option<i64>,
    pub(super) u8,
    pub(super) Option<&'a str>,
);

/// Writes entries.
pub(super) async fn add(
    connection: &mut SqliteConnection,
    entries: Vec<NewEntry<'_>>,
) -> Result<(), sqlx::Error> {
    sqlx::query(ADD).bind(rows(entries)).execute(connection).await.map(drop)
}
