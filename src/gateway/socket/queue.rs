//! What a socket could not take yet. Allocates nothing while it is empty.
//!
//! Owns the order of bytes on the wire, half-written frames included. Must not decide when to
//! write, nor how much may be queued.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use tokio::net::TcpStream;

use crate::domain::UnixMillis;
use crate::wire::Frame;

/// Frames in one `writev`; each is up to two slices.
const FRAMES_A_WRITE: usize = 16;

/// The first byte of a pong (RFC 6455 section 5.5.3).
const PONG: u8 = 0x8A;

#[derive(Debug, Default)]
pub(super) struct Queue {
    frames: VecDeque<Frame>,
    /// Unwritten bytes of all frames.
    bytes: usize,
    /// Written bytes of the first frame.
    written: usize,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes `frame` if nothing is before it; queues what is left. Returns the bytes written.
    pub(super) fn write_or_keep(&mut self, stream: &TcpStream, frame: Frame) -> io::Result<usize> {
        let mut written = 0;
        if self.frames.is_empty() {
            written = match try_write(stream, &frame) {
                Ok(written) if written == frame.len() => return Ok(written),
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return Err(error),
            };
            self.written = written;
        }
        self.keep(frame);
        self.bytes -= written;
        Ok(written)
    }

    /// Queues `frame`.
    pub(super) fn keep(&mut self, frame: Frame) {
        self.bytes += frame.len();
        self.frames.push_back(frame);
    }

    /// Puts `pong` in the place of one that waits already: only the latest ping needs an answer
    /// (RFC 6455 section 5.5.3), and pings cannot make the queue grow. Gives it back if none does.
    pub(super) fn replace_pong(&mut self, pong: Frame) -> Result<(), Frame> {
        let started = usize::from(self.written > 0);
        let waiting = self.frames.iter_mut().skip(started).find(|frame| frame.head.first() == Some(&PONG));
        match waiting {
            Some(waiting) => {
                self.bytes = self.bytes - waiting.len() + pong.len();
                *waiting = pong;
                Ok(())
            }
            None => Err(pong),
        }
    }

    /// Drops, of the frames of the next write, those that have expired and are not begun. Returns how many.
    pub(super) fn drop_expired(&mut self, now: UnixMillis) -> usize {
        let before = self.frames.len();
        let mut at = usize::from(self.written > 0);
        while at < FRAMES_A_WRITE
            && let Some(frame) = self.frames.get(at)
        {
            if frame.expires_at.is_some_and(|expires_at| expires_at <= now) {
                self.bytes -= frame.len();
                self.frames.remove(at);
            } else {
                at += 1;
            }
        }
        self.let_go_if_empty();
        before - self.frames.len()
    }

    /// One gathered write of the first frames. Returns the bytes written.
    pub(super) fn flush(&mut self, stream: &TcpStream) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); 2 * FRAMES_A_WRITE];
        let mut count = 0;
        let mut skip = self.written;
        for frame in self.frames.iter().take(FRAMES_A_WRITE) {
            for part in [&frame.head, &frame.body] {
                let skipped = skip.min(part.len());
                skip -= skipped;
                if skipped < part.len() {
                    slices[count] = IoSlice::new(&part[skipped..]);
                    count += 1;
                }
            }
        }
        let written = stream.try_write_vectored(&slices[..count])?;
        self.advance(written);
        Ok(written)
    }

    fn advance(&mut self, written: usize) {
        self.bytes -= written;
        self.written += written;
        while let Some(first) = self.frames.front() {
            if self.written < first.len() {
                return;
            }
            self.written -= first.len();
            self.frames.pop_front();
        }
        self.let_go_if_empty();
    }

    /// An idle connection keeps no buffer.
    fn let_go_if_empty(&mut self) {
        if self.frames.is_empty() {
            self.frames = VecDeque::new();
        }
    }
}

fn try_write(stream: &TcpStream, frame: &Frame) -> io::Result<usize> {
    if frame.body.is_empty() {
        stream.try_write(&frame.head)
    } else {
        stream.try_write_vectored(&[IoSlice::new(&frame.head), IoSlice::new(&frame.body)])
    }
}
