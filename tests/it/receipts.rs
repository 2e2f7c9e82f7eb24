//! Receipts, cancelling, reading and erasing from end to end: one embedded node, and two on real backends.

use fanfare::clock::Clock;
use fanfare::domain::UnixMillis;
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::backends::http_client;
use crate::support::client::{Frame, TestClient};
use crate::support::cluster::TestCluster;
use crate::support::single::TestNode;
use crate::support::tokens::Credentials;
use crate::support::{DEADLINE, eventually, within};

/// One node's client listener.
struct Api {
    client: reqwest::Client,
    url: String,
    credentials: Credentials,
}

impl Api {
    fn new(url: String, credentials: &Credentials) -> Self {
        Self { client: http_client(), url, credentials: credentials.clone() }
    }

    async fn ask(&self, request: reqwest::RequestBuilder) -> (u16, Value) {
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        let text = answer.text().await.expect("a body");
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    fn publisher(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(&self.credentials.publisher_key)
    }

    /// Publishes; answers the id.
    async fn publish(&self, body: Value) -> String {
        let (status, answer) = self.ask(self.publisher(Method::POST, "/v1/notifications").json(&body)).await;
        assert_eq!(status, 202, "{answer}");
        answer["id"].as_str().expect("an id").to_owned()
    }

    /// How many recipients are in which state; none are left out but those that are zero.
    async fn counts(&self, id: &str) -> Value {
        let (status, mut answer) =
            self.ask(self.publisher(Method::GET, &format!("/v1/notifications/{id}"))).await;
        assert_eq!(status, 200, "{answer}");
        let counts = answer["counts"].as_object_mut().expect("an object");
        counts.retain(|_, count| *count != 0);
        answer["counts"].clone()
    }

    async fn becomes(&self, id: &str, counts: Value) {
        let what = format!("{id} becomes {counts}");
        eventually(DEADLINE, &what, async || self.counts(id).await == counts).await;
    }

    async fn cancel(&self, id: &str) {
        let (status, answer) =
            self.ask(self.publisher(Method::DELETE, &format!("/v1/notifications/{id}"))).await;
        assert_eq!((status, &answer["status"]), (200, &json!("cancelled")), "{answer}");
    }

    async fn as_user(&self, user: &str, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let request = self.client.request(method, format!("{}{path}", self.url));
        let request = request.bearer_auth(self.credentials.user_token(user));
        self.ask(match body {
            Some(body) => request.json(&body),
            None => request,
        })
        .await
    }

    /// A device that is welcomed.
    async fn device(&self, user: &str, device: &str) -> TestClient {
        let url = format!("{}/v1/connect", self.url.replacen("http", "ws", 1));
        let token = self.credentials.user_token(user);
        let mut client = TestClient::connect(&url, &token, json!({"device": device})).await;
        client.expect_welcome().await;
        client
    }
}

/// The next frame but for those that only say how far the stream has come.
async fn next(client: &mut TestClient) -> Frame {
    within(DEADLINE, "a frame", async {
        loop {
            match client.next_frame().await {
                Frame::CaughtUp { .. } => {}
                other => return other,
            }
        }
    })
    .await
}

async fn one_node() -> (TestNode, Api) {
    let node = TestNode::start().await;
    let api = Api::new(node.process.http_url(), &node.credentials);
    (node, api)
}

#[tokio::test]
async fn a_publisher_sees_it_stored_delivered_and_read_also_after_a_kill() {
    let (mut node, api) = one_node().await;
    let mut phone = api.device("alice", "phone").await;
    let id = api.publish(json!({"to": {"users": ["alice", "bob"]}})).await;
    let seq = phone.expect_notification().await.seq.expect("a seq");
    assert_eq!(api.counts(&id).await, json!({"stored": 2}), "sent is not acknowledged");
    phone.ack("user", seq).await;
    api.becomes(&id, json!({"stored": 1, "delivered": 1})).await;
    phone.send(json!({"type": "read", "ids": [id]})).await;
    api.becomes(&id, json!({"stored": 1, "read": 1})).await;
    node.process.process().kill();
    node.process.restart().await;
    assert_eq!(api.counts(&id).await, json!({"stored": 1, "read": 1}));
}

#[tokio::test]
async fn what_a_device_had_when_its_ack_was_lost_is_delivered_once_it_acknowledges_more() {
    let (_node, api) = one_node().await;
    let mut phone = api.device("alice", "phone").await;
    let all = json!({"to": {"users": ["alice"]}});
    let first = api.publish(all.clone()).await;
    let for_another = api.publish(json!({"to": {"devices": [{"user": "alice", "device": "desk"}]}})).await;
    let second = api.publish(all.clone()).await;
    phone.expect_notification().await;
    let seq = phone.expect_notification().await.seq.expect("a seq");
    // As if its ack had been under way when the connection broke.
    drop(phone);
    let url = format!("{}/v1/connect", api.url.replacen("http", "ws", 1));
    let hello = |epoch: &str| json!({"device": "phone", "resume": {"user": {"epoch": epoch, "seq": seq}}});
    let token = api.credentials.user_token("alice");
    let mut looking = TestClient::connect(&url, &token, json!({"device": "looking"})).await;
    let epoch = looking.expect_welcome().await.streams[0].epoch.clone();
    let mut phone = TestClient::connect(&url, &token, hello(&epoch)).await;
    phone.expect_welcome().await;
    let third = api.publish(all).await;
    let last = phone.expect_notification().await.seq.expect("a seq");
    assert_eq!(api.counts(&first).await, json!({"stored": 1}), "that it says so is no acknowledgement");
    phone.ack("user", last).await;
    for id in [&first, &second, &third] {
        api.becomes(id, json!({"delivered": 1})).await;
    }
    assert_eq!(api.counts(&for_another).await, json!({"stored": 1}));
}

#[tokio::test]
async fn a_newer_one_of_its_collapse_key_is_all_that_an_absent_device_gets() {
    let (_node, api) = one_node().await;
    let body = |number| json!({"to": {"users": ["alice"]}, "data": number, "collapse_key": "score"});
    let older = api.publish(body(1)).await;
    let newer = api.publish(body(2)).await;
    assert_eq!(api.counts(&older).await, json!({"superseded": 1}));
    let mut phone = api.device("alice", "phone").await;
    let arrived = phone.expect_notification().await;
    assert_eq!((&arrived.notification["id"], &arrived.notification["data"]), (&json!(newer), &json!(2)));
    // A cancellation of the newer one does not bring the older one back.
    api.cancel(&newer).await;
    assert!(matches!(next(&mut phone).await, Frame::Cancelled { id, .. } if id == newer));
    let mut desk = api.device("alice", "desk").await;
    let last = api.publish(json!({"to": {"users": ["alice"]}, "data": 3})).await;
    // The further device begins at what is unread; of what is gone it hears at most that it was taken back.
    loop {
        match next(&mut desk).await {
            Frame::Cancelled { id, .. } => assert_eq!(id, newer),
            Frame::Notification(arrived) => {
                assert_eq!(arrived.notification["id"], last);
                break;
            }
            other => panic!("neither was expected: {other:?}"),
        }
    }
    assert_eq!(api.counts(&older).await, json!({"superseded": 1}));
}

#[tokio::test]
async fn whoever_waits_is_answered_by_the_acknowledgement_itself() {
    let (node, api) = one_node().await;
    let mut phone = api.device("alice", "phone").await;
    let request = api.publisher(Method::POST, "/v1/notifications").header("prefer", "wait=25");
    let waiting = tokio::spawn({
        let (api, request) =
            (Api::new(api.url.clone(), &api.credentials), request.json(&json!({"to": {"users": ["alice"]}})));
        async move { api.ask(request).await }
    });
    let seq = phone.expect_notification().await.seq.expect("a seq");
    let operator = node.operator();
    eventually(DEADLINE, "it waits for the acknowledgement", async || {
        operator.metric("fanfare_publish_waiting").await == 1.0
    })
    .await;
    phone.ack("user", seq).await;
    let (status, answer) =
        within(DEADLINE, "the answer, long before its deadline", waiting).await.expect("it ends");
    assert_eq!((status, &answer["receipts"]["delivered"]), (202, &json!(1)), "{answer}");

    // A client that leaves frees its place.
    let request = api.publisher(Method::POST, "/v1/notifications").header("prefer", "wait=25");
    let leaving = tokio::spawn(request.json(&json!({"to": {"users": ["alice"]}})).send());
    phone.expect_notification().await;
    leaving.abort();
    eventually(DEADLINE, "nobody waits", async || operator.metric("fanfare_publish_waiting").await == 0.0)
        .await;
    assert_eq!(operator.metric("fanfare_delivery_rate").await, 0.5);
}

async fn two_nodes() -> (TestCluster, [Api; 2]) {
    let cluster = TestCluster::start().await;
    let apis = [0, 1].map(|node: usize| Api::new(cluster.nodes[node].http_url(), &cluster.credentials));
    (cluster, apis)
}

#[tokio::test]
async fn what_one_node_cancels_is_taken_back_on_the_other_and_from_who_comes_back_later() {
    let (_cluster, [here, there]) = two_nodes().await;
    let mut phone = here.device("alice", "phone").await;
    let mut desk = here.device("alice", "desk").await;
    let id = there.publish(json!({"to": {"users": ["alice"]}})).await;
    let seq = phone.expect_notification().await.seq.expect("a seq");
    assert_eq!(desk.expect_notification().await.seq, Some(seq));
    // The desk has acknowledged it, and is away when it is taken back.
    desk.ack("user", seq).await;
    there.becomes(&id, json!({"delivered": 1})).await;
    desk.close().await;
    there.cancel(&id).await;
    assert_eq!(
        next(&mut phone).await,
        Frame::Cancelled { stream: "user".to_owned(), seq: seq + 1, id: id.clone() }
    );
    let mut desk = there.device("alice", "desk").await;
    assert_eq!(
        next(&mut desk).await,
        Frame::Cancelled { stream: "user".to_owned(), seq: seq + 1, id: id.clone() }
    );
    assert_eq!(here.counts(&id).await, json!({"delivered": 1}), "somebody had it before");
}

#[tokio::test]
async fn what_is_read_anywhere_shows_everywhere_and_an_erased_user_is_gone_from_both_nodes() {
    let (cluster, [here, there]) = two_nodes().await;
    let mut phone = here.device("alice", "phone").await;
    let mut desk = there.device("alice", "desk").await;
    let ids = [
        here.publish(json!({"to": {"users": ["alice"]}})).await,
        there.publish(json!({"to": {"users": ["alice", "bob"]}})).await,
    ];
    for client in [&mut phone, &mut desk] {
        client.expect_notification().await;
        client.expect_notification().await;
    }
    let marked = here.as_user("alice", Method::POST, "/v1/inbox/read", Some(json!({"ids": [ids[0]]}))).await;
    assert_eq!((marked.0, &marked.1["unread"]), (200, &json!(1)), "{}", marked.1);
    let version = marked.1["version"].as_u64().expect("a number");
    for client in [&mut phone, &mut desk] {
        let ids = vec![ids[0].clone()];
        let expected =
            Frame::Read { id: None, stream: "user".to_owned(), ids, up_to: None, unread: 1, version };
        assert_eq!(next(client).await, expected);
    }
    let (_, unread) = there.as_user("alice", Method::GET, "/v1/inbox/unread", None).await;
    assert_eq!((&unread["unread"], &unread["version"]), (&json!(1), &json!(version)));

    let (status, erased) = cluster.operator(0).delete("/admin/users/alice").await;
    assert_eq!((status, &erased["connections"]), (200, &json!(2)), "{erased}");
    assert_eq!((&erased["erased"]["entries"], &erased["erased"]["notifications"]), (&json!(2), &json!(1)));
    for client in [&mut phone, &mut desk] {
        assert_eq!(client.expect_close().await, (4505, "removed".to_owned()));
    }
    let (_, inbox) = there.as_user("bob", Method::GET, "/v1/inbox", None).await;
    assert_eq!(inbox["entries"][0]["notification"]["id"], ids[1], "what is others' stays");
    let (_, inbox) = there.as_user("alice", Method::GET, "/v1/inbox", None).await;
    assert_eq!((&inbox["entries"], &inbox["unread"]), (&json!([]), &json!(0)));
}

#[tokio::test]
async fn a_device_that_is_removed_by_one_node_loses_its_connection_on_the_other() {
    let (_cluster, [here, there]) = two_nodes().await;
    let mut phone = there.device("alice", "phone").await;
    let (status, answer) = here.as_user("alice", Method::DELETE, "/v1/devices/phone", None).await;
    assert_eq!(status, 204, "{answer}");
    assert_eq!(phone.expect_close().await, (4505, "removed".to_owned()));
}

/// Publishes over AMQP and waits for RabbitMQ's word.
async fn publish_by_amqp(cluster: &TestCluster, body: &Value) {
    let connection = Connection::connect(&cluster.amqp_url, ConnectionProperties::default()).await;
    let connection = connection.expect("RabbitMQ is there");
    let channel = connection.create_channel().await.expect("a channel");
    let json = body.to_string();
    let sent = channel.basic_publish(
        "fanfare.notifications".into(),
        "normal".into(),
        BasicPublishOptions::default(),
        json.as_bytes(),
        BasicProperties::default(),
    );
    sent.await.expect("it is sent").await.expect("it is taken");
    connection.close(200, "done".into()).await.expect("it ends");
}

/// So many seconds from now, as RFC 3339 has it.
fn at(seconds: i64) -> String {
    let now = Clock::system().now().0;
    UnixMillis(now.saturating_add_signed(1_000 * seconds)).to_string()
}

#[tokio::test]
async fn deliver_at_is_taken_over_amqp_as_over_http() {
    let (cluster, [here, there]) = two_nodes().await;
    let mut phone = here.device("alice", "phone").await;
    let body = |at: &str, data: &str| json!({"to": {"users": ["alice"]}, "deliver_at": at, "data": data});
    let dead = "fanfare_broker_dead_letters_total{reason=\"invalid_deliver_at\"}";
    publish_by_amqp(&cluster, &body(&at(91 * 86_400), "too far")).await;
    publish_by_amqp(&cluster, &body("2020-01-01T00:00:00Z", "long past")).await;
    eventually(DEADLINE, "both are refused", async || {
        cluster.operator(0).metric(dead).await + cluster.operator(1).metric(dead).await == 2.0
    })
    .await;
    // Its time may have passed in the lane: it is published at once.
    publish_by_amqp(&cluster, &body(&at(-60), "waited")).await;
    assert_eq!(phone.expect_notification().await.notification["data"], "waited");
    let soon = at(2);
    publish_by_amqp(&cluster, &body(&soon, "later")).await;
    let arrived = phone.expect_notification().await.notification;
    assert_eq!(arrived["data"], "later");
    let created = arrived["created_at"].as_str().expect("a time");
    assert!(created[..19] >= soon[..19], "{created} is not before {soon}");
    assert_eq!(there.as_user("alice", Method::GET, "/v1/inbox/unread", None).await.1["unread"], 2);
}

#[tokio::test]
async fn what_is_for_later_is_published_once_by_the_next_life_of_a_killed_node() {
    let (mut node, api) = one_node().await;
    let soon = at(2);
    let id = api.publish(json!({"to": {"users": ["alice"]}, "deliver_at": soon})).await;
    let never = api.publish(json!({"to": {"users": ["alice"]}, "deliver_at": soon})).await;
    api.cancel(&never).await;
    node.process.process().kill();
    node.process.restart().await;
    let mut phone = api.device("alice", "phone").await;
    assert_eq!(phone.expect_notification().await.notification["id"], id);
    api.becomes(&id, json!({"stored": 1})).await;
    node.process.process().kill();
    node.process.restart().await;
    // Whatever fired again would have come before this one.
    let last = api.publish(json!({"to": {"users": ["alice"]}})).await;
    let mut phone = api.device("alice", "phone").await;
    assert_eq!(phone.expect_notification().await.notification["id"], id, "it was not acknowledged");
    assert_eq!(phone.expect_notification().await.notification["id"], last);
}
