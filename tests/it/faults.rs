//! What goes on, and what does not, while a backend is away or hangs; and that all of it heals.
//!
//! Each cluster loses only its own connections (`ChaosProxy`), so other tests go on beside it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::QUICK;
use crate::support::cluster::TestCluster;
use crate::support::device::Device;
use crate::support::publisher::Publisher;
use crate::support::{DEADLINE, eventually};

/// Timeouts, backoffs and head checks of [`QUICK`], one after the other, on two busy cores.
const HEALED: Duration = Duration::from_secs(30);

/// One device of alice, on the second node; publishers post to the first.
async fn alice_on_the_second(cluster: &TestCluster) -> (Device, Publisher) {
    let mut device = cluster.device_on(1, "alice", "phone", &[]);
    device.connected(DEADLINE, 1).await;
    let publisher = Publisher::new(&cluster.nodes[0].http_url(), &cluster.credentials);
    (device, publisher)
}

fn to_alice(number: u64) -> Value {
    json!({"to": {"users": ["alice"]}, "data": number})
}

/// Waits until both nodes say of themselves whether they are degraded; they stay ready.
async fn degraded(cluster: &TestCluster, expected: bool) {
    for node in 0..cluster.nodes.len() {
        let operator = cluster.operator(node);
        let what = format!("node {node} says degraded: {expected}");
        eventually(HEALED, &what, async || {
            let (status, body) = operator.get("/readyz").await;
            status == 200 && (body["status"] == "degraded") == expected
        })
        .await;
    }
}

#[tokio::test]
async fn without_rabbitmq_publishes_are_accepted_and_reach_other_nodes_by_the_head_check() {
    let cluster = TestCluster::start_with(QUICK).await;
    let (mut device, publisher) = alice_on_the_second(&cluster).await;
    cluster.rabbit.cut();
    degraded(&cluster, true).await;
    publisher.publish(&to_alice(1)).await;
    device.received(HEALED, 1).await;

    cluster.rabbit.heal();
    degraded(&cluster, false).await;
    publisher.publish(&to_alice(2)).await;
    device.received(HEALED, 2).await;
    assert_eq!(device.data("user"), [1, 2]);
    assert!(device.diary().closes.is_empty(), "the connection lived through it");
}

#[tokio::test]
async fn a_rabbitmq_that_hangs_holds_up_no_answer() {
    let cluster = TestCluster::start_with(QUICK).await;
    let (mut device, publisher) = alice_on_the_second(&cluster).await;
    cluster.rabbit.freeze();
    let began = tokio::time::Instant::now();
    publisher.publish(&to_alice(1)).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    device.received(HEALED, 1).await;
    cluster.rabbit.heal();
}

#[tokio::test]
async fn without_redis_envelopes_go_to_all_nodes() {
    let cluster = TestCluster::start_with(QUICK).await;
    let (mut device, publisher) = alice_on_the_second(&cluster).await;
    cluster.redis.cut();
    degraded(&cluster, true).await;
    let answer = publisher.publish(&to_alice(1)).await;
    assert_eq!(answer.body["online"], Value::Null, "nobody knows who is online");
    device.received(HEALED, 1).await;

    cluster.redis.heal();
    degraded(&cluster, false).await;
    let (client, key) = ("alice is online again", &cluster.credentials.publisher_key);
    let url = format!("{}/v1/presence?user=alice", cluster.nginx.http_url());
    eventually(HEALED, client, async || {
        let request = crate::support::backends::http_client().get(&url).bearer_auth(key);
        let text = request.send().await.expect("an answer").text().await.expect("a body");
        text.contains("phone")
    })
    .await;
}

#[tokio::test]
async fn without_sql_publishes_get_503_and_now_or_never_goes_on() {
    let cluster = TestCluster::start_with(QUICK).await;
    let (mut device, publisher) = alice_on_the_second(&cluster).await;
    cluster.postgres.cut();
    let mut to_be_stored = to_alice(1);
    let refused = publisher.try_publish(&to_be_stored, None).await.expect("an answer");
    assert_eq!(refused.status, 503, "{}", refused.body);

    to_be_stored["ttl"] = 0.into();
    let sent = publisher.try_publish(&to_be_stored, None).await.expect("an answer");
    assert_eq!((sent.status, &sent.body["status"]), (200, &json!("sent")));
    device.received(DEADLINE, 1).await;
    assert_eq!(device.diary().notifications[0].seq, None);

    cluster.postgres.heal();
    publisher.publish_surely(&to_alice(2), "after", HEALED).await;
    device.received(HEALED, 2).await;
    assert!(device.diary().closes.is_empty(), "the connection lived through it");
}
