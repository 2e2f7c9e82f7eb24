//! Two nodes behind Nginx on real RabbitMQ, Redis and PostgreSQL: reach, and death of a node.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::DEADLINE;
use crate::support::cluster::TestCluster;
use crate::support::device::{Device, all_received};
use crate::support::publisher::Publisher;

/// Everything that heals does so within a second or three, so that a test need not wait longer.
const QUICK: &[(&str, &str)] = &[
    ("node.lease_ttl_ms", "3000"),
    ("gateway.heartbeat_ms", "1000"),
    ("presence.ttl_ms", "3000"),
    ("delivery.head_check_ms", "1000"),
    ("delivery.blind_check_ms", "500"),
];

const PUBLISHERS: usize = 8;
const EACH: usize = 1_250;

#[tokio::test]
async fn whoever_posts_to_any_node_reaches_a_user_on_any_node_and_both_devices_of_one() {
    let cluster = TestCluster::start().await;
    let mut devices = [
        cluster.device_at(&cluster.nodes[0].ws_url(), "alice", "phone", &["news"]),
        cluster.device_at(&cluster.nodes[1].ws_url(), "alice", "desk", &["news"]),
    ];
    for device in &mut devices {
        device.connected(DEADLINE, 1).await;
    }
    let targets = [
        ("user", json!({"users": ["alice"]})),
        ("topic:news", json!({"topic": "news"})),
        ("everyone", json!({"everyone": true})),
    ];
    for (_, to) in &targets {
        for (number, node) in cluster.nodes.iter().enumerate() {
            let publisher = Publisher::new(&node.http_url(), &cluster.credentials);
            publisher.publish(&json!({"to": to, "data": {"by": number}})).await;
        }
    }
    all_received(&mut devices, DEADLINE, 6).await;
    for device in &devices {
        for (stream, _) in &targets {
            assert_eq!(device.data(stream), [json!({"by": 0}), json!({"by": 1})], "{stream}");
        }
    }
}

/// The promise itself: what was answered 202 arrives at every device, in order, although a node
/// dies without a word in the middle of it.
#[tokio::test]
async fn a_node_killed_amid_ten_thousand_notifications_costs_no_device_one_of_them() {
    let mut cluster = TestCluster::start_with(QUICK).await;
    let mut devices = vec![];
    for user in ["alice", "bob"] {
        // One device on each node; after the death Nginx takes them where there is one.
        devices.push(cluster.device(user, "phone", &[]));
        devices.push(cluster.device(user, "desk", &[]));
    }
    for device in &mut devices {
        device.connected(DEADLINE, 1).await;
    }
    let publishers: Vec<_> =
        (0..PUBLISHERS).map(|number| tokio::spawn(publish_in_turn(cluster.publisher(), number))).collect();

    let middle = PUBLISHERS * EACH / 3;
    devices[0].received(Duration::from_secs(120), middle).await;
    cluster.nodes[0].process().kill();
    // Its next life waits for the lease of the last one, while all goes on.
    cluster.nodes[0].restart().await;

    for publisher in publishers {
        publisher.await.expect("everything is accepted in the end");
    }
    all_received(&mut devices, Duration::from_secs(120), PUBLISHERS * EACH).await;
    let moved = devices.iter().filter(|device| !device.diary().closes.is_empty()).count();
    assert!(moved > 0, "the killed node held no device, so nothing was shown");
    devices.iter().for_each(assert_complete_and_in_order);
}

/// One backend: the next notification only after the last one was accepted.
async fn publish_in_turn(publisher: Publisher, number: usize) {
    for turn in 0..EACH {
        let body = json!({
            "to": {"users": ["alice", "bob"]}, "type": "test", "data": {"by": number, "turn": turn},
        });
        let key = format!("{number}-{turn}");
        publisher.publish_surely(&body, &key, Duration::from_secs(60)).await;
    }
}

/// Every turn of every publisher, each once; those of one publisher in their order.
fn assert_complete_and_in_order(device: &Device) {
    let mut next: BTreeMap<u64, u64> = BTreeMap::new();
    for data in device.data("user") {
        let (by, turn) = (number(&data["by"]), number(&data["turn"]));
        let expected = next.entry(by).or_default();
        assert_eq!(turn, *expected, "publisher {by}; {} doubles were dropped", device.diary().doubles);
        *expected += 1;
    }
    let total: u64 = next.values().sum();
    assert_eq!(total, (PUBLISHERS * EACH) as u64);
    assert_eq!(device.diary().gaps, []);
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("a number; got {value}"))
}
