//! A line: one simulated socket, from the server's outlet to a client that reads when it likes.

use std::collections::VecDeque;
use std::sync::Mutex;

use fanfare::clock::Clock;
use fanfare::delivery::outlet::{Flow, Outlet};
use fanfare::domain::UnixMillis;
use fanfare::wire::{CloseCode, Frame};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::freeze::Freezer;

/// A frame, and when the node sent it, by its own clock.
pub struct Sent {
    pub frame: Frame,
    pub at: UnixMillis,
    /// The socket took it at once. What it did not take is dropped unwritten if it expires.
    written: bool,
}

#[derive(Default)]
struct State {
    frames: VecDeque<Sent>,
    /// What a node sends that stands still arrives when it goes on.
    held: VecDeque<Sent>,
    closed: Option<CloseCode>,
    /// When the node sent its first frame, which is `welcome` where it takes the client.
    welcomed_at: Option<Instant>,
    /// When the node closed it or was told of its end.
    ended_at: Option<Instant>,
    /// The client has gone: nothing arrives any more.
    cut: bool,
    /// The server was told that enough is queued.
    full: bool,
}

impl State {
    /// What was held while the node stood still is on its way before anything that comes later.
    fn release(&mut self, freezer: &Freezer) {
        if !freezer.is_frozen() {
            self.frames.append(&mut self.held);
        }
    }
}

/// One socket.
pub struct Line {
    state: Mutex<State>,
    /// Something happened.
    pub stirred: Notify,
    high_water: usize,
    freezer: Freezer,
    clock: Clock,
}

impl Line {
    pub fn new(high_water: usize, freezer: Freezer, clock: Clock) -> Self {
        Self { state: Mutex::default(), stirred: Notify::new(), high_water, freezer, clock }
    }

    /// The next frame, if there is one.
    pub fn next(&self) -> Option<Sent> {
        let mut state = self.lock();
        state.release(&self.freezer);
        let now = self.clock.now();
        while let Some(sent) = state.frames.pop_front() {
            if sent.written || sent.frame.expires_at.is_none_or(|at| at > now) {
                return Some(sent);
            }
            // Whoever pushed it is told, as by the gateway.
            state.full = true;
        }
        None
    }

    /// Whether the server waits to be told that it may go on. Asked once the queue is read.
    pub fn take_drained(&self) -> bool {
        let mut state = self.lock();
        state.frames.is_empty() && state.held.is_empty() && std::mem::take(&mut state.full)
    }

    /// Why the server closed it, once everything before that was read.
    pub fn closed(&self) -> Option<CloseCode> {
        let state = self.lock();
        let is_read = state.frames.is_empty() && state.held.is_empty();
        state.closed.filter(|_| is_read && !self.freezer.is_frozen())
    }

    /// When the node welcomed the client.
    pub fn welcomed_at(&self) -> Option<Instant> {
        self.lock().welcomed_at
    }

    /// When it ended for the node.
    pub fn ended_at(&self) -> Option<Instant> {
        self.lock().ended_at
    }

    /// Why the node ended it, whether that is read or not.
    pub fn ended_for(&self) -> Option<CloseCode> {
        self.lock().closed
    }

    /// The node is told of its end, or is no more.
    pub fn end(&self) {
        self.lock().ended_at.get_or_insert_with(Instant::now);
    }

    /// The client is gone; what is queued never arrives.
    pub fn cut(&self) {
        let mut state = self.lock();
        state.cut = true;
        state.frames.clear();
        state.held.clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic under it")
    }
}

impl Outlet for Line {
    fn push(&self, frame: Frame) -> Flow {
        let mut state = self.lock();
        if state.welcomed_at.is_none() && is_welcome(&frame) {
            state.welcomed_at = Some(Instant::now());
        }
        if state.cut || state.closed.is_some() {
            return Flow::Open;
        }
        state.release(&self.freezer);
        let frozen = self.freezer.is_frozen();
        let written = !frozen && state.frames.is_empty();
        let sent = Sent { frame, at: self.clock.now(), written };
        let queue = if frozen { &mut state.held } else { &mut state.frames };
        queue.push_back(sent);
        self.stirred.notify_one();
        if state.frames.len() + state.held.len() <= self.high_water {
            return Flow::Open;
        }
        state.full = true;
        Flow::Full
    }

    fn close(&self, code: CloseCode) {
        let mut state = self.lock();
        if state.ended_at.is_none() {
            state.closed.get_or_insert(code);
            state.ended_at = Some(Instant::now());
        }
        drop(state);
        self.stirred.notify_one();
    }
}

fn is_welcome(frame: &Frame) -> bool {
    let text = [&frame.head[..], &frame.body[..]].concat();
    text.windows(16).take(24).any(|part| part == br#""type":"welcome""#)
}
