//! What the integration tests stand on: real backends, real processes, a real client.
//!
//! Nothing here decides what is right; tests do. Everything waits for events with deadlines.

use std::time::Duration;

pub mod backends;
pub mod client;
pub mod cluster;
pub mod device;
pub mod events;
pub mod front;
pub mod haproxy;
pub mod jwks;
pub mod nginx;
pub mod operator;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod publisher;
pub mod redis_server;
pub mod single;
pub mod stand_in;
pub mod tokens;

/// How long a test waits for anything that should happen at once. Generous: two busy cores run
/// everything at the same time.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Awaits `work`, or fails the test saying what did not happen.
pub async fn within<T>(deadline: Duration, what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(deadline, work).await.unwrap_or_else(|_| panic!("not within {deadline:?}: {what}"))
}

/// Asks again and again until the answer is yes, or fails the test. For what can only be polled:
/// another process, an HTTP endpoint.
pub async fn eventually(deadline: Duration, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    within(deadline, what, async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}
