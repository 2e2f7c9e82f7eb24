//! What a person reads, and what a publisher takes back, on every device of theirs; a store that was restored.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{Connection, SqliteConnection};

use crate::support::backends::http_client;
use crate::support::client::{Frame, TestClient};
use crate::support::single::TestNode;
use crate::support::{DEADLINE, eventually};

const QUIET: Duration = Duration::from_millis(300);

struct Marks {
    id: Option<Value>,
    ids: Vec<String>,
    up_to: Option<u64>,
    unread: u64,
    version: u64,
}

/// The next frame but for `caught_up`, which must be `read`.
async fn read(client: &mut TestClient) -> Marks {
    match next(client).await {
        Frame::Read { id, ids, up_to, unread, version, .. } => Marks { id, ids, up_to, unread, version },
        other => panic!("read was expected; got {other:?}"),
    }
}

async fn next(client: &mut TestClient) -> Frame {
    loop {
        match client.frame().await {
            Frame::CaughtUp { .. } => {}
            other => return other,
        }
    }
}

async fn connected(node: &TestNode, hello: Value) -> TestClient {
    let token = node.credentials.user_token("alice");
    let mut client = TestClient::connect(&node.process.ws_url(), &token, hello).await;
    client.expect_welcome().await;
    client
}

/// Publishes and answers the id.
async fn publish(node: &TestNode, to: &Value, data: u64) -> String {
    let answer = node.publisher().publish(&json!({"to": to, "data": data})).await;
    answer.body["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn what_is_read_on_one_device_shows_on_all_at_once_with_a_version_that_grows() {
    let node = TestNode::start().await;
    let alice = json!({"users": ["alice"]});
    let mut phone = connected(&node, json!({"device": "phone"})).await;
    let mut desk = connected(&node, json!({"device": "desk"})).await;
    let mut nameless = connected(&node, json!({})).await;
    let mut ids = vec![];
    for number in 1..=3 {
        ids.push(publish(&node, &alice, number).await);
        for client in [&mut phone, &mut desk, &mut nameless] {
            let notification = client.expect_notification().await;
            assert!(!notification.read);
        }
    }
    phone.send(json!({"type": "read", "id": 4, "ids": [ids[0], ids[0]]})).await;
    let answer = read(&mut phone).await;
    assert_eq!((answer.id, answer.ids, answer.unread), (Some(json!(4)), vec![ids[0].clone()], 2));
    for client in [&mut desk, &mut nameless] {
        let told = read(client).await;
        assert_eq!((told.id, told.ids, told.unread), (None, vec![ids[0].clone()], 2));
        assert_eq!(told.version, answer.version);
    }
    // A second time changes nothing, and nobody else hears of it.
    phone.send(json!({"type": "read", "id": 5, "ids": [ids[0]]})).await;
    let again = read(&mut phone).await;
    assert_eq!((again.id, again.ids.len(), again.unread), (Some(json!(5)), 0, 2));
    assert_eq!(again.version, answer.version);
    desk.expect_silence(QUIET).await;

    desk.send(json!({"type": "read", "up_to": 2})).await;
    for client in [&mut desk, &mut phone, &mut nameless] {
        let told = read(client).await;
        assert_eq!((told.up_to, told.unread), (Some(2), 1));
        assert!(told.version > answer.version);
    }
    for (frame, code) in [
        (json!({"type": "read", "id": 6, "ids": [ids[0]], "stream": "topic:news"}), "not_followed"),
        (json!({"type": "read", "id": 6}), "invalid_frame"),
    ] {
        phone.send(frame).await;
        assert_eq!(phone.expect_error().await.code, code);
    }

    // A device that comes later sees what is read.
    let token = node.credentials.user_token("alice");
    let mut late = TestClient::connect(&node.process.ws_url(), &token, json!({"device": "tablet"})).await;
    let welcome = late.expect_welcome().await;
    assert_eq!(welcome.unread, 1);
    let epoch = &welcome.streams[0].epoch;
    let hello = json!({"device": "car", "resume": {"user": {"epoch": epoch, "seq": 0}}});
    let mut car = connected(&node, hello).await;
    for number in 1..=3 {
        let notification = car.expect_notification().await;
        assert_eq!((notification.seq, notification.read), (Some(number), number <= 2));
    }
}

#[tokio::test]
async fn what_is_read_over_http_or_in_a_shared_stream_shows_on_connections_too() {
    let node = TestNode::start().await;
    let mut phone = connected(&node, json!({"device": "phone"})).await;
    let own = publish(&node, &json!({"users": ["alice"]}), 1).await;
    phone.expect_notification().await;
    let url = format!("{}/v1/inbox/read", node.process.http_url());
    let token = node.credentials.user_token("alice");
    let body = json!({"ids": [own]});
    let answer = http_client().post(url).bearer_auth(&token).json(&body).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let told = read(&mut phone).await;
    assert_eq!((told.ids, told.unread), (vec![own], 0));

    let shared = publish(&node, &json!({"everyone": true}), 2).await;
    phone.expect_notification().await;
    let mut desk = TestClient::connect(&node.process.ws_url(), &token, json!({"device": "desk"})).await;
    let unread = |welcome: &crate::support::client::Welcome| {
        let everyone = welcome.streams.iter().find(|state| state.stream == "everyone");
        everyone.expect("everyone is followed").unread
    };
    assert_eq!(unread(&desk.expect_welcome().await), Some(1));
    phone.send(json!({"type": "read", "stream": "everyone", "ids": [shared]})).await;
    for client in [&mut phone, &mut desk] {
        let told = read(client).await;
        assert_eq!((told.ids, told.unread), (vec![shared.clone()], 0), "the user's own stream is counted");
    }
    let mut tablet = TestClient::connect(&node.process.ws_url(), &token, json!({"device": "tablet"})).await;
    assert_eq!(unread(&tablet.expect_welcome().await), Some(0));
}

#[tokio::test]
async fn a_cancellation_reaches_devices_that_had_it_also_those_that_come_back_later() {
    let node = TestNode::start().await;
    let mut phone = connected(&node, json!({"device": "phone", "topics": ["news"]})).await;
    let mut desk = connected(&node, json!({"device": "desk", "topics": ["news"]})).await;
    for (stream, to) in [("user", json!({"users": ["alice"]})), ("topic:news", json!({"topic": "news"}))] {
        let id = publish(&node, &to, 1).await;
        phone.expect_notification().await;
        let seq = desk.expect_notification().await.seq.expect("it is stored");
        desk.ack(stream, seq).await;
        desk.close().await;
        let url = format!("{}/v1/notifications/{id}", node.process.http_url());
        let key = &node.credentials.publisher_key;
        let answer = http_client().delete(url).bearer_auth(key).send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
        let expected = Frame::Cancelled { stream: stream.to_owned(), seq: seq + 1, id };
        assert_eq!(next(&mut phone).await, expected);
        phone.ack(stream, seq + 1).await;

        desk = connected(&node, json!({"device": "desk", "topics": ["news"]})).await;
        assert_eq!(next(&mut desk).await, expected);
        desk.ack(stream, seq + 1).await;
        publish(&node, &to, 2).await;
        for client in [&mut phone, &mut desk] {
            let after = client.expect_notification().await;
            assert_eq!((after.seq, &after.notification["data"]), (Some(seq + 2), &json!(2)));
            client.ack(stream, seq + 2).await;
        }
    }
}

#[tokio::test]
async fn a_restored_store_sends_every_connection_away_to_come_back_with_a_gap() {
    let node =
        TestNode::start_with(&[("delivery.head_check_ms", "1000"), ("delivery.blind_check_ms", "500")]).await;
    let mut phone = connected(&node, json!({"device": "phone"})).await;
    publish(&node, &json!({"users": ["alice"]}), 1).await;
    let seq = phone.expect_notification().await.seq.expect("it is stored");
    phone.ack("user", seq).await;
    // As `fanfare inbox new-epoch` does it.
    let file = node.folder().join("single/data/fanfare.sqlite");
    let mut store =
        SqliteConnection::connect(&format!("sqlite://{}", file.display())).await.expect("it opens");
    for statement in ["update store set epoch = epoch + 1", "update streams set epoch = epoch + 1"] {
        sqlx::raw_sql(statement).execute(&mut store).await.expect("it is written");
    }
    let reconnect_after_ms = match next(&mut phone).await {
        Frame::Bye { code: 4006, reason, reconnect_after_ms } => {
            assert_eq!(reason, "stream_reset");
            reconnect_after_ms.expect("clients are spread")
        }
        other => panic!("bye was expected; got {other:?}"),
    };
    assert!(reconnect_after_ms < 10_000);
    assert_eq!(phone.expect_close().await.0, 4006);
    let token = node.credentials.user_token("alice");
    let mut phone = TestClient::connect(&node.process.ws_url(), &token, json!({"device": "phone"})).await;
    let welcome = phone.expect_welcome().await;
    let own = &welcome.streams[0];
    assert_eq!((own.stream.as_str(), own.gap, own.from), ("user", true, 0));
    assert_eq!(phone.expect_notification().await.seq, Some(seq), "from the oldest on");
    eventually(DEADLINE, "it is counted", async || {
        node.operator().metric("fanfare_delivery_byes_total").await >= 1.0
    })
    .await;
}

#[tokio::test]
async fn what_devices_acknowledge_becomes_a_receipt_also_without_a_name_and_counted_in_shared_streams() {
    let node = TestNode::start().await;
    let mut phone = connected(&node, json!({"device": "phone"})).await;
    let mut nameless = connected(&node, json!({"ack": "manual"})).await;
    let own = publish(&node, &json!({"users": ["alice"]}), 1).await;
    let silent = publish(&node, &json!({"users": ["alice"]}), 2).await;
    let shared = publish(&node, &json!({"everyone": true}), 3).await;
    for client in [&mut phone, &mut nameless] {
        for _ in 0..3 {
            client.expect_notification().await;
        }
    }
    nameless.ack("user", 1).await;
    phone.ack("everyone", 1).await;
    nameless.ack("everyone", 1).await;
    let delivered = async |id: &str| {
        let url = format!("{}/v1/notifications/{id}", node.process.http_url());
        let answer = http_client().get(url).bearer_auth(&node.credentials.publisher_key).send().await;
        let text = answer.expect("an answer").text().await.expect("a body");
        let receipt: Value = serde_json::from_str(&text).expect("JSON");
        receipt["counts"]["delivered"].as_u64().unwrap_or_else(|| panic!("{receipt}"))
    };
    eventually(DEADLINE, "one device of the user", async || delivered(&own).await == 1).await;
    eventually(DEADLINE, "two devices of everyone", async || delivered(&shared).await == 2).await;
    assert_eq!(delivered(&silent).await, 0);
}
