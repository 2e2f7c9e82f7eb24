//! The task of one WebSocket: reads, decodes, tells the peer, keeps the writing going.
//!
//! Owns the order of a connection's life and its one outcome. Must know nothing of what the texts
//! mean. One hand-written future without timers or channels: its size is most of what an idle
//! connection costs.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::address::Household;
use super::codec::{Decoder, Message};
use super::rate::{Bucket, Haste, Pass};
use super::socket::{Due, Phase, Socket, Turn};
use super::sockets::Place;
use crate::wire::{CloseCode, Frame};

/// Who talks over a socket. Called from the socket's task only, one call at a time; must be quick
/// and never block.
pub trait Peer: Send + Sync {
    /// A text message. An error closes the connection with that code; push the `bye` before.
    ///
    /// # Errors
    /// The code to close with.
    fn on_text(&self, text: &str) -> Result<(), CloseCode>;

    /// A binary message, which arrives only where [`Limits::binary`](super::codec::Limits) takes them.
    ///
    /// # Errors
    /// The code to close with.
    fn on_binary(&self, bytes: &[u8]) -> Result<(), CloseCode> {
        let _ = bytes;
        Err(CloseCode::UnsupportedData)
    }

    /// A pong arrived.
    fn on_pong(&self);

    /// After a push was answered "full", or queued frames were dropped because they had expired: at most a quarter
    /// of the high-water mark is queued.
    fn on_drained(&self);

    /// The connection is over, once and last: nothing pushed from now on is sent. The closing
    /// handshake may still be going on.
    fn on_closed(&self, how: Closed);

    /// What to say before the gateway itself closes with `code` (a broken frame, a deadline): the
    /// `bye` text.
    fn farewell(&self, code: CloseCode) -> Option<Frame> {
        let _ = code;
        None
    }
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// By us, with this code.
    Server(CloseCode),
    /// By the client's close frame; 1005 if it named no code (RFC 6455 section 7.1.5).
    Client(u16),
    /// Without a close frame: end of stream or reset.
    Lost,
}

/// Bytes read at once; one buffer a thread, not one a connection.
const SCRATCH_BYTES: usize = 16 * 1024;

/// Reads in one poll, so that one busy client cannot keep a thread to itself.
const READS_A_POLL: usize = 4;

/// Bytes thrown away after the close frame before the client is dropped instead.
const LINGER_BYTES: u32 = 1024 * 1024;

thread_local! {
    static SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// Why the task ends.
enum End {
    /// The stream ended or failed.
    Stream,
    /// A deadline or bound was passed; the code if the peer was not told of an outcome yet.
    Deadline(CloseCode),
}

/// The future of one connection.
pub(super) struct Connection {
    socket: Arc<Socket>,
    /// `None` once it was told the outcome.
    peer: Option<Arc<dyn Peer>>,
    decoder: Decoder,
    bucket: Bucket,
    haste: Haste,
    thrown_away: u32,
    household: Option<Household>,
}

impl Connection {
    pub(super) fn new(socket: Arc<Socket>, peer: Arc<dyn Peer>, place: Place) -> Self {
        socket.shared().metrics.sockets.inc();
        Self {
            socket,
            peer: Some(peer),
            decoder: Decoder::default(),
            bucket: Bucket::default(),
            haste: Haste::default(),
            thrown_away: 0,
            household: place.hand_over(),
        }
    }

    /// Decodes what was read, and acts on it.
    pub(super) fn take(&mut self, bytes: &mut [u8]) {
        let socket = &self.socket;
        let shared = socket.shared();
        let peer = self.peer.as_ref();
        let mut close = None;
        shared.metrics.bytes_in.inc_by(bytes.len() as u64);
        let result = self.decoder.feed(bytes, &shared.settings.limits, |message| {
            match (message, peer) {
                (Message::Close(code), _) => close = Some(code),
                // A callback may have closed it: the rest of what was read is not for it.
                (message, Some(peer)) if socket.is_open() => match message {
                    Message::Text(text) => return peer.on_text(text),
                    Message::Binary(bytes) => return peer.on_binary(bytes),
                    Message::Pong(_) => peer.on_pong(),
                    Message::Ping(payload) => socket.pong(payload),
                    Message::Close(_) => {}
                },
                _ => {}
            }
            Ok(())
        });
        match (result, close) {
            (Err(code), _) => self.fail(code),
            (Ok(frames), None) => self.charge(frames),
            (Ok(frames), Some(code)) => {
                self.charge(frames);
                self.socket.answer_close(code);
                self.tell(Closed::Client(code.unwrap_or(1005)));
            }
        }
    }

    /// Pauses the reading if the client is too fast, and ends the connection if it stays so. One read may carry more
    /// frames than there are tokens; the pause is longer then.
    fn charge(&mut self, frames: u32) {
        let shared = self.socket.shared();
        shared.metrics.frames_in.inc_by(u64::from(frames));
        if frames == 0 {
            return;
        }
        let (now_us, longest) = (shared.now_us(), shared.settings.flood_after);
        match self.haste.pass(&mut self.bucket, frames, now_us, shared.rate, longest) {
            Pass::Go => {}
            Pass::Pause(debt) => {
                shared.metrics.throttled.inc();
                self.socket.pause(debt);
            }
            Pass::TooLong => self.fail(CloseCode::RateLimited),
        }
    }

    fn fail(&mut self, code: CloseCode) {
        let farewell = self.peer.as_ref().and_then(|peer| peer.farewell(code));
        self.socket.fail(code, farewell);
        self.tell(Closed::Server(code));
    }

    /// Tells the peer how it ended, once.
    fn tell(&mut self, how: Closed) {
        let Some(peer) = self.peer.take() else {
            return;
        };
        let (side, code) = match how {
            Closed::Server(code) => ("server", code.code().to_string()),
            Closed::Client(code) if is_well_known(code) => ("client", code.to_string()),
            Closed::Client(_) => ("client", "other".to_owned()),
            Closed::Lost => ("network", "none".to_owned()),
        };
        self.socket.shared().metrics.close(side, code);
        peer.on_closed(how);
    }

    fn drive(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<End> {
        for _ in 0..READS_A_POLL {
            let turn = match self.write(cx) {
                Ok(turn) if turn.paused => return Poll::Pending,
                Ok(turn) => turn,
                Err(end) => return Poll::Ready(end),
            };
            let read = match self.socket.read(cx, scratch) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(End::Stream),
                Poll::Ready(Ok(read)) => read,
            };
            if turn.phase == Phase::Lingering {
                self.thrown_away = self.thrown_away.saturating_add(read as u32);
                if self.thrown_away > LINGER_BYTES {
                    return Poll::Ready(End::Stream);
                }
            } else {
                self.take(&mut scratch[..read]);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what waits and acts on what others asked for, until there is nothing new.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<Turn, End> {
        loop {
            let turn = self.socket.turn(cx).map_err(|_| End::Stream)?;
            if let Phase::Closing(code) = turn.phase {
                self.tell(Closed::Server(code));
            }
            match turn.due {
                Some(Due::Stalled) => {
                    self.socket.shared().metrics.write_deadlines.inc();
                    return Err(End::Deadline(CloseCode::SlowConsumer));
                }
                Some(Due::Overfull) => {
                    self.socket.shared().metrics.overfull.inc();
                    return Err(End::Deadline(CloseCode::SlowConsumer));
                }
                Some(Due::Closing) => return Err(End::Deadline(CloseCode::Normal)),
                Some(Due::Expected(code)) => {
                    self.fail(code);
                    continue;
                }
                None => {}
            }
            match &self.peer {
                Some(peer) if turn.drained => peer.on_drained(),
                _ => return Ok(turn),
            }
        }
    }
}

/// Whether a close code may be a label: the standard's (RFC 6455 section 7.4.1) or our own.
fn is_well_known(code: u16) -> bool {
    (1000..=1014).contains(&code) || CloseCode::ALL.iter().any(|own| own.code() == code)
}

impl Future for Connection {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let mut scratch = SCRATCH.take().unwrap_or_else(|| vec![0; SCRATCH_BYTES].into_boxed_slice());
        let polled = this.drive(cx, &mut scratch);
        SCRATCH.set(Some(scratch));
        polled.map(|end| match end {
            End::Stream => this.tell(Closed::Lost),
            End::Deadline(code) => this.tell(Closed::Server(code)),
        })
    }
}

impl Drop for Connection {
    /// Also when the task is cancelled or a callback panics.
    fn drop(&mut self) {
        self.socket.finish();
        self.socket.shared().metrics.sockets.dec();
        // First: the place must not be lost if the peer panics.
        self.socket.shared().leave(self.household);
        self.tell(Closed::Lost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_future_of_a_connection_is_small() {
        let size = size_of::<Connection>();
        assert!(size <= 128, "{size} bytes");
        let size = size_of::<Socket>();
        assert!(size <= 256, "{size} bytes");
    }
}
