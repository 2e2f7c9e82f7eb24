//! A line: one simulated socket, from the server's outlet to a client that reads when it likes.

use std::collections::VecDeque;
use std::sync::Mutex;

use fanfare::delivery::outlet::{Flow, Outlet};
use fanfare::wire::{CloseCode, Frame};
use tokio::sync::Notify;

#[derive(Default)]
struct State {
    frames: VecDeque<Frame>,
    closed: Option<CloseCode>,
    /// The client has gone: nothing arrives any more.
    cut: bool,
    /// The server was told that enough is queued.
    full: bool,
}

/// One socket.
pub struct Line {
    state: Mutex<State>,
    /// Something happened.
    pub stirred: Notify,
    high_water: usize,
}

impl Line {
    pub fn new(high_water: usize) -> Self {
        Self { state: Mutex::default(), stirred: Notify::new(), high_water }
    }

    /// The next frame, if there is one.
    pub fn next(&self) -> Option<Frame> {
        self.lock().frames.pop_front()
    }

    /// Whether the server waits to be told that it may go on. Asked once the queue is read.
    pub fn take_drained(&self) -> bool {
        let mut state = self.lock();
        state.frames.is_empty() && std::mem::take(&mut state.full)
    }

    /// Why the server closed it, once everything before that was read.
    pub fn closed(&self) -> Option<CloseCode> {
        let state = self.lock();
        state.closed.filter(|_| state.frames.is_empty())
    }

    /// The client is gone; what is queued never arrives.
    pub fn cut(&self) {
        let mut state = self.lock();
        state.cut = true;
        state.frames.clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic under it")
    }
}

impl Outlet for Line {
    fn push(&self, frame: Frame) -> Flow {
        let mut state = self.lock();
        if state.cut || state.closed.is_some() {
            return Flow::Open;
        }
        state.frames.push_back(frame);
        self.stirred.notify_one();
        if state.frames.len() <= self.high_water {
            return Flow::Open;
        }
        state.full = true;
        Flow::Full
    }

    fn close(&self, code: CloseCode) {
        self.lock().closed.get_or_insert(code);
        self.stirred.notify_one();
    }
}
