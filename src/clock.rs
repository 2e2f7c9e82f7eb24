//! The wall clock and chance, passed in so that tests decide what time it is and how the dice fall.
//!
//! Owns nothing else; durations and timers are tokio's, which tests pause.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rand::distr::uniform::{SampleRange, SampleUniform};
use rand::distr::{Distribution, StandardUniform};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::domain::UnixMillis;

/// Tells the time, and throws the dice for jitter and ids. Clones tell the same.
#[derive(Clone)]
pub struct Clock {
    tell: Arc<dyn Fn() -> UnixMillis + Send + Sync>,
    /// `None`: the thread's own generator, seeded by the system.
    dice: Option<Arc<Mutex<StdRng>>>,
}

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
        Self { tell: Arc::new(tell), dice: None }
    }

    /// The same clock with dice that always fall alike, so that a simulation replays.
    pub fn with_seed(self, seed: u64) -> Self {
        Self { dice: Some(Arc::new(Mutex::new(StdRng::seed_from_u64(seed)))), ..self }
    }

    /// The time.
    pub fn now(&self) -> UnixMillis {
        (self.tell)()
    }

    /// A random value.
    pub fn random<T>(&self) -> T
    where
        StandardUniform: Distribution<T>,
    {
        match &self.dice {
            // A generator has no state that a panic could leave half-way.
            Some(dice) => dice.lock().unwrap_or_else(PoisonError::into_inner).random(),
            None => rand::rng().random(),
        }
    }

    /// A random value out of `range`, which must not be empty.
    pub fn random_range<T: SampleUniform>(&self, range: impl SampleRange<T>) -> T {
        match &self.dice {
            Some(dice) => dice.lock().unwrap_or_else(PoisonError::into_inner).random_range(range),
            None => rand::rng().random_range(range),
        }
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}
