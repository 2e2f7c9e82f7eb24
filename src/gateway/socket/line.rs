//! What a socket keeps under its lock: the stream, the queue, the deadlines.
//!
//! Owns what one change under the lock does. Must not lock, wait or call anybody back.

use std::io;
use std::net::Shutdown;
use std::task::{Context, Poll, Waker};

use socket2::SockRef;
use tokio::net::TcpStream;

use super::queue::Queue;
use crate::gateway::sockets::Shared;
use crate::wire::{CloseCode, Frame};

/// More than this is not held: it is written at once.
const HELD_BYTES: usize = 16 << 10;

#[derive(Debug)]
pub(super) struct Line {
    /// `None` once the connection has ended.
    pub(super) stream: Option<TcpStream>,
    pub(super) queue: Queue,
    /// What is queued was not offered to the kernel yet: whoever holds it writes it soon.
    pub(super) held: bool,
    /// Wakes the task.
    pub(super) waker: Option<Waker>,
    pub(super) phase: Phase,
    /// A push was answered [`Flow::Full`] and the peer was not told of the drain since.
    pub(super) full: bool,
    /// The write side was shut down.
    pub(super) half_closed: bool,
    /// The stream failed under a push.
    pub(super) broken: bool,
    /// The sweeper has this socket on its list.
    pub(super) listed: bool,
    /// What the sweeper found, for the task to act on.
    pub(super) due: Option<Due>,
    /// Until when something is expected from the client, and the code if it does not come.
    pub(super) expect: Option<(u64, CloseCode)>,
    /// When bytes were last written, while some are queued.
    pub(super) progress: u64,
    /// When a closing handshake is given up.
    pub(super) close_by: u64,
    /// Until when nothing is read; 0 if there is no pause.
    pub(super) resume_at: u64,
}

/// How far a socket is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) enum Phase {
    /// Frames go both ways.
    Open,
    /// Our close frame is queued or sent; the client's has not come.
    Closing(CloseCode),
    /// Nothing more is said; what still comes is thrown away until the client closes, because
    /// closing with unread bytes makes the kernel send a reset that can destroy our close frame.
    Lingering,
}

/// A deadline that passed.
#[derive(Debug, Clone, Copy)]
pub(in crate::gateway) enum Due {
    /// What was expected did not come: close with the code.
    Expected(CloseCode),
    /// Nothing could be written for the write timeout.
    Stalled,
    /// More is queued than may be.
    Overfull,
    /// The closing handshake took too long.
    Closing,
}

impl Line {
    /// An open connection with nothing to write and no deadline.
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream: Some(stream),
            queue: Queue::default(),
            held: false,
            waker: None,
            phase: Phase::Open,
            full: false,
            half_closed: false,
            broken: false,
            listed: false,
            due: None,
            expect: None,
            progress: 0,
            close_by: u64::MAX,
            resume_at: 0,
        }
    }

    /// Writes or queues one frame; wakes the task if it must go on with it.
    pub(super) fn write(&mut self, frame: Frame, shared: &Shared) {
        let Some(stream) = &self.stream else {
            return;
        };
        let was_empty = self.queue.is_empty();
        shared.metrics.frames_out.inc();
        if self.held {
            self.queue.keep(frame);
            return self.let_go(shared);
        }
        match self.queue.write_or_keep(stream, frame) {
            Ok(written) => {
                shared.metrics.bytes_out.inc_by(written as u64);
                if was_empty && !self.queue.is_empty() {
                    self.progress = shared.now();
                    self.wake();
                }
            }
            Err(_) => {
                self.broken = true;
                self.wake();
            }
        }
    }

    /// Queues one frame behind others that are held, or that the kernel does not take.
    pub(super) fn hold(&mut self, frame: Frame, shared: &Shared) {
        if self.stream.is_none() {
            return;
        }
        shared.metrics.frames_out.inc();
        self.held |= self.queue.is_empty();
        self.queue.keep(frame);
        if self.queue.bytes() >= HELD_BYTES {
            self.let_go(shared);
        }
    }

    /// Writes what is held; wakes the task if it must go on with it.
    pub(super) fn let_go(&mut self, shared: &Shared) {
        let Some(stream) = self.stream.as_ref().filter(|_| self.held) else {
            return;
        };
        self.held = false;
        self.progress = shared.now();
        while !self.queue.is_empty() {
            match self.queue.flush(stream) {
                Ok(written) => {
                    shared.metrics.bytes_out.inc_by(written as u64);
                }
                Err(error) => {
                    self.broken |= error.kind() != io::ErrorKind::WouldBlock;
                    return self.wake();
                }
            }
        }
        if self.full {
            // Whoever was told to stop is told that all has gone.
            self.wake();
        }
    }

    pub(super) fn flush(&mut self, cx: &mut Context<'_>, shared: &Shared) -> io::Result<()> {
        let Some(stream) = &self.stream else {
            return Ok(());
        };
        if std::mem::take(&mut self.held) {
            // From now on it counts how long the client takes nothing.
            self.progress = shared.now();
        }
        while !self.queue.is_empty() {
            match stream.poll_write_ready(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(ready) => ready?,
            }
            let expired = self.queue.drop_expired(shared.clock.now());
            shared.metrics.frames_expired.inc_by(expired as u64);
            // Whoever pushed them is told that they are gone, by `on_drained`: nobody will acknowledge them.
            self.full |= expired > 0;
            if self.queue.is_empty() {
                return Ok(());
            }
            match self.queue.flush(stream) {
                Ok(written) => {
                    shared.metrics.bytes_out.inc_by(written as u64);
                    self.progress = shared.now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// `shutdown(2)` of the write side, on the descriptor itself: tokio offers it only to the stream's one
    /// owner, and there may be no descriptor left for a duplicate.
    pub(super) fn shut_down_writing(&self) -> io::Result<()> {
        self.stream.as_ref().map_or(Ok(()), |stream| SockRef::from(stream).shutdown(Shutdown::Write))
    }

    pub(super) fn stalled_at(&self, shared: &Shared) -> u64 {
        if self.queue.is_empty() || self.held {
            return u64::MAX;
        }
        self.progress + shared.settings.write_timeout.as_millis() as u64
    }

    pub(super) fn has_deadline(&self) -> bool {
        self.stream.is_some()
            && (self.expect.is_some()
                || self.close_by < u64::MAX
                || self.resume_at > 0
                || (!self.queue.is_empty() && !self.held))
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}
