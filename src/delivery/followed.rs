//! One shared stream that this node follows: where it stands, the last entries, and early ones that wait for a gap to close.
//!
//! Owns the order in which entries that arrive are offered. It knows neither sessions nor the inbox.

use std::collections::{BTreeMap, VecDeque};

use super::parcel::Parcel;
use crate::domain::{Epoch, Seq, Stream, UnixMillis};
use crate::inbox::{Entry, Page};
use crate::wire::envelope::EntryRef;

/// How many entries a tail holds, and how many early ones wait for a gap to close.
const TAIL_ENTRIES: usize = 256;
/// How many bytes of bodies a tail holds.
const TAIL_BYTES: usize = 1 << 20;

/// An entry that arrived, with what it brings.
#[derive(Debug, Clone)]
pub(super) struct Arrived {
    pub(super) parcel: Parcel,
    pub(super) expires_at: Option<UnixMillis>,
    pub(super) entry: EntryRef,
}

/// What the node knows of one shared stream.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) epoch: Epoch,
    /// The last entry that was offered to sessions.
    pub(super) position: Seq,
    /// All that there is after `tail_after`, up to `position`.
    tail: VecDeque<Arrived>,
    tail_after: Seq,
    tail_bytes: usize,
    /// Entries above `position + 1` that wait for those before them.
    early: BTreeMap<Seq, Arrived>,
    /// The highest seq known to exist.
    pub(super) known: Seq,
    /// A read for the gap is under way.
    pub(super) reading: bool,
}

impl Followed {
    pub(super) fn new(epoch: Epoch, position: Seq) -> Self {
        Self {
            epoch,
            position,
            tail: VecDeque::new(),
            tail_after: position,
            tail_bytes: 0,
            early: BTreeMap::new(),
            known: position,
            reading: false,
        }
    }

    fn append(&mut self, arrived: Arrived) {
        if arrived.parcel.ends_others() && !self.tail.is_empty() {
            // What it ends must not be given to who comes later: they read the inbox, which knows.
            self.forget_tail();
        }
        self.push(arrived);
    }

    fn push(&mut self, arrived: Arrived) {
        self.position = arrived.entry.seq;
        self.known = self.known.max(self.position);
        self.tail_bytes += arrived.parcel.len();
        self.tail.push_back(arrived);
        while self.tail.len() > TAIL_ENTRIES || self.tail_bytes > TAIL_BYTES {
            let Some(oldest) = self.tail.pop_front() else {
                break;
            };
            self.tail_bytes -= oldest.parcel.len();
            self.tail_after = oldest.entry.seq;
        }
    }

    /// The entries after `after`, if the tail has all of them.
    pub(super) fn page(&self, after: Seq, max_entries: usize, max_bytes: usize) -> Option<Page> {
        if self.tail.is_empty() || after < self.tail_after || after > self.position {
            return None;
        }
        let skip = self.tail.partition_point(|arrived| arrived.entry.seq <= after);
        let (mut entries, mut bytes, mut through) = (Vec::new(), 0, self.position);
        for arrived in self.tail.iter().skip(skip) {
            bytes += arrived.parcel.len();
            if !entries.is_empty() && (entries.len() == max_entries || bytes > max_bytes) {
                through = Seq(arrived.entry.seq.0 - 1);
                break;
            }
            entries.push(Entry {
                seq: arrived.entry.seq,
                device: None,
                expires_at: arrived.expires_at,
                content: arrived.parcel.content(),
            });
        }
        Some(Page { epoch: self.epoch, floor: Seq(0), head: self.position, through, entries })
    }

    /// An entry above the position arrives: what can be offered now, in order, and whether a gap has to be read.
    pub(super) fn sort_in(&mut self, arrived: Arrived) -> (Vec<Arrived>, bool) {
        let seq = arrived.entry.seq;
        self.known = self.known.max(seq);
        self.early.insert(seq, arrived);
        if self.early.len() > TAIL_ENTRIES {
            self.early.pop_last();
        }
        let mut in_order = Vec::new();
        self.close_up(&mut in_order);
        let read = self.known > self.position && !std::mem::replace(&mut self.reading, true);
        (in_order, read)
    }

    /// A page of what is after `after` arrives, which is the position or below it: what can be offered now, in order, and
    /// whether to read on.
    pub(super) fn take(&mut self, stream: &Stream, after: Seq, page: Page) -> (Vec<Arrived>, bool) {
        let mut in_order = Vec::new();
        if page.floor > self.position {
            // Whoever is below it has to be told of the gap, which a read does.
            self.position = page.floor;
            self.forget_tail();
        }
        let position = self.position;
        let new = page.entries.into_iter().filter(|entry| entry.seq > position);
        let new: Vec<Arrived> = new.map(|entry| Arrived::read(stream, page.epoch, entry)).collect();
        if new.iter().any(|arrived| arrived.parcel.ends_others()) && !self.tail.is_empty() {
            self.forget_tail();
        }
        for arrived in new {
            // They are of one moment, so none ends another. What is missing between them is gone (expired, replaced):
            // sessions find that in the tail, too, and none has to read for itself.
            self.push(arrived.clone());
            in_order.push(arrived);
        }
        self.position = self.position.max(page.through);
        let position = self.position;
        self.early.retain(|seq, _| *seq > position);
        self.close_up(&mut in_order);
        if page.through >= page.head && self.position == after {
            // Nothing is there of what was said to exist: the next head check says what is true.
            self.known = self.position;
        }
        self.reading = page.through < page.head || self.known > self.position;
        (in_order, self.reading)
    }

    /// From here on it is kept anew.
    fn forget_tail(&mut self) {
        self.tail.clear();
        (self.tail_bytes, self.tail_after) = (0, self.position);
    }

    /// Moves over early entries as far as there is no gap.
    fn close_up(&mut self, in_order: &mut Vec<Arrived>) {
        while let Some(next) = self.early.remove(&self.position.next()) {
            self.append(next.clone());
            in_order.push(next);
        }
    }
}

impl Arrived {
    fn read(stream: &Stream, epoch: Epoch, entry: Entry) -> Self {
        let parcel = Parcel::of(&entry.content);
        let Entry { seq, device, expires_at, .. } = entry;
        Self { parcel, expires_at, entry: EntryRef { stream: stream.clone(), epoch, seq, device } }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::inbox::Content;

    const EPOCH: Epoch = Epoch(3);

    fn entry(seq: u64, json: &'static str) -> Entry {
        let content = Content::Notification { json: Bytes::from_static(json.as_bytes()), is_read: false };
        Entry { seq: Seq(seq), device: None, expires_at: None, content }
    }

    fn read(entries: Vec<Entry>, through: u64) -> Page {
        Page { epoch: EPOCH, floor: Seq(0), head: Seq(through), through: Seq(through), entries }
    }

    fn seqs(page: Option<Page>) -> Option<(Vec<u64>, u64)> {
        page.map(|page| (page.entries.iter().map(|entry| entry.seq.0).collect(), page.through.0))
    }

    #[test]
    fn sessions_find_in_the_tail_that_something_is_gone_and_need_not_read_it_each() {
        let mut followed = Followed::new(EPOCH, Seq(10));
        let newest = entry(12, r#"{"id":"b","collapse_key":"score"}"#);
        let (in_order, more) = followed.take(&Stream::Everyone, Seq(10), read(vec![newest], 14));
        assert_eq!((in_order.len(), more, followed.position), (1, false, Seq(14)));
        assert_eq!(seqs(followed.page(Seq(10), 9, 1_000)), Some((vec![12], 14)));
        assert_eq!(seqs(followed.page(Seq(12), 9, 1_000)), Some((vec![], 14)));
        assert_eq!(seqs(followed.page(Seq(9), 9, 1_000)), None, "what was before is not known here");
    }

    #[test]
    fn whoever_is_below_the_floor_reads_and_is_told_of_the_gap() {
        let mut followed = Followed::new(EPOCH, Seq(10));
        let page = Page { floor: Seq(12), ..read(vec![entry(13, r#"{"id":"a"}"#)], 13) };
        followed.take(&Stream::Everyone, Seq(10), page);
        assert_eq!(seqs(followed.page(Seq(10), 9, 1_000)), None);
        assert_eq!(seqs(followed.page(Seq(12), 9, 1_000)), Some((vec![13], 13)));
    }

    #[test]
    fn what_an_entry_ends_is_not_in_the_tail_behind_it() {
        const KEYED: &str = r#"{"id":"b","collapse_key":"score"}"#;
        let mut followed = Followed::new(EPOCH, Seq(10));
        followed.take(&Stream::Everyone, Seq(10), read(vec![entry(11, r#"{"id":"a"}"#)], 11));
        followed.take(&Stream::Everyone, Seq(11), read(vec![entry(12, KEYED), entry(14, KEYED)], 14));
        assert_eq!(seqs(followed.page(Seq(10), 9, 1_000)), None, "11 may be what 12 ends");
        assert_eq!(
            seqs(followed.page(Seq(11), 9, 1_000)),
            Some((vec![12, 14], 14)),
            "they are of one moment"
        );
        followed.sort_in(Arrived::read(&Stream::Everyone, EPOCH, entry(15, KEYED)));
        assert_eq!(seqs(followed.page(Seq(12), 9, 1_000)), None, "14 may be what 15 ends");
        assert_eq!(seqs(followed.page(Seq(14), 9, 1_000)), Some((vec![15], 15)));
    }

    #[test]
    fn where_all_that_was_lost_is_gone_the_next_one_finds_everybody() {
        let mut followed = Followed::new(EPOCH, Seq(10));
        followed.take(&Stream::Everyone, Seq(10), read(Vec::new(), 14));
        followed.sort_in(Arrived::read(
            &Stream::Everyone,
            EPOCH,
            entry(15, r#"{"id":"a","collapse_key":"k"}"#),
        ));
        assert_eq!(seqs(followed.page(Seq(10), 9, 1_000)), Some((vec![15], 15)));
    }
}
