//! Cursors before they are written.
//!
//! Owns that a statement never meets a row twice. Pure.

use std::collections::BTreeMap;

use super::Cursor;
use crate::domain::{UnixMillis, UserId};

/// The furthest of each cursor, sorted; those of different epochs are kept apart.
pub(super) fn furthest(cursors: Vec<Cursor>) -> Vec<Cursor> {
    let mut furthest: BTreeMap<_, Cursor> = BTreeMap::new();
    for cursor in cursors {
        let key = (
            cursor.user.clone(),
            cursor.device.clone(),
            cursor.stream.clone(),
            cursor.epoch.0,
        );
        match furthest.get_mut(&key) {
            Some(known) => known.acked = known.acked.max(cursor.acked),
            None => {
                furthest.insert(key, cursor);
            }
        }
    }
    furthest.into_values().collect()
}

/// The latest time of each user, sorted.
pub(super) fn latest(users: Vec<(UserId, UnixMillis)>) -> Vec<(UserId, UnixMillis)> {
    let mut latest: BTreeMap<UserId, UnixMillis> = BTreeMap::new();
    for (user, at) in users {
        let known = latest.entry(user).or_insert(at);
        *known = at.max(*known);
    }
    latest.into_iter().collect()
}
