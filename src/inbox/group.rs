//! How a group is appended: one bad item must not fail the others.
//!
//! Owns the check of items and the halving of refused groups. It must never append an item
//! again whose outcome is unknown.

use super::failure::Failure;
use super::{Append, Appended, InboxError};
use crate::metrics::inbox::InboxMetrics;

/// The longest idempotency key, in bytes.
const MAX_KEY_BYTES: usize = 255;
/// How many recipients a commit has at most, unless one item has more: what takes longer than a statement may take would
/// fail for all of them, and again as a whole.
const MAX_RECIPIENTS: usize = 10_000;

/// A store that commits groups.
pub(super) trait Commit: Sync {
    /// Commits all items or, failing as a whole, none that it knows of; answers in the same
    /// order. An item may fail alone where its outcome only is unknown.
    fn commit(
        &self,
        items: &[&Append],
    ) -> impl Future<Output = Result<Vec<Result<Appended, Failure>>, Failure>> + Send;
}

/// Appends a group as [`super::Appender::append`] promises.
pub(super) async fn append(
    store: &impl Commit,
    metrics: &InboxMetrics,
    group: &[Append],
) -> Vec<Result<Appended, InboxError>> {
    let mut answers: Vec<Result<Appended, Failure>> = group
        .iter()
        // Overwritten for every sound item below.
        .map(|item| check(item).map(|()| Appended::KeyReused))
        .collect();
    let sound = (0..group.len()).filter(|place| answers[*place].is_ok());
    // A stack whose top is the earliest part, so that seqs grow in group order.
    let mut parts = in_parts(group, sound);
    parts.reverse();
    let mut down: Option<Failure> = None;
    while let Some(mut part) = parts.pop() {
        if part.is_empty() {
            continue;
        }
        let result = match &down {
            // The store is away: each further part would only wait for a deadline of its own.
            Some(failure) => Err(failure.clone()),
            None => {
                let items: Vec<&Append> = part.iter().map(|place| &group[*place]).collect();
                store.commit(&items).await
            }
        };
        match result {
            Ok(results) => {
                for (place, result) in part.into_iter().zip(results) {
                    answers[place] = result;
                }
            }
            Err(failure) if failure.is_of_the_item() && part.len() > 1 => {
                metrics.halved.inc();
                parts.push(part.split_off(part.len() / 2));
                parts.push(part);
            }
            Err(failure) => {
                for place in part {
                    answers[place] = Err(failure.clone());
                }
                if !failure.is_of_the_item() {
                    down = Some(failure);
                }
            }
        }
    }
    count(metrics, &answers);
    answers.into_iter().map(|answer| answer.map_err(|failure| failure.to_error())).collect()
}

/// The places in parts of at most [`MAX_RECIPIENTS`], in their order.
fn in_parts(group: &[Append], places: impl Iterator<Item = usize>) -> Vec<Vec<usize>> {
    let (mut parts, mut recipients) = (vec![Vec::new()], 0);
    for place in places {
        let more = group[place].recipients.len();
        let last = parts.last_mut().expect("one to begin with");
        if last.is_empty() || recipients + more <= MAX_RECIPIENTS {
            last.push(place);
            recipients += more;
        } else {
            parts.push(vec![place]);
            recipients = more;
        }
    }
    parts
}

/// What both stores refuse alike. PostgreSQL's text has no NUL.
fn check(item: &Append) -> Result<(), Failure> {
    if item.recipients.is_empty() {
        return Err(Failure::refused("a notification needs a recipient"));
    }
    let Some(idempotency) = &item.idempotency else {
        return Ok(());
    };
    let length = idempotency.key.len();
    if length == 0 || length > MAX_KEY_BYTES {
        return Err(Failure::refused(format!(
            "an idempotency key has 1..={MAX_KEY_BYTES} bytes; got {length}"
        )));
    }
    if idempotency.key.contains('\0') {
        return Err(Failure::refused("an idempotency key has no NUL character"));
    }
    Ok(())
}

fn count(metrics: &InboxMetrics, answers: &[Result<Appended, Failure>]) {
    for answer in answers.iter().flatten() {
        match answer {
            Appended::Stored(places) => {
                metrics.appended.inc();
                metrics.entries.inc_by(places.len() as u64);
            }
            Appended::Replayed(_) => {
                metrics.replays.inc();
            }
            Appended::KeyReused | Appended::NotScheduled => {}
        }
    }
}
