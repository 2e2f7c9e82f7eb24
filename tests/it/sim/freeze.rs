//! Freezing: something that stands still for a while (SIGSTOP, a lock that is held) and goes on later.
//!
//! Owns the switch. A frozen node learns nothing and nothing of it gets out: calls, envelopes, frames and
//! answers wait on its way in and out. Its timers go on inside, so it comes back having missed everything.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// One switch. Clones are the same. Those who wait go on in the order in which they came (a `watch` would
/// wake them in any order, and no seed would replay).
#[derive(Clone, Default)]
pub struct Freezer(Arc<Switch>);

#[derive(Default)]
struct Switch {
    is_on: AtomicBool,
    thaw: Notify,
}

impl Freezer {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn set(&self, frozen: bool) {
        self.0.is_on.store(frozen, Ordering::Relaxed);
        if !frozen {
            self.0.thaw.notify_waiters();
        }
    }

    pub fn is_frozen(&self) -> bool {
        self.0.is_on.load(Ordering::Relaxed)
    }

    /// Waits until it is not frozen; at once if it is not.
    pub async fn thawed(&self) {
        loop {
            let mut thaw = pin!(self.0.thaw.notified());
            thaw.as_mut().enable();
            if !self.is_frozen() {
                return;
            }
            thaw.await;
        }
    }
}
