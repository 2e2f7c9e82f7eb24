//! The client protocol on one real node: credentials, frames, what a session is sent, and its ends.

use std::time::Duration;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::backends::http_client;
use crate::support::client::{Frame, Notification, TestClient};
use crate::support::single::TestNode;
use crate::support::tokens::{Credentials, seconds_from_now};
use crate::support::{DEADLINE, eventually};

const FANFARE: &str = "fanfare.v1";
const QUIET: Duration = Duration::from_millis(300);

/// Connects without `Authorization`, offering these subprotocols.
async fn offering(url: &str, protocols: &str) -> TestClient {
    let dialled = TestClient::dial_with(url, &[("sec-websocket-protocol", protocols)]).await;
    dialled.unwrap_or_else(|error| panic!("{url}: {error}"))
}

/// The next frame but for `caught_up`.
async fn next(client: &mut TestClient) -> Frame {
    loop {
        match client.frame().await {
            Frame::CaughtUp { .. } => {}
            other => return other,
        }
    }
}

/// `bye` with this code, perhaps after an error, and then the close frame with the same.
async fn expect_bye(client: &mut TestClient, expected: u16) {
    let mut frame = next(client).await;
    if matches!(frame, Frame::Error(_)) {
        frame = next(client).await;
    }
    assert!(matches!(frame, Frame::Bye { code, .. } if code == expected), "{expected}: {frame:?}");
    assert_eq!(client.expect_close().await.0, expected);
}

async fn ticket(node: &TestNode, token: &str) -> String {
    let url = format!("{}/v1/tickets", node.process.http_url());
    let answer = http_client().post(url).bearer_auth(token).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let body: Value = serde_json::from_str(&answer.text().await.expect("a body")).expect("JSON");
    body["ticket"].as_str().expect("a ticket").to_owned()
}

#[tokio::test]
async fn a_token_comes_by_header_subprotocol_hello_or_a_ticket_that_is_good_once() {
    let node = TestNode::start_with(&[("gateway.hello_timeout_ms", "1000")]).await;
    let (url, token) = (node.process.ws_url(), node.credentials.user_token("alice"));
    let wrong = Credentials::new().user_token("alice");
    let with_ticket = format!("{url}?ticket={}", ticket(&node, &token).await);

    let mut header = TestClient::connect(&url, &token, json!({})).await;
    let mut subprotocol = offering(&url, &format!("{FANFARE}, fanfare.token.{token}")).await;
    subprotocol.hello(json!({})).await.expect("sent");
    let mut hello = offering(&url, FANFARE).await;
    hello.hello(json!({"token": token})).await.expect("sent");
    let mut by_ticket = offering(&with_ticket, FANFARE).await;
    by_ticket.hello(json!({"device": "web-1"})).await.expect("sent");
    for client in [&mut header, &mut subprotocol, &mut hello, &mut by_ticket] {
        assert_eq!(client.expect_welcome().await.user, "alice");
    }

    expect_bye(&mut offering(&with_ticket, FANFARE).await, 4501).await;
    match TestClient::dial(&url, &wrong).await {
        Err(Error::Http(answer)) => assert_eq!(answer.status(), 401),
        other => panic!("401 was expected; got {other:?}"),
    }
    expect_bye(&mut offering(&url, &format!("{FANFARE}, fanfare.token.{wrong}")).await, 4501).await;
    let mut hello = offering(&url, FANFARE).await;
    hello.hello(json!({"token": wrong})).await.expect("sent");
    expect_bye(&mut hello, 4501).await;

    let mut silent = TestClient::dial(&url, &token).await.expect("the upgrade");
    expect_bye(&mut silent, 4503).await;
}

#[tokio::test]
async fn a_page_of_another_site_opens_a_socket_only_if_it_is_listed() {
    let node = TestNode::start_with(&[("http.allowed_origins", "[\"https://app.example\"]")]).await;
    let url = node.process.ws_url();
    let bearer = format!("Bearer {}", node.credentials.user_token("alice"));
    let dial = async |origin: &str| {
        let headers = [("authorization", bearer.as_str()), ("origin", origin)];
        TestClient::dial_with(&url, &headers).await
    };
    for good in [node.process.http_url().as_str(), "https://app.example"] {
        dial(good).await.unwrap_or_else(|error| panic!("{good}: {error}")).expect_welcome().await;
    }
    for bad in ["https://evil.example", "https://app.example.evil", "https://sub.app.example", "null"] {
        match dial(bad).await {
            Err(Error::Http(answer)) => {
                assert_eq!(answer.status(), 403, "{bad}");
                let body = answer.body().as_deref().unwrap_or_default();
                assert!(String::from_utf8_lossy(body).contains("origin_forbidden"), "{bad}");
            }
            other => panic!("{bad}: 403 was expected; got {other:?}"),
        }
    }
}

#[tokio::test]
async fn what_a_client_gets_wrong_is_answered_and_costs_the_connection_only_where_it_must() {
    let node = TestNode::start().await;
    let (url, token) = (node.process.ws_url(), node.credentials.user_token("alice"));
    let mut alive = TestClient::connect(&url, &token, json!({"device": "phone"})).await;
    alive.expect_welcome().await;
    for (message, code) in
        [(Message::binary(vec![1_u8]), 1003), (Message::text("x".repeat(16 * 1024 + 1)), 1009)]
    {
        let mut client = TestClient::connect(&url, &token, json!({})).await;
        client.expect_welcome().await;
        client.send_raw(message).await;
        assert_eq!(client.expect_close().await.0, code);
    }

    for (frame, code) in [
        (json!({"type": "dance", "id": 1}), "unknown_frame_type"),
        (json!({"type": "ack", "id": 2, "stream": "user", "seq": 99}), "ack_above_sent"),
        (json!({"type": "ack", "id": 3, "stream": "user", "seq": 0, "colour": 1}), "invalid_frame"),
    ] {
        let id = frame["id"].clone();
        alive.send(frame).await;
        let error = alive.expect_error().await;
        assert_eq!((error.code.as_str(), error.id), (code, Some(id)), "{}", error.message);
    }
    node.publisher().publish(&json!({"to": {"users": ["alice"]}, "data": 1})).await;
    assert_eq!(alive.expect_notification().await.seq, Some(1));

    let mut newer = TestClient::connect(&url, &token, json!({"device": "phone"})).await;
    newer.expect_welcome().await;
    expect_bye(&mut alive, 4500).await;
    assert_eq!(newer.expect_notification().await.seq, Some(1), "it was not acknowledged");
}

#[tokio::test]
async fn topics_and_tokens_change_while_a_connection_lives_and_answers_echo_ids() {
    let node = TestNode::start().await;
    let url = node.process.ws_url();
    let claims =
        |user: &str, exp: i64| json!({"sub": user, "exp": seconds_from_now(exp), "topics": ["news"]});
    let sign = |user: &str, exp: i64| node.credentials.sign(&claims(user, exp));
    // The leeway is five seconds: this one is good for two more.
    let mut fading = TestClient::connect(&url, &sign("bob", -3), json!({})).await;
    fading.expect_welcome().await;
    let mut client = TestClient::connect(&url, &sign("alice", -3), json!({})).await;
    client.expect_welcome().await;

    let hello = json!({"id": 9, "topics": ["news", "secret"]});
    let mut forbidden = TestClient::connect(&url, &sign("alice", 600), hello).await;
    let error = forbidden.expect_error().await;
    assert_eq!((error.code.as_str(), error.id), ("topic_forbidden", Some(json!(9))));

    client.send(json!({"type": "refresh", "id": 1, "token": sign("alice", 600)})).await;
    let frame = next(&mut client).await;
    assert!(matches!(&frame, Frame::Refreshed { id: Some(id), .. } if *id == json!(1)), "{frame:?}");
    client.send(json!({"type": "refresh", "id": 2, "token": sign("bob", 600)})).await;
    let error = client.expect_error().await;
    assert_eq!((error.code.as_str(), error.id), ("other_user", Some(json!(2))));

    client.send(json!({"type": "subscribe", "id": 3, "topic": "secret"})).await;
    let error = client.expect_error().await;
    assert_eq!((error.code.as_str(), error.id), ("topic_forbidden", Some(json!(3))));
    client.send(json!({"type": "subscribe", "id": 4, "topic": "news"})).await;
    match next(&mut client).await {
        Frame::Subscribed(answer) => {
            assert_eq!((answer.id, answer.state.stream.as_str()), (Some(json!(4)), "topic:news"));
        }
        other => panic!("subscribed was expected; got {other:?}"),
    }
    let publisher = node.publisher();
    publisher.publish(&json!({"to": {"topic": "news"}, "data": 1})).await;
    assert_eq!(client.expect_notification().await.stream.as_deref(), Some("topic:news"));
    client.send(json!({"type": "unsubscribe", "id": 5, "topic": "news"})).await;
    let frame = next(&mut client).await;
    assert!(matches!(&frame, Frame::Unsubscribed { id: Some(id) } if *id == json!(5)), "{frame:?}");
    publisher.publish(&json!({"to": {"topic": "news"}, "data": 2})).await;

    expect_bye(&mut fading, 4001).await;
    // Its first token has run out, too, by now; and the topic is silent.
    publisher.publish(&json!({"to": {"users": ["alice"]}, "data": 3})).await;
    assert_eq!(client.expect_notification().await.notification["data"], 3);
}

#[tokio::test]
async fn each_kind_of_target_and_lifetime_reaches_whom_it_should_and_nobody_else() {
    let node = TestNode::start().await;
    let (url, token) = (node.process.ws_url(), node.credentials.user_token("alice"));
    let mut clients = vec![];
    for device in ["phone", "desk"] {
        let mut client =
            TestClient::connect(&url, &token, json!({"device": device, "topics": ["news"]})).await;
        client.expect_welcome().await;
        clients.push(client);
    }
    let publisher = node.publisher();
    for (to, data) in [
        (json!({"users": ["alice"]}), "both"),
        (json!({"devices": [{"user": "alice", "device": "phone"}]}), "phone"),
        (json!({"users": ["bob"]}), "bob"),
        (json!({"topic": "news"}), "topic"),
        (json!({"everyone": true}), "everyone"),
    ] {
        publisher.publish(&json!({"to": to, "data": data})).await;
    }
    let now = json!({"to": {"users": ["alice"]}, "data": "now", "ttl": 0});
    let sent = publisher.try_publish(&now, None).await.expect("an answer");
    assert_eq!((sent.status, &sent.body["status"]), (200, &json!("sent")));
    publisher.publish(&json!({"to": {"users": ["alice"]}, "data": "last"})).await;

    let mut phone = clients.remove(0);
    let mut desk = clients.remove(0);
    let got = received(&mut phone, 6).await;
    assert_eq!(of(&got, "user"), ["both", "phone", "last"]);
    assert_eq!(
        (of(&got, "topic:news"), of(&got, "everyone")),
        (vec![json!("topic")], vec![json!("everyone")])
    );
    let unnumbered: Vec<_> = got.iter().filter(|one| one.seq.is_none()).collect();
    assert_eq!((unnumbered.len(), &unnumbered[0].notification["data"]), (1, &json!("now")));
    let got_by_desk = received(&mut desk, 5).await;
    assert_eq!(of(&got_by_desk, "user"), ["both", "last"]);
    desk.expect_silence(QUIET).await;

    let mut last = 0;
    for one in &got {
        let (Some(stream), Some(seq)) = (one.stream.as_deref(), one.seq) else { continue };
        phone.ack(stream, seq).await;
        last = if stream == "user" { seq } else { last };
    }
    phone.close().await;
    publisher.publish(&json!({"to": {"users": ["alice"]}, "data": "short", "ttl": 1})).await;
    publisher.publish(&json!({"to": {"users": ["alice"]}, "data": "long", "ttl": 600})).await;
    assert_eq!(of(&received(&mut desk, 2).await, "user"), ["short", "long"]);
    // As long as the short one lives.
    desk.expect_silence(Duration::from_millis(1_200)).await;
    let mut phone = back_from(&url, &token, "phone", last).await;
    assert_eq!(phone.expect_notification().await.notification["data"], "long");
    phone.expect_silence(QUIET).await;
}

#[tokio::test]
async fn a_plain_client_acknowledges_by_the_pong_of_a_later_ping() {
    let node = TestNode::start_with(&[("gateway.heartbeat_ms", "1000"), ("presence.ttl_ms", "3000")]).await;
    let token = node.credentials.user_token("alice");
    let (publisher, mut clients) = (node.publisher(), vec![]);
    for (device, ack) in [("auto", "auto"), ("manual", "manual")] {
        let url = format!("{}?device={device}&ack={ack}", node.process.ws_url());
        let bearer = format!("Bearer {token}");
        let dialled = TestClient::dial_with(&url, &[("authorization", &bearer)]).await;
        let mut client = dialled.expect("the upgrade");
        assert_eq!(client.expect_welcome().await.device.as_deref(), Some(device));
        clients.push(client);
    }
    publisher.publish(&json!({"to": {"users": ["alice"]}, "data": 1})).await;
    for client in &mut clients {
        assert_eq!(client.expect_notification().await.seq, Some(1));
    }
    let (auto, manual) = clients.split_at_mut(1);
    // Two heartbeats: pings are answered meanwhile.
    tokio::join!(
        auto[0].expect_silence(Duration::from_millis(2_500)),
        manual[0].expect_silence(Duration::from_millis(2_500)),
    );
    for client in clients {
        client.close().await;
    }
    let url = node.process.ws_url();
    back_from(&url, &token, "auto", 1).await.expect_silence(QUIET).await;
    assert_eq!(back_from(&url, &token, "manual", 0).await.expect_notification().await.seq, Some(1));
}

#[tokio::test]
async fn a_node_keeps_a_topic_for_as_long_as_somebody_there_follows_it() {
    let node = TestNode::start().await;
    let (url, token) = (node.process.ws_url(), node.credentials.user_token("alice"));
    let follow = json!({"topics": ["news", "sports"]});
    let mut first = TestClient::connect(&url, &token, follow.clone()).await;
    first.expect_welcome().await;
    let mut second = TestClient::connect(&url, &token, follow).await;
    second.expect_welcome().await;
    let operator = node.operator();
    let keeps = async |streams: f64| {
        eventually(DEADLINE, &format!("{streams} streams are kept, everyone among them"), async || {
            operator.metric("fanfare_delivery_shared_streams").await == streams
        })
        .await;
    };
    keeps(3.0).await;
    second.send(json!({"type": "unsubscribe", "topic": "news"})).await;
    first.close().await;
    keeps(2.0).await;
    second.close().await;
    keeps(1.0).await;
}

/// The device's next connection whose stored cursor is `from`: a last ack may be on its way yet.
async fn back_from(url: &str, token: &str, device: &str, from: u64) -> TestClient {
    let mut found = None;
    eventually(DEADLINE, &format!("{device} starts from {from}"), async || {
        let mut client = TestClient::connect(url, token, json!({"device": device})).await;
        let welcome = client.expect_welcome().await;
        let own = welcome.streams.iter().find(|state| state.stream == "user").expect("the user's stream");
        let is_so = own.from == from;
        found = Some(client);
        is_so
    })
    .await;
    found.expect("eventually found one")
}

async fn received(client: &mut TestClient, count: usize) -> Vec<Notification> {
    let mut received = vec![];
    while received.len() < count {
        received.push(client.expect_notification().await);
    }
    received
}

/// What came in this stream with a number, in order.
fn of(received: &[Notification], stream: &str) -> Vec<Value> {
    let of_stream = |one: &&Notification| one.seq.is_some() && one.stream.as_deref() == Some(stream);
    received.iter().filter(of_stream).map(|one| one.notification["data"].clone()).collect()
}

#[tokio::test]
async fn one_connection_too_many_of_a_user_displaces_the_oldest() {
    let node = TestNode::start_with(&[("gateway.max_connections_per_user", "2")]).await;
    let (url, token) = (node.process.ws_url(), node.credentials.user_token("alice"));
    let mut oldest = TestClient::connect(&url, &token, json!({"device": "a"})).await;
    oldest.expect_welcome().await;
    let mut second = TestClient::connect(&url, &token, json!({})).await;
    second.expect_welcome().await;
    let bob = node.credentials.user_token("bob");
    let mut bob = TestClient::connect(&url, &bob, json!({})).await;
    bob.expect_welcome().await;
    let mut third = TestClient::connect(&url, &token, json!({"device": "c"})).await;
    third.expect_welcome().await;
    expect_bye(&mut oldest, 4506).await;
    // The same device once more is not one more.
    let mut again = TestClient::connect(&url, &token, json!({"device": "c"})).await;
    again.expect_welcome().await;
    expect_bye(&mut third, 4500).await;
    node.publisher().publish(&json!({"to": {"users": ["alice", "bob"]}, "data": 1})).await;
    for client in [&mut second, &mut again, &mut bob] {
        assert_eq!(client.expect_notification().await.notification["data"], 1);
    }
}

#[tokio::test]
async fn where_the_newest_is_refused_it_is_let_in_when_another_has_gone() {
    let node = TestNode::start_with(&[
        ("gateway.max_connections_per_user", "2"),
        ("gateway.over_limit", "\"refuse_newest\""),
    ])
    .await;
    let (url, token) = (node.process.ws_url(), node.credentials.user_token("alice"));
    let mut first = TestClient::connect(&url, &token, json!({})).await;
    first.expect_welcome().await;
    let mut second = TestClient::connect(&url, &token, json!({"device": "b"})).await;
    second.expect_welcome().await;
    expect_bye(&mut TestClient::connect(&url, &token, json!({"device": "c"})).await, 4506).await;
    let mut newer = TestClient::connect(&url, &token, json!({"device": "b"})).await;
    newer.expect_welcome().await;
    expect_bye(&mut second, 4500).await;
    first.close().await;
    let operator = node.operator();
    eventually(DEADLINE, "the first has gone", async || {
        let (_, body) = operator.get("/admin/connections?user=alice").await;
        body["connections"].as_array().is_some_and(|listed| listed.len() == 1)
    })
    .await;
    let mut third = TestClient::connect(&url, &token, json!({"device": "c"})).await;
    third.expect_welcome().await;
}

#[tokio::test]
async fn a_handshake_that_says_hello_late_finds_no_room_where_newer_ones_have_it() {
    for over_limit in ["\"refuse_newest\"", "\"displace_oldest\""] {
        let node = TestNode::start_with(&[
            ("gateway.max_connections_per_user", "1"),
            ("gateway.over_limit", over_limit),
        ])
        .await;
        let (url, token) = (node.process.ws_url(), node.credentials.user_token("alice"));
        let mut early = TestClient::dial(&url, &token).await.expect("the upgrade");
        let mut newer = TestClient::connect(&url, &token, json!({})).await;
        newer.expect_welcome().await;
        early.hello(json!({"topics": ["news", "sports"]})).await.expect("sent");
        assert_eq!(early.expect_close().await.0, 4506, "{over_limit}");
        node.publisher().publish(&json!({"to": {"users": ["alice"]}, "data": 1})).await;
        assert_eq!(newer.expect_notification().await.notification["data"], 1);
        let operator = node.operator();
        // The close may be read before the node has let go of what the connection followed.
        eventually(DEADLINE, &format!("{over_limit}: only everyone is followed"), async || {
            operator.metric("fanfare_delivery_shared_streams").await == 1.0
        })
        .await;
    }
}

#[tokio::test]
async fn who_subscribes_to_what_it_follows_is_told_where_it_is() {
    let node = TestNode::start().await;
    let (url, token) = (node.process.ws_url(), node.credentials.user_token("alice"));
    let mut client = TestClient::connect(&url, &token, json!({"device": "a", "topics": ["news"]})).await;
    client.expect_welcome().await;
    for number in 1..=3 {
        node.publisher().publish(&json!({"to": {"topic": "news"}, "data": number})).await;
        assert_eq!(client.expect_notification().await.notification["data"], number);
    }
    client.ack("topic:news", 3).await;
    // The last is above the head: as if from another life of the stream.
    for since in [1, 3, 9] {
        client.send(json!({"type": "subscribe", "id": 1, "topic": "news", "since": since})).await;
        match client.next_frame().await {
            Frame::Subscribed(stream) => {
                assert_eq!((stream.state.from, stream.state.gap, stream.state.head), (3, false, 3));
            }
            other => panic!("an answer was expected; got {other:?}"),
        }
    }
    node.publisher().publish(&json!({"to": {"topic": "news"}, "data": 4})).await;
    let next = client.expect_notification().await;
    assert_eq!((next.seq, &next.notification["data"]), (Some(4), &json!(4)), "nothing came twice");
}
