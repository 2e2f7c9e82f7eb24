//! Where a page ends.
//!
//! Owns the `through` rule. Pure.

use super::{Entry, Page, Read};
use crate::domain::{Epoch, Seq};

/// What a store found for a [`Read`], all of one snapshot.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) epoch: Epoch,
    pub(super) floor: Seq,
    pub(super) head: Seq,
    /// In order; one more than fits the page, if there is one, so that the page knows it was cut.
    pub(super) entries: Vec<Entry>,
}

/// How many entries a store has to look for: one more than the page may have.
pub(super) fn wanted(request: &Read) -> i64 {
    i64::from(request.max_entries.max(1)) + 1
}

/// Cuts what was found to the page that was asked for.
pub(super) fn cut(request: &Read, found: Found) -> Page {
    let mut entries = found.entries;
    let mut bytes = 0_usize;
    let fitting = entries
        .iter()
        .take(request.max_entries.max(1) as usize)
        .enumerate()
        .take_while(|(place, entry)| {
            bytes = bytes.saturating_add(entry.content.len());
            // The first goes whatever its size, or a reader would never get past it.
            *place == 0 || bytes <= request.max_bytes
        })
        .count();
    let is_cut = fitting < entries.len();
    entries.truncate(fitting);
    let through = match entries.last() {
        Some(last) if is_cut => last.seq,
        _ => found.head,
    };
    Page { epoch: found.epoch, floor: found.floor, head: found.head, through, entries }
}
