//! Head checks: the positions of this node's sessions beside the heads in the inbox.
//!
//! Whatever the broker, presence or this node lost on the way is found here. All streams are gone
//! through in each round, a tenth at a time, so that a round costs no burst.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use super::Delivery;
use super::connection::Connection;
use crate::broker::{Destination, Health};
use crate::domain::{ConnectionId, Epoch, Seq, Stream};
use crate::session::Next;
use crate::wire::envelope::Item;

/// Into how many parts a round is divided.
const SLICES: u64 = 10;
/// How many streams are asked for in one call.
const GROUP: usize = 500;
/// How many connections are ended at a time.
const RESETS: usize = 256;

/// Who reads each stream, and where their sessions stood before heads were asked for.
type Asked = HashMap<Stream, Vec<(Arc<Connection>, Seq)>>;

impl Delivery {
    /// Checks heads, for ever: at the usual pace, faster while blind or without a broker, and in one
    /// quicker round after something came back.
    pub(super) async fn check_heads(self: Arc<Self>) {
        let (mut slice, mut quick) = (0, 0);
        let parts = u32::try_from(SLICES).unwrap_or(1);
        let mut due = Instant::now() + self.round(false) / parts;
        loop {
            tokio::select! {
                biased; // Only so that simulations replay.
                () = self.cancel.cancelled() => return,
                () = tokio::time::sleep_until(due) => {
                    self.check_slice(slice).await;
                    slice = (slice + 1) % SLICES;
                    quick = u64::saturating_sub(quick, 1);
                    due = Instant::now() + self.round(quick > 0) / parts;
                }
                () = self.check_soon.notified() => {
                    // Never later than planned, however often this comes.
                    quick = SLICES + 1;
                    due = due.min(Instant::now() + self.round(true) / parts);
                }
            }
        }
    }

    /// Envelopes were lost both ways: to this node, which checks its heads, and from it. Nobody else may have noticed
    /// that this node was away, so it asks all others to check theirs. However often a node asks, they do so at the
    /// pace of a quick round at most. Dropped, the others may not have been asked.
    pub(super) async fn check_heads_everywhere(&self) {
        self.check_heads_soon();
        // Where all nodes were away they do not call all at once.
        let moment = self.settings.recovery_check / u32::try_from(SLICES).unwrap_or(1);
        tokio::time::sleep(moment.mul_f64(self.clock.random_range(0.0..1.0))).await;
        let call = Item::CheckHeads { node: self.node.clone() };
        // Not taken: the broker is away once more, and this comes again when it is back.
        let _ = self.broker.send(Destination::All, call.encode());
    }

    fn round(&self, quick: bool) -> Duration {
        let settings = &self.settings;
        if self.keeper.is_blind() || *self.broker.health().borrow() != Health::Up {
            settings.blind_check
        } else if quick {
            settings.recovery_check
        } else {
            settings.head_check
        }
    }

    async fn check_slice(self: &Arc<Self>, slice: u64) {
        let mut asked = Asked::new();
        for connection in self.hub.all_where(|connection| spread(connection.id) % SLICES == slice) {
            note(&mut asked, &connection);
        }
        let shared = self.shared.positions();
        if slice == 0 {
            shared.keys().for_each(|stream| {
                asked.entry(stream.clone()).or_default();
            });
        }
        let mut streams: Vec<Stream> = asked.keys().cloned().collect();
        streams.sort_unstable();
        for group in streams.chunks(GROUP) {
            match self.inbox.heads(group).await {
                Ok(heads) => {
                    for (stream, head) in group.iter().zip(heads) {
                        let mut node = shared.get(stream).copied().unwrap_or_default();
                        if stream.is_shared() {
                            node = self.take_shared_head(stream, head.epoch, head.head, node);
                        }
                        let readers = asked.remove(stream).unwrap_or_default();
                        self.take_head(stream, head.epoch, head.head, readers, node);
                        self.compare_reads(stream, head.reads);
                    }
                }
                Err(error) => debug!(%error, "heads were not compared; the next round tries again"),
            }
        }
    }

    /// A mark that a connection was not told of is asked for.
    fn compare_reads(self: &Arc<Self>, stream: &Stream, reads: u64) {
        if let Stream::User(user) = stream {
            for connection in self.hub.of_user(user) {
                if connection.misses_reads(reads) {
                    self.ask_for_missed(&connection);
                }
            }
        }
    }

    /// `stream` stands at `head`; `readers` are connections with their sessions' positions from before it was asked for,
    /// and `node` says from where on this node brings everything in a shared stream.
    pub(super) fn take_head(
        self: &Arc<Self>,
        stream: &Stream,
        epoch: Epoch,
        head: Seq,
        readers: impl IntoIterator<Item = (Arc<Connection>, Seq)>,
        node: Seq,
    ) {
        let followed = stream.is_shared() && self.shared.holds(stream);
        let mut reset = Vec::new();
        for (connection, before) in readers {
            if connection.has_ended() {
                continue;
            }
            let (next, was_live) = connection.with_session(|session| {
                let was_live = session.is_live(stream, epoch);
                // The node reads a shared stream's gap once for all; a session reads what it alone missed.
                let with_node =
                    followed && head >= before && was_live && session.position(stream) >= Some(node);
                let next = if with_node { Next::Wait } else { session.head(stream, epoch, head, before) };
                (next, was_live)
            });
            match next {
                Next::Wait | Next::Lagged => {}
                Next::Read => {
                    // Who is held back, or reads already, is behind for that.
                    self.metrics.head_repairs.inc_by(u64::from(was_live));
                    self.reader.want(&connection, stream.clone());
                }
                Next::Reset => reset.push(connection),
            }
        }
        if !reset.is_empty() {
            self.spawn_resets(reset);
        }
    }

    /// After a restore that may be all connections of the node: others run in between.
    fn spawn_resets(self: &Arc<Self>, connections: Vec<Arc<Connection>>) {
        self.tracker.spawn(async move {
            for batch in connections.chunks(RESETS) {
                batch.iter().for_each(Connection::reset);
                tokio::task::yield_now().await;
            }
        });
    }
}

fn note(asked: &mut Asked, connection: &Arc<Connection>) {
    connection.with_session(|session| {
        for (stream, status) in session.status() {
            asked.entry(stream.clone()).or_default().push((Arc::clone(connection), status.position));
        }
    });
}

/// Spreads connections over slots: their random bits, mixed.
pub(super) fn spread(id: ConnectionId) -> u64 {
    id.as_u64().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40
}
