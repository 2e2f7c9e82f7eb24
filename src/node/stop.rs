//! The end of a node: not ready, nothing new accepted, clients sent away, what was taken finished, presence
//! withdrawn; under one deadline, with a report.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Node;
use crate::config::DrainConfig;
use crate::delivery::{Drain, DrainReport};

/// The part of the deadline that is kept for closing what remains.
const LAST_PART: f64 = 0.2;

/// What tells a node to stop.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn listen() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?,
        })
    }

    /// Waits for SIGTERM, SIGINT or an operator's drain, and says which.
    pub(super) async fn wait(mut self, drain: &Arc<Notify>) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            () = drain.notified() => "an operator asked for a drain",
        }
    }
}

/// How a stop went.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    /// Of the connections.
    pub drain: DrainReport,
    /// Whether every task had ended at the deadline.
    pub clean: bool,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DrainReport { connections, left, cursors_lost } = self.drain;
        write!(f, "stopped in {:.1?}: {connections} connections told to come back elsewhere", self.took)?;
        if left > 0 {
            write!(f, ", {left} of them still open")?;
        }
        if cursors_lost > 0 {
            write!(f, ", cursors not committed (their devices get doubles)")?;
        }
        if !self.clean {
            write!(f, "; some work was cut off at the deadline")?;
        }
        Ok(())
    }
}

impl Node {
    /// Stops within `drain.deadline_ms`.
    pub async fn stop(self) -> Report {
        let started = Instant::now();
        let deadline = started + self.config.drain.deadline;
        let work_until = started + self.config.drain.deadline.mul_f64(1.0 - LAST_PART);
        self.readiness.send_modify(|ready| ready.draining = true);
        self.delivery.stop_attaching();
        self.jobs.cancel();
        self.broker.take_ingress(false);
        let DrainConfig { window, spread, .. } = self.config.drain;
        // Until all have gone newcomers are told to go elsewhere, which a closed port would not do.
        let close = || self.stop_clients.cancel();
        let drain = self.delivery.drain(Drain { window, spread }, work_until, close).await;
        self.broker.close(work_until.saturating_duration_since(Instant::now())).await;
        self.cancel.cancel();
        self.tracker.close();
        let clean = tokio::time::timeout_at(deadline, self.tracker.wait()).await.is_ok();
        // A statement in flight may still want its connection: it is given up at the deadline.
        let closed = tokio::time::timeout_at(deadline, self.inbox.close()).await.is_ok();
        Report { drain, clean: clean && closed, took: started.elapsed() }
    }
}
