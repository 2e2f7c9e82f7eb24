//! Steady recycling: who has been connected for long is sent to come back, a few a second, so that a node that came
//! later gets its share.
//!
//! Owns when a connection is old. It must never send one away that is not caught up, nor more a second than set.

use std::sync::Arc;
use std::time::Duration;

use super::Delivery;
use super::connection::Connection;
use super::heads::spread;
use crate::domain::{ConnectionId, UnixMillis};
use crate::wire::CloseCode;

/// How often old connections are looked for.
const LOOK: Duration = Duration::from_secs(1);
/// Those that came together are let off for some more of the age each, up to a quarter.
const LET_OFF: f64 = 0.25;
/// Over how long clients come back: no longer than they need so as not to come as one.
const COME_BACK: Duration = Duration::from_secs(2);

/// How long connections last.
#[derive(Debug, Clone, Copy)]
pub struct Recycling {
    /// At least so long, and up to a quarter more.
    pub age: Duration,
    /// At most so many are sent away in a second; at least 1.
    pub per_second: u32,
}

impl Delivery {
    /// Sends old connections away, for ever; not at all unless it is set.
    pub(super) async fn recycle(self: Arc<Self>) {
        let Some(recycling) = self.settings.recycling else { return };
        loop {
            tokio::select! {
                biased; // Only so that simulations replay.
                () = self.cancel.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            if !self.is_draining() {
                self.send_old_away(recycling);
            }
        }
    }

    /// The oldest first. Who is not caught up, or is one too many for this second, stays until a later one.
    fn send_old_away(&self, recycling: Recycling) {
        let now = self.keeper.shared_time(self.clock.now());
        let (mut left, mut staying) = (recycling.per_second, 0);
        for connection in self.hub.made_before(born_by(now, recycling.age)) {
            if now.since(connection.id.made_at()) < lifetime(connection.id, recycling.age) {
                continue;
            }
            if left > 0 && connection.is_caught_up() {
                self.send_away(&connection);
                left -= 1;
            } else {
                staying += 1;
            }
        }
        self.metrics.overdue_connections.set(staying);
    }

    fn send_away(&self, connection: &Arc<Connection>) {
        let after = self.clock.random_range(Duration::ZERO..COME_BACK);
        connection.bye(CloseCode::Recycled, Some(after));
    }
}

/// Every id that is lower is of a connection of at least this age.
fn born_by(now: UnixMillis, age: Duration) -> ConnectionId {
    let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    ConnectionId::new(UnixMillis(now.0.saturating_sub(age_ms)), 0)
}

/// How long this connection lasts: the same whenever it is asked.
fn lifetime(id: ConnectionId, age: Duration) -> Duration {
    const PARTS: u64 = 1 << 16;
    age + age.mul_f64(LET_OFF * (spread(id) % PARTS) as f64 / PARTS as f64)
}
