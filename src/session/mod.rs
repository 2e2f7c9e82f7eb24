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
//! - It lives in one epoch of each stream. Another one, or a head under its position, ends the connection: where
//!   a stream begins anew is decided in one place only, where connections begin.

mod follow;
mod rules;
mod sent;

pub use follow::{FollowStatus, Phase, Place, ReadFrom};
pub use rules::Rules;

use crate::domain::{DeviceId, Epoch, Seq, Stream, UnixMillis};
use follow::Follow;

/// How much may be sent and not acknowledged, for each stream. What has expired does not count where room is missing.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Entries.
    pub entries: usize,
    /// Bytes of their bodies; one entry always fits.
    pub bytes: usize,
}

/// Whether the connection takes more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// It does.
    Open,
    /// It has enough queued: stop until told that it is drained.
    Full,
}

/// An entry as a session sees it.
#[derive(Debug, Clone, Copy)]
pub struct Offered<'a> {
    /// Its place.
    pub seq: Seq,
    /// The only device it is for.
    pub device: Option<&'a DeviceId>,
    /// From when on it must not be sent.
    pub expires_at: Option<UnixMillis>,
    /// What it adds to the window.
    pub bytes: usize,
    /// Whether its acknowledgement is a receipt (that of a cancellation is none).
    pub receipt: bool,
}

impl Offered<'_> {
    fn is_expired(&self, now: UnixMillis) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// What to do with an offered entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send it now; if the connection is `Full` then, call [`Session::congested`].
    Send,
    /// Nothing: it is a duplicate, not for this device, or past its time.
    Skip,
    /// Nothing: the session is behind and will read it.
    Held,
    /// The same, and it fell behind with this entry: its window or its connection is full.
    Lagged,
    /// Nothing, but an entry before this one is missing: read soon.
    Read,
    /// The stream has another life than the session is in: end the connection.
    Reset,
}

/// What is to be done next for a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Wait,
    /// Nothing: its window or its connection is full, so it reads on later.
    Lagged,
    /// Read.
    Read,
    /// The stream has another life than the session is in, or stands below where the session is: a store was
    /// restored. End the connection; when it comes back it starts where it can.
    Reset,
}

/// What a page leads to, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Tell the client that entries `from..=to` are gone.
    Gap {
        /// The first that is gone.
        from: Seq,
        /// The last that is gone.
        to: Seq,
    },
    /// Send the page's entry with this index.
    Send(usize),
    /// Tell the client that it has everything up to here.
    CaughtUp(Seq),
}

/// A page as a session sees it.
#[derive(Debug, Clone, Copy)]
pub struct PageView<'a> {
    /// The stream's epoch.
    pub epoch: Epoch,
    /// The highest seq that retention has removed.
    pub floor: Seq,
    /// The seq it was asked for after.
    pub after: Seq,
    /// The highest seq.
    pub head: Seq,
    /// How far the page reaches.
    pub through: Seq,
    /// Its entries, in order.
    pub entries: &'a [Offered<'a>],
}

/// What an ack changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acked {
    /// The stream's epoch.
    pub epoch: Epoch,
    /// Where the device's cursor now is.
    pub cursor: Seq,
    /// Whether the session was held back by its window and has room again: read on.
    pub read: bool,
    /// What it acknowledges that an earlier session had sent: the entries after the first and up to the second.
    pub covered: Option<(Seq, Seq)>,
}

/// Why an ack is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AckError {
    /// The stream is not followed.
    #[error("this stream is not followed")]
    NotFollowed,
    /// It is above what was sent.
    #[error("seq must be at most {sent}, the last that was sent; got {got}")]
    AboveSent {
        /// The highest seq that may be acknowledged.
        sent: Seq,
        /// What was.
        got: Seq,
    },
}

/// The protocol state of one connection.
#[derive(Debug)]
pub struct Session {
    device: Option<DeviceId>,
    window: Window,
    rules: Rules,
    congested: bool,
    follows: Vec<Follow>,
}

impl Session {
    /// A session that follows nothing yet.
    pub fn new(device: Option<DeviceId>, window: Window, rules: Rules) -> Self {
        Self { device, window, rules, congested: false, follows: Vec::new() }
    }

    /// Registers an interest: from now on offers to `stream` are remembered. It is not live before
    /// [`Session::open`] and a page.
    pub fn follow(&mut self, stream: Stream) {
        if self.follow_of(&stream).is_none() {
            // Most connections follow their user's stream and everyone, and room for more would double a session.
            if self.follows.is_empty() {
                self.follows.reserve_exact(2);
            }
            self.follows.push(Follow::new(stream));
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
        let at = self.follows.iter().position(|follow| follow.stream() == stream)?;
        self.follows.swap_remove(at).take_moved()
    }

    /// Whether `stream` is followed.
    pub fn follows(&self, stream: &Stream) -> bool {
        self.follows.iter().any(|follow| follow.stream() == stream)
    }

    /// Takes a pushed entry.
    pub fn offer(&mut self, stream: &Stream, epoch: Epoch, entry: Offered<'_>, now: UnixMillis) -> Verdict {
        let bounds = (self.window, self.rules, self.congested);
        let mine = is_for(self.device.as_ref(), entry.device);
        match self.follows.iter_mut().find(|follow| follow.stream() == stream) {
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
    /// connection takes more.
    pub fn page(
        &mut self,
        stream: &Stream,
        page: PageView<'_>,
        now: UnixMillis,
        mut act: impl FnMut(Step) -> Flow,
    ) -> Next {
        let bounds = (self.window, self.rules);
        let device = self.device.clone();
        let mut congested = self.congested;
        let next = match self.follows.iter_mut().find(|follow| follow.stream() == stream) {
            Some(follow) => {
                let mine = |entry: &Offered<'_>| is_for(device.as_ref(), entry.device);
                follow.page(page, mine, now, bounds, &mut congested, &mut act)
            }
            None => Next::Wait,
        };
        self.congested = congested;
        if next == Next::Read && congested { Next::Lagged } else { next }
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
        let window = self.window;
        self.follow_of(stream).ok_or(AckError::NotFollowed)?.ack(seq, window, now, crossed)
    }

    /// A ping goes out: what was sent before it is acknowledged by [`Session::pong`].
    pub fn ping(&mut self) {
        self.follows.iter_mut().for_each(Follow::mark);
    }

    /// The pong of the last ping arrived. Returns each stream whose entries are now acknowledged; `crossed` is
    /// called as by [`Session::ack`].
    pub fn pong(
        &mut self,
        now: UnixMillis,
        mut crossed: impl FnMut(&Stream, Epoch, Seq),
    ) -> Vec<(Stream, Acked)> {
        let window = self.window;
        let acked = |follow: &mut Follow| {
            let stream = follow.stream().clone();
            let acked = follow.ack_mark(window, now, |epoch, seq| crossed(&stream, epoch, seq))?;
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
        self.follows.iter().any(|follow| follow.stream() == stream && follow.is_live_in(epoch))
    }

    /// How far the session has gone in `stream`.
    pub fn position(&self, stream: &Stream) -> Option<Seq> {
        self.follows.iter().find(|follow| follow.stream() == stream).map(|follow| follow.status().position)
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
        self.follows.iter_mut().find(|follow| follow.stream() == stream)
    }
}

fn is_for(device: Option<&DeviceId>, target: Option<&DeviceId>) -> bool {
    target.is_none() || target == device
}

#[cfg(test)]
mod tests;
