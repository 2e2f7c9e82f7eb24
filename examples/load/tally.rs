//! What arrived: each message once on each device, in order, and after how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::devices::Handler;

/// Counts of all devices together.
#[derive(Debug)]
pub(super) struct Tally {
    began: Instant,
    /// How often each message arrived.
    arrived: Vec<AtomicU32>,
    /// Microseconds from the post to each message's latest arrival.
    latency: Vec<AtomicU32>,
    frames: AtomicU64,
    bytes: AtomicU64,
    /// A seq that was not greater than the last one of its stream.
    doubled: AtomicU64,
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
    /// Of messages numbered from 0.
    pub(super) fn new(messages: u32) -> Arc<Self> {
        let zeros = || (0..messages).map(|_| AtomicU32::new(0)).collect();
        Arc::new(Self {
            began: Instant::now(),
            arrived: zeros(),
            latency: zeros(),
            frames: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            doubled: AtomicU64::new(0),
        })
    }

    /// The `data` of a message that is posted now.
    pub(super) fn mark(&self, number: u32) -> String {
        format!(r#"{{"number":{number},"at_us":{}}}"#, self.now_us())
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn take(&self, mark: &Mark, bytes: usize) {
        self.frames.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let number = mark.number as usize;
        if let (Some(arrived), Some(latency)) = (self.arrived.get(number), self.latency.get(number)) {
            arrived.fetch_add(1, Ordering::Relaxed);
            let took = self.now_us().saturating_sub(mark.at_us);
            latency.fetch_max(u32::try_from(took).unwrap_or(u32::MAX), Ordering::Relaxed);
        }
    }

    /// Deliveries so far, doubles included.
    pub(super) fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Waits until `expected` have arrived, or nothing more for 10 s (a minute at most for the first).
    pub(super) async fn wait_for(&self, expected: u64) {
        let (mut last, mut quiet) = (self.frames(), Instant::now());
        while self.frames() < expected && quiet.elapsed() < Duration::from_secs(10) {
            sleep(Duration::from_millis(10)).await;
            if self.frames() != last {
                (last, quiet) = (self.frames(), Instant::now());
            }
        }
    }

    /// Prints what arrived of the messages that were accepted, each for `devices`.
    pub(super) fn print(&self, accepted: &[u32], devices: u32) {
        let count = |number: &u32| self.arrived[*number as usize].load(Ordering::Relaxed);
        let lost: u64 = accepted.iter().map(|number| u64::from(devices.saturating_sub(count(number)))).sum();
        let more: u64 = accepted.iter().map(|number| u64::from(count(number).saturating_sub(devices))).sum();
        let expected = accepted.len() as u64 * u64::from(devices);
        println!(
            "delivered: {} of {expected}; lost {lost}, doubled {more}, out of order {}; {} bytes a frame",
            self.frames(),
            self.doubled.load(Ordering::Relaxed),
            self.bytes.load(Ordering::Relaxed) / self.frames().max(1)
        );
        self.print_latency(accepted);
    }

    /// Prints how long these took.
    pub(super) fn print_latency(&self, numbers: &[u32]) {
        println!(
            "from the post to the last device: p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
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

/// A device that counts, and acknowledges by hand or leaves it to pongs.
pub(super) struct Counter {
    tally: Arc<Tally>,
    acks: bool,
    last: [u64; 2],
}

impl Counter {
    pub(super) fn new(tally: &Arc<Tally>, acks: bool) -> Self {
        Self { tally: Arc::clone(tally), acks, last: [0; 2] }
    }
}

impl Handler for Counter {
    fn on_text(&mut self, text: &str) -> Option<String> {
        // Frames of other kinds, and what earlier runs left in the inbox, are not counted.
        let frame: Frame<'_> =
            serde_json::from_str(text).ok().filter(|frame: &Frame<'_>| frame.kind == "notification")?;
        let (stream, seq, notification) = (frame.stream?, frame.seq?, frame.notification?);
        let last = &mut self.last[usize::from(stream == "everyone")];
        if seq <= *last {
            self.tally.doubled.fetch_add(1, Ordering::Relaxed);
        }
        *last = seq.max(*last);
        self.tally.take(&notification.data, text.len());
        self.acks.then(|| format!(r#"{{"type":"ack","stream":"{stream}","seq":{seq}}}"#))
    }
}
