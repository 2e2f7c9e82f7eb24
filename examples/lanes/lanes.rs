//! The measurement: urgent ones alone, and again beside the crowd.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use tokio::time::{MissedTickBehavior, interval};

use super::device::{Device, USER};
use super::tally::Tally;

/// Low messages whose confirms are awaited together.
const GROUP: u32 = 1_000;

/// How many of each.
#[derive(Debug, Args)]
pub(super) struct Lanes {
    /// Where to publish: an AMQP URL with the vhost.
    #[arg(long, env = "LOAD_AMQP_URL", hide_env_values = true)]
    amqp: String,
    /// Low messages that are there at once, before the urgent ones beside them.
    #[arg(long, default_value_t = 120_000, value_parser = clap::value_parser!(u32).range(1..=900_000))]
    low: u32,
    /// Urgent ones, alone and again beside the low ones.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    high: u32,
    /// Processes that stand still (SIGSTOP) until the low ones are there: nodes would take them as they come.
    #[arg(long = "hold", value_name = "PID")]
    held: Vec<u32>,
}

impl Lanes {
    pub(super) async fn run(self, device: &Device) -> anyhow::Result<()> {
        let connection = Connection::connect(&self.amqp, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let tally = Tally::new(2 * self.high);
        let device = device.connect(&tally).await?;
        let alone = self.urgent(&channel, &tally, 0).await?;
        signal("STOP", &self.held)?;
        let crowded = self.crowd(&channel).await;
        signal("CONT", &self.held)?;
        crowded?;
        let before = waiting(&channel).await?;
        let beside = self.urgent(&channel, &tally, self.high).await?;
        let after = waiting(&channel).await?;
        if device.is_finished() {
            return device.await?.context("the device");
        }
        ensure!(after > 0, "of {before} low messages none was waiting at the end: the run shows nothing");
        println!("high alone: {} of {}, ", alone.len(), self.high);
        tally.print_latency(&alone);
        println!(
            "high beside {before} low ones waiting at the start and {after} at the end: {} of {}",
            beside.len(),
            self.high
        );
        tally.print_latency(&beside);
        let ratio = |share| tally.latency_ms(&beside, share) / tally.latency_ms(&alone, share);
        println!("beside / alone: p50 {:.2}, p99 {:.2}", ratio(0.5), ratio(0.99));
        Ok(())
    }

    /// Ten a second to the one device that is there; answers their numbers once they have arrived.
    async fn urgent(&self, channel: &Channel, tally: &Arc<Tally>, first: u32) -> anyhow::Result<Vec<u32>> {
        let mut pace = interval(Duration::from_millis(100));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let numbers: Vec<u32> = (first..first + self.high).collect();
        for number in &numbers {
            pace.tick().await;
            let data = tally.mark(*number);
            publish(channel, "high", &[body(USER, &data)]).await?;
        }
        tally.wait_for(u64::from(first + self.high)).await;
        ensure!(tally.frames() == u64::from(first + self.high), "{} arrived", tally.frames());
        Ok(numbers)
    }

    /// Low ones to users who are not connected.
    async fn crowd(&self, channel: &Channel) -> anyhow::Result<()> {
        for start in (0..self.low).step_by(GROUP as usize) {
            let numbers = start..(start + GROUP).min(self.low);
            let bodies: Vec<String> =
                numbers.map(|number| body(&format!("bulk-{}", number % 10_000), "null")).collect();
            publish(channel, "low", &bodies).await?;
        }
        Ok(())
    }
}

fn signal(name: &str, processes: &[u32]) -> anyhow::Result<()> {
    for process in processes {
        let status = Command::new("kill").arg(format!("-{name}")).arg(process.to_string()).status()?;
        ensure!(status.success(), "{process} was not sent SIG{name}");
    }
    Ok(())
}

fn body(user: &str, data: &str) -> String {
    let text = "x".repeat(200);
    format!(r#"{{"to":{{"users":["{user}"]}},"type":"load","body":"{text}","data":{data}}}"#)
}

async fn publish(channel: &Channel, lane: &str, bodies: &[String]) -> anyhow::Result<()> {
    let mut confirms = vec![];
    for body in bodies {
        let properties = BasicProperties::default().with_delivery_mode(2);
        let options = BasicPublishOptions::default();
        let exchange = "fanfare.notifications".into();
        confirms
            .push(channel.basic_publish(exchange, lane.into(), options, body.as_bytes(), properties).await?);
    }
    for confirm in confirms {
        ensure!(confirm.await? == Confirmation::Ack(None), "a message was refused");
    }
    Ok(())
}

async fn waiting(channel: &Channel) -> anyhow::Result<u32> {
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare("fanfare.ingress.low".into(), passive, FieldTable::default()).await;
    Ok(queue.context("the low lane")?.message_count())
}
