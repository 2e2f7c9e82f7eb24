//! What arrived, and after how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, sleep};

/// Of messages numbered from 0.
#[derive(Debug)]
pub(super) struct Tally {
    began: Instant,
    /// Microseconds from the publish to each message's arrival.
    latency: Vec<AtomicU32>,
    frames: AtomicU64,
}

/// What a publisher puts into `data`: which message, and when (microseconds since the start).
#[derive(Debug, Deserialize)]
struct Mark {
    number: u32,
    at_us: u64,
}

#[derive(Deserialize)]
struct Notification {
    data: Mark,
}

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    stream: Option<&'a str>,
    seq: Option<u64>,
    notification: Option<Notification>,
}

impl Tally {
    pub(super) fn new(messages: u32) -> Arc<Self> {
        let latency = (0..messages).map(|_| AtomicU32::new(0)).collect();
        Arc::new(Self { began: Instant::now(), latency, frames: AtomicU64::new(0) })
    }

    /// The `data` of a message that is published now.
    pub(super) fn mark(&self, number: u32) -> String {
        format!(r#"{{"number":{number},"at_us":{}}}"#, self.now_us())
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Counts a frame, if it is a notification of this run; answers its ack.
    pub(super) fn take(&self, text: &str) -> Option<String> {
        let frame: Frame<'_> =
            serde_json::from_str(text).ok().filter(|frame: &Frame<'_>| frame.kind == "notification")?;
        let (stream, seq, mark) = (frame.stream?, frame.seq?, frame.notification?.data);
        self.frames.fetch_add(1, Ordering::Relaxed);
        if let Some(latency) = self.latency.get(mark.number as usize) {
            let took = self.now_us().saturating_sub(mark.at_us);
            latency.fetch_max(u32::try_from(took).unwrap_or(u32::MAX), Ordering::Relaxed);
        }
        Some(format!(r#"{{"type":"ack","stream":"{stream}","seq":{seq}}}"#))
    }

    /// Arrivals so far, doubles included.
    pub(super) fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Waits until `expected` have arrived, or nothing more for 10 s.
    pub(super) async fn wait_for(&self, expected: u64) {
        let (mut last, mut quiet) = (self.frames(), Instant::now());
        while self.frames() < expected && quiet.elapsed() < Duration::from_secs(10) {
            sleep(Duration::from_millis(10)).await;
            if self.frames() != last {
                (last, quiet) = (self.frames(), Instant::now());
            }
        }
    }

    /// Prints how long these took.
    pub(super) fn print_latency(&self, numbers: &[u32]) {
        println!(
            "from the publish to the device: p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
            self.latency_ms(numbers, 0.5),
            self.latency_ms(numbers, 0.99),
            self.latency_ms(numbers, 1.0)
        );
    }

    /// How long such a share of these took at most, in milliseconds.
    pub(super) fn latency_ms(&self, numbers: &[u32], share: f64) -> f64 {
        let taken = numbers.iter().map(|number| self.latency[*number as usize].load(Ordering::Relaxed));
        let mut latency: Vec<u32> = taken.collect();
        latency.sort_unstable();
        let place = (latency.len() as f64 * share) as usize;
        f64::from(latency.get(place.min(latency.len().saturating_sub(1))).copied().unwrap_or(0)) / 1000.0
    }
}
