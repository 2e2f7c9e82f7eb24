//! The broker on RabbitMQ.
//!
//! Owns the driver: [`RabbitBroker::start`] opens the first session and leaves the rest to a supervisor. What it is
//! made of: `open` (connections, errors), `topology` (names, arguments), `supervisor` (sessions), and one file for
//! each task of a session: `publish`, `consume`, `control`, `ingress`, `dead`, `letters` (which goes by `walk`), `events`.
//! What headers say is read by `death`, `epitaph` and `offer`. lapin's own recovery is not used:
//! it recovers connections only, and gives up.
//!
//! Operators: run lapin's log at `error`; at `warn` it prints returned messages whole.

mod consume;
mod control;
mod dead;
pub mod death;
pub mod epitaph;
mod events;
mod ingress;
mod ledger;
mod letters;
mod offer;
mod open;
mod outbox;
mod publish;
mod rest;
mod settings;
mod shared;
mod supervisor;
mod topology;
mod walk;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::letters::{Found, Wanted};
pub use self::open::OpenError;
pub use self::settings::{Bounds, Prefetch, Settings};
use self::shared::{Intake, Outlets, Shared};
use super::{
    Broker, ControlError, DeadLetter, DeadLetterError, DeadLetters, Destination, EmitError, Event, Graveyard,
    Health, Inlets, SendError,
};
use crate::domain::NodeId;
use crate::metrics::broker::BrokerMetrics;

/// Bound of the envelope inlet; full, the node queue waits, and its drop-head holds.
const ENVELOPES: usize = 256;
/// Bound of the control inlet; full, requests wait until their deadline.
const CONTROL: usize = 64;
/// The longest boot nonce, in bytes: queue names are AMQP short strings.
const MAX_BOOT_BYTES: usize = 64;
/// How often closing looks whether all is sent and settled.
const LOOK: Duration = Duration::from_millis(10);

/// Carries messages through RabbitMQ.
pub struct RabbitBroker {
    shared: Arc<Shared>,
}

impl RabbitBroker {
    /// Connects, declares the topology and starts consuming envelopes and control requests; ingress waits for
    /// [`Broker::take_ingress`]. From then on a supervisor on `tracker` rebuilds whatever breaks, until `cancel` or
    /// [`Broker::close`].
    ///
    /// # Errors
    /// [`OpenError`] of the last URL if none worked; nothing is left running then.
    pub async fn start(
        settings: Settings,
        metrics: BrokerMetrics,
        tracker: TaskTracker,
        cancel: CancellationToken,
    ) -> Result<(Self, Inlets), OpenError> {
        let uris = open::parse(&settings.urls)?;
        check_boot(&settings.boot)?;
        let (envelopes, envelopes_arrive) = mpsc::channel(ENVELOPES);
        let (control, control_arrives) = mpsc::channel(CONTROL);
        let (ingress, ingress_arrives) = mpsc::channel(settings.prefetch.total().max(1));
        let outlets = Outlets { envelopes, control, ingress };
        let shared = Shared::new(settings, metrics, outlets, tracker.clone(), cancel.child_token());
        let shared = Arc::new(shared);
        let mut failure = OpenError::Settings("broker.urls is empty".to_owned());
        for uri in &uris {
            match supervisor::open(&shared, uri).await {
                Ok(session) => {
                    supervisor::announce(&shared, &session);
                    tracker.spawn(supervisor::supervise(Arc::clone(&shared), uris, session));
                    let inlets = Inlets {
                        envelopes: envelopes_arrive,
                        control: control_arrives,
                        ingress: ingress_arrives,
                    };
                    return Ok((Self { shared }, inlets));
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Waits until nothing is left to send or to settle, or nobody is there to do it.
    async fn drained(&self) {
        let mut look = interval(LOOK);
        while !self.shared.idle() && *self.shared.health.borrow() != Health::Down {
            look.tick().await;
        }
    }
}

fn check_boot(boot: &str) -> Result<(), OpenError> {
    if boot.is_empty() || boot.len() > MAX_BOOT_BYTES {
        return Err(OpenError::Settings(format!(
            "the boot nonce must have 1..={MAX_BOOT_BYTES} bytes; got {}",
            boot.len()
        )));
    }
    Ok(())
}

#[async_trait]
impl Broker for RabbitBroker {
    fn send(&self, to: Destination, envelope: Bytes) -> Result<(), SendError> {
        let shared = &self.shared;
        let refused = match *shared.health.borrow() {
            Health::Up => None,
            Health::Blocked => Some("blocked"),
            Health::Down => Some("down"),
        };
        let closing = *shared.intake.borrow() == Intake::Closing;
        if let Some(reason) = refused.or(closing.then_some("down")) {
            shared.metrics.drop_for(reason, 1);
            return Err(SendError::NotTaken);
        }
        if shared.outbox.push(to, envelope).is_err() {
            shared.metrics.drop_for("full", 1);
            return Err(SendError::NotTaken);
        }
        shared.metrics.envelopes.inc();
        Ok(())
    }

    async fn request(&self, node: &NodeId, body: Bytes, deadline: Duration) -> Result<Bytes, ControlError> {
        let answer = control::request(&self.shared, node, body, deadline).await;
        self.shared.metrics.request_ended(match &answer {
            Ok(_) => "answered",
            Err(ControlError::NoAnswer) => "no_answer",
            Err(ControlError::NotTaken) => "not_taken",
        });
        answer
    }

    async fn emit(&self, events: Vec<Event>, deadline: Duration) -> Result<(), EmitError> {
        let emitted = events::emit(&self.shared, events, deadline).await;
        if let Err(error) = &emitted
            && !matches!(error, EmitError::Refused(_))
        {
            self.shared.metrics.event_ended("not_confirmed");
        }
        emitted
    }

    fn take_ingress(&self, on: bool) {
        let wanted = if on { Intake::On } else { Intake::Off };
        self.shared.intake.send_if_modified(|intake| {
            let changes = *intake != Intake::Closing && *intake != wanted;
            if changes {
                *intake = wanted;
            }
            changes
        });
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.shared.health.subscribe()
    }

    async fn close(&self, deadline: Duration) {
        let closing = async {
            self.shared.intake.send_replace(Intake::Closing);
            self.drained().await;
            self.shared.cancel.cancel();
            self.shared.ended.cancelled().await;
        };
        if timeout(deadline, closing).await.is_err() {
            tracing::warn!("RabbitMQ was not drained in time; what is unsettled comes again");
            self.shared.cancel.cancel();
        }
    }
}

#[async_trait]
impl Graveyard for RabbitBroker {
    async fn list(&self, after: Option<&str>, limit: usize) -> Result<DeadLetters, DeadLetterError> {
        let wanted = Wanted::Page { after: after.map(str::to_owned), limit };
        let Found { letters, more, .. } = letters::ask(&self.shared, wanted).await?;
        Ok(DeadLetters { letters, more })
    }

    async fn find(&self, id: &str) -> Result<(DeadLetter, Bytes), DeadLetterError> {
        let found = letters::ask(&self.shared, Wanted::Body(id.to_owned())).await?;
        Ok((only(found.letters, id)?, found.body))
    }

    async fn requeue(&self, id: &str) -> Result<DeadLetter, DeadLetterError> {
        let found = letters::ask(&self.shared, Wanted::Requeue(id.to_owned())).await?;
        only(found.letters, id)
    }

    async fn delete(&self, id: &str) -> Result<DeadLetter, DeadLetterError> {
        let found = letters::ask(&self.shared, Wanted::Delete(id.to_owned())).await?;
        only(found.letters, id)
    }
}

fn only(letters: Vec<DeadLetter>, id: &str) -> Result<DeadLetter, DeadLetterError> {
    letters.into_iter().next().ok_or_else(|| DeadLetterError::Unknown(id.to_owned()))
}

impl Drop for RabbitBroker {
    fn drop(&mut self) {
        // Without a handle nobody could ever close it.
        self.shared.cancel.cancel();
    }
}
