//! One embedded node that is killed without a word: what it answered 202 is on its disk.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fanfare::domain::UnixMillis;
use serde_json::{Value, json};

use crate::support::backends::http_client;
use crate::support::single::TestNode;
use crate::support::{DEADLINE, eventually};

const ALL: u64 = 300;

#[tokio::test]
async fn what_a_killed_node_had_accepted_is_delivered_once_and_in_order_by_its_next_life() {
    let mut node = TestNode::start().await;
    let mut away = node.device("alice", "desk", &[]);
    away.connected(DEADLINE, 1).await;
    drop(away);
    let mut device = node.device("alice", "phone", &[]);
    device.connected(DEADLINE, 1).await;

    let publisher = node.publisher();
    let publishing = tokio::spawn(async move {
        for number in 0..ALL {
            let body = json!({"to": {"users": ["alice"]}, "data": number});
            publisher.publish_surely(&body, &number.to_string(), Duration::from_secs(60)).await;
        }
    });
    device.received(DEADLINE, 100).await;
    node.process.process().kill();
    node.process.restart().await;
    publishing.await.expect("everything is accepted in the end");
    // Straight after the last answer, too.
    node.process.process().kill();
    node.process.restart().await;

    let all: Vec<Value> = (0..ALL).map(Value::from).collect();
    let mut away = node.device("alice", "desk", &[]);
    for device in [&mut device, &mut away] {
        device.received(Duration::from_secs(30), all.len()).await;
        assert_eq!(device.data("user"), all);
        assert_eq!(device.diary().gaps, []);
    }
}

/// When alice was last seen, in milliseconds, as a publisher is told; 0: never.
async fn last_seen(node: &TestNode) -> u64 {
    let url = format!("{}/v1/presence?user=alice", node.process.http_url());
    let body = ask(http_client().get(url).bearer_auth(&node.credentials.publisher_key), 200).await;
    let at = body["users"][0]["last_seen"].as_str();
    at.map_or(0, |at| {
        let at =
            time::OffsetDateTime::parse(at, &time::format_description::well_known::Rfc3339).expect("a time");
        u64::try_from(at.unix_timestamp_nanos() / 1_000_000).expect("after 1970")
    })
}

#[tokio::test]
async fn whoever_was_connected_to_a_killed_node_was_last_seen_shortly_before_and_not_when_they_came() {
    let settings = [("gateway.heartbeat_ms", "1000"), ("presence.ttl_ms", "3000")];
    let mut node = TestNode::start_with(&settings).await;
    let mut device = node.device("alice", "phone", &[]);
    device.connected(DEADLINE, 1).await;
    let mut came = 0;
    eventually(DEADLINE, "she was seen to come", async || {
        came = last_seen(&node).await;
        came > 0
    })
    .await;
    // Four presence TTLs, and a flush.
    eventually(Duration::from_secs(30), "she is seen while she stays", async || {
        last_seen(&node).await > came
    })
    .await;
    let seen = last_seen(&node).await;
    assert!((3_000..20_000).contains(&(seen - came)), "{} ms after she came", seen - came);
    node.process.process().kill();
    drop(device);
    node.process.restart().await;
    assert!(last_seen(&node).await >= seen);
}

/// How often the node is killed while things are replaced, cancelled, scheduled and read.
const LIVES: u64 = 3;

fn in_seconds(seconds: u64) -> UnixMillis {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is after 1970");
    UnixMillis(u64::try_from(now.as_millis()).expect("a time of today")).after(Duration::from_secs(seconds))
}

/// Asks the node as a person or a publisher would; the answer must have this status.
async fn ask(request: reqwest::RequestBuilder, status: u16) -> Value {
    let answer = request.send().await.expect("an answer");
    let (got, text) = (answer.status().as_u16(), answer.text().await.expect("a body"));
    assert_eq!(got, status, "{text}");
    serde_json::from_str(&text).expect("JSON")
}

#[tokio::test]
async fn what_a_killed_node_had_answered_stays_replaced_cancelled_scheduled_and_read() {
    let mut node = TestNode::start().await;
    let (client, url) = (http_client(), node.process.http_url());
    let (key, token) = (node.credentials.publisher_key.clone(), node.credentials.user_token("bob"));
    let publisher = node.publisher();
    // Under load: somebody else's, all the time.
    let load = tokio::spawn({
        let publisher = publisher.clone();
        async move {
            for number in 0..ALL {
                let body = json!({"to": {"users": ["carol"]}, "data": number});
                publisher.publish_surely(&body, &format!("load-{number}"), Duration::from_secs(60)).await;
            }
        }
    });
    let (mut expected, mut cancelled) = (Vec::new(), Vec::new());
    for life in 0..LIVES {
        let to_bob = |what: &str| json!({"to": {"users": ["bob"]}, "data": format!("{what}-{life}")});
        for what in ["first", "second", "last"] {
            let mut body = to_bob(what);
            body["collapse_key"] = "badge".into();
            publisher.publish(&body).await;
        }
        let taken_back = publisher.publish(&to_bob("cancelled")).await.body["id"].clone();
        let taken_back = format!("{url}/v1/notifications/{}", taken_back.as_str().expect("an id"));
        ask(client.delete(&taken_back).bearer_auth(&key), 200).await;
        cancelled.push(taken_back);
        let read = publisher.publish(&to_bob("read")).await.body["id"].clone();
        let marks = client.post(format!("{url}/v1/inbox/read")).bearer_auth(&token);
        let marked = ask(marks.json(&json!({"ids": [read]})), 200).await;
        let mut later = to_bob("scheduled");
        later["deliver_at"] = in_seconds(2).to_string().into();
        publisher.publish(&later).await;
        node.process.process().kill();
        node.process.restart().await;
        let unread = ask(client.get(format!("{url}/v1/inbox/unread")).bearer_auth(&token), 200).await;
        let version = |answer: &Value| answer["version"].as_u64().expect("a number");
        assert!(version(&unread) >= version(&marked), "{unread} after {marked}");
        expected.extend([format!("read-{life}"), format!("scheduled-{life}")]);
    }
    expected.push(format!("last-{}", LIVES - 1));
    load.await.expect("everything is accepted in the end");

    let mut bob = node.device("bob", "phone", &[]);
    bob.received(Duration::from_secs(30), expected.len()).await;
    let mut carol = node.device("carol", "phone", &[]);
    carol.received(Duration::from_secs(30), usize::try_from(ALL).expect("a few")).await;
    let mut got: Vec<String> =
        bob.data("user").iter().map(|data| data.as_str().expect("a text").to_owned()).collect();
    got.sort();
    expected.sort();
    assert_eq!(got, expected, "each once, and nothing that was replaced or cancelled");
    for cancelled in cancelled {
        let receipt = ask(client.get(cancelled).bearer_auth(&key), 200).await;
        assert_eq!(receipt["status"], "cancelled");
    }
    let unread = ask(client.get(format!("{url}/v1/inbox/unread")).bearer_auth(&token), 200).await;
    assert_eq!(unread["unread"], LIVES + 1, "what was scheduled, and the last of the replaced");
}
