//! Appending to PostgreSQL: one statement a group.

use std::collections::HashSet;

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::PostgresInbox;
use crate::domain::{NotificationId, PublisherId};
use crate::inbox::failure::Failure;
use crate::inbox::group::{self, Commit};
use crate::inbox::{Append, Appended, Appender, FirstAnswer, Idempotency, InboxError};

/// How often a key may be swept away between our finding it taken and our reading it.
const ROUNDS: usize = 3;

const REPLAY: &str = r#"
select asked.number, first.hash = asked.hash as is_same, first.body, first.answered, first.online
from unnest($1::bigint[], $2::text[], $3::text[], $4::bytea[]) as asked (number, publisher, key, hash)
join idempotency as first on first.publisher = asked.publisher and first.key = asked.key
"#;

const ANSWERED: &str =
    "update idempotency set answered = true, online = $3 where publisher = $1 and key = $2";

impl PostgresInbox {
    /// Answers the items at `places` by what the first with their key was told; those whose key
    /// is gone are left unanswered.
    async fn replay(
        &self,
        items: &[&Append],
        places: &[usize],
        answers: &mut [Option<Result<Appended, Failure>>],
    ) -> Result<(), Failure> {
        let keys = places
            .iter()
            .filter_map(|place| Some((*place as i64, items[*place].idempotency.as_ref()?)))
            .collect();
        for (place, first) in self.first_answers(keys).await? {
            let place = usize::try_from(place).unwrap_or(usize::MAX);
            let answer = first.map_or(Appended::KeyReused, Appended::Replayed);
            answers[place] = Some(Ok(answer));
        }
        Ok(())
    }

    /// What the first with each key was told, by the numbers that come with the keys; `None` if that was for
    /// another request. Keys that are gone are left out.
    pub(super) async fn first_answers(
        &self,
        keys: Vec<(i64, &Idempotency)>,
    ) -> Result<Vec<(i64, Option<FirstAnswer>)>, Failure> {
        let numbers: Vec<i64> = keys.iter().map(|(number, _)| *number).collect();
        let publishers: Vec<&str> = keys.iter().map(|(_, key)| key.publisher.as_str()).collect();
        let names: Vec<&str> = keys.iter().map(|(_, key)| key.key.as_str()).collect();
        let hashes: Vec<&[u8]> = keys.iter().map(|(_, key)| &key.request_hash[..]).collect();
        let query = sqlx::query(REPLAY).bind(&numbers).bind(&publishers).bind(&names).bind(&hashes);
        let rows = self.rows("replay", query).await?;
        self.read_row(rows.iter().map(first).collect())
    }
}

impl Commit for PostgresInbox {
    async fn commit(&self, items: &[&Append]) -> Result<Vec<Result<Appended, Failure>>, Failure> {
        let mut answers: Vec<Option<Result<Appended, Failure>>> = vec![None; items.len()];
        let open = |answers: &[Option<_>]| -> Vec<usize> {
            (0..items.len()).filter(|place| answers[*place].is_none()).collect()
        };
        for round in 0..ROUNDS {
            let fresh = without_repeats(items, open(&answers));
            match self.insert(items, &fresh, &mut answers).await {
                Ok(()) => {}
                Err(failure) if round == 0 => return Err(failure),
                Err(failure) => return Ok(finish(answers, &failure)),
            }
            let taken = open(&answers);
            if taken.is_empty() {
                break;
            }
            // Others of the group may be stored by now: only these are in doubt.
            if let Err(failure) = self.replay(items, &taken, &mut answers).await {
                return Ok(finish(answers, &failure));
            }
        }
        let swept = Failure::unavailable("an idempotency key went while it was read");
        Ok(finish(answers, &swept))
    }
}

/// Leaves out the items whose key an earlier one has: they replay that one.
fn without_repeats(items: &[&Append], mut places: Vec<usize>) -> Vec<usize> {
    let mut seen = HashSet::new();
    places.retain(|place| match &items[*place].idempotency {
        Some(_) if items[*place].scheduled => true,
        Some(key) => seen.insert((&key.publisher, &key.key)),
        None => true,
    });
    places
}

fn finish(
    answers: Vec<Option<Result<Appended, Failure>>>,
    otherwise: &Failure,
) -> Vec<Result<Appended, Failure>> {
    answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(otherwise.clone()))).collect()
}

fn first(row: &PgRow) -> Result<(i64, Option<FirstAnswer>), sqlx::Error> {
    let online: Option<i64> = row.try_get("online")?;
    let first = FirstAnswer {
        id: NotificationId(row.try_get("body")?),
        answered: row.try_get("answered")?,
        online: online.and_then(|online| u32::try_from(online).ok()),
    };
    let is_same: bool = row.try_get("is_same")?;
    Ok((row.try_get("number")?, is_same.then_some(first)))
}

#[async_trait]
impl Appender for PostgresInbox {
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
        let answered = self.written("answered", query).await;
        answered.map(drop).map_err(|failure| failure.to_error())
    }
}
