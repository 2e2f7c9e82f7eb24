//! What outlives a session: settings, queues towards the node, requests in flight, the health.
//!
//! Owns the state that [`super::RabbitBroker`] and the tasks of the current session share. It must never hold a
//! lock across an await, and never do I/O.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::control::{Caller, Pending};
use super::events::Emission;
use super::letters::Errand;
use super::open::OpenError;
use super::outbox::Outbox;
use super::settings::Settings;
use crate::broker::{ControlRequest, Health, Ingress};
use crate::metrics::broker::BrokerMetrics;

/// Whether lanes are consumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Intake {
    /// Not now.
    Off,
    /// Yes.
    On,
    /// Never again: settle what is left and end.
    Closing,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    /// lapin said so.
    #[error("{0}")]
    Lapin(#[from] lapin::Error),
    /// Something could not be declared again.
    #[error("{0}")]
    Declare(#[from] OpenError),
    /// A stream that never ends did.
    #[error("{0} ended")]
    Ended(&'static str),
    /// No confirm came.
    #[error("no confirm for {0:?}, without an alarm")]
    Silent(Duration),
    /// No answer came.
    #[error("no answer within {0:?}")]
    Slow(Duration),
    /// A bug.
    #[error("a task of the session panicked")]
    Panicked,
}

/// As whom this node publishes.
#[derive(Debug, Default)]
struct Login {
    /// As the current URL says.
    user: Option<String>,
    /// RabbitMQ knows it by another name.
    refused: bool,
}

/// The ways into the current session.
#[derive(Clone)]
pub(super) struct Doors {
    /// How requests go out.
    pub(super) caller: Caller,
    /// Events, bound [`super::events::WAITING`]; full, callers wait until their deadlines.
    pub(super) events: mpsc::Sender<Emission>,
    /// Errands for dead letters, bound [`super::letters::WAITING`]; full, callers wait.
    pub(super) letters: mpsc::Sender<Errand>,
}

/// What all sessions share.
pub(super) struct Shared {
    /// As given.
    pub(super) settings: Settings,
    /// Counters.
    pub(super) metrics: BrokerMetrics,
    /// How RabbitMQ is.
    pub(super) health: watch::Sender<Health>,
    /// What goes out.
    pub(super) outbox: Outbox,
    /// Whether lanes are consumed.
    pub(super) intake: watch::Sender<Intake>,
    /// Requests without an answer yet.
    pub(super) pending: Pending,
    /// Towards the node, bound 256; full, the node queue is not drained.
    pub(super) envelopes: mpsc::Sender<Bytes>,
    /// Towards the node, bound 64; full, requests wait in the control queue until their deadline.
    pub(super) control: mpsc::Sender<ControlRequest>,
    /// Towards the node, bound: all prefetches.
    pub(super) ingress: mpsc::Sender<Ingress>,
    /// Owns all tasks.
    pub(super) tracker: TaskTracker,
    /// Ends all.
    pub(super) cancel: CancellationToken,
    /// Says that the supervisor is gone.
    pub(super) ended: CancellationToken,
    doors: Mutex<Option<Doors>>,
    login: Mutex<Login>,
    queues: AtomicU32,
    controls: AtomicU32,
    in_flight: AtomicUsize,
    unsettled: AtomicUsize,
}

/// The node's ends are in [`crate::broker::Inlets`]; these are ours.
pub(super) struct Outlets {
    /// See [`Shared::envelopes`].
    pub(super) envelopes: mpsc::Sender<Bytes>,
    /// See [`Shared::control`].
    pub(super) control: mpsc::Sender<ControlRequest>,
    /// See [`Shared::ingress`].
    pub(super) ingress: mpsc::Sender<Ingress>,
}

impl Shared {
    /// Down, nothing queued, taking no ingress.
    pub(super) fn new(
        settings: Settings,
        metrics: BrokerMetrics,
        outlets: Outlets,
        tracker: TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        let bounds = settings.bounds;
        Self {
            settings,
            metrics,
            health: watch::Sender::new(Health::Down),
            outbox: Outbox::new(bounds.outgoing_envelopes, bounds.outgoing_bytes),
            intake: watch::Sender::new(Intake::Off),
            pending: Pending::default(),
            envelopes: outlets.envelopes,
            control: outlets.control,
            ingress: outlets.ingress,
            tracker,
            cancel,
            ended: CancellationToken::new(),
            doors: Mutex::new(None),
            login: Mutex::default(),
            queues: AtomicU32::new(0),
            controls: AtomicU32::new(0),
            in_flight: AtomicUsize::new(0),
            unsettled: AtomicUsize::new(0),
        }
    }

    /// Says how RabbitMQ is; anything but up drops what waits to go, as head checks bring it sooner.
    pub(super) fn report(&self, health: Health) {
        let changed = self.health.send_if_modified(|now| {
            let changed = *now != health;
            *now = health;
            changed
        });
        if !changed {
            return;
        }
        self.metrics.up.set(i64::from(health == Health::Up));
        self.metrics.blocked.set(i64::from(health == Health::Blocked));
        let reason = match health {
            Health::Up => {
                tracing::info!("RabbitMQ takes messages");
                return;
            }
            Health::Blocked => {
                tracing::warn!("RabbitMQ takes no messages now: an alarm (memory or disk)");
                "blocked"
            }
            Health::Down => "down",
        };
        self.clear_outbox(reason);
    }

    /// Tells those who watch the health that something was lost, though it is what it was.
    pub(super) fn say_again(&self) {
        self.health.send_modify(|_| {});
    }

    /// Drops what waits to go.
    pub(super) fn clear_outbox(&self, reason: &'static str) {
        let dropped = u64::try_from(self.outbox.clear()).unwrap_or(u64::MAX);
        self.metrics.drop_for(reason, dropped);
        self.metrics.waiting.set(0);
    }

    /// The ways into the current session; `None` without one.
    pub(super) fn doors(&self) -> Option<Doors> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens or closes the ways in.
    pub(super) fn set_doors(&self, doors: Option<Doors>) {
        *self.doors.lock().unwrap_or_else(PoisonError::into_inner) = doors;
    }

    /// The AMQP user that this node is logged in as, if that is known.
    pub(super) fn login(&self) -> Option<String> {
        let login = self.login.lock().unwrap_or_else(PoisonError::into_inner);
        login.user.clone().filter(|_| !login.refused)
    }

    /// Notes the user of the session to come.
    pub(super) fn set_login(&self, user: Option<String>) {
        self.login.lock().unwrap_or_else(PoisonError::into_inner).user = user;
    }

    /// A message with our `user_id` failed: was it that? Then none is sent any more, or every session would end so.
    pub(super) fn on_refusal(&self, error: &lapin::Error) {
        // RabbitMQ, "Validated User-ID": a mismatch is 406 PRECONDITION_FAILED.
        let is_it = matches!(error.kind(), lapin::ErrorKind::ProtocolError(refusal)
            if refusal.get_id() == 406 && refusal.get_message().as_str().contains("user_id"));
        let mut login = self.login.lock().unwrap_or_else(PoisonError::into_inner);
        if is_it && !login.refused {
            login.refused = true;
            tracing::error!(
                "RabbitMQ knows this node by another user than broker.urls says: dead letters cannot be requeued"
            );
        }
    }

    /// The number of the next node queue; no number comes twice.
    pub(super) fn next_queue(&self) -> u32 {
        self.queues.fetch_add(1, Ordering::Relaxed)
    }

    /// The number of the next control queue; no number comes twice.
    pub(super) fn next_control(&self) -> u32 {
        self.controls.fetch_add(1, Ordering::Relaxed)
    }

    /// Notes how many messages wait for a confirm.
    pub(super) fn in_flight(&self, count: usize) {
        self.in_flight.store(count, Ordering::Relaxed);
    }

    /// One more ingress message is with the node.
    pub(super) fn taken(&self) {
        self.unsettled.fetch_add(1, Ordering::Relaxed);
        self.metrics.unsettled.inc();
    }

    /// `count` ingress messages are settled, or back in their queues.
    pub(super) fn released(&self, count: usize) {
        self.unsettled.fetch_sub(count, Ordering::Relaxed);
        self.metrics.unsettled.dec_by(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Whether nothing is left to send or to settle.
    pub(super) fn idle(&self) -> bool {
        self.outbox.len() == 0
            && self.in_flight.load(Ordering::Relaxed) == 0
            && self.unsettled.load(Ordering::Relaxed) == 0
    }

    /// Waits until messages are taken. Cancel safe.
    pub(super) async fn until_up(&self) {
        let mut health = self.health.subscribe();
        // The sender is `self`, so it cannot be gone.
        let _ = health.wait_for(|health| *health == Health::Up).await;
    }
}
