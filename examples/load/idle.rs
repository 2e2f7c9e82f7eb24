//! Idle connections: what each costs while nothing happens.

use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, sleep};

use super::devices::{Fleet, Handler};
use super::watch::{CpuTimes, Memory, Watched};

/// How many connections, and for how long they are watched.
#[derive(Debug, Args)]
pub(super) struct Idle {
    /// Connections to open, each of a user and device of its own.
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,
    /// Seconds until the second reading: at least one heartbeat (25), so that each was pinged.
    #[arg(long, default_value_t = 35, value_parser = clap::value_parser!(u64).range(1..=600))]
    settle: u64,
    /// Seconds over which the idle CPU is measured.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
}

/// Answers nothing; pings are the library's business.
struct Silent;

impl Handler for Silent {
    fn on_text(&mut self, _: &str) -> Option<String> {
        None
    }
}

impl Idle {
    pub(super) async fn run(self, fleet: &Fleet, watched: &[Watched]) -> anyhow::Result<()> {
        let node = &watched[0];
        let before = node.memory()?;
        print("before", before, None);
        let (started, cpu_before) = (Instant::now(), CpuTimes::of(watched)?);
        let mut devices = fleet.connect(self.connections, "manual", |_| Silent).await?;
        let took = started.elapsed().as_secs_f64();
        println!("{} connections opened in {took:.1} s", self.connections);
        let opened = CpuTimes::of(watched)?.since(&cpu_before);
        super::watch::print_cpu(&opened, u64::from(self.connections), "connection opened");
        let each = Some((before, u64::from(self.connections)));
        print("opened", node.memory()?, each);
        sleep(Duration::from_secs(self.settle)).await;
        devices.check()?;
        print("settled", node.memory()?, each);
        let (started, cpu_before) = (Instant::now(), CpuTimes::of(watched)?);
        sleep(Duration::from_secs(self.seconds)).await;
        devices.check()?;
        for (name, spent) in CpuTimes::of(watched)?.since(&cpu_before) {
            let share = spent / started.elapsed().as_secs_f64() * 100.0;
            println!("idle CPU of {name}: {spent:.2} s, {share:.2} % of one core");
        }
        print("at the end", node.memory()?, each);
        Ok(())
    }
}

fn print(when: &str, now: Memory, each: Option<(Memory, u64)>) {
    print!("memory {when}: PSS {} KiB, RSS {} KiB", now.pss / 1024, now.rss / 1024);
    if let Some((before, count)) = each {
        let pss = now.pss.saturating_sub(before.pss) / count;
        let rss = now.rss.saturating_sub(before.rss) / count;
        print!("; {pss} bytes of PSS a connection (RSS {rss})");
    }
    println!();
}
