//! The ingress lanes of a real cluster: what is urgent does not wait behind what is not.

use std::time::{Duration, Instant};

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use serde_json::{Value, json};

use crate::support::DEADLINE;
use crate::support::cluster::TestCluster;
use crate::support::device::Device;

/// How many low ones wait at first: many times what is taken while the urgent ones arrive.
const LOW: usize = 100_000;
/// How many urgent ones are sent beside them, one after the other: few, as the quicker a machine is the more low ones go
/// in the time that one takes.
const HIGH: usize = 8;

/// A backend that publishes over AMQP with confirms.
pub struct Backend {
    pub channel: Channel,
    _connection: Connection,
}

impl Backend {
    pub async fn of(cluster: &TestCluster) -> Self {
        let connecting = Connection::connect(&cluster.amqp_url, ConnectionProperties::default());
        let connection = connecting.await.expect("RabbitMQ answers");
        let channel = connection.create_channel().await.expect("a channel opens");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms are on");
        Self { channel, _connection: connection }
    }

    /// Publishes all, and waits for all confirms.
    pub async fn publish(&self, lane: &str, bodies: impl Iterator<Item = Vec<u8>>) {
        let persistent = BasicProperties::default().with_delivery_mode(2);
        self.publish_with(lane, bodies.map(|body| (persistent.clone(), body))).await;
    }

    /// The same, each with properties of its own.
    pub async fn publish_with(&self, lane: &str, messages: impl Iterator<Item = (BasicProperties, Vec<u8>)>) {
        let mut confirms = Vec::new();
        for (properties, body) in messages {
            let options = BasicPublishOptions::default();
            let exchange = "fanfare.notifications".into();
            let sent = self.channel.basic_publish(exchange, lane.into(), options, &body, properties).await;
            confirms.push(sent.expect("it is sent"));
        }
        for confirm in confirms {
            assert_eq!(confirm.await.expect("it is confirmed"), Confirmation::Ack(None));
        }
    }

    /// How many messages of the queue are ready, and how many consumers it has. A quorum queue that does not answer
    /// within a quarter of a second is called empty: asked a few times, then.
    pub async fn ready_and_consumers(&self, queue: &str) -> (u32, u32) {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let mut most = (0, 0);
        for _ in 0..5 {
            let found = self.channel.queue_declare(queue.into(), passive, FieldTable::default()).await;
            let found = found.expect("it is there");
            most = (found.message_count().max(most.0), found.consumer_count().max(most.1));
        }
        most
    }
}

fn to(user: &str, data: Value) -> Vec<u8> {
    json!({"to": {"users": [user]}, "data": data}).to_string().into_bytes()
}

/// Sends urgent ones to alice one after the other; answers how long each took, sorted.
async fn latencies(backend: &Backend, device: &mut Device) -> Vec<Duration> {
    let mut latencies = Vec::new();
    for _ in 0..HIGH {
        let count = device.diary().notifications.len();
        let began = Instant::now();
        backend.publish("high", std::iter::once(to("alice", json!(count)))).await;
        device.received(DEADLINE, count + 1).await;
        latencies.push(began.elapsed());
    }
    latencies.sort_unstable();
    latencies
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn urgent_ones_arrive_while_a_hundred_thousand_low_ones_wait() {
    let mut cluster = TestCluster::start().await;
    let backend = Backend::of(&cluster).await;
    let mut device = cluster.device_on(0, "alice", "phone", &[]);
    device.connected(DEADLINE, 1).await;
    let alone = latencies(&backend, &mut device).await;
    // The nodes stand still meanwhile, so that however quick they are there is a backlog.
    cluster.nodes.iter_mut().for_each(|node| node.process().signal("STOP"));
    backend.publish("low", (0..LOW).map(|number| to(&format!("bulk-{}", number % 500), json!(number)))).await;
    let before = backend.ready_and_consumers("fanfare.ingress.low").await.0;
    cluster.nodes.iter_mut().for_each(|node| node.process().signal("CONT"));
    let beside = latencies(&backend, &mut device).await;
    let after = backend.ready_and_consumers("fanfare.ingress.low").await.0;
    let (alone, beside) = (alone[HIGH / 2], beside[HIGH / 2]);
    println!("high alone {alone:?}, beside {before} to {after} low ones {beside:?}");
    // Had they waited behind the low ones, the first alone would have seen all of these go.
    let taken = before.saturating_sub(after) as usize;
    assert!(before as usize > LOW / 2, "{before} of {LOW} low ones were waiting: it shows nothing");
    assert!(taken < LOW / 4, "{taken} of {before} low ones were taken while {HIGH} urgent ones arrived");
    assert!(device.diary().closes.is_empty() && device.diary().doubles == 0);
}
