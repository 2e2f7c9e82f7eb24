//! Two nodes behind Nginx on real RabbitMQ, Redis and PostgreSQL: reach, and death of a node.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::DEADLINE;
use crate::support::client::TestClient;
use crate::support::cluster::TestCluster;
use crate::support::device::{Device, all_received};
use crate::support::publisher::Publisher;

/// Everything that heals does so within a second or three, so that a test need not wait longer.
pub const QUICK: &[(&str, &str)] = &[
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
    let mut devices =
        [cluster.device_on(0, "alice", "phone", &["news"]), cluster.device_on(1, "alice", "desk", &["news"])];
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
        devices.push(cluster.device_on(0, user, "phone", &[]));
        devices.push(cluster.device_on(1, user, "desk", &[]));
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
    assert_eq!(moved, 2, "those on the killed node lost their connection, and no others");
    devices.iter().for_each(assert_complete_and_in_order);
}

#[tokio::test]
async fn a_node_that_is_stopped_hands_its_devices_over_without_a_loss() {
    let mut cluster = TestCluster::start_with(QUICK).await;
    let mut devices =
        [cluster.device_on(0, "alice", "phone", &[]), cluster.device_on(1, "alice", "desk", &[])];
    for device in &mut devices {
        device.connected(DEADLINE, 1).await;
    }
    let publisher = cluster.publisher();
    for number in 0..100 {
        if number == 50 {
            cluster.nodes[0].process().signal("TERM");
        }
        let body = json!({"to": {"users": ["alice"]}, "data": number});
        publisher.publish_surely(&body, &number.to_string(), DEADLINE).await;
    }
    let status = cluster.nodes[0].process().wait(Duration::from_secs(30)).await;
    assert!(status.success(), "{status}");
    all_received(&mut devices, Duration::from_secs(30), 100).await;
    assert_eq!(devices[0].diary().closes, [4000], "the stopped node said bye: draining");
    assert!(devices[1].diary().closes.is_empty());
    for device in &devices {
        assert_eq!(device.data("user"), (0..100).map(Value::from).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_device_that_was_away_gets_what_it_missed_from_any_node_in_order() {
    let cluster = TestCluster::start().await;
    let mut device = cluster.device_on(0, "alice", "phone", &[]);
    device.connected(DEADLINE, 1).await;
    let publisher = cluster.publisher();
    publisher.publish(&json!({"to": {"users": ["alice"]}, "data": 0})).await;
    device.received(DEADLINE, 1).await;
    drop(device);

    for number in 1..20 {
        publisher.publish(&json!({"to": {"users": ["alice"]}, "data": number})).await;
    }
    // Another life of the same device: it remembers nothing, so its stored cursor counts. Its last
    // ack may not have arrived, so it may get 0 again, and nothing else twice.
    let mut device = cluster.device_on(1, "alice", "phone", &[]);
    let last = |data: &[Value]| data.last() == Some(&json!(19));
    device
        .wait_for(DEADLINE, "the last one", |diary| {
            last(&diary.notifications.iter().map(|one| one.notification["data"].clone()).collect::<Vec<_>>())
        })
        .await;
    let data = device.data("user");
    let missed: Vec<Value> = (1..20).map(Value::from).collect();
    assert!(data.ends_with(&missed) && data.len() <= 20, "{data:?}");
}

/// Debian's Python, which has pika: another one on the path may not have it.
const PYTHON: &str = "/usr/bin/python3";

/// `fanfare inbox new-epoch` beside nodes that run: what every restore ends with.
#[tokio::test]
async fn a_new_epoch_of_the_store_sends_all_devices_of_all_nodes_back_to_the_oldest_entry() {
    let cluster = TestCluster::start_with(QUICK).await;
    let connect = async |node: usize, user: &str| {
        let (url, token) = (cluster.nodes[node].ws_url(), cluster.credentials.user_token(user));
        let mut client = TestClient::connect(&url, &token, json!({"device": "phone"})).await;
        let welcome = client.expect_welcome().await;
        (client, welcome.streams.into_iter().next().expect("its own stream"))
    };
    let [(mut alice, before), (mut bob, _)] = [connect(0, "alice").await, connect(1, "bob").await];
    let publisher = cluster.publisher();
    publisher.publish(&json!({"to": {"users": ["alice", "bob"]}, "data": 1})).await;
    for client in [&mut alice, &mut bob] {
        let seq = client.expect_notification().await.seq.expect("it is stored");
        client.ack("user", seq).await;
    }
    let epoch = fanfare::inbox::new_epoch(&cluster.postgres_url).await.expect("another life");
    for client in [&mut alice, &mut bob] {
        assert_eq!(client.expect_close().await.0, 4006);
    }
    for (node, user) in [(1, "alice"), (0, "bob")] {
        let (mut client, own) = connect(node, user).await;
        assert_eq!((own.gap, own.from, own.epoch.as_str()), (true, 0, epoch.to_string().as_str()));
        assert_ne!(own.epoch, before.epoch);
        assert_eq!(client.expect_notification().await.notification["data"], 1, "from the oldest on");
        publisher.publish(&json!({"to": {"users": [user]}, "data": 2})).await;
        assert_eq!(client.expect_notification().await.notification["data"], 2);
    }
}

#[tokio::test]
async fn the_examples_publish_over_amqp_and_http() {
    let cluster = TestCluster::start().await;
    let mut device = cluster.device("alice", "phone", &[]);
    device.connected(DEADLINE, 1).await;
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let (amqp, http, key) = (&cluster.amqp_url, cluster.nginx.http_url(), &cluster.credentials.publisher_key);
    for (script, url) in [("publish_amqp.py", amqp), ("publish_http.py", &http)] {
        let mut command = Command::new(PYTHON);
        command.arg(examples.join(script)).args([url, "alice", script]).env("FANFARE_KEY", key);
        // In a thread of its own: the way to the backends leads through proxies that run here.
        let output = tokio::task::spawn_blocking(move || command.output()).await;
        let output = output.expect("it was run").expect("Python starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    device.received(DEADLINE, 2).await;
    let mut titles: Vec<Value> =
        device.diary().notifications.iter().map(|one| one.notification["title"].clone()).collect();
    titles.sort_by_key(Value::to_string);
    assert_eq!(titles, ["publish_amqp.py", "publish_http.py"]);
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
