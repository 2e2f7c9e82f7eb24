//! Read state: what a user reads on one device shows on all of them.
//!
//! Each connection is told of each mark once and in order, by the user's counter of marks. One that missed a
//! mark (a lost envelope, a full socket) asks the inbox for what came after the last that it was told of.

use std::sync::Arc;

use tracing::debug;

use super::Delivery;
use super::connection::{Connection, Phase};
use crate::domain::{Stream, UserId};
use crate::inbox::{InboxError, Mark, Marked, ReadChange, Unread};
use crate::session::Flow;
use crate::wire::server::{self, ErrorCode};

/// How many ids are asked for when marks were missed: a third of what may be queued for a socket.
const MAX_MISSED: u32 = 2_000;
/// How many ids go in one frame.
const FRAME_IDS: usize = 400;

/// How a connection stands in the marks of its user.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// What it was last told: every mark up to this one, and the newest count. Before `welcome`: the highest mark
    /// that it heard of.
    now: Unread,
    /// The highest mark that it heard of since marks were last asked for.
    heard: u64,
    missed: Missed,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Missed {
    #[default]
    Nothing,
    /// Marks that are to be asked for.
    Some,
    /// They are being asked for.
    Asked,
}

impl Told {
    /// `welcome` says how things stand; what was marked since then is missed.
    pub(super) fn welcomed(&mut self, now: Unread) {
        let missed = if self.now.reads > now.reads { Missed::Some } else { Missed::Nothing };
        *self = Self { now, heard: self.now.reads, missed };
    }

    /// It is told of all marks up to `now.reads`. A count is of its own moment: the newest holds.
    fn take(&mut self, now: Unread) {
        let reads = self.now.reads.max(now.reads);
        let newest = if now.version >= self.now.version { now } else { self.now };
        self.now = Unread { reads, ..newest };
    }

    /// Whether marks are owed that a full socket had no room for.
    pub(super) fn is_owed(&self) -> bool {
        self.missed == Missed::Some
    }
}

impl Connection {
    /// Tells of a mark, if it is the next. Returns whether marks are missing that have to be asked for.
    fn tell_read(&self, stream: &Stream, marked: &Marked, now: Unread) -> bool {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.phase == Phase::Arriving {
            state.told.now.reads = state.told.now.reads.max(now.reads);
            return false;
        }
        if state.phase == Phase::Ended || now.reads <= state.told.now.reads {
            return false;
        }
        state.told.heard = state.told.heard.max(now.reads);
        // A lower version was counted before marks that are told already, or is of a life of the store that a restore has
        // ended: the inbox knows.
        let is_next = now.reads == state.told.now.reads + 1 && now.version >= state.told.now.version;
        if !is_next || state.session.is_congested() {
            state.told.missed = state.told.missed.max_some();
            return !state.session.is_congested();
        }
        state.told.take(now);
        if self.outlet.push(server::read(None, stream, marked, now.unread, now.version)) == Flow::Full {
            state.session.congested();
        }
        false
    }

    /// Answers the one that marked. Returns whether marks of others are missing before it.
    fn answer_read(&self, id: Option<u64>, stream: &Stream, marked: &Marked, now: Unread) -> bool {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.phase != Phase::Welcomed {
            return false;
        }
        // A mark that changed nothing has no number of its own: the last one is somebody else's.
        let own = u64::from(!marked.is_empty());
        state.told.heard = state.told.heard.max(now.reads);
        let missed = now.reads > state.told.now.reads + own;
        if missed {
            state.told.missed = state.told.missed.max_some();
        } else {
            state.told.take(now);
        }
        let Unread { unread, version, .. } = state.told.now;
        if self.outlet.push(server::read(id, stream, marked, unread, version)) == Flow::Full {
            state.session.congested();
        }
        missed
    }

    /// The inbox counts `reads` marks. Returns whether some are missing here.
    pub(super) fn misses_reads(&self, reads: u64) -> bool {
        let mut state = self.lock();
        let behind = state.phase == Phase::Welcomed && state.told.now.reads < reads;
        if behind {
            state.told.heard = state.told.heard.max(reads);
            state.told.missed = state.told.missed.max_some();
        }
        behind
    }

    /// After which mark to ask, unless that is under way.
    fn begin_asking(&self) -> Option<u64> {
        let mut state = self.lock();
        let wanted = state.phase == Phase::Welcomed
            && state.told.missed == Missed::Some
            && !state.session.is_congested();
        if wanted {
            state.told.missed = Missed::Asked;
            // What is heard from now on may be later than the answer.
            state.told.heard = state.told.now.reads;
        }
        wanted.then_some(state.told.now.reads)
    }

    /// Tells what was missed. Returns whether more was marked after the answer was made: then it is asked for, too.
    fn take_missed(&self, changes: &[ReadChange], now: Unread) -> bool {
        let mut guard = self.lock();
        let state = &mut *guard;
        let is_news = now.reads > state.told.now.reads;
        state.told.take(now);
        let is_behind = state.told.heard > state.told.now.reads;
        state.told.missed = if is_behind { Missed::Some } else { Missed::Nothing };
        if state.phase != Phase::Welcomed || !is_news {
            return state.phase == Phase::Welcomed && is_behind;
        }
        let Unread { unread, version, .. } = state.told.now;
        let frames = changes.iter().flat_map(|change| {
            pieces(&change.marked).into_iter().map(|marked| (change.stream.clone(), marked))
        });
        // What was marked may be gone since; the count and its version are told all the same.
        let counts = changes.is_empty().then(|| (Stream::User(self.user.clone()), Marked::Ids(Vec::new())));
        for (stream, marked) in frames.chain(counts) {
            let frame = server::read(None, &stream, &marked, unread, version);
            if self.outlet.push(frame) == Flow::Full {
                state.session.congested();
            }
        }
        state.told.is_owed()
    }

    fn asking_failed(&self) {
        self.lock().told.missed = Missed::Some;
    }
}

impl Missed {
    /// What is asked for already is not asked for twice.
    fn max_some(self) -> Self {
        if self == Self::Asked { Self::Asked } else { Self::Some }
    }
}

/// In parts that fit a frame.
fn pieces(marked: &Marked) -> Vec<Marked> {
    match marked {
        Marked::Ids(ids) => ids.chunks(FRAME_IDS).map(|ids| Marked::Ids(ids.to_vec())).collect(),
        Marked::UpTo(seq) => vec![Marked::UpTo(*seq)],
    }
}

impl Delivery {
    /// Marks as read for `user`, and tells all connections of the user, on this node and others. Answers
    /// what that changed and how things stand.
    ///
    /// # Errors
    /// [`InboxError`]: whether it was marked is unknown. Dropping the future may leave it marked and not told;
    /// head checks tell.
    pub async fn mark_read(
        self: &Arc<Self>,
        user: &UserId,
        mark: &Mark,
    ) -> Result<(Marked, Unread), InboxError> {
        let (marked, now) = self.inbox.mark_read(user, mark, self.clock.now()).await?;
        if !marked.is_empty() {
            self.router.send_read(user, &mark.stream, &marked, now).await;
        }
        Ok((marked, now))
    }

    /// A client's `read` frame.
    pub(super) async fn read_by(self: &Arc<Self>, connection: &Arc<Connection>, id: Option<u64>, mark: Mark) {
        if !connection.with_session(|session| session.follows(&mark.stream)) {
            let message = "this stream is not followed";
            return connection.push(server::error(id, ErrorCode::NotFollowed, message));
        }
        match self.inbox.mark_read(&connection.user, &mark, self.clock.now()).await {
            Ok((marked, now)) => {
                // Before the others are told, so that this one hears of it once, with its own id.
                if connection.answer_read(id, &mark.stream, &marked, now) {
                    self.ask_for_missed(connection);
                }
                if !marked.is_empty() {
                    self.router.send_read(&connection.user, &mark.stream, &marked, now).await;
                }
            }
            Err(error) => {
                debug!(%error, "nothing was marked as read");
                connection.push(server::error(id, ErrorCode::Unavailable, "the inbox is not available"));
            }
        }
    }

    /// A mark was made somewhere.
    pub(super) fn hear_read(self: &Arc<Self>, user: &UserId, stream: &Stream, marked: &Marked, now: Unread) {
        for connection in self.hub.of_user(user) {
            // It may be what is read.
            self.flush(&connection, stream);
            if connection.tell_read(stream, marked, now) {
                self.ask_for_missed(&connection);
            }
        }
    }

    /// Asks the inbox for the marks that a connection missed. At most once at a time; what fails, the next head
    /// check asks again.
    pub(super) fn ask_for_missed(self: &Arc<Self>, connection: &Arc<Connection>) {
        let Some(reads) = connection.begin_asking() else {
            return;
        };
        let (delivery, connection) = (Arc::clone(self), Arc::clone(connection));
        self.tracker.spawn(async move {
            let now = delivery.clock.now();
            match delivery.inbox.read_since(&connection.user, reads, MAX_MISSED, now).await {
                Ok((changes, now)) => {
                    delivery.metrics.read_repairs.inc();
                    changes.iter().for_each(|change| delivery.flush(&connection, &change.stream));
                    if connection.take_missed(&changes, now) {
                        delivery.ask_for_missed(&connection);
                    }
                }
                Err(error) => {
                    debug!(%error, "missed marks were not read; the next head check asks again");
                    connection.asking_failed();
                }
            }
        });
    }
}
