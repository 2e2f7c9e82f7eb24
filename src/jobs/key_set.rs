//! The key set of users' tokens, kept fresh: fetched at the start, from time to time, and when a token asks.
//!
//! Owns the pace, the gate's rest and what is logged: one line at each change of state. A fetch that fails changes
//! nothing but the time of the next; only after a long time without a good one are the keys forgotten.

mod download;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use self::download::Download;
use crate::auth::{KeySet, KeySetError, KeySetSettings, SetKeys};
use crate::clock::Clock;
use crate::metrics::auth::AuthMetrics;

/// After a failure the next try is a second later, then two, four …, at most so much or the ordinary pace; less
/// by up to a half at random.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_secs(60);

/// Why a set was not fetched. Two that are equal are told once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// No connection, or it broke.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// It took too long.
    #[error("there was no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// Anything but 200; a redirect is not followed.
    #[error("the answer has status {0}; it must be 200, and redirects are not followed")]
    Status(u16),
    /// More than is taken.
    #[error("the answer has more than {limit} bytes")]
    TooLarge {
        /// What is taken.
        limit: usize,
    },
    /// The answer is no set.
    #[error(transparent)]
    Content(#[from] KeySetError),
}

/// Where a set comes from.
pub trait Source: Send + 'static {
    /// One try; dropped at the deadline.
    fn fetch(&mut self) -> impl Future<Output = Result<SetKeys, FetchError>> + Send;
}

/// What keeps a set fresh.
pub struct Refresher<S> {
    /// Where from.
    pub source: S,
    /// Its pace.
    pub settings: KeySetSettings,
    /// Where to.
    pub set: Arc<KeySet>,
    /// The dice.
    pub clock: Clock,
    /// What is counted.
    pub metrics: AuthMetrics,
}

/// A set, as far as another one is worth a line.
#[derive(PartialEq, Eq)]
struct Good {
    line: String,
    kids: Vec<Option<String>>,
}

/// How it stands.
struct State {
    failures: u32,
    /// What was told last: how the set is, or why there is none.
    told: Option<Result<Good, FetchError>>,
    /// Until then no token causes a fetch.
    resting: Option<Instant>,
    /// Then the keys are forgotten.
    kept_until: Option<Instant>,
}

impl<S: Source> Refresher<S> {
    /// Fetches until cancelled.
    pub async fn run(mut self, cancel: CancellationToken) {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.fetches() => {}
        }
    }

    async fn fetches(&mut self) {
        let mut state = State { failures: 0, told: None, resting: None, kept_until: None };
        loop {
            if self.set.begin() {
                state.resting = Some(Instant::now() + self.settings.cooldown);
            }
            let deadline = self.settings.timeout;
            let fetched = timeout(deadline, self.source.fetch()).await;
            let pause = self.note(&mut state, fetched.unwrap_or(Err(FetchError::Timeout(deadline))));
            self.wait(&mut state, Instant::now() + pause).await;
        }
    }

    /// Puts new keys in force, tells what has changed, and says when to fetch again.
    fn note(&self, state: &mut State, fetched: Result<SetKeys, FetchError>) -> Duration {
        let good = |keys: &SetKeys| Good { line: keys.to_string(), kids: keys.kids() };
        let told = fetched.as_ref().map(good).map_err(Clone::clone);
        let is_news = state.told.as_ref() != Some(&told);
        match &told {
            Ok(good) if is_news => info!("auth.users.jwks_url: {}", good.line),
            Err(error) if is_news => {
                warn!(%error, "auth.users.jwks_url: no key set was fetched; tried again until one is")
            }
            _ => {}
        }
        state.told = Some(told);
        let keys = fetched.ok();
        self.metrics.fetched(keys.is_some());
        state.failures = if keys.is_some() { 0 } else { state.failures.saturating_add(1) };
        if let Some(keys) = &keys {
            state.kept_until = Some(Instant::now() + self.settings.keep);
            self.metrics.keys.set(gauge(keys.count()));
            self.metrics.left_out.set(gauge(keys.left_out()));
        }
        state.resting = state.resting.filter(|until| *until > Instant::now());
        self.set.end(keys, state.resting.is_some());
        self.pause(state.failures)
    }

    fn pause(&self, failures: u32) -> Duration {
        let refresh = self.settings.refresh;
        if failures == 0 {
            return refresh.mul_f64(self.clock.random_range(0.9..1.0));
        }
        let longer = FIRST_RETRY.saturating_mul(2_u32.saturating_pow((failures - 1).min(10)));
        longer.min(MAX_RETRY).min(refresh).mul_f64(self.clock.random_range(0.5..1.0))
    }

    /// Until it is time, or a token asks.
    async fn wait(&self, state: &mut State, due: Instant) {
        loop {
            tokio::select! {
                () = until(state.kept_until) => {
                    state.kept_until = None;
                    self.set.forget();
                    self.metrics.keys.set(0);
                    // So that the way back is told.
                    state.told = None;
                    warn!(
                        "auth.users.jwks_url: no key set was fetched for auth.users.jwks_keep_hours; \
                         its keys are not in force any more"
                    );
                }
                () = until(state.resting) => {
                    state.resting = None;
                    self.set.open();
                }
                () = self.set.asked() => return,
                () = sleep_until(due) => return,
            }
        }
    }
}

/// Never, if there is no such time.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::auth::Secret;

    const SECOND: Duration = Duration::from_secs(1);

    /// Answers as the script says, then fails; notes when it was asked, in half seconds.
    struct Scripted {
        script: Vec<Result<SetKeys, FetchError>>,
        times: Arc<Mutex<Vec<u128>>>,
        began: Instant,
    }

    impl Source for Scripted {
        async fn fetch(&mut self) -> Result<SetKeys, FetchError> {
            self.times.lock().expect("whole").push(self.began.elapsed().as_secs().into());
            if self.script.is_empty() { Err(FetchError::Status(503)) } else { self.script.remove(0) }
        }
    }

    fn one_key() -> Result<SetKeys, FetchError> {
        let set = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k",
            "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
        Ok(SetKeys::read(set.as_bytes())?)
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_to_a_cap_and_the_last_good_set_stays_until_its_time_is_over() {
        let settings = KeySetSettings {
            url: Secret::default(),
            refresh: 100 * SECOND,
            timeout: SECOND,
            cooldown: 10 * SECOND,
            keep: 1_000 * SECOND,
        };
        let (times, metrics) = (Arc::new(Mutex::new(vec![])), AuthMetrics::default());
        let script = vec![Err(FetchError::Status(500)), one_key()];
        let refresher = Refresher {
            source: Scripted { script, times: Arc::clone(&times), began: Instant::now() },
            set: Arc::new(KeySet::new(settings.timeout, metrics.clone())),
            settings,
            clock: Clock::system(),
            metrics: metrics.clone(),
        };
        let cancel = CancellationToken::new();
        let running = tokio::spawn(refresher.run(cancel.clone()));
        tokio::time::sleep(990 * SECOND).await;
        assert_eq!(metrics.keys.get(), 1, "the last good set is in force while no other comes");
        tokio::time::sleep(20 * SECOND).await;
        assert_eq!(metrics.keys.get(), 0, "and then it is not");
        cancel.cancel();
        running.await.expect("it ends when it is told to");
        let times = times.lock().expect("whole").clone();
        let pauses: Vec<u128> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(pauses[0] <= 1 && (89..=100).contains(&pauses[1]), "{pauses:?}");
        assert!(pauses[2..].iter().all(|pause| *pause <= 60), "{pauses:?}");
        assert!(pauses[9..].iter().all(|pause| *pause >= 29), "{pauses:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_fetch_that_hangs_ends_at_its_deadline_and_is_tried_again() {
        struct Hangs;
        impl Source for Hangs {
            async fn fetch(&mut self) -> Result<SetKeys, FetchError> {
                std::future::pending().await
            }
        }
        let settings = KeySetSettings {
            url: Secret::default(),
            refresh: 100 * SECOND,
            timeout: 5 * SECOND,
            cooldown: SECOND,
            keep: 1_000 * SECOND,
        };
        let metrics = AuthMetrics::default();
        let set = Arc::new(KeySet::new(settings.timeout, metrics.clone()));
        let (clock, counted) = (Clock::system(), metrics.clone());
        let refresher = Refresher { source: Hangs, settings, set, clock, metrics };
        let cancel = CancellationToken::new();
        let running = tokio::spawn(refresher.run(cancel.clone()));
        tokio::time::sleep(14 * SECOND).await;
        cancel.cancel();
        running.await.expect("it ends when it is told to");
        let failed = crate::metrics::auth::FetchLabels { outcome: "failed" };
        assert_eq!(counted.fetches.get_or_create(&failed).get(), 2);
    }
}
