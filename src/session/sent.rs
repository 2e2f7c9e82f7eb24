//! What a session has sent in one stream and is not acknowledged: bounded by the window.

use std::collections::VecDeque;

use super::{Offered, Window};
use crate::domain::{Seq, UnixMillis};

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
    /// From the lowest: whether its acknowledgement is a receipt, its bytes, and when it expires. Together, for a
    /// window of them is what an idle client that does not acknowledge costs.
    rest: u64,
}

/// Bits of its bytes: a body is under 64 KiB.
const BYTES: u32 = 20;
/// Bits of its expiry in milliseconds: enough until the year 2248. All ones: never.
const EXPIRY: u32 = u64::BITS - BYTES - 1;

impl Entry {
    fn new(entry: Offered<'_>) -> Self {
        let never = (1 << EXPIRY) - 1;
        let bytes = (entry.bytes as u64).min((1 << BYTES) - 1);
        let expires_at = entry.expires_at.map_or(never, |at| at.0.min(never));
        let rest = expires_at << (BYTES + 1) | bytes << 1 | u64::from(entry.receipt);
        Self { seq: entry.seq, rest }
    }

    fn bytes(self) -> usize {
        (self.rest >> 1 & ((1 << BYTES) - 1)) as usize
    }

    fn has_expired(self, now: UnixMillis) -> bool {
        self.rest >> (BYTES + 1) <= now.0
    }

    fn has_receipt(self) -> bool {
        self.rest & 1 == 1
    }
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

    /// Whether so many bytes more may be sent; one entry always may. Where there is no room, what has expired makes
    /// some: it may have been dropped before it was written, and then nobody will ever acknowledge it.
    pub(super) fn has_room(&mut self, bytes: usize, window: Window, now: UnixMillis) -> bool {
        if !self.fits(bytes, window) {
            self.let_go_of_expired(now);
        }
        self.fits(bytes, window)
    }

    fn fits(&self, bytes: usize, window: Window) -> bool {
        self.entries.is_empty() || (self.len() < window.entries && self.bytes + bytes <= window.bytes)
    }

    fn let_go_of_expired(&mut self, now: UnixMillis) {
        self.entries.retain(|entry| !entry.has_expired(now));
        self.bytes = self.entries.iter().map(|entry| entry.bytes()).sum();
        self.shrink_if_empty();
    }

    fn shrink_if_empty(&mut self) {
        if self.entries.is_empty() && self.entries.capacity() > KEPT_ROOM {
            self.entries = VecDeque::new();
        }
    }

    /// When a held-back session reads on: not at each single ack, which would cause a read for each. What has expired
    /// makes room here, too.
    pub(super) fn is_half_free(&mut self, window: Window, now: UnixMillis) -> bool {
        let is_free = |sent: &Self| sent.len() * 2 <= window.entries && sent.bytes * 2 <= window.bytes;
        if !is_free(self) {
            self.let_go_of_expired(now);
        }
        is_free(self)
    }

    pub(super) fn push(&mut self, entry: Offered<'_>) {
        let entry = Entry::new(entry);
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
    }

    /// Forgets one that will not be written after all.
    pub(super) fn withdraw(&mut self, seq: Seq) {
        if let Ok(at) = self.entries.binary_search_by_key(&seq, |entry| entry.seq)
            && let Some(entry) = self.entries.remove(at)
        {
            self.bytes -= entry.bytes();
            self.shrink_if_empty();
        }
    }

    /// Forgets what is acknowledged by `seq`; `crossed` is told of each that has a receipt and has not expired (what
    /// has may never have been written). Returns whether anything was.
    pub(super) fn cross(&mut self, seq: Seq, now: UnixMillis, mut crossed: impl FnMut(Seq)) -> bool {
        let before = self.len();
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.seq <= seq) {
            self.bytes -= entry.bytes();
            if entry.has_receipt() && !entry.has_expired(now) {
                crossed(entry.seq);
            }
        }
        self.shrink_if_empty();
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
            let pushed = None;
            sent.push(Offered {
                seq: Seq(seq),
                device: None,
                expires_at: None,
                bytes: 10,
                receipt: true,
                pushed,
            });
        }
        assert!(sent.entries.capacity() * size_of::<Entry>() <= 4_096);
        assert!(sent.cross(Seq(256), UnixMillis(0), |_| {}));
        assert!(sent.entries.capacity() <= KEPT_ROOM, "{} places", sent.entries.capacity());
        assert_eq!(sent.bytes(), 0);
    }
}
