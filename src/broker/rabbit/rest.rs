//! How long a message that is for later rests, and how long it stays with the node.
//!
//! Owns these times. It must never settle anything.

use std::time::Duration;

use lapin::types::AMQPValue;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::epitaph::Original;
use super::shared::Intake;

/// The first pause before a message is offered to the node again; doubles each time, with jitter.
const REST: Duration = Duration::from_millis(100);
/// The longest pause.
const MAX_REST: Duration = Duration::from_secs(30);
/// So long a message stays with a node that takes nothing more; then another node may have it. Longer than the pauses
/// that a node makes to see whether the inbox works again, so that none of these counts as a delivery.
const LENT: Duration = Duration::from_secs(30);
/// So long a message stays with the node in all: half of RabbitMQ's default for what is not acknowledged
/// (`consumer_timeout`), which would end the channel. A quorum queue drops a message after 20 deliveries.
pub(super) const KEPT: Duration = Duration::from_secs(15 * 60);

/// The pause of a message that has rested so often.
pub(super) fn pause(original: &Original, rests: u32) -> Duration {
    let tries = deliveries(original).saturating_add(rests);
    let pause = REST * 2_u32.saturating_pow(tries.min(10));
    pause.min(MAX_REST).mul_f64(rand::random_range(0.5..1.0))
}

/// Waits for the end of a pause, or for a change of `intake`: the inbox is back. While nothing is taken it lasts on, for
/// [`LENT`] at most; closing waits for nobody's rest.
pub(super) async fn over(pause: Duration, mut intake: watch::Receiver<Intake>) {
    tokio::select! {
        () = sleep(pause) => {}
        _ = intake.changed() => {}
    }
    let _ = timeout(LENT, intake.wait_for(|intake| *intake != Intake::Off)).await;
}

/// How often a quorum queue delivered it before (`x-delivery-count`, absent the first time).
fn deliveries(original: &Original) -> u32 {
    let headers = original.properties.headers().as_ref();
    match headers.and_then(|headers| headers.inner().get("x-delivery-count")) {
        Some(AMQPValue::LongLongInt(count)) => u32::try_from(*count).unwrap_or(0),
        _ => 0,
    }
}
