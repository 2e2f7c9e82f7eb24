//! Publishers over AMQP: each publishes with confirms, and again with the same `message_id` until it is confirmed.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::load::{Parcel, Work};

/// How many there are, and how often each publishes: 40 a second together.
pub const PUBLISHERS: u16 = 4;
const PACE: Duration = Duration::from_millis(100);
/// Under an alarm confirms never come: then the connection is given up, and nobody knows what became of it.
const CONFIRM: Duration = Duration::from_secs(8);
const CONNECT: Duration = Duration::from_secs(5);

/// One publisher, until told to stop and its last one is confirmed.
pub async fn publish(work: &Work, urls: &[String], place: u16, stop: &CancellationToken) {
    let mut random = StdRng::seed_from_u64(work.seed.wrapping_add(1_000_000 + u64::from(place)));
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut open, mut waiting, mut target): (Option<(Connection, Channel)>, Option<Parcel>, _) =
        (None, None, usize::from(place));
    loop {
        if waiting.is_none() {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = pace.tick() => {}
            }
        }
        let parcel = waiting.take().unwrap_or_else(|| work.next(&mut random, None));
        let sent = async {
            if open.is_none() {
                open = Some(connect(&urls[target % urls.len()]).await?);
            }
            let (_, channel) = open.as_ref().context("it was opened above")?;
            timeout(CONFIRM, send(channel, work, &parcel)).await.context("no confirm in time")?
        };
        if sent.await.is_ok() {
            work.confirmed(&parcel);
            continue;
        }
        work.books.with(|account| account.on_try_again());
        waiting = Some(parcel);
        if let Some((connection, _)) = open.take() {
            // A blocked connection does not even close in time.
            let _ = timeout(Duration::from_millis(500), connection.close(200, "again".into())).await;
        }
        target += 1;
        sleep(Duration::from_millis(rand::random_range(100..800))).await;
    }
}

async fn connect(url: &str) -> Result<(Connection, Channel)> {
    let connecting = Connection::connect(url, ConnectionProperties::default());
    let connection = timeout(CONNECT, connecting).await??;
    let channel = timeout(CONNECT, connection.create_channel()).await??;
    timeout(CONNECT, channel.confirm_select(ConfirmSelectOptions::default())).await??;
    Ok((connection, channel))
}

async fn send(channel: &Channel, work: &Work, parcel: &Parcel) -> Result<()> {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/json".into())
        .with_user_id("guest".into())
        .with_message_id(work.idempotency_key(parcel.number).into());
    let exchange = "fanfare.notifications".into();
    let publishing =
        channel.basic_publish(exchange, "normal".into(), options, parcel.json.as_bytes(), properties);
    match publishing.await?.await? {
        Confirmation::Ack(None) => Ok(()),
        other => bail!("not taken: {other:?}"),
    }
}
