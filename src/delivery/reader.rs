//! Reads that close gaps: whoever is behind is queued here, and what queues is read together.
//!
//! At most one read for each stream of each connection is under way (the session sees to that), so the
//! queue is bounded by what is connected.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tracing::debug;

use super::Delivery;
use super::connection::Connection;
use crate::domain::{Seq, Stream};
use crate::inbox::{Audience, Page, Read};
use crate::metrics::delivery::ReadLabels;
use crate::session::{Next, ReadFrom};

/// How many reads go in one call to the inbox.
const GROUP: usize = 64;
/// How many calls are in flight.
const CALLS: usize = 4;
/// How long after a failed read the next one is tried, at least; the head check tries too.
const RETRY_MIN: Duration = Duration::from_millis(500);
/// And at most.
const RETRY_MAX: Duration = Duration::from_millis(1_500);

/// Who wants to read what.
#[derive(Default)]
pub(super) struct Reader {
    wanted: Mutex<Vec<Want>>,
    arrived: Notify,
}

struct Want {
    connection: Arc<Connection>,
    stream: Stream,
    not_before: Option<Instant>,
}

/// A read that has begun.
struct Begun {
    connection: Arc<Connection>,
    stream: Stream,
    from: ReadFrom,
}

impl Reader {
    /// Reads for `connection` as soon as may be.
    pub(super) fn want(&self, connection: &Arc<Connection>, stream: Stream) {
        self.queue(connection, stream, None);
    }

    fn queue(&self, connection: &Arc<Connection>, stream: Stream, not_before: Option<Instant>) {
        let want = Want { connection: Arc::clone(connection), stream, not_before };
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).push(want);
        self.arrived.notify_one();
    }

    /// Those that are due, and when the next of the others is.
    fn due(&self, now: Instant) -> (Vec<Want>, Option<Instant>) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let (due, later): (Vec<Want>, Vec<Want>) =
            wanted.drain(..).partition(|want| want.not_before.is_none_or(|at| at <= now));
        let next = later.iter().filter_map(|want| want.not_before).min();
        *wanted = later;
        (due, next)
    }
}

impl Reader {
    /// Reads after the gap had a few milliseconds to close by itself.
    pub(super) fn want_later(&self, connection: &Arc<Connection>, stream: Stream, after: Duration) {
        self.queue(connection, stream, Some(Instant::now() + after));
    }
}

impl Delivery {
    /// Reads what is wanted, for ever.
    pub(super) async fn read_gaps(self: Arc<Self>) {
        let calls = Arc::new(Semaphore::new(CALLS));
        loop {
            let (due, next) = self.reader.due(Instant::now());
            if due.is_empty() {
                let next = next.unwrap_or_else(|| Instant::now() + Duration::from_secs(3_600));
                tokio::select! {
                    biased; // Only so that simulations replay.
                    () = self.cancel.cancelled() => return,
                    () = self.reader.arrived.notified() => {}
                    () = tokio::time::sleep_until(next) => {}
                }
                continue;
            }
            let begun = due.into_iter().filter_map(|want| self.begin(want)).collect::<Vec<_>>();
            let mut begun = begun.into_iter().peekable();
            while begun.peek().is_some() {
                let group: Vec<Begun> = begun.by_ref().take(GROUP).collect();
                let Ok(permit) = Arc::clone(&calls).acquire_owned().await else {
                    return;
                };
                let delivery = Arc::clone(&self);
                self.tracker.spawn(async move {
                    delivery.read_group(group).await;
                    drop(permit);
                });
            }
        }
    }

    /// Begins a read, unless it is not needed any more. What a tail holds is answered at once.
    fn begin(self: &Arc<Self>, want: Want) -> Option<Begun> {
        let Want { connection, stream, .. } = want;
        let from = connection.begin_read(&stream, self.clock.now())?;
        if stream.is_shared()
            && let Some(page) = self.shared.page(&stream, &from)
        {
            self.give(&connection, &stream, from.after, &page);
            return None;
        }
        Some(Begun { connection, stream, from })
    }

    async fn read_group(self: &Arc<Self>, group: Vec<Begun>) {
        let reads = group.iter().map(|begun| Read {
            stream: begun.stream.clone(),
            after: begun.from.after,
            audience: Audience::Device(begun.connection.device.clone()),
            max_entries: self
                .settings
                .page_entries
                .min(u32::try_from(begun.from.entries).unwrap_or(u32::MAX)),
            max_bytes: begun.from.bytes,
        });
        self.metrics.reads.get_or_create(&ReadLabels { why: "session" }).inc_by(group.len() as u64);
        match self.inbox.read(reads.collect(), self.clock.now()).await {
            Ok(pages) => {
                for (begun, page) in group.iter().zip(pages) {
                    self.give(&begun.connection, &begun.stream, begun.from.after, &page);
                }
            }
            Err(error) => {
                self.metrics.read_failures.inc_by(group.len() as u64);
                debug!(%error, "reads for {} sessions failed and are tried again", group.len());
                for begun in group {
                    begun.connection.read_failed(&begun.stream);
                    let retry = self.clock.random_range(RETRY_MIN..RETRY_MAX);
                    self.reader.want_later(&begun.connection, begun.stream, retry);
                }
            }
        }
    }

    fn give(self: &Arc<Self>, connection: &Arc<Connection>, stream: &Stream, after: Seq, page: &Page) {
        let (given, sent, next) = connection.take_page(stream, after, page, self.clock.now());
        self.given(connection, given);
        self.metrics.delivered.inc_by(sent);
        // Also if it brought nothing but a gap, which is acknowledged, too.
        self.ask_for_ack(connection);
        match next {
            Next::Wait => {}
            Next::Lagged => {
                self.metrics.lagged.inc();
            }
            // Something above this snapshot was offered: its commit is visible soon.
            Next::Read if sent == 0 && page.through >= page.head => {
                self.reader.want_later(connection, stream.clone(), self.settings.gap_grace);
            }
            Next::Read => self.reader.want(connection, stream.clone()),
            Next::Reset => connection.reset(),
        }
    }
}
