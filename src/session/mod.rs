//! A session: the protocol state of one connection, as a value.
//!
//! Owns, for each stream that the connection follows, how far it has gone and what is
//! unacknowledged, and decides what is sent, skipped, held back or has to be read. Pure: it
//! never writes, waits, reads a clock or logs; whoever owns it carries out what it says, while
//! no other call is made on the same session.
//!
//! The rules it keeps (an interleaving that breaks one loses something):
//! - A pushed entry with seq = position + 1 is sent; a lower one is a duplicate; a higher one is
//!   a gap and has to be read.
//! - While it is not live it keeps one number, the highest seq offered, and goes live only when
//!   its position has reached that.
//! - After a page the position is the page's `through`, whatever seqs were absent.
//! - What waits for its collapse key's time counts as not sent: it is acknowledged, and passed by what comes after it, no
//!   sooner than it is written, or dropped for a newer one of its key.
//! - It lives in one epoch of each stream. Another one, or a head under its position, ends the connection: where
//!   a stream begins anew is decided in one place only, where connections begin.

mod conflation;
mod follow;
mod rules;
mod sent;
mod shapes;

pub use follow::{Place, ReadFrom};
pub use rules::Rules;
pub use shapes::{
    AckError, Acked, Flow, FollowStatus, Next, Offered, PageView, Phase, Pushed, Released, Step, Verdict,
    Window,
};

use std::sync::Arc;
use std::time::Duration;

use crate::domain::{DeviceId, Epoch, Seq, Stream, UnixMillis};
use crate::wire::Frame;
use follow::Follow;

/// The protocol state of one connection.
#[derive(Debug)]
pub struct Session {
    device: Option<DeviceId>,
    window: Window,
    rules: Rules,
    /// How far apart pushed updates of one collapse key are written, at least. Zero: as they come.
    conflation: Duration,
    congested: bool,
    /// In [order](order).
    follows: Vec<Follow>,
}

impl Session {
    /// A session that follows nothing yet.
    pub fn new(device: Option<DeviceId>, window: Window, rules: Rules) -> Self {
        Self { device, window, rules, conflation: Duration::ZERO, congested: false, follows: Vec::new() }
    }

    /// The same, which writes pushed updates of one collapse key at most once in `window`, the newest only. Zero: as they
    /// come.
    #[must_use]
    pub fn conflating(self, window: Duration) -> Self {
        Self { conflation: window, ..self }
    }

    /// The same, which will follow so many streams.
    #[must_use]
    pub fn with_room_for(mut self, streams: usize) -> Self {
        self.follows.reserve_exact(streams);
        self
    }

    /// Registers an interest: from now on offers to `stream` are remembered. It is not live before
    /// [`Session::open`] and a page. Many sessions may share one name.
    pub fn follow(&mut self, stream: impl Into<Arc<Stream>>) {
        let stream = stream.into();
        if let Err(at) = self.find(&stream) {
            if self.follows.len() == self.follows.capacity() {
                // Twice the room, as a list takes it by itself, would stay half empty for as long as the connection is.
                self.follows.reserve_exact(2.max(self.follows.len() / 8));
            }
            self.follows.insert(at, Follow::new(stream));
        }
    }

    /// Gives a followed stream its place. Has no effect on one that has its place already.
    pub fn open(&mut self, stream: &Stream, place: Place) {
        if let Some(follow) = self.follow_of(stream) {
            follow.open(place);
        }
    }

    /// Forgets a stream. Returns where its cursor stood.
    pub fn unfollow(&mut self, stream: &Stream) -> Option<(Epoch, Seq)> {
        let at = self.find(stream).ok()?;
        self.follows.remove(at).take_moved()
    }

    /// Whether `stream` is followed.
    pub fn follows(&self, stream: &Stream) -> bool {
        self.find(stream).is_ok()
    }

    /// Takes a pushed entry.
    pub fn offer(&mut self, stream: &Stream, epoch: Epoch, entry: Offered<'_>, now: UnixMillis) -> Verdict {
        let bounds = (self.window, self.rules, self.congested, self.conflation);
        let mine = !self.rules.skip_others || is_for(self.device.as_ref(), entry.device);
        match self.follow_of(stream) {
            Some(follow) => follow.offer(epoch, entry, mine, now, bounds),
            None => Verdict::Skip,
        }
    }

    /// What to read next for `stream`, if it is behind, may send and no read is in flight. The
    /// caller must answer with [`Session::page`] or [`Session::read_failed`].
    pub fn begin_read(&mut self, stream: &Stream, now: UnixMillis) -> Option<ReadFrom> {
        let (window, congested) = (self.window, self.congested);
        self.follow_of(stream)?.begin_read(window, congested, now)
    }

    /// Takes what was read. Calls `act` for each step, in order; a `Send` answers whether the
    /// connection takes more. Call [`Session::flush`] before it.
    pub fn page(
        &mut self,
        stream: &Stream,
        page: PageView<'_>,
        now: UnixMillis,
        mut act: impl FnMut(Step) -> Flow,
    ) -> Next {
        let Ok(at) = self.find(stream) else {
            return Next::Wait;
        };
        let Self { device, window, rules, congested, follows, .. } = self;
        let mine = |entry: &Offered<'_>| is_for(device.as_ref(), entry.device);
        let next = follows[at].page(page, mine, now, (*window, *rules), congested, &mut act);
        if next == Next::Read && *congested { Next::Lagged } else { next }
    }

    /// Writes what has waited long enough, and all that is before it, in order, until the connection is full. `act`
    /// writes a frame and answers whether the connection takes more.
    pub fn release(&mut self, now: UnixMillis, mut act: impl FnMut(Frame) -> Flow) -> Released {
        let mut released = Released::default();
        for follow in &mut self.follows {
            if self.congested {
                break;
            }
            let (more, flow) = follow.release(false, self.conflation, now, &mut act);
            released.sent += more.sent;
            released.expired += more.expired;
            self.congested = flow == Flow::Full;
        }
        released
    }

    /// Writes whatever waits in `stream`, as [`Session::release`] does: something is to be said that must not pass it.
    pub fn flush(
        &mut self,
        stream: &Stream,
        now: UnixMillis,
        mut act: impl FnMut(Frame) -> Flow,
    ) -> Released {
        let window = self.conflation;
        if self.congested {
            return Released::default();
        }
        let Some(follow) = self.follow_of(stream) else {
            return Released::default();
        };
        let (released, flow) = follow.release(true, window, now, &mut act);
        self.congested = flow == Flow::Full;
        released
    }

    /// When to call [`Session::release`] next; `None` if nothing waits, or for the connection only.
    pub fn wait(&self, now: UnixMillis) -> Option<Duration> {
        let waits = self.follows.iter().filter_map(|follow| follow.wait(self.conflation, now));
        waits.min().filter(|_| !self.congested)
    }

    /// How many entries were dropped since the last call, as a newer one of their collapse key came while they waited.
    pub fn take_merged(&mut self) -> u64 {
        self.follows.iter_mut().map(Follow::take_merged).sum()
    }

    /// Forgets what it does not have to know any more: of collapse keys, and of streams in which nothing goes on.
    pub fn forget_quiet(&mut self, now: UnixMillis) {
        let window = self.conflation;
        self.follows.iter_mut().for_each(|follow| follow.forget_quiet(window, now));
    }

    /// The read failed: the next head check tries again.
    pub fn read_failed(&mut self, stream: &Stream) {
        if let Some(follow) = self.follow_of(stream) {
            follow.read_failed();
        }
    }

    /// The connection takes no more for now: nothing is sent until [`Session::drained`].
    pub fn congested(&mut self) {
        self.congested = true;
    }

    /// Whether the connection takes nothing now.
    pub fn is_congested(&self) -> bool {
        self.congested
    }

    /// Whether the client is slower than one of its streams.
    pub fn is_lagged(&self) -> bool {
        self.congested || self.follows.iter().any(|follow| follow.status().phase == Phase::Lagged)
    }

    /// Whether it has its place in every stream and nothing is to be read in any.
    pub fn is_caught_up(&self) -> bool {
        !self.congested && self.follows.iter().all(|follow| !follow.is_behind())
    }

    /// How many entries are sent and not acknowledged, over all streams.
    pub fn unacked(&self) -> usize {
        self.follows.iter().map(|follow| follow.status().unacked).sum()
    }

    /// The connection takes more again. Returns the streams that fell behind meanwhile.
    pub fn drained(&mut self) -> Vec<Stream> {
        self.congested = false;
        self.follows
            .iter()
            .filter(|follow| follow.is_behind())
            .map(|follow| follow.stream().clone())
            .collect()
    }

    /// The client acknowledges everything in `stream` up to `seq`. Calls `crossed` for each notification that
    /// this session sent and that is acknowledged by it before it has expired, in order.
    ///
    /// # Errors
    /// When the stream is not followed, or `seq` is above what was sent.
    pub fn ack(
        &mut self,
        stream: &Stream,
        seq: Seq,
        now: UnixMillis,
        crossed: impl FnMut(Epoch, Seq),
    ) -> Result<Acked, AckError> {
        let bounds = (self.window, self.rules);
        self.follow_of(stream).ok_or(AckError::NotFollowed)?.ack(seq, bounds, now, crossed)
    }

    /// A ping goes out: what was sent before it is acknowledged by [`Session::pong`].
    pub fn ping(&mut self) {
        let rules = self.rules;
        self.follows.iter_mut().for_each(|follow| follow.mark(rules));
    }

    /// The pong of the last ping arrived. Returns each stream whose entries are now acknowledged; `crossed` is
    /// called as by [`Session::ack`].
    pub fn pong(
        &mut self,
        now: UnixMillis,
        mut crossed: impl FnMut(&Stream, Epoch, Seq),
    ) -> Vec<(Stream, Acked)> {
        let bounds = (self.window, self.rules);
        let acked = |follow: &mut Follow| {
            let stream = follow.stream().clone();
            let acked = follow.ack_mark(bounds, now, |epoch, seq| crossed(&stream, epoch, seq))?;
            Some((stream, acked))
        };
        self.follows.iter_mut().filter_map(acked).collect()
    }

    /// The inbox says where `stream` stands; `before` is the session's position when it was asked (0 where
    /// that is unknown).
    pub fn head(&mut self, stream: &Stream, epoch: Epoch, head: Seq, before: Seq) -> Next {
        let rules = self.rules;
        self.follow_of(stream).map_or(Next::Wait, |follow| follow.head(epoch, head, before, rules))
    }

    /// Whether pushed entries of `stream` in its life `epoch` are sent as they come.
    pub fn is_live(&self, stream: &Stream, epoch: Epoch) -> bool {
        self.find(stream).is_ok_and(|at| self.follows[at].is_live_in(epoch))
    }

    /// How far the session has gone in `stream`.
    pub fn position(&self, stream: &Stream) -> Option<Seq> {
        self.find(stream).ok().map(|at| self.follows[at].status().position)
    }

    /// Streams whose window has been full of what has not expired since the last call, with nothing acknowledged: each is
    /// returned once until it moves again.
    pub fn stuck(&mut self, now: UnixMillis) -> Vec<Stream> {
        let window = self.window;
        let stuck = |follow: &mut Follow| follow.is_stuck(window, now).then(|| follow.stream().clone());
        self.follows.iter_mut().filter_map(stuck).collect()
    }

    /// Where the cursors stand at the end that an ack has moved (of shared streams, since
    /// [`Session::take_moved_shared`]). A place that a session was only given is no acknowledgement: its client may
    /// not have heard of the gap before it.
    pub fn cursors(&self) -> impl Iterator<Item = (&Stream, Epoch, Seq)> {
        self.follows
            .iter()
            .filter(|follow| follow.has_moved())
            .filter_map(|follow| follow.cursor().map(|(epoch, seq)| (follow.stream(), epoch, seq)))
    }

    /// The shared streams whose cursors an ack has moved since the last call, and where they stand.
    pub fn take_moved_shared(&mut self) -> impl Iterator<Item = (&Stream, Epoch, Seq)> {
        self.follows.iter_mut().filter(|follow| follow.stream().is_shared()).filter_map(|follow| {
            let (epoch, seq) = follow.take_moved()?;
            Some((follow.stream(), epoch, seq))
        })
    }

    /// What operators see of it.
    pub fn status(&self) -> impl Iterator<Item = (&Stream, FollowStatus)> {
        self.follows.iter().map(|follow| (follow.stream(), follow.status()))
    }

    fn follow_of(&mut self, stream: &Stream) -> Option<&mut Follow> {
        self.find(stream).ok().map(|at| &mut self.follows[at])
    }

    /// Where a stream is among those that are followed, or where it belongs.
    fn find(&self, stream: &Stream) -> Result<usize, usize> {
        self.follows.binary_search_by(|follow| order(follow.stream()).cmp(&order(stream)))
    }
}

/// Its user's stream, everyone, and then topics by name.
fn order(stream: &Stream) -> (u8, &str) {
    match stream {
        Stream::User(user) => (0, user.as_str()),
        Stream::Everyone => (1, ""),
        Stream::Topic(topic) => (2, topic.as_str()),
    }
}

fn is_for(device: Option<&DeviceId>, target: Option<&DeviceId>) -> bool {
    target.is_none() || target == device
}

#[cfg(test)]
mod tests;
