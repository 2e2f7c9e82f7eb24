//! Envelopes: what other nodes and this node's own publishers send, offered to sessions.
//!
//! Entries of users are offered at once, from whichever task brings them; items of shared streams go
//! through one task, which keeps each stream's order and its tail.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tracing::warn;

use super::Delivery;
use super::conflation::Given;
use super::connection::Connection;
use super::followed::Arrived;
use super::parcel::Parcel;
use crate::domain::{DeviceId, NOW, NodeId, NotificationId, Seq, Stream, UnixMillis};
use crate::inbox::Unread;
use crate::routing::Local;
use crate::session::{Offered, Pushed, Verdict};
use crate::wire::envelope::{EntryRef, Item};
use crate::wire::{Frame, Tail, server};

/// Through which publishers of this node reach its connections.
pub(super) struct LocalDoor(pub(super) Weak<Delivery>);

impl Local for LocalDoor {
    fn deliver(&self, item: Item) {
        if let Some(delivery) = self.0.upgrade() {
            match item {
                // The origin serves its own connections here, not when its envelope comes back.
                Item::Unstored { tail, recipients, .. } => delivery.give_unstored(&tail, &recipients),
                item => delivery.take_item(item),
            }
        }
    }
}

impl Delivery {
    /// Takes what the broker brings.
    pub(super) async fn take_envelopes(self: Arc<Self>, mut envelopes: mpsc::Receiver<Bytes>) {
        loop {
            let arrived = tokio::select! {
                biased; // Only so that simulations replay.
                () = self.cancel.cancelled() => return,
                arrived = envelopes.recv() => arrived,
            };
            let Some(envelope) = arrived else { return };
            self.take_envelope(envelope);
        }
    }

    fn take_envelope(self: &Arc<Self>, mut envelope: Bytes) {
        loop {
            match Item::decode(&mut envelope) {
                Ok(Some(Item::Unstored { tail, origin, recipients })) => {
                    if origin != self.node {
                        self.give_unstored_in_time(&tail, &recipients);
                    }
                }
                Ok(Some(item)) => self.take_item(item),
                Ok(None) => return,
                Err(error) => {
                    self.metrics.damaged_envelopes.inc();
                    warn!(%error, "an envelope cannot be read; head checks bring its entries");
                    return;
                }
            }
        }
    }

    fn take_item(self: &Arc<Self>, item: Item) {
        match item {
            Item::Stored { tail, expires_at, entries } => {
                self.take_entries(&Parcel::Notification(tail), expires_at, entries);
            }
            Item::Cancelled { id, expires_at, entries } => {
                self.take_entries(&Parcel::Cancelled(id), expires_at, entries);
            }
            Item::Read { user, stream, marked, unread, version, reads } => {
                self.hear_read(&user, &stream, &marked, Unread { unread, version, reads });
            }
            Item::Unstored { tail, recipients, .. } => self.give_unstored(&tail, &recipients),
            Item::Heads(heads) => {
                for (stream, epoch, head) in heads {
                    let mut node = Seq(0);
                    if stream.is_shared() {
                        node = self.take_shared_head(&stream, epoch, head, node);
                    }
                    let readers = self.hub.readers(&stream).into_iter().map(|reader| (reader, Seq(0)));
                    self.take_head(&stream, epoch, head, readers, node);
                }
            }
            Item::Blind { node, for_ms } => self.hear_blind(node, for_ms),
            // Its own call it has heeded before it sent it.
            Item::CheckHeads { node } if node == self.node => {}
            Item::CheckHeads { .. } => self.check_heads_soon(),
        }
    }

    fn take_entries(
        self: &Arc<Self>,
        parcel: &Parcel,
        expires_at: Option<UnixMillis>,
        entries: Vec<EntryRef>,
    ) {
        for entry in entries {
            match entry.stream.is_shared() {
                true => self.queue_shared(Arrived { parcel: parcel.clone(), expires_at, entry }),
                false => self.offer(&[Arrived { parcel: parcel.clone(), expires_at, entry }]),
            }
        }
    }

    fn hear_blind(&self, node: NodeId, for_ms: u32) {
        if node != self.node {
            self.router.blind().set(node, Duration::from_millis(u64::from(for_ms)));
        }
    }

    /// Offers entries of one stream, in order, to every session that they go to: what goes together is written together.
    pub(super) fn offer(self: &Arc<Self>, run: &[Arrived]) {
        let Some(first) = run.first() else { return };
        let (stream, readers) = (&first.entry.stream, self.hub.readers(&first.entry.stream));
        if readers.is_empty() {
            return;
        }
        let now = self.clock.now();
        let expired = run.iter().filter(|one| one.expires_at.is_some_and(|at| at <= now));
        self.metrics.expired.inc_by(expired.count() as u64);
        let frame = |one: &Arrived| one.parcel.frame(stream, one.entry.seq).expiring(one.expires_at);
        let merges = !self.settings.conflation.is_zero();
        let key = |one: &Arrived| merges.then(|| one.parcel.collapse_key()).flatten();
        let run: Vec<_> = run.iter().map(|one| (one, frame(one), key(one))).collect();
        let is_run = run.len() > 1;
        let mut sent = 0;
        for connection in readers {
            // Anew for each: to offer to a hundred thousand takes so long that something may expire meanwhile.
            let (before, now) = (sent, self.clock.now());
            for (one, frame, collapse_key) in &run {
                let offered = Offered {
                    seq: one.entry.seq,
                    device: one.entry.device.as_ref(),
                    expires_at: one.expires_at,
                    bytes: one.parcel.len(),
                    receipt: one.parcel.has_receipt(),
                    pushed: Some(Pushed { frame, collapse_key: collapse_key.as_ref() }),
                };
                let (verdict, given) = connection.offer(stream, one.entry.epoch, offered, frame, now, is_run);
                sent += u64::from(verdict == Verdict::Send);
                self.heed(&connection, stream, verdict, given);
            }
            if is_run {
                connection.let_go();
            }
            if sent > before {
                self.ask_for_ack(&connection);
            }
        }
        self.metrics.delivered.inc_by(sent);
    }

    /// What a session made of an entry.
    fn heed(self: &Arc<Self>, connection: &Arc<Connection>, stream: &Stream, verdict: Verdict, given: Given) {
        match verdict {
            Verdict::Kept => self.given(connection, given),
            Verdict::Skip => {
                self.metrics.duplicates.inc();
            }
            Verdict::Send | Verdict::Held => {}
            Verdict::Lagged => {
                self.metrics.lagged.inc();
            }
            Verdict::Reset => connection.reset(),
            Verdict::Read => self.reader.want_later(connection, stream.clone(), self.settings.gap_grace),
        }
    }

    /// Now or never: not when this node or its queue stood still meanwhile.
    fn give_unstored_in_time(&self, tail: &Tail, recipients: &[(Stream, Option<DeviceId>)]) {
        let accepted_at = tail.id().map(NotificationId::accepted_at);
        if accepted_at.is_some_and(|at| at.after(NOW) <= self.clock.now()) {
            self.metrics.expired.inc();
        } else {
            self.give_unstored(tail, recipients);
        }
    }

    fn give_unstored(&self, tail: &Tail, recipients: &[(Stream, Option<DeviceId>)]) {
        let until = tail.id().map(|id| id.accepted_at().after(NOW));
        for (stream, device) in recipients {
            let frame: Frame = server::notification(stream, None, tail).expiring(until);
            let readers = self.hub.readers(stream);
            let given =
                readers.iter().filter(|connection| connection.push_unstored(stream, device.as_ref(), &frame));
            self.metrics.delivered.inc_by(given.count() as u64);
        }
    }
}
