//! Streams that grow: told to whoever cuts them, as soon as an append has seen it.
//!
//! Owns which appends are worth a word: each stream is named once in every tenth of what it may hold. It must never
//! hold up an append: what finds no room is left to a slow look at all streams.

use tokio::sync::mpsc;

use crate::domain::{Recipient, Stream};
use crate::inbox::Place;

/// How many words may wait.
const BOUND: usize = 1_024;

/// Says which streams have grown.
#[derive(Debug)]
pub(super) struct Growth {
    grown: mpsc::Sender<Stream>,
    max_entries: u64,
}

impl Growth {
    /// For streams that may hold `max_entries`; and where the words arrive.
    pub(super) fn new(max_entries: u64) -> (Self, mpsc::Receiver<Stream>) {
        let (grown, arrive) = mpsc::channel(BOUND);
        (Self { grown, max_entries }, arrive)
    }

    /// These were appended: a place for each recipient.
    pub(super) fn appended(&self, recipients: &[Recipient], places: &[Place]) {
        let step = (self.max_entries / 10).max(1);
        for (recipient, place) in recipients.iter().zip(places) {
            if place.seq.0 > self.max_entries && place.seq.0.is_multiple_of(step) {
                // No room: the slow look finds it.
                let _ = self.grown.try_send(recipient.stream.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Epoch, Seq};

    #[test]
    fn a_stream_is_named_at_each_tenth_beyond_what_it_may_hold() {
        let (growth, mut arrive) = Growth::new(50);
        let recipients = [Recipient { stream: Stream::Everyone, device: None }];
        let mut named = vec![];
        for seq in 1..=70 {
            growth.appended(&recipients, &[Place { epoch: Epoch(1), seq: Seq(seq) }]);
            while arrive.try_recv().is_ok() {
                named.push(seq);
            }
        }
        assert_eq!(named, [55, 60, 65, 70]);
    }
}
