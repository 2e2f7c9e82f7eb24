//! What the tests on a Redis of their own share.

use std::time::Duration;

use fanfare::clock::Clock;
use fanfare::domain::{ConnectionId, UnixMillis};
use fanfare::metrics::presence::PresenceMetrics;
use fanfare::presence::redis::{OpenError, RedisPresence, Settings};
use fanfare::presence::{Member, NodeLease, Route};
use tokio::time::Instant;

/// The deadline of each call, long enough for a busy machine.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);
/// The deadline where the test waits for it to pass.
pub(crate) const BRIEF: Duration = Duration::from_secs(1);
/// How much later than the deadline a busy machine may wake a task.
pub(crate) const GRACE: Duration = Duration::from_secs(2);
pub(crate) const TTL: Duration = Duration::from_secs(60);

pub(crate) async fn open(url: &str) -> Result<RedisPresence, OpenError> {
    open_within(TIMEOUT, url, PresenceMetrics::default()).await
}

pub(crate) async fn open_within(
    timeout: Duration,
    url: &str,
    metrics: PresenceMetrics,
) -> Result<RedisPresence, OpenError> {
    let settings = Settings { url: url.to_owned(), timeout, pool_size: 2 };
    RedisPresence::connect(settings, metrics, Clock::system()).await
}

pub(crate) fn alice(node: &str, number: u32) -> Member {
    Member {
        user: "alice".parse().unwrap(),
        node: node.parse().unwrap(),
        connection: ConnectionId::new(UnixMillis(1_764_547_200_000), number),
        device: Some("phone".parse().unwrap()),
    }
}

pub(crate) fn to_alice() -> [Route; 1] {
    [Route::User("alice".parse().unwrap())]
}

pub(crate) fn lease(boot: &str) -> NodeLease {
    NodeLease {
        node: "n1".parse().unwrap(),
        boot: boot.to_owned(),
        http: String::new(),
        admin: String::new(),
        version: String::new(),
        connections: 0,
        draining: false,
    }
}

/// What the start says when it refuses; one line, never the password.
pub(crate) async fn refusal(url: &str) -> String {
    refusal_within(TIMEOUT, url).await
}

/// The same, with another deadline.
pub(crate) async fn refusal_within(timeout: Duration, url: &str) -> String {
    let began = Instant::now();
    let opened = open_within(timeout, url, PresenceMetrics::default()).await;
    let error = opened.err();
    let text = error.expect("the start is refused").to_string();
    assert!(began.elapsed() < timeout + GRACE, "{:?}", began.elapsed());
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    text
}
