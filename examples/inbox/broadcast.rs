//! What a notification to everyone costs: the same, however many users are known.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use fanfare::domain::{DeviceId, Recipient, Stream, UserId};
use fanfare::inbox::{Appended, Inbox, Open};

use super::{item, watch};

/// How many broadcasts are measured each time.
const BROADCASTS: u64 = 500;
/// How many users become known in one call.
const GROUP: u64 = 500;

/// Measures broadcasts before and after `known` users have attached a device each.
pub(super) async fn measure(
    inbox: &Arc<dyn Inbox>,
    known: u64,
    watched: &[watch::Watched],
) -> anyhow::Result<()> {
    broadcasts(inbox, 0, watched).await?;
    let start = Instant::now();
    for first in (0..known).step_by(usize::try_from(GROUP)?) {
        let requests = (first..known.min(first + GROUP)).map(attach).collect::<anyhow::Result<Vec<_>>>()?;
        for opened in inbox.open(requests).await {
            opened.context("a user was not attached")?;
        }
    }
    println!("{known} users became known in {:.0?}", start.elapsed());
    broadcasts(inbox, known, watched).await
}

fn attach(number: u64) -> anyhow::Result<Open> {
    Ok(Open {
        user: UserId::new(format!("known-{number}"))?,
        device: Some(DeviceId::new("phone")?),
        stream: Stream::Everyone,
        resume: None,
    })
}

async fn broadcasts(inbox: &Arc<dyn Inbox>, known: u64, watched: &[watch::Watched]) -> anyhow::Result<()> {
    let before = watch::CpuTimes::of(watched)?;
    let mut took = Vec::new();
    for _ in 0..BROADCASTS {
        let mut broadcast = item(0)?;
        broadcast.recipients = vec![Recipient { stream: Stream::Everyone, device: None }];
        let start = Instant::now();
        let appended = inbox.append(vec![broadcast]).await.swap_remove(0)?;
        took.push(start.elapsed());
        let is_one = matches!(&appended, Appended::Stored(places) if places.len() == 1);
        anyhow::ensure!(is_one, "not one entry: {appended:?}");
    }
    took.sort_unstable();
    let (median, last) = (took[took.len() / 2], took[took.len() - 1]);
    println!("to everyone, {known} users known: 1 entry each, median {median:.1?}, longest {last:.1?}");
    watch::print_cpu(&watch::CpuTimes::of(watched)?.since(&before), BROADCASTS, "broadcast");
    Ok(())
}
