//! The store behind the model of the inbox: how a call to it goes, and how it fails.
//!
//! Owns the one moment at which a call is done, and what delays, fails or hides it. What is done then is
//! `model_inbox`'s and its neighbours' business.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fanfare::domain::UnixMillis;
use fanfare::inbox::InboxError;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::freeze::Freezer;
use super::ledger::Ledger;
use super::plan::{Plan, Plant};
use super::stage::Stage;

/// How long a call to the store may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// The store, as all nodes share it. Clones are the same.
#[derive(Clone)]
pub struct Store {
    pub stage: Stage,
    pub plan: Plan,
    pub ledger: Arc<Mutex<Ledger>>,
    /// It cannot be reached while this is true.
    pub away: Arc<AtomicBool>,
    /// It answers nothing while this is on: a lock is held, or the network is silent.
    pub hang: Freezer,
}

/// One node's door to the store. Clones are the same door.
#[derive(Clone)]
pub struct ModelInbox {
    pub store: Store,
    /// The node stands still while this is on.
    pub freezer: Freezer,
    /// Fires when the node dies: whatever it asked for then is never answered.
    pub death: CancellationToken,
}

/// The store cannot be reached.
pub fn unavailable() -> InboxError {
    InboxError::Unavailable("the simulated store is away".into())
}

impl Store {
    pub fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("no panic under it")
    }

    pub fn has(&self, plant: Plant) -> bool {
        self.plan.plant == plant
    }
}

impl ModelInbox {
    /// Does `work` at one moment of a call. Whether it was done is unknown when this fails.
    pub async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store, &mut Ledger, UnixMillis) -> T + Send + 'static,
    ) -> Result<T, InboxError> {
        self.travel().await?;
        if self.store.hang.is_frozen() {
            return self.wait_for_it(work).await;
        }
        let (done, epoch) = {
            let mut ledger = self.store.lock();
            (work(&self.store, &mut ledger, self.store.stage.now()), ledger.epoch)
        };
        self.travel().await?;
        // A restore cuts every connection to the store.
        if self.store.lock().epoch == epoch { Ok(done) } else { Err(unavailable()) }
    }

    /// One way of a round trip.
    async fn travel(&self) -> Result<(), InboxError> {
        self.store.stage.trip().await;
        self.freezer.thawed().await;
        if self.death.is_cancelled() {
            std::future::pending::<()>().await;
        }
        if self.store.away.load(Ordering::Relaxed) {
            return Err(unavailable());
        }
        let stage = &self.store.stage;
        if stage.is_faulty() && stage.chance(self.store.plan.weather.failing) {
            return Err(InboxError::Timeout(DEADLINE));
        }
        Ok(())
    }

    /// The store does not answer now. It does the work when it goes on, or drops it if nobody waits by then.
    async fn wait_for_it<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store, &mut Ledger, UnixMillis) -> T + Send + 'static,
    ) -> Result<T, InboxError> {
        let (answer, arrives) = oneshot::channel();
        let store = self.store.clone();
        let (is_stubborn, epoch) = (store.stage.chance(50), store.lock().epoch);
        tokio::spawn(async move {
            store.hang.thawed().await;
            store.stage.trip().await;
            let mut ledger = store.lock();
            if (is_stubborn || !answer.is_closed()) && ledger.epoch == epoch {
                let done = work(&store, &mut ledger, store.stage.now());
                drop(ledger);
                drop(answer.send(done));
            }
        });
        match tokio::time::timeout(DEADLINE, arrives).await {
            Ok(Ok(done)) => self.travel().await.map(|()| done),
            Ok(Err(_)) => Err(unavailable()),
            Err(_) => Err(InboxError::Timeout(DEADLINE)),
        }
    }
}
