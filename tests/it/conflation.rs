//! Updates of one collapse key that come faster than a client is to be sent them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::backends::http_client;
use crate::support::client::TestClient;
use crate::support::single::TestNode;
use crate::support::{DEADLINE, eventually};

/// A node that sends updates so far apart, and a client of alice that follows a topic.
async fn start(conflation_ms: &'static str) -> (TestNode, TestClient) {
    let node = TestNode::start_with(&[("delivery.conflation_ms", conflation_ms)]).await;
    let mut client = connect(&node).await;
    // The last of its streams.
    client.expect_caught_up("topic:rates").await;
    (node, client)
}

async fn connect(node: &TestNode) -> TestClient {
    let (url, token) = (node.process.ws_url(), node.credentials.user_token("alice"));
    let mut client = TestClient::connect(&url, &token, json!({"device": "tv", "topics": ["rates"]})).await;
    client.expect_welcome().await;
    client
}

/// Publishes one with this number; its id.
async fn publish(node: &TestNode, to: &Value, key: Option<&str>, number: u64) -> String {
    let answer = node.publisher().publish(&json!({"to": to, "collapse_key": key, "data": number})).await;
    answer.body["id"].as_str().expect("an id").to_owned()
}

/// The numbers of the next `count`, and the last one's seq.
async fn numbers(client: &mut TestClient, count: usize) -> (Vec<u64>, u64) {
    let (mut numbers, mut seqs) = (vec![], vec![0]);
    for _ in 0..count {
        let one = client.expect_notification().await;
        numbers.push(one.notification["data"].as_u64().expect("a number"));
        seqs.push(one.seq.expect("it is stored"));
    }
    assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]), "{seqs:?}");
    (numbers, seqs[count])
}

async fn counts(node: &TestNode, id: &str) -> Value {
    let url = format!("{}/v1/notifications/{id}", node.process.http_url());
    let asked = http_client().get(url).bearer_auth(&node.credentials.publisher_key).send().await;
    let text = asked.expect("an answer").text().await.expect("a body");
    serde_json::from_str::<Value>(&text).expect("JSON")["counts"].clone()
}

#[tokio::test]
async fn updates_within_the_window_are_merged_and_whatever_else_comes_takes_the_newest_along() {
    // Longer than the test: what waits is written because something comes after it.
    let (node, mut client) = start("10000").await;
    for to in [json!({"users": ["alice"]}), json!({"topic": "rates"})] {
        let mut ids = vec![];
        for number in 1..=9 {
            ids.push(publish(&node, &to, Some("rate"), number).await);
        }
        assert_eq!(numbers(&mut client, 1).await.0, [1], "the first goes at once");
        publish(&node, &to, None, 10).await;
        let (rest, seq) = numbers(&mut client, 2).await;
        assert_eq!(rest, [9, 10]);
        let stream = if to.get("topic").is_some() { "topic:rates" } else { "user" };
        client.ack(stream, seq).await;
        if stream == "user" {
            eventually(DEADLINE, "the last is delivered", async || {
                counts(&node, &ids[8]).await["delivered"] == 1
            })
            .await;
            for replaced in &ids[1..8] {
                assert_eq!(counts(&node, replaced).await["superseded"], 1);
            }
        }
    }
    assert_eq!(node.operator().metric("fanfare_delivery_merged_total").await, 14.0);
}

#[tokio::test]
async fn what_waits_is_written_when_its_window_ends() {
    let (node, mut client) = start("300").await;
    let (to, began) = (json!({"users": ["alice"]}), Instant::now());
    publish(&node, &to, Some("rate"), 1).await;
    publish(&node, &to, Some("rate"), 2).await;
    assert_eq!(numbers(&mut client, 2).await.0, [1, 2]);
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_waits_when_its_client_goes_comes_when_it_is_back() {
    let (node, mut client) = start("10000").await;
    let to = json!({"users": ["alice"]});
    for number in 1..=3 {
        publish(&node, &to, Some("rate"), number).await;
    }
    let (first, seq) = numbers(&mut client, 1).await;
    assert_eq!(first, [1]);
    client.ack("user", seq).await;
    // It has not been written, so it cannot be acknowledged.
    client.ack("user", seq + 2).await;
    assert_eq!(client.expect_error().await.code, "ack_above_sent");
    client.close().await;
    let mut client = connect(&node).await;
    assert_eq!(numbers(&mut client, 1).await.0, [3]);
}

#[tokio::test]
async fn without_the_setting_nothing_waits() {
    let (node, mut client) = start("0").await;
    for number in 1..=5 {
        publish(&node, &json!({"users": ["alice"]}), Some("rate"), number).await;
    }
    assert_eq!(numbers(&mut client, 5).await.0, [1, 2, 3, 4, 5]);
}
