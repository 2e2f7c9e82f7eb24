//! Messages to one user each: posted, stored, delivered, acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::devices::{self, Fleet};
use super::publisher::{Publisher, Target};
use super::tally::{Counter, Tally};
use super::watch::{CpuTimes, Watched, print_cpu};

/// How many users, and what they get.
#[derive(Debug, Args)]
pub(super) struct Unicast {
    /// Connections to open, each of a user of its own.
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,
    /// Publishers, each with one request in flight.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    publishers: u32,
    /// Messages in all.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    messages: u32,
    /// Messages a second of all publishers together; 0: as fast as they are answered.
    #[arg(long, default_value_t = 0)]
    rate: u32,
    /// Which users get them is random, from this seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What publishers share.
struct Work {
    tally: Arc<Tally>,
    next: AtomicU32,
    began: Instant,
}

impl Unicast {
    pub(super) async fn run(self, fleet: &Fleet, target: &Target, watched: &[Watched]) -> anyhow::Result<()> {
        let settings = Arc::new(self);
        let tally = Tally::new(settings.messages);
        let mut devices =
            fleet.connect(settings.connections, "manual", |_| Counter::new(&tally, true)).await?;
        println!(
            "{} connections, {} publishers, seed {}",
            settings.connections, settings.publishers, settings.seed
        );
        sleep(Duration::from_secs(5)).await;
        let before = CpuTimes::of(watched)?;
        let work =
            Arc::new(Work { tally: Arc::clone(&tally), next: AtomicU32::new(0), began: Instant::now() });
        let mut publishers = JoinSet::new();
        for place in 0..settings.publishers {
            publishers.spawn(publish(
                Arc::clone(&settings),
                Arc::clone(&work),
                Publisher::new(target),
                place,
            ));
        }
        let mut accepted = vec![];
        while let Some(done) = publishers.join_next().await {
            accepted.extend(done??);
        }
        let posted_in = work.began.elapsed().as_secs_f64();
        tally.wait_for(accepted.len() as u64).await;
        let delivered_in = work.began.elapsed().as_secs_f64();
        devices.check()?;
        // Acks that are still on their way, and their cursors (merged over seconds).
        sleep(Duration::from_secs(3)).await;
        let spent = CpuTimes::of(watched)?.since(&before);
        let count = accepted.len() as f64;
        println!("accepted: {} of {}, {:.0}/s", accepted.len(), settings.messages, count / posted_in);
        println!("delivered at {:.0}/s", tally.frames() as f64 / delivered_in);
        tally.print(&accepted, 1);
        print_cpu(&spent, accepted.len() as u64, "message");
        Ok(())
    }
}

/// Posts until no number is left; answers those that were accepted.
async fn publish(
    settings: Arc<Unicast>,
    work: Arc<Work>,
    mut publisher: Publisher,
    place: u32,
) -> anyhow::Result<Vec<u32>> {
    let mut random = StdRng::seed_from_u64(settings.seed.wrapping_add(u64::from(place)));
    let text = "x".repeat(200);
    let mut accepted = vec![];
    loop {
        let number = work.next.fetch_add(1, Ordering::Relaxed);
        if number >= settings.messages {
            return Ok(accepted);
        }
        if settings.rate > 0 {
            let after = f64::from(number) / f64::from(settings.rate);
            sleep_until(work.began + Duration::from_secs_f64(after)).await;
        }
        let user = devices::user(random.random_range(0..settings.connections));
        let data = work.tally.mark(number);
        let body = format!(r#"{{"to":{{"users":["{user}"]}},"type":"load","body":"{text}","data":{data}}}"#);
        let status = publisher.post(&body).await?;
        ensure!(status == 202, "a message was answered {status}");
        accepted.push(number);
    }
}
