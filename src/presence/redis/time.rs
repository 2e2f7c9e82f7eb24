//! What time Redis has, without asking it each time.
//!
//! Owns the offset. All deadlines are in Redis time, so that nodes whose clocks differ agree on
//! who is alive. It is anchored to the monotonic clock: a step of the local wall clock moves nothing.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{RedisResult, cmd};

/// Redis time, as last measured. Wrong by at most half the round trip of that measurement (and
/// the drift since: a new lease call measures anew every few seconds, a new connection too, since
/// it may be to another server).
#[derive(Debug)]
pub(super) struct RedisTime {
    origin: Instant,
    /// Redis time in milliseconds at `origin`.
    at_origin: AtomicI64,
}

impl RedisTime {
    /// Not right before the first [`Self::observe`]; a pool measures before it hands out a connection.
    pub(super) fn unmeasured() -> Self {
        Self { origin: Instant::now(), at_origin: AtomicI64::new(0) }
    }

    /// Redis time now, in milliseconds since 1970.
    pub(super) fn now_ms(&self) -> i64 {
        self.at_origin.load(Ordering::Relaxed) + millis(self.origin.elapsed())
    }

    /// Takes in what `TIME` (seconds, microseconds) answered to a question sent at `asked`:
    /// it was true half a round trip ago.
    pub(super) fn observe(&self, asked: Instant, (seconds, micros): (i64, i64)) {
        let middle = asked.duration_since(self.origin) + asked.elapsed() / 2;
        let redis_ms = seconds.saturating_mul(1_000) + micros / 1_000;
        self.at_origin.store(redis_ms - millis(middle), Ordering::Relaxed);
    }

    /// Asks on this connection. Cancel safe: the offset is stored or not.
    pub(super) async fn measure(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let asked = Instant::now();
        let time: (i64, i64) = cmd("TIME").query_async(connection).await?;
        self.observe(asked, time);
        Ok(())
    }
}

/// As a number that Redis takes; no duration here comes near the end of `i64`.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_redis_was_true_half_a_round_trip_ago() {
        let time = RedisTime::unmeasured();
        let asked = time.origin.checked_sub(Duration::from_secs(2)).unwrap_or(time.origin);
        let time = RedisTime { origin: asked, ..time };
        time.observe(asked, (1_000, 500_000));
        let ahead = time.now_ms() - 1_000_500;
        assert!((1_000..1_500).contains(&ahead), "{ahead} ms after TIME");
    }
}
