//! One message to everyone: what each delivery costs.

use std::time::Duration;

use anyhow::ensure;
use clap::{Args, ValueEnum};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::devices::Fleet;
use super::publisher::{Publisher, Target};
use super::tally::{Counter, Tally};
use super::watch::{CpuTimes, Watched, print_cpu};

/// Messages in a row that may wait for their acks are bounded by the window; this stays far below it.
const BODY_BYTES: usize = 200;

/// How many connections, and what they get.
#[derive(Debug, Args)]
pub(super) struct Fanout {
    /// Connections to open.
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,
    /// Messages to everyone, with a body of 200 bytes.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    messages: u32,
    /// Milliseconds from one post to the next.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pace_ms: u64,
    /// Who acknowledges: `manual` a frame for each, `auto` the next pong, `none` nobody (up to 256 messages).
    #[arg(long, value_enum, default_value_t = Ack::Manual)]
    ack: Ack,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Ack {
    Manual,
    Auto,
    None,
}

impl Fanout {
    pub(super) async fn run(self, fleet: &Fleet, target: &Target, watched: &[Watched]) -> anyhow::Result<()> {
        let tally = Tally::new(self.messages);
        let mode = if self.ack == Ack::Auto { "auto" } else { "manual" };
        let acks = self.ack == Ack::Manual;
        let mut devices = fleet.connect(self.connections, mode, |_| Counter::new(&tally, acks)).await?;
        println!("{} connections, ack {:?}", self.connections, self.ack);
        // What opening them left to do is not part of the figure.
        sleep(Duration::from_secs(5)).await;
        let (started, before) = (Instant::now(), CpuTimes::of(watched)?);
        let mut publisher = Publisher::new(target);
        let mut pace = interval(Duration::from_millis(self.pace_ms));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut accepted = vec![];
        for number in 0..self.messages {
            pace.tick().await;
            let text = "x".repeat(BODY_BYTES);
            let data = tally.mark(number);
            let body = format!(r#"{{"to":{{"everyone":true}},"type":"load","body":"{text}","data":{data}}}"#);
            let status = publisher.post(&body).await?;
            ensure!(status == 202, "a message was answered {status}");
            accepted.push(number);
            tally.wait_for((u64::from(number) + 1) * u64::from(self.connections)).await;
            devices.check()?;
        }
        // Acks that are still on their way, and their cursors (merged over seconds).
        sleep(Duration::from_secs(3)).await;
        let took = started.elapsed().as_secs_f64();
        let spent = CpuTimes::of(watched)?.since(&before);
        tally.print(&accepted, self.connections);
        println!("{} deliveries in {took:.1} s, pauses included", tally.frames());
        print_cpu(&spent, tally.frames(), "delivery");
        Ok(())
    }
}
