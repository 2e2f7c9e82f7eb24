//! Receipts: which notifications devices have acknowledged, on its way to the inbox.
//!
//! Those of users' own streams are noted one by one, by nature in groups: whatever was acknowledged while the
//! last group was written goes together, under load with what comes in the next moment, and a lone one goes at once. Those of shared streams are counted here
//! and added every few seconds. An ack never waits for any of it; what there is no room for is lost to the
//! receipts alone, never to a device, and counted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tracing::debug;

use super::Delivery;
use super::connection::Connection;
use crate::domain::{Epoch, Seq, Stream};
use crate::inbox::{Audience, Content, Delivered, DeliveredShared, InboxError, Page, Read};

/// How many go in one call.
const GROUP: usize = 512;
/// How many of users' own streams may wait, and how many places of shared streams.
const WAITING: usize = 100_000;
/// After a group of so many the next one waits for more: a larger one costs less for each.
const BUSY: usize = 4;
/// How long it waits, also before a `Prefer: wait` is answered.
const GATHER: Duration = Duration::from_millis(50);
/// How long after a failure the next call is made, at least.
const RETRY_MIN: Duration = Duration::from_millis(500);
/// And at most.
const RETRY_MAX: Duration = Duration::from_millis(1_500);

/// How many pages are read for what an earlier connection had sent; a window is one or two.
const COVERED_PAGES: usize = 8;

/// How many of such reads are under way at once: others need the inbox more.
const COVERING: usize = 4;
/// How many acks that cover what an earlier connection had sent may be in work, those that wait included.
const COVERED: usize = 2_048;

/// What is to be noted. Bounded.
pub(super) struct Receipts {
    own: Mutex<Vec<Delivered>>,
    shared: Mutex<HashMap<(Stream, Epoch, Seq), u64>>,
    arrived: Notify,
    covering: Semaphore,
    /// Places for those that wait for it, too.
    covered: Arc<Semaphore>,
}

impl Default for Receipts {
    fn default() -> Self {
        Self {
            own: Mutex::default(),
            shared: Mutex::default(),
            arrived: Notify::new(),
            covering: Semaphore::new(COVERING),
            covered: Arc::new(Semaphore::new(COVERED)),
        }
    }
}

impl Receipts {
    /// A device has acknowledged the notification at this place. Returns whether there is room to remember it.
    pub(super) fn acked(&self, stream: &Stream, epoch: Epoch, seq: Seq) -> bool {
        match stream {
            Stream::User(user) => {
                let mut own = lock(&self.own);
                if own.len() >= WAITING {
                    return false;
                }
                own.push(Delivered { user: user.clone(), epoch, seq });
                drop(own);
                self.arrived.notify_one();
                true
            }
            shared => self.count(shared, epoch, seq, 1),
        }
    }

    fn count(&self, stream: &Stream, epoch: Epoch, seq: Seq, devices: u64) -> bool {
        let mut counts = lock(&self.shared);
        let key = (stream.clone(), epoch, seq);
        if counts.len() >= WAITING && !counts.contains_key(&key) {
            return false;
        }
        *counts.entry(key).or_default() += devices;
        true
    }

    fn take_own(&self) -> Vec<Delivered> {
        let mut own = lock(&self.own);
        if own.len() <= GROUP {
            return std::mem::take(&mut *own);
        }
        own.drain(..GROUP).collect()
    }

    /// What was not noted goes before what has arrived meanwhile. Returns how many there was no room for.
    fn put_back(&self, mut group: Vec<Delivered>) -> usize {
        let mut own = lock(&self.own);
        let lost = (group.len() + own.len()).saturating_sub(WAITING);
        group.truncate(group.len() - lost.min(group.len()));
        group.append(&mut own);
        *own = group;
        lost
    }

    fn take_shared(&self) -> Vec<DeliveredShared> {
        let mut counts: Vec<_> = std::mem::take(&mut *lock(&self.shared)).into_iter().collect();
        // So that simulations replay, and locks are taken in order.
        counts.sort_unstable();
        let each = |((stream, epoch, seq), devices)| DeliveredShared { stream, epoch, seq, devices };
        counts.into_iter().map(each).collect()
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic left half-changed is at worst a receipt that is missing.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Delivery {
    /// A device has acknowledged the notification at this place. Never waits.
    pub(super) fn note_receipt(&self, stream: &Stream, epoch: Epoch, seq: Seq) {
        self.metrics.acks.inc();
        if !self.receipts.acked(stream, epoch, seq) {
            self.metrics.receipts_lost.inc();
        }
    }

    /// An ack covers the entries after `after` and up to `to`: an earlier connection of the device had sent them, and
    /// its own ack was lost with it. Not for shared streams: those count devices, and this one may be counted.
    pub(super) fn note_covered(
        self: &Arc<Self>,
        connection: &Connection,
        stream: &Stream,
        epoch: Epoch,
        after: Seq,
        to: Seq,
    ) {
        if stream.is_shared() {
            return;
        }
        // One that acknowledges much piece by piece while SQL hangs: what there is no place for is lost, and counted.
        let Ok(place) = Arc::clone(&self.receipts.covered).try_acquire_owned() else {
            self.metrics.receipts_lost.inc_by(to.0.saturating_sub(after.0));
            return;
        };
        let (delivery, stream) = (Arc::clone(self), stream.clone());
        let audience = Audience::Device(connection.device.clone());
        self.tracker.spawn(async move {
            tokio::select! {
                biased; // Only so that simulations replay.
                () = delivery.cancel.cancelled() => {}
                () = delivery.cover(&stream, epoch, (after, to), &audience) => {}
            }
            drop(place);
        });
    }

    /// Notes what there is after the first and up to the second.
    async fn cover(&self, stream: &Stream, epoch: Epoch, (mut after, to): (Seq, Seq), audience: &Audience) {
        let Ok(_turn) = self.receipts.covering.acquire().await else { return };
        for _ in 0..COVERED_PAGES {
            let Some(page) = self.read_covered(stream, after, to, audience).await else { return };
            if page.epoch != epoch {
                return;
            }
            for entry in page.entries.iter().filter(|entry| entry.seq <= to) {
                if matches!(entry.content, Content::Notification { .. }) {
                    self.note_receipt(stream, epoch, entry.seq);
                }
            }
            after = page.through;
            if after >= to || page.through >= page.head {
                return;
            }
        }
    }

    async fn read_covered(&self, stream: &Stream, after: Seq, to: Seq, audience: &Audience) -> Option<Page> {
        let wanted = u32::try_from(to.0.saturating_sub(after.0)).unwrap_or(u32::MAX);
        let read = Read {
            stream: stream.clone(),
            after,
            audience: audience.clone(),
            max_entries: wanted.clamp(1, self.settings.page_entries),
            max_bytes: self.settings.window.bytes,
        };
        match self.inbox.read(vec![read], self.clock.now()).await {
            Ok(mut pages) => pages.pop(),
            Err(error) => {
                self.metrics.receipt_failures.inc();
                debug!(%error, "what an earlier connection had sent was not noted as delivered");
                None
            }
        }
    }

    /// Notes what was acknowledged, for ever.
    pub(super) async fn write_receipts(self: Arc<Self>) {
        loop {
            tokio::select! {
                biased; // Only so that simulations replay.
                () = self.cancel.cancelled() => return,
                () = self.receipts.arrived.notified() => {}
            }
            loop {
                let pause = match self.note_group().await {
                    Ok(0) => break,
                    Ok(noted) if (BUSY..GROUP).contains(&noted) => GATHER,
                    Ok(_) => continue,
                    Err(()) => self.clock.random_range(RETRY_MIN..RETRY_MAX),
                };
                tokio::select! {
                    biased; // Only so that simulations replay.
                    () = self.cancel.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
    }

    /// Notes one group of those of users' own streams, and answers how many; an error when the inbox did not take them.
    async fn note_group(&self) -> Result<usize, ()> {
        let group = self.receipts.take_own();
        if group.is_empty() {
            return Ok(0);
        }
        let noted = group.len();
        match self.inbox.delivered(group.clone(), self.clock.now()).await {
            Ok(()) => {}
            Err(error @ InboxError::Refused(_)) => self.lose(&error, noted),
            Err(error) => {
                self.metrics.receipt_failures.inc();
                debug!(%error, "acknowledgements were not noted and are tried again");
                let lost = self.receipts.put_back(group);
                self.metrics.receipts_lost.inc_by(lost as u64);
                return Err(());
            }
        }
        Ok(noted)
    }

    /// Adds the counts of shared streams.
    async fn note_shared(&self) {
        let counts = self.receipts.take_shared();
        for group in counts.chunks(GROUP) {
            match self.inbox.delivered_shared(group.to_vec(), self.clock.now()).await {
                Ok(()) => {}
                Err(InboxError::Unavailable(error)) => {
                    self.metrics.receipt_failures.inc();
                    debug!(%error, "acknowledgements of shared streams were not counted and are tried again");
                    for one in group {
                        if !self.receipts.count(&one.stream, one.epoch, one.seq, one.devices) {
                            self.metrics.receipts_lost.inc_by(one.devices);
                        }
                    }
                }
                // It may have counted: rather too few than a device that does not exist.
                Err(error) => {
                    let devices: u64 = group.iter().map(|one| one.devices).sum();
                    self.lose(&error, usize::try_from(devices).unwrap_or(usize::MAX));
                }
            }
        }
    }

    fn lose(&self, error: &InboxError, receipts: usize) {
        debug!(%error, "{receipts} acknowledgements were not noted");
        self.metrics.receipt_failures.inc();
        self.metrics.receipts_lost.inc_by(receipts as u64);
    }

    /// Counts of shared streams, with the cursors; at the end of the node also what else waits.
    pub(super) async fn commit_receipts(&self, all: bool) {
        if all {
            while matches!(self.note_group().await, Ok(1..)) {}
        }
        self.note_shared().await;
    }
}
