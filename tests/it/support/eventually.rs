//! Waiting for something that happens by itself, with a deadline, never for a time.

use std::time::Duration;

use tokio::time::Instant;

/// How long a test waits for an event before it fails. Far longer than any takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Asks again and again until `check` says yes.
///
/// # Panics
/// After [`DEADLINE`], with what was waited for.
pub(crate) async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !check().await {
        assert!(
            Instant::now() < deadline,
            "in {DEADLINE:?} not seen: {what}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
