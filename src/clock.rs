//! The wall clock, passed in so that tests decide what time it is.
//!
//! Owns nothing else; durations and timers are tokio's, which tests pause.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::domain::UnixMillis;

/// Tells the time. Clones tell the same.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> UnixMillis + Send + Sync>);

impl Clock {
    /// The system's wall clock.
    pub fn system() -> Self {
        Self::new(|| {
            let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            UnixMillis::default().after(elapsed)
        })
    }

    /// A clock that says what `tell` says.
    pub fn new(tell: impl Fn() -> UnixMillis + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    /// The time.
    pub fn now(&self) -> UnixMillis {
        (self.0)()
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}
