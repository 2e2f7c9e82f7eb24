//! What a session has sent in one stream and is not acknowledged: bounded by the window.

use std::collections::VecDeque;

use super::{Offered, Window};
use crate::domain::Seq;

/// What it keeps room for when everything is acknowledged, so that a burst costs an idle connection nothing.
const KEPT_ROOM: usize = 8;

/// Sent and not acknowledged, in order. Allocates nothing before something is sent.
#[derive(Debug, Default)]
pub(super) struct Sent {
    entries: VecDeque<Entry>,
    bytes: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    seq: Seq,
    bytes: u32,
    /// Whether its acknowledgement is a receipt.
    receipt: bool,
}

impl Sent {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The lowest seq.
    pub(super) fn first(&self) -> Option<Seq> {
        self.entries.front().map(|entry| entry.seq)
    }

    /// Whether so many bytes more may be sent; one entry always may.
    pub(super) fn has_room(&self, bytes: usize, window: Window) -> bool {
        self.entries.is_empty() || (self.len() < window.entries && self.bytes + bytes <= window.bytes)
    }

    /// When a held-back session reads on: not at each single ack, which would cause a read for each.
    pub(super) fn is_half_free(&self, window: Window) -> bool {
        self.len() * 2 <= window.entries && self.bytes * 2 <= window.bytes
    }

    pub(super) fn push(&mut self, entry: Offered<'_>) {
        // A body is under 64 KiB, so the narrowing never saturates.
        let bytes = u32::try_from(entry.bytes).unwrap_or(u32::MAX);
        self.bytes += bytes as usize;
        self.entries.push_back(Entry { seq: entry.seq, bytes, receipt: entry.receipt });
    }

    /// Forgets what is acknowledged by `seq`; `crossed` is told of each that has a receipt. Returns whether
    /// anything was.
    pub(super) fn cross(&mut self, seq: Seq, mut crossed: impl FnMut(Seq)) -> bool {
        let before = self.len();
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.seq <= seq) {
            self.bytes -= entry.bytes as usize;
            if entry.receipt {
                crossed(entry.seq);
            }
        }
        if self.entries.is_empty() && self.entries.capacity() > KEPT_ROOM {
            self.entries = VecDeque::new();
        }
        self.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_window_is_four_kibibytes_and_an_acknowledged_one_next_to_nothing() {
        let mut sent = Sent::default();
        for seq in 1..=256 {
            sent.push(Offered { seq: Seq(seq), device: None, expired: false, bytes: 10, receipt: true });
        }
        assert!(sent.entries.capacity() * size_of::<Entry>() <= 4_096);
        assert!(sent.cross(Seq(256), |_| {}));
        assert!(sent.entries.capacity() <= KEPT_ROOM, "{} places", sent.entries.capacity());
        assert_eq!(sent.bytes(), 0);
    }
}
