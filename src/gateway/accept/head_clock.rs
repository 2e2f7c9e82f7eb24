//! How long a client may take for the head of a request.
//!
//! hyper has one timeout for two waits: for a request to begin on a kept-alive connection, and for
//! its head to end. A proxy's idle connections want the first to be long; slow clients want the
//! second to be short. This wraps the stream and keeps the second. Must not look at the bytes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// A stream that fails when a head takes too long.
pub(in crate::gateway) struct HeadClock {
    io: TokioIo<TcpStream>,
    in_request: InRequest,
    wait: Duration,
    /// Runs from the accept, then from the first byte of each further head.
    running: Option<Pin<Box<Sleep>>>,
}

/// Whether a request is being answered, so that what is read is its body.
#[derive(Clone, Default)]
pub(super) struct InRequest(Arc<AtomicBool>);

/// Says so while it lives.
pub(super) struct Answering(InRequest);

impl InRequest {
    pub(super) fn begin(&self) -> Answering {
        self.0.store(true, Ordering::Relaxed);
        Answering(self.clone())
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Relaxed);
    }
}

impl HeadClock {
    pub(super) fn new(stream: TcpStream, wait: Duration, in_request: InRequest) -> Self {
        Self { io: TokioIo::new(stream), in_request, wait, running: Some(Box::pin(sleep(wait))) }
    }

    /// The stream itself.
    pub(in crate::gateway) fn into_inner(self) -> TcpStream {
        self.io.into_inner()
    }
}

impl Read for HeadClock {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.in_request.0.load(Ordering::Relaxed) {
            self.running = None;
            return Pin::new(&mut self.io).poll_read(cx, buffer);
        }
        if let Some(running) = &mut self.running
            && running.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let polled = Pin::new(&mut self.io).poll_read(cx, buffer);
        if polled.is_ready() && self.running.is_none() {
            self.running = Some(Box::pin(sleep(self.wait)));
        }
        polled
    }
}

impl Write for HeadClock {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }
}
