//! Topics and everyone: one position and a small tail for each, kept once a node.
//!
//! Whoever is a little behind reads the tail instead of the inbox, and a gap is read once for all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::mpsc;
use tracing::debug;

use super::Delivery;
use super::followed::{Arrived, Followed};
use crate::domain::{Epoch, Seq, Stream, TopicName};
use crate::inbox::{Audience, Page, Read};
use crate::metrics::delivery::ReadLabels;
use crate::session::{Next, ReadFrom};

/// How many items of shared streams may wait for the task that orders them; more are dropped and counted.
const INTAKE: usize = 4_096;
/// How many of them are taken at once: what has queued for one stream goes to each connection in one write.
const RUN: usize = 16;

/// Whether somebody who opened a shared stream was the first of this node; perhaps of another life of it.
enum Begun {
    Now,
    Before,
    InAnotherLife,
}

/// The shared streams of this node.
pub(super) struct SharedStreams {
    streams: Mutex<HashMap<Stream, Followed>>,
    intake: mpsc::Sender<Arrived>,
    arrivals: Mutex<Option<mpsc::Receiver<Arrived>>>,
    count: Gauge,
}

impl SharedStreams {
    pub(super) fn new(count: Gauge) -> Self {
        let (intake, arrivals) = mpsc::channel(INTAKE);
        Self { streams: Mutex::default(), intake, arrivals: Mutex::new(Some(arrivals)), count }
    }

    /// The node follows the stream from `head`, if not yet.
    fn begin(&self, stream: &Stream, epoch: Epoch, head: Seq) -> Begun {
        let mut streams = self.lock();
        match streams.get(stream) {
            None => {
                streams.insert(stream.clone(), Followed::new(epoch, head));
                self.count.inc();
                Begun::Now
            }
            Some(shared) if shared.epoch == epoch => Begun::Before,
            Some(_) => Begun::InAnotherLife,
        }
    }

    /// Forgets the topic unless it is still followed. Asked under the lock: whoever follows it from now on is in the
    /// hub before it comes here to begin it, and begins it anew.
    fn forget(&self, topic: &TopicName, is_followed: impl FnOnce() -> bool) {
        let mut streams = self.lock();
        if !is_followed() && streams.remove(&Stream::Topic(topic.clone())).is_some() {
            self.count.dec();
        }
    }

    /// The streams that the node follows and where it stands in each.
    pub(super) fn positions(&self) -> HashMap<Stream, Seq> {
        self.lock().iter().map(|(stream, shared)| (stream.clone(), shared.position)).collect()
    }

    /// Whether the node follows the stream.
    pub(super) fn holds(&self, stream: &Stream) -> bool {
        self.lock().contains_key(stream)
    }

    /// A page from the tail, if it reaches back far enough and is of the same life of the stream: after a
    /// restore some sessions know of the new one before the tail does, others after it.
    pub(super) fn page(&self, stream: &Stream, from: &ReadFrom) -> Option<Page> {
        let streams = self.lock();
        let shared = streams.get(stream).filter(|shared| shared.epoch == from.epoch)?;
        shared.page(from.after, from.entries, from.bytes)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Stream, Followed>> {
        // A tail that a panic left half-changed is at worst too short.
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Delivery {
    /// Somebody opened the stream when it stood at `head`: the node follows it from there, and what is up to there
    /// is offered to nobody any more. Whoever opened it earlier, and is welcomed later, has to come as far by a read.
    pub(super) fn begin_shared(self: &Arc<Self>, stream: &Stream, epoch: Epoch, head: Seq) {
        match self.shared.begin(stream, epoch, head) {
            Begun::Now => {}
            Begun::Before => return,
            // Which of the two is over, the inbox says.
            Begun::InAnotherLife => return self.check_heads_soon(),
        }
        for connection in self.hub.readers(stream) {
            match connection.with_session(|session| session.head(stream, epoch, head, Seq(0))) {
                Next::Read => self.reader.want(&connection, stream.clone()),
                Next::Reset => connection.reset(),
                Next::Wait | Next::Lagged => {}
            }
        }
        if let Stream::Topic(topic) = stream {
            // Who opened it may have ended since: then nobody would be the last to leave it.
            self.forget_unfollowed(topic);
        }
    }

    /// Forgets the topic if nobody here follows it. Idempotent.
    pub(super) fn forget_unfollowed(&self, topic: &TopicName) {
        self.shared.forget(topic, || self.hub.has_topic(topic));
    }

    /// Queues an item of a shared stream for the task that orders them.
    pub(super) fn queue_shared(&self, arrived: Arrived) {
        if self.shared.intake.try_send(arrived).is_err() {
            self.metrics.intake_dropped.inc();
            self.check_heads_soon();
        }
    }

    /// Orders what arrives for shared streams and offers it.
    pub(super) async fn take_shared(self: Arc<Self>) {
        let taken = self.shared.arrivals.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut arrivals) = taken else { return };
        let mut group = Vec::new();
        loop {
            let count = tokio::select! {
                biased; // Only so that simulations replay.
                () = self.cancel.cancelled() => return,
                count = arrivals.recv_many(&mut group, RUN) => count,
            };
            if count == 0 {
                return;
            }
            let in_order: Vec<Arrived> = group.drain(..).flat_map(|one| self.take_arrived(one)).collect();
            for run in in_order.chunk_by(|one, next| one.entry.stream == next.entry.stream) {
                self.offer(run);
                // Each may go to thousands: let others run in between.
                tokio::task::yield_now().await;
            }
        }
    }

    /// An entry arrives. Answers what can be offered now, in order.
    fn take_arrived(self: &Arc<Self>, arrived: Arrived) -> Vec<Arrived> {
        let stream = arrived.entry.stream.clone();
        let (in_order, read) = {
            let mut streams = self.shared.lock();
            let Some(shared) = streams.get_mut(&stream) else {
                // Nobody has opened it yet: sessions that register meanwhile remember the number.
                return vec![arrived];
            };
            if arrived.entry.epoch != shared.epoch {
                // Which of the two is over, the inbox says.
                drop(streams);
                self.check_heads_soon();
                return Vec::new();
            }
            if arrived.entry.seq <= shared.position {
                self.metrics.duplicates.inc();
                return Vec::new();
            }
            shared.sort_in(arrived)
        };
        if read {
            self.spawn_shared_read(stream);
        }
        in_order
    }

    /// The inbox says where a shared stream stands; `before` is the node's position when it was asked (0 where
    /// that is unknown). A head under it means that the stream began anew, whatever its epoch. Returns from where on the
    /// node brings everything: sessions below it have to read.
    pub(super) fn take_shared_head(
        self: &Arc<Self>,
        stream: &Stream,
        epoch: Epoch,
        head: Seq,
        before: Seq,
    ) -> Seq {
        let read = {
            let mut streams = self.shared.lock();
            let Some(shared) = streams.get_mut(stream) else {
                return before;
            };
            if shared.epoch != epoch || head < before {
                *shared = Followed::new(epoch, head);
                return head;
            }
            shared.known = shared.known.max(head);
            shared.known > shared.position && !std::mem::replace(&mut shared.reading, true)
        };
        if read {
            self.metrics.head_repairs.inc();
            self.spawn_shared_read(stream.clone());
        }
        before
    }

    fn spawn_shared_read(self: &Arc<Self>, stream: Stream) {
        let delivery = Arc::clone(self);
        self.tracker.spawn(async move {
            tokio::time::sleep(delivery.settings.gap_grace).await;
            while delivery.read_shared(&stream).await {}
        });
    }

    /// Reads one page of a gap and queues it like pushed entries. Returns whether to go on.
    async fn read_shared(self: &Arc<Self>, stream: &Stream) -> bool {
        let after = {
            let mut streams = self.shared.lock();
            let Some(shared) = streams.get_mut(stream) else {
                return false;
            };
            if shared.position >= shared.known {
                shared.reading = false;
                return false;
            }
            shared.position
        };
        self.metrics.reads.get_or_create(&ReadLabels { why: "shared" }).inc();
        let read = Read {
            stream: stream.clone(),
            after,
            audience: Audience::All,
            max_entries: self.settings.page_entries,
            max_bytes: self.settings.window.bytes,
        };
        let page = match self.inbox.read(vec![read], self.clock.now()).await {
            Ok(mut pages) if !pages.is_empty() => pages.remove(0),
            Ok(_) | Err(_) => {
                self.metrics.read_failures.inc();
                debug!("a gap of a shared stream was not read; the next head check tries again");
                if let Some(shared) = self.shared.lock().get_mut(stream) {
                    shared.reading = false;
                }
                return false;
            }
        };
        self.take_shared_page(stream, after, page)
    }

    fn take_shared_page(self: &Arc<Self>, stream: &Stream, after: Seq, page: Page) -> bool {
        let (in_order, more) = {
            let mut streams = self.shared.lock();
            let Some(shared) = streams.get_mut(stream) else {
                return false;
            };
            if shared.epoch != page.epoch || page.head < after {
                // The check finds the same, for this tail and for all sessions.
                shared.reading = false;
                drop(streams);
                self.check_heads_soon();
                return false;
            }
            if shared.position < after {
                return true;
            }
            // Under the same lock, so that no arrival between here and there relies on this read.
            shared.take(stream, after, page)
        };
        self.offer(&in_order);
        more
    }
}
