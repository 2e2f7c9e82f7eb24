//! The narrow door through which delivery reaches a connection, whatever carries it.
//!
//! Owns the contract only; the gateway implements it over WebSocket. Must name no transport.

pub use crate::session::Flow;

use crate::wire::{CloseCode, Frame};

/// Where the frames of one connection go. Called from any task; never waits.
pub trait Outlet: Send + Sync {
    /// Takes a frame (always) and writes what the socket takes now, in the order of the calls.
    /// [`Flow::Full`]: more than the high-water mark is queued; stop until the peer is told
    /// `on_drained`. After a [`close`](Self::close) or the connection's end it is dropped.
    fn push(&self, frame: Frame) -> Flow;

    /// Takes a frame as [`push`](Self::push) does, but need not write it before the next `push` or
    /// [`let_go`](Self::let_go), which the caller owes it: what is held goes in as few writes as possible.
    fn hold(&self, frame: Frame) -> Flow {
        self.push(frame)
    }

    /// Writes what is held.
    fn let_go(&self) {}

    /// The last word: after what is queued (the caller has pushed its `bye`), the close frame;
    /// then waits briefly for the client's, and closes. Later pushes and closes are ignored.
    fn close(&self, code: CloseCode);
}
