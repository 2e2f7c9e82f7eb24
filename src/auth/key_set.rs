//! Keys that are fetched: those in force, and when they are asked for anew.
//!
//! Owns the set that tokens are verified with, and the gate through which unknown `kid`s ask for a fetch: one at
//! a time, and none while it rests: then they are to come back. It never fetches (that is [`crate::jobs`]'s) and knows no time: whoever
//! fetches opens the gate again. Verifying takes a read lock for the copy of a pointer, never across an await.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::jwk::SetKeys;
use super::key::VerifyingKey;
use super::secret::Secret;
use crate::metrics::auth::AuthMetrics;

/// Where keys come from, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySetSettings {
    /// Of the JSON Web Key Set; https, or http to this machine.
    pub url: Secret,
    /// Between two fetches.
    pub refresh: Duration,
    /// How long a fetch may take, and how long a token may wait for one.
    pub timeout: Duration,
    /// Between two fetches that unknown `kid`s cause.
    pub cooldown: Duration,
    /// How long the last good set stays in force while none can be fetched.
    pub keep: Duration,
}

/// The keys of the set in force. Share it by `Arc`.
pub struct KeySet {
    current: watch::Sender<Current>,
    /// How long a token waits at most.
    wait: Duration,
    metrics: AuthMetrics,
}

struct Current {
    keys: Arc<Vec<VerifyingKey>>,
    /// How many fetches have ended, well or not.
    fetches: u64,
    /// Whether the last of them was good.
    is_good: bool,
    /// Whether a set was fetched and has not been forgotten.
    in_force: bool,
    gate: Gate,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// Whoever asks causes a fetch.
    Open,
    /// Somebody has asked.
    Asked,
    /// A fetch is under way, whoever caused it; who asks waits for its end.
    Fetching,
    /// Whoever asks is told to ask later.
    Resting,
}

/// What came of asking for keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Learnt {
    /// A set was fetched from beginning to end after it was asked for: what is not in there does not exist.
    Fetched,
    /// A set was fetched, but that had begun before: what is not in there may have come since.
    Joined,
    /// The fetch failed, or none ended in time.
    Failed,
    /// None may be asked for now.
    Resting,
}

impl KeySet {
    /// Without keys; the first fetch counts as under way. Tokens wait for at most `wait`.
    pub fn new(wait: Duration, metrics: AuthMetrics) -> Self {
        let current = Current {
            keys: Arc::default(),
            fetches: 0,
            is_good: false,
            in_force: false,
            gate: Gate::Fetching,
        };
        Self { current: watch::Sender::new(current), wait, metrics }
    }

    /// The keys in force.
    pub(super) fn keys(&self) -> Arc<Vec<VerifyingKey>> {
        Arc::clone(&self.current.borrow().keys)
    }

    /// Whether there is a set to go by, were it an empty one.
    pub(super) fn is_in_force(&self) -> bool {
        self.current.borrow().in_force
    }

    /// Asks for a fetch, or for the one under way, and waits until it has ended: then there may be other keys.
    /// While none may be asked for, that is counted and answered at once. Dropping it changes nothing for others.
    pub(super) async fn learn(&self) -> Learnt {
        let mut watched = self.current.subscribe();
        let (mut seen, mut gate) = (0, Gate::Resting);
        self.current.send_if_modified(|current| {
            (seen, gate) = (current.fetches, current.gate);
            if gate == Gate::Open {
                current.gate = Gate::Asked;
            }
            gate == Gate::Open
        });
        if gate == Gate::Resting {
            self.metrics.suppressed.inc();
            return Learnt::Resting;
        }
        let ended = watched.wait_for(|current| current.fetches > seen);
        match tokio::time::timeout(self.wait, ended).await {
            Ok(Ok(current)) if current.is_good && gate == Gate::Fetching => Learnt::Joined,
            Ok(Ok(current)) if current.is_good => Learnt::Fetched,
            _ => Learnt::Failed,
        }
    }

    /// Waits until a token asks for a fetch. May be dropped at any time.
    pub async fn asked(&self) {
        let mut watched = self.current.subscribe();
        // An error: the set is gone, which `self` rules out.
        let _ = watched.wait_for(|current| current.gate == Gate::Asked).await;
    }

    /// A fetch begins. Whether a token has asked for it.
    pub fn begin(&self) -> bool {
        let mut asked = false;
        self.current.send_if_modified(|current| {
            asked = current.gate == Gate::Asked;
            current.gate = Gate::Fetching;
            false
        });
        asked
    }

    /// A fetch has ended, with these keys in the place of all others, or without any: then the old ones stay.
    /// While it is `resting`, until [`open`](Self::open), no token causes another.
    pub fn end(&self, keys: Option<SetKeys>, resting: bool) {
        self.current.send_modify(|current| {
            current.is_good = keys.is_some();
            if let Some(SetKeys { keys, .. }) = keys {
                current.keys = Arc::new(keys);
                current.in_force = true;
            }
            current.fetches += 1;
            current.gate = if resting { Gate::Resting } else { Gate::Open };
        });
    }

    /// Tokens may ask for a fetch again.
    pub fn open(&self) {
        self.current.send_if_modified(|current| {
            if current.gate == Gate::Resting {
                current.gate = Gate::Open;
            }
            false
        });
    }

    /// No key is in force any more.
    pub fn forget(&self) {
        self.current.send_if_modified(|current| {
            current.keys = Arc::default();
            current.in_force = false;
            false
        });
    }
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeySet").field("keys", &self.keys().len()).finish_non_exhaustive()
    }
}
