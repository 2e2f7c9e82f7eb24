//! Clients that are slower than what is for them: they are held back, slow nobody, and lose nothing that is
//! still worth having.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::QUICK;
use crate::support::backends::http_client;
use crate::support::client::{Frame, Notification, TestClient};
use crate::support::cluster::TestCluster;
use crate::support::publisher::Publisher;
use crate::support::single::TestNode;
use crate::support::{DEADLINE, eventually};

const QUIET: Duration = Duration::from_millis(300);
/// As long as a notification with `ttl: 1` lives.
const A_SECOND: Duration = Duration::from_millis(1_200);

async fn publish(publisher: &Publisher, to: &Value, data: std::ops::RangeInclusive<u64>) {
    for number in data {
        publisher.publish(&json!({"to": to, "data": number})).await;
    }
}

/// As long as one with `ttl: 3` does.
const THREE_SECONDS: Duration = Duration::from_millis(3_200);

/// The next `count` notifications.
async fn received(client: &mut TestClient, count: usize) -> Vec<Notification> {
    let mut received = vec![];
    while received.len() < count {
        received.push(client.expect_notification().await);
    }
    received
}

fn data(received: &[Notification]) -> Vec<u64> {
    received.iter().map(|one| one.notification["data"].as_u64().expect("a number")).collect()
}

#[tokio::test]
async fn a_client_that_does_not_acknowledge_is_held_back_told_once_and_goes_on_as_it_acknowledges() {
    let settings =
        [("gateway.heartbeat_ms", "1000"), ("presence.ttl_ms", "3000"), ("gateway.window_entries", "16")];
    let node = TestNode::start_with(&settings).await;
    let (url, token) = (node.process.ws_url(), node.credentials.user_token("alice"));
    let mut slow = TestClient::connect(&url, &token, json!({"device": "tv"})).await;
    slow.expect_welcome().await;
    let mut quick = node.device("alice", "phone", &[]);
    quick.connected(DEADLINE, 1).await;
    publish(&node.publisher(), &json!({"users": ["alice"]}), 1..=40).await;

    quick.received(DEADLINE, 40).await;
    assert_eq!(data(&received(&mut slow, 16).await), (1..=16).collect::<Vec<_>>());
    assert_eq!(slow.expect_error().await.code, "window_full");
    let operator = node.operator();
    eventually(DEADLINE, "one connection is held back", async || {
        operator.metric("fanfare_delivery_lagged_connections").await == 1.0
    })
    .await;
    // Two more heartbeats, in which nothing changes.
    slow.expect_silence(Duration::from_millis(2_200)).await;
    assert_eq!(operator.metric("fanfare_delivery_window_full_total").await, 1.0);

    // Half a window is free: it reads on, by what is free.
    slow.ack("user", 8).await;
    assert_eq!(data(&received(&mut slow, 8).await), (17..=24).collect::<Vec<_>>());
    slow.expect_silence(QUIET).await;
    slow.ack("user", 24).await;
    assert_eq!(data(&received(&mut slow, 16).await), (25..=40).collect::<Vec<_>>());
    slow.ack("user", 40).await;
    eventually(DEADLINE, "none is held back", async || {
        operator.metric("fanfare_delivery_lagged_connections").await == 0.0
    })
    .await;
    publish(&node.publisher(), &json!({"users": ["alice"]}), 41..=41).await;
    assert_eq!(data(&received(&mut slow, 1).await), [41]);
}

/// More than the kernel takes on loopback for a client that does not read.
const LARGE: usize = 250;

async fn publish_large(node: &TestNode) {
    let text = "x".repeat(60_000);
    let publisher = node.publisher();
    for number in 1..=LARGE {
        publisher.publish(&json!({"to": {"users": ["alice"]}, "body": text, "data": number})).await;
    }
}

fn large_windows() -> Vec<(&'static str, &'static str)> {
    vec![("gateway.window_bytes", "16777216"), ("gateway.window_entries", "10000")]
}

#[tokio::test]
async fn a_client_that_does_not_read_costs_a_bound_slows_nobody_and_catches_up_when_it_reads_again() {
    let mut settings = large_windows();
    settings.push(("gateway.write_deadline_ms", "120000"));
    let mut node = TestNode::start_with(&settings).await;
    let (url, token) = (node.process.ws_url(), node.credentials.user_token("alice"));
    let mut quick = node.device("alice", "phone", &[]);
    quick.connected(DEADLINE, 1).await;
    let mut slow = vec![];
    for device in ["tv-1", "tv-2", "tv-3", "tv-4", "tv-5", "tv-6"] {
        let mut client = TestClient::connect(&url, &token, json!({"device": device})).await;
        client.expect_welcome().await;
        slow.push(client);
    }
    let before = node.process.process().resident_bytes();
    publish_large(&node).await;
    quick.received(DEADLINE, LARGE).await;
    let grown = node.process.process().resident_bytes().saturating_sub(before);
    // 15 MB for each, were they kept: 90 MB. The kernel keeps some, which is not the node's.
    assert!(grown < 45_000_000, "{grown} bytes for six clients that do not read");
    assert!(node.operator().metric("fanfare_delivery_lagged_total").await >= 6.0);
    for client in &mut slow {
        for number in 1..=LARGE as u64 {
            let notification = client.expect_notification().await;
            assert_eq!(notification.notification["data"], number);
            client.ack("user", notification.seq.expect("it is stored")).await;
        }
        client.expect_silence(QUIET).await;
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_until_the_deadline_is_cut_and_comes_back_to_everything() {
    let mut settings = large_windows();
    settings.push(("gateway.write_deadline_ms", "1000"));
    let node = TestNode::start_with(&settings).await;
    let (url, token) = (node.process.ws_url(), node.credentials.user_token("alice"));
    let mut dead = TestClient::connect(&url, &token, json!({"device": "tv"})).await;
    dead.expect_welcome().await;
    publish_large(&node).await;
    let operator = node.operator();
    eventually(DEADLINE, "it is cut", async || {
        operator.metric("fanfare_gateway_write_deadlines_total").await == 1.0
            && operator.metric("fanfare_connections").await == 0.0
    })
    .await;
    // What it then finds is an end without a close frame, which means: come back.
    let mut last = 0;
    let code = loop {
        match dead.next_frame().await {
            Frame::Notification(notification) => last = notification.seq.expect("it is stored"),
            Frame::Closed { code, .. } => break code,
            _ => {}
        }
    };
    assert_eq!((code, last < LARGE as u64), (1006, true));
    let mut back = TestClient::connect(&url, &token, json!({"device": "tv"})).await;
    back.expect_welcome().await;
    for number in 1..=LARGE as u64 {
        let notification = back.expect_notification().await;
        assert_eq!(notification.notification["data"], number);
        back.ack("user", number).await;
    }
}

#[tokio::test]
async fn what_expired_while_a_session_was_held_back_is_sent_neither_from_a_page_nor_from_a_tail() {
    let node = TestNode::start_with(&[("gateway.window_entries", "4")]).await;
    let publisher = node.publisher();
    // The user's own stream is read from the inbox, a topic from the node's tail. Each with a user of its own: who
    // comes back before its last cursor is committed gets what it had once more.
    for (user, stream, to) in
        [("alice", "user", json!({"users": ["alice"]})), ("bob", "topic:news", json!({"topic": "news"}))]
    {
        let (url, token) = (node.process.ws_url(), node.credentials.user_token(user));
        let mut client = TestClient::connect(&url, &token, json!({"device": "tv", "topics": ["news"]})).await;
        client.expect_welcome().await;
        publish(&publisher, &to, 1..=4).await;
        let first = received(&mut client, 4).await;
        assert_eq!(data(&first), [1, 2, 3, 4], "{stream}");
        for number in 5..=7 {
            publisher.publish(&json!({"to": to, "data": number, "ttl": 1})).await;
        }
        publish(&publisher, &to, 8..=8).await;
        client.expect_silence(A_SECOND).await;
        client.ack(stream, first[3].seq.expect("it is stored")).await;
        let rest = received(&mut client, 1).await;
        assert_eq!(data(&rest), [8], "{stream}");
        client.ack(stream, rest[0].seq.expect("it is stored")).await;
        client.expect_silence(QUIET).await;
        client.close().await;
    }
}

/// Sends what is now or never until the kernel takes no more for the only client: something waits in the node then, and
/// less than what holds the client back.
async fn fill_the_kernel(node: &TestNode) {
    let (publisher, operator, text) = (node.publisher(), node.operator(), "x".repeat(15_000));
    loop {
        let frames = operator.metric("fanfare_gateway_frames_out_total").await;
        let bytes = operator.metric("fanfare_gateway_bytes_out_total").await;
        let now = json!({"to": {"users": ["alice"]}, "body": text, "ttl": 0});
        let answer = publisher.try_publish(&now, None).await.expect("an answer");
        assert_eq!(answer.body["online"], 1, "{}", answer.body);
        eventually(DEADLINE, "it is given to the socket", async || {
            operator.metric("fanfare_gateway_frames_out_total").await > frames
        })
        .await;
        // Counted after the frame: the second look is after the write.
        operator.metric("fanfare_gateway_bytes_out_total").await;
        if operator.metric("fanfare_gateway_bytes_out_total").await < bytes + 15_000.0 {
            return;
        }
    }
}

#[tokio::test]
async fn what_expired_before_a_full_socket_took_it_is_not_sent_and_holds_up_nothing() {
    let settings = [("gateway.window_entries", "4"), ("gateway.write_deadline_ms", "120000")];
    let node = TestNode::start_with(&settings).await;
    let (url, token) = (node.process.ws_url(), node.credentials.user_token("alice"));
    let mut slow = TestClient::connect(&url, &token, json!({"device": "tv"})).await;
    slow.expect_welcome().await;
    fill_the_kernel(&node).await;
    let (publisher, operator) = (node.publisher(), node.operator());
    // They fill the window, wait in the node until they have expired, and nobody will ever acknowledge them.
    for number in 1..=4 {
        publisher.publish(&json!({"to": {"users": ["alice"]}, "data": number, "ttl": 3})).await;
    }
    publish(&publisher, &json!({"users": ["alice"]}), 5..=5).await;
    eventually(DEADLINE, "the client is held back", async || {
        operator.metric("fanfare_delivery_lagged_total").await == 1.0
    })
    .await;
    tokio::time::sleep(THREE_SECONDS).await;
    publish(&publisher, &json!({"users": ["alice"]}), 6..=6).await;

    let mut stored = vec![];
    while stored.len() < 2 {
        let one = slow.expect_notification().await;
        if one.seq.is_some() {
            stored.push(one);
        }
    }
    assert_eq!(data(&stored), [5, 6]);
    assert!(operator.metric("fanfare_gateway_frames_expired_total").await >= 4.0);
    slow.ack("user", stored[1].seq.expect("it is stored")).await;
    slow.expect_silence(QUIET).await;
}

#[tokio::test]
async fn what_was_replaced_or_cancelled_while_a_session_was_held_back_is_not_sent_from_a_page_nor_from_a_tail()
 {
    let node = TestNode::start_with(&[("gateway.window_entries", "4")]).await;
    let publisher = node.publisher();
    for (user, stream, to) in
        [("alice", "user", json!({"users": ["alice"]})), ("bob", "topic:news", json!({"topic": "news"}))]
    {
        let token = node.credentials.user_token(user);
        let hello = json!({"device": "tv", "topics": ["news"]});
        let mut client = TestClient::connect(&node.process.ws_url(), &token, hello).await;
        client.expect_welcome().await;
        publish(&publisher, &to, 1..=4).await;
        let first = received(&mut client, 4).await;
        let cancelled = publisher.publish(&json!({"to": to, "data": 5})).await.body["id"].clone();
        for number in 6..=8 {
            publisher.publish(&json!({"to": to, "data": number, "collapse_key": "score"})).await;
        }
        let url = format!(
            "{}/v1/notifications/{}",
            node.process.http_url(),
            cancelled.as_str().expect("it has an id")
        );
        let answer = http_client()
            .delete(url)
            .bearer_auth(&node.credentials.publisher_key)
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status().as_u16(), 200);
        client.ack(stream, first[3].seq.expect("it is stored")).await;
        let rest = received(&mut client, 1).await;
        assert_eq!(data(&rest), [8], "{stream}: neither what was cancelled nor what was replaced");
        client.close().await;
    }
}

#[tokio::test]
async fn what_expired_in_the_queue_of_a_node_that_stood_still_is_not_sent() {
    let mut cluster = TestCluster::start_with(QUICK).await;
    let url = cluster.nodes[1].ws_url();
    let token = cluster.credentials.user_token("bob");
    let mut client = TestClient::connect(&url, &token, json!({"device": "tv", "topics": ["news"]})).await;
    client.expect_welcome().await;
    let publisher = Publisher::new(&cluster.nodes[0].http_url(), &cluster.credentials);
    let targets = [json!({"users": ["bob"]}), json!({"topic": "news"})];
    cluster.nodes[1].process().signal("STOP");
    for to in &targets {
        publisher.publish(&json!({"to": to, "data": 1, "ttl": 1})).await;
        publisher.publish(&json!({"to": to, "data": 2})).await;
    }
    tokio::time::sleep(A_SECOND).await;
    cluster.nodes[1].process().signal("CONT");
    assert_eq!(data(&received(&mut client, 2).await), [2, 2]);
    client.expect_silence(QUIET).await;
}
