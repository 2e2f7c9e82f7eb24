//! What a store costs: appends with publishers at once, and the replay of a stream.
//!
//! `benches/run inbox` makes the stores and calls it; `cargo run --release --example inbox -- --help` lists
//! what can be set. It owns publishers that each wait for their answer, grouped as a node groups them. The CPU of
//! SQLite is this process's own, that of PostgreSQL is watched. It must never make or remove tables of its own.

mod broadcast;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use clap::Parser;
use fanfare::batch::{Batcher, Shape};
use fanfare::clock::Clock;
use fanfare::domain::{
    Notification, NotificationId, PublisherId, Recipient, Seq, Stream, UnixMillis, UserId,
};
use fanfare::inbox::{
    Append, Appended, Audience, Inbox, InboxError, PostgresInbox, Read, Settings, SqliteInbox, is_sqlite,
};
use fanfare::metrics::inbox::InboxMetrics;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// As a node has it without configuration.
const SHAPE: Shape =
    Shape { lanes: 1, bound: 10_000, group: 256, workers: 2, linger: Duration::from_millis(10) };

/// How many users get something.
const USERS: u64 = 10_000;

/// How many entries a stream has when retention or an erasure removes them.
const REMOVED: u64 = 10_000;

/// How many entries are replayed, in pages of how many.
const REPLAYED: u64 = 1_000;
const PAGE: u32 = 256;

/// Measures an inbox on this machine.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where it is: a store that was migrated.
    #[arg(long, env = "INBOX_URL", hide_env_values = true)]
    url: String,
    /// How many publishers at once, one measurement each.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 512])]
    publishers: Vec<usize>,
    /// How long each measurement takes.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// How often the stream is replayed.
    #[arg(long, default_value_t = 50)]
    replays: u32,
    /// Measure broadcasts instead, with none and with so many known users.
    #[arg(long)]
    known: Option<u64>,
    /// How many appends a commit takes at most.
    #[arg(long, default_value_t = SHAPE.group)]
    group: usize,
    /// A process to watch, with all its children: NAME=PID.
    #[arg(long = "watch", value_parser = watch::Watched::parse)]
    watched: Vec<watch::Watched>,
}

type Appends = Batcher<Append, Result<Appended, InboxError>>;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    println!("load average at the start: {}", watch::load_average()?);
    let own = watch::Watched::parse(&format!("the process={}", std::process::id()));
    let own = own.map_err(anyhow::Error::msg)?;
    let watched: Vec<_> = std::iter::once(own.clone()).chain(arguments.watched.iter().cloned()).collect();
    let inbox = open(&arguments.url).await?;
    if let Some(known) = arguments.known {
        broadcast::measure(&inbox, known, &watched).await?;
        inbox.close().await;
        return Ok(());
    }
    let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
    let appends = {
        let inbox = Arc::clone(&inbox);
        Batcher::start(Shape { group: arguments.group, ..SHAPE }, &tracker, &cancel, move |group| {
            let inbox = Arc::clone(&inbox);
            async move { inbox.append(group).await }
        })
    };
    let time = Duration::from_secs(arguments.seconds);
    let mut first = None;
    for publishers in &arguments.publishers {
        let rate = measure(&appends, *publishers, time, &watched).await?;
        let first = *first.get_or_insert(rate);
        println!("{publishers} publishers: {:.1} times the first rate", rate / first);
    }
    replay(&inbox, arguments.replays, &watched).await?;
    beside_upkeep(&inbox, &appends).await?;
    let memory = own.memory()?;
    println!(
        "memory of the process: {} KiB of its own, {} KiB resident",
        memory.pss / 1024,
        memory.rss / 1024
    );
    cancel.cancel();
    tracker.close();
    tracker.wait().await;
    inbox.close().await;
    println!("load average at the end: {}", watch::load_average()?);
    Ok(())
}

async fn open(url: &str) -> anyhow::Result<Arc<dyn Inbox>> {
    let settings = Settings {
        url: url.to_owned(),
        max_connections: 10,
        timeout: Duration::from_secs(10),
        max_devices: 32,
        receipt_events: false,
        undelivered_after: None,
    };
    let (clock, metrics) = (Clock::system(), InboxMetrics::default());
    Ok(if is_sqlite(url) {
        Arc::new(SqliteInbox::open(&settings, clock, metrics).await?)
    } else {
        Arc::new(PostgresInbox::open(&settings, clock, metrics).await?)
    })
}

/// A notification of a usual size for a user.
fn item(user: u64) -> anyhow::Result<Append> {
    let id = NotificationId(uuid::Uuid::now_v7());
    let json = format!(
        r#"{{"id":"{id}","type":"order.shipped","title":"Your order is on its way","body":"{}","data":{{"order":{user}}}}}"#,
        "x".repeat(150)
    );
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let created_at = UnixMillis(u64::try_from(now.as_millis())?);
    let stream = Stream::User(UserId::new(format!("user-{user}"))?);
    Ok(Append {
        notification: Notification { id, created_at, expires_at: None, json: Bytes::from(json) },
        recipients: vec![Recipient { stream, device: None }],
        publisher: PublisherId::new("load")?,
        idempotency: None,
        collapse_key: None,
        scheduled: false,
    })
}

async fn append(appends: &Appends, item: Append) -> anyhow::Result<()> {
    let appended = appends.call(0, item).await.context("the batcher refused")??;
    anyhow::ensure!(matches!(appended, Appended::Stored(_)), "not stored: {appended:?}");
    Ok(())
}

/// Publishers that append one after the other for `time`; answers how many a second.
async fn measure(
    appends: &Appends,
    publishers: usize,
    time: Duration,
    watched: &[watch::Watched],
) -> anyhow::Result<f64> {
    let (done, before, start) = (Arc::new(AtomicU64::new(0)), watch::CpuTimes::of(watched)?, Instant::now());
    let tasks: Vec<_> = (0..publishers)
        .map(|_| {
            let (appends, done) = (appends.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                while start.elapsed() < time {
                    append(&appends, item(rand::random_range(0..USERS))?).await?;
                    done.fetch_add(1, Ordering::Relaxed);
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    let (took, done) = (start.elapsed(), done.load(Ordering::Relaxed));
    let rate = done as f64 / took.as_secs_f64();
    println!("{publishers} publishers: {rate:.0} appends/s ({done} in {:.1} s)", took.as_secs_f64());
    watch::print_cpu(&watch::CpuTimes::of(watched)?.since(&before), done, "append");
    Ok(rate)
}

/// Reads a stream from its start, page by page, as a session that comes back after long.
async fn replay(inbox: &Arc<dyn Inbox>, times: u32, watched: &[watch::Watched]) -> anyhow::Result<()> {
    let stream = Stream::User(fill(inbox, REPLAYED).await?);
    let before = watch::CpuTimes::of(watched)?;
    let mut took = Vec::new();
    for _ in 0..times.max(1) {
        let start = Instant::now();
        let (mut after, mut entries) = (Seq(0), 0);
        loop {
            let read = Read {
                stream: stream.clone(),
                after,
                audience: Audience::Device(None),
                max_entries: PAGE,
                max_bytes: 1 << 20,
            };
            let page = inbox.read(vec![read], UnixMillis(0)).await?.swap_remove(0);
            entries += page.entries.len() as u64;
            after = page.through;
            if page.through == page.head {
                break;
            }
        }
        anyhow::ensure!(entries == REPLAYED, "{entries} entries were replayed");
        took.push(start.elapsed());
    }
    took.sort_unstable();
    let (median, last) = (took[took.len() / 2], took[took.len() - 1]);
    println!("replay of {REPLAYED} entries in pages of {PAGE}: median {median:.1?}, longest {last:.1?}");
    watch::print_cpu(&watch::CpuTimes::of(watched)?.since(&before), u64::from(times.max(1)), "replay");
    Ok(())
}

/// A user with so many entries.
async fn fill(inbox: &Arc<dyn Inbox>, entries: u64) -> anyhow::Result<UserId> {
    let user = USERS + rand::random_range(0..u64::from(u32::MAX));
    for _ in 0..entries.div_ceil(100) {
        let group = (0..100).map(|_| item(user)).collect::<anyhow::Result<Vec<_>>>()?;
        for answer in inbox.append(group).await {
            answer?;
        }
    }
    Ok(UserId::new(format!("user-{user}"))?)
}

/// How long publishers wait while much is removed.
async fn beside_upkeep(inbox: &Arc<dyn Inbox>, appends: &Appends) -> anyhow::Result<()> {
    let user = fill(inbox, REMOVED).await?;
    let expected = REMOVED;
    let retention = async {
        let removed = inbox.retain_by_count(&[Stream::User(user)], 0).await?;
        anyhow::ensure!(removed == expected, "{removed} entries were removed");
        Ok(())
    };
    beside("retention", appends, retention).await?;
    let user = fill(inbox, REMOVED).await?;
    let erasure = async {
        let erased = inbox.erase(&user).await?;
        anyhow::ensure!(erased.entries == expected, "{} entries were erased", erased.entries);
        Ok(())
    };
    beside("an erasure", appends, erasure).await
}

/// Appends one after the other until `work` is done.
async fn beside(
    what: &str,
    appends: &Appends,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut work = std::pin::pin!(work);
    let mut waits = Vec::new();
    loop {
        let began = Instant::now();
        let mut one = std::pin::pin!(append(appends, item(rand::random_range(0..USERS))?));
        tokio::select! {
            done = &mut work => {
                done?;
                break;
            }
            appended = &mut one => appended?,
        }
        waits.push(began.elapsed());
    }
    let took = start.elapsed();
    waits.sort_unstable();
    let median = waits.get(waits.len() / 2).copied().unwrap_or_default();
    let longest = waits.last().copied().unwrap_or_default();
    println!(
        "{what} of {REMOVED} entries took {took:.1?}; beside it {} appends, median {median:.1?}, longest {longest:.1?}",
        waits.len()
    );
    Ok(())
}
