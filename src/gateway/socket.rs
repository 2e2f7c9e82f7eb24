//! One WebSocket as others see it: push frames, close, set a deadline.
//!
//! Owns the TCP stream and what waits to be written. [`super::connection`] drives it; anybody may
//! push. Must never wait, and never call the peer: callers may hold their own locks.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;

use super::sockets::Shared;
use crate::delivery::outlet::{Flow, Outlet};
use crate::wire::{CloseCode, Frame};

mod line;
mod queue;

use line::Line;
pub(super) use line::{Due, Phase};

/// One WebSocket. Shared by its task and whoever pushes to it; its file descriptor is closed when
/// the task ends, however long others keep this.
#[derive(Debug)]
pub struct Socket {
    shared: Arc<Shared>,
    me: Weak<Self>,
    line: Mutex<Line>,
}

/// What [`Socket::turn`] found.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) phase: Phase,
    pub(super) drained: bool,
    /// Nothing may be read now.
    pub(super) paused: bool,
    pub(super) due: Option<Due>,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self { shared, me: me.clone(), line: Mutex::new(Line::new(stream)) })
    }

    /// From now the peer must call [`settled`](Self::settled) within `wait`, else the connection
    /// is closed with `code`. A second call replaces the first. Checked every sweep (250 ms).
    pub fn expect_within(&self, wait: Duration, code: CloseCode) {
        let mut line = self.line();
        line.expect = Some((self.shared.after(wait), code));
        self.release(line);
    }

    /// What [`expect_within`](Self::expect_within) waited for has come.
    pub fn settled(&self) {
        self.line().expect = None;
    }

    /// Whether frames can still be pushed.
    pub fn is_open(&self) -> bool {
        self.line().phase == Phase::Open
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Reads nothing for `pause` (rounded up to the sweeper's tick).
    pub(super) fn pause(&self, pause: Duration) {
        let mut line = self.line();
        line.resume_at = self.shared.after(pause).max(1);
        self.release(line);
    }

    /// Answers a ping: at once, or with the latest one when the client takes nothing.
    pub(super) fn pong(&self, payload: &[u8]) {
        let mut line = self.line();
        if line.phase == Phase::Open
            && let Err(pong) = line.queue.replace_pong(Frame::pong(payload))
        {
            line.write(pong, &self.shared);
        }
        self.release(line);
    }

    /// The client's close frame came: echoes it if ours was not sent, then lingers.
    pub(super) fn answer_close(&self, code: Option<u16>) {
        let echo = match code {
            Some(code) => Frame::close(code, ""),
            None => Frame { head: Bytes::from_static(&[0x88, 0]), body: Bytes::new(), expires_at: None },
        };
        self.end(Phase::Lingering, [None, Some(echo)]);
    }

    /// Says `farewell` and closes with `code` without waiting for the client's close frame.
    pub(super) fn fail(&self, code: CloseCode, farewell: Option<Frame>) {
        let close = Frame::close(code.code(), code.reason());
        self.end(Phase::Lingering, [farewell, Some(close)]);
    }

    /// Leaves [`Phase::Open`] with these last frames. A later call can only move on to lingering.
    fn end(&self, phase: Phase, last: [Option<Frame>; 2]) {
        let mut line = self.line();
        match line.phase {
            Phase::Open => {
                for frame in last.into_iter().flatten() {
                    line.write(frame, &self.shared);
                }
                line.phase = phase;
                line.close_by = self.shared.after(self.shared.settings.close_timeout);
                line.expect = None;
                line.wake();
            }
            Phase::Closing(_) if phase == Phase::Lingering => line.phase = phase,
            Phase::Closing(_) | Phase::Lingering => {}
        }
        self.release(line);
    }

    /// Writes what is queued, and arranges for the task to be woken when more can be written or
    /// somebody calls. Registers in the poll slots of the stream on purpose: the dead HTTP
    /// connection's task is freed only when its waker there is replaced.
    pub(super) fn turn(&self, cx: &mut Context<'_>) -> io::Result<Turn> {
        let mut line = self.line();
        if !line.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            line.waker = Some(cx.waker().clone());
        }
        if line.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        line.flush(cx, &self.shared)?;
        let drained = line.full && line.queue.bytes() <= self.shared.settings.high_water / 4;
        if drained {
            line.full = false;
        }
        if line.phase == Phase::Lingering && line.queue.is_empty() && !line.half_closed {
            line.half_closed = true;
            line.shut_down_writing()?;
        }
        let turn = Turn { phase: line.phase, drained, paused: line.resume_at > 0, due: line.due.take() };
        self.release(line);
        Ok(turn)
    }

    /// Reads what there is. Ready with 0 at the end of the stream.
    pub(super) fn read(&self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let line = self.line();
        let Some(stream) = &line.stream else {
            return Poll::Ready(Ok(0));
        };
        loop {
            match stream.poll_read_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => {}
            }
            match stream.try_read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// The task has ended: closes the file descriptor and frees what is queued. With bytes still
    /// queued the kernel is told to forget its own too, else it would keep them for minutes.
    pub(super) fn finish(&self) {
        let mut line = self.line();
        line.phase = Phase::Lingering;
        line.waker = None;
        if let Some(stream) = line.stream.take()
            && !std::mem::take(&mut line.queue).is_empty()
        {
            // A failure means that the socket is gone already, which is what is wanted.
            let _ = stream.set_zero_linger();
        }
    }

    /// For the sweeper: wakes the task if a deadline has passed; says whether others are pending.
    pub(super) fn sweep(&self, now: u64) -> bool {
        let mut line = self.line();
        let stalled_at = line.stalled_at(&self.shared);
        if now >= line.close_by {
            line.due = Some(Due::Closing);
        } else if now >= stalled_at {
            line.due = Some(Due::Stalled);
        } else if let Some((_, code)) = line.expect.take_if(|(at, _)| now >= *at) {
            line.due = Some(Due::Expected(code));
        }
        let resume = line.resume_at > 0 && now >= line.resume_at;
        if resume {
            line.resume_at = 0;
        }
        if line.due.is_some() || resume {
            line.wake();
        }
        line.listed = line.has_deadline();
        line.listed
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        // No code under this lock can panic half-way through a change.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Unlocks; if a deadline is pending that the sweeper does not know of, tells it.
    fn release(&self, mut line: MutexGuard<'_, Line>) {
        let list = !line.listed && line.has_deadline();
        line.listed |= list;
        drop(line);
        if list {
            self.shared.list(self.me.clone());
        }
    }
}

impl Socket {
    /// Takes a frame by `how`, and says whether there is room for more.
    fn take(&self, frame: Frame, how: impl FnOnce(&mut Line, Frame, &Shared)) -> Flow {
        let mut line = self.line();
        if line.phase != Phase::Open {
            return Flow::Open;
        }
        how(&mut line, frame, &self.shared);
        if line.queue.bytes() > self.shared.settings.max_queued && line.due.is_none() {
            line.due = Some(Due::Overfull);
            line.wake();
        }
        let full = line.queue.bytes() > self.shared.settings.high_water;
        line.full |= full;
        self.release(line);
        if full { Flow::Full } else { Flow::Open }
    }
}

impl Outlet for Socket {
    fn push(&self, frame: Frame) -> Flow {
        self.take(frame, Line::write)
    }

    fn hold(&self, frame: Frame) -> Flow {
        self.take(frame, Line::hold)
    }

    fn let_go(&self) {
        let mut line = self.line();
        line.let_go(&self.shared);
        self.release(line);
    }

    fn close(&self, code: CloseCode) {
        let frame = Frame::close(code.code(), code.reason());
        self.end(Phase::Closing(code), [None, Some(frame)]);
    }
}
