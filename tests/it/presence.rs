//! Who is online, as publishers and operators see it on two nodes; and what ends a connection from afar.

mod events;
mod watched;

use std::time::Duration;

use deadpool_redis::redis;
use serde_json::{Value, json};

use crate::support::backends::http_client;
use crate::support::client::{Frame, TestClient};
use crate::support::cluster::TestCluster;
use crate::support::publisher::Publisher;
use crate::support::{DEADLINE, eventually, within};

/// Entries die within three seconds; head checks come too late to explain a delivery.
const SHORT_TTL: &[(&str, &str)] = &[
    ("node.lease_ttl_ms", "3000"),
    ("gateway.heartbeat_ms", "1000"),
    ("presence.ttl_ms", "3000"),
    ("delivery.head_check_ms", "600000"),
    ("delivery.blind_check_ms", "60000"),
];
const TTL: Duration = Duration::from_secs(3);
/// For two busy cores.
const SLACK: Duration = Duration::from_secs(3);

/// What the second node tells a publisher about `user`.
async fn presence(cluster: &TestCluster, user: &str) -> Value {
    let url = format!("{}/v1/presence?user={user}", cluster.nodes[1].http_url());
    let answer = http_client().get(url).bearer_auth(&cluster.credentials.publisher_key).send().await;
    let text = answer.expect("an answer").text().await.expect("a body");
    let mut body: Value = serde_json::from_str(&text).expect("JSON");
    body["users"][0].take()
}

async fn becomes(cluster: &TestCluster, user: &str, online: bool, deadline: Duration) {
    let what = format!("{user} is online: {online}");
    eventually(deadline, &what, async || presence(cluster, user).await["online"] == online).await;
}

async fn expect_close(client: &mut TestClient, expected: u16) {
    let frame = loop {
        match client.frame().await {
            Frame::CaughtUp { .. } => {}
            other => break other,
        }
    };
    assert!(matches!(frame, Frame::Bye { code, .. } if code == expected), "{expected}: {frame:?}");
    assert_eq!(client.expect_close().await.0, expected);
}

#[tokio::test]
async fn a_connection_is_displaced_listed_and_closed_from_the_other_node() {
    let cluster = TestCluster::start().await;
    let token = cluster.credentials.user_token("alice");
    let hello = json!({"device": "phone"});
    let mut older = TestClient::connect(&cluster.nodes[0].ws_url(), &token, hello.clone()).await;
    older.expect_welcome().await;
    becomes(&cluster, "alice", true, DEADLINE).await;
    let mut newer = TestClient::connect(&cluster.nodes[1].ws_url(), &token, hello).await;
    let welcome = newer.expect_welcome().await;
    expect_close(&mut older, 4500).await;

    let operator = cluster.operator(0);
    eventually(DEADLINE, "the newer connection alone is announced", async || {
        let told = presence(&cluster, "alice").await;
        told["devices"]
            == json!([{"device": "phone", "node": "node-2", "connection": welcome.connection.clone()}])
    })
    .await;
    let (status, body) = operator.get("/admin/presence/alice").await;
    assert_eq!((status, &body["devices"][0]["node"]), (200, &json!("node-2")), "{body}");
    let (status, body) = operator.get("/admin/connections?user=alice").await;
    assert_eq!(status, 200, "{body}");
    let listed = body["connections"].as_array().expect("connections");
    assert_eq!(listed.len(), 1, "{body}");
    assert!(body.to_string().contains(&welcome.connection), "{body}");

    let path = format!("/admin/connections/{}", welcome.connection);
    assert_eq!(operator.delete(&path).await.0, 204);
    expect_close(&mut newer, 4004).await;
    // At once: an entry would live for 90 seconds.
    becomes(&cluster, "alice", false, DEADLINE).await;
    eventually(DEADLINE, "alice was seen", async || {
        presence(&cluster, "alice").await["last_seen"].is_string()
    })
    .await;
    assert_eq!(operator.delete(&path).await.0, 404);
}

/// Waits until whoever connects is the later one in any node's measure of Redis' time.
async fn redis_goes_on(cluster: &TestCluster) {
    let url = cluster.nodes[0].settings.presence_url.clone().expect("a cluster has Redis");
    let mut redis = redis::Client::open(url)
        .expect("a Redis URL")
        .get_multiplexed_async_connection()
        .await
        .expect("Redis answers");
    let mut began = None;
    eventually(DEADLINE, "Redis' time goes on", async || {
        let (seconds, micros): (u64, u64) =
            redis::cmd("TIME").query_async(&mut redis).await.expect("Redis knows the time");
        let now = Duration::from_secs(seconds) + Duration::from_micros(micros);
        now >= *began.get_or_insert(now) + Duration::from_millis(100)
    })
    .await;
}

#[tokio::test]
async fn a_users_connections_are_counted_over_both_nodes_and_the_oldest_goes() {
    let cluster = TestCluster::start_with(&[("gateway.max_connections_per_user", "2")]).await;
    let token = cluster.credentials.user_token("alice");
    let mut clients = vec![];
    for (node, device) in ["a", "b", "c"].into_iter().enumerate() {
        let url = cluster.nodes[node % 2].ws_url();
        let mut client = TestClient::connect(&url, &token, json!({"device": device})).await;
        client.expect_welcome().await;
        clients.push(client);
    }
    // Of the third's own node; then one of the other node.
    expect_close(&mut clients[0], 4506).await;
    let mut fourth = TestClient::connect(&cluster.nodes[0].ws_url(), &token, json!({"device": "d"})).await;
    fourth.expect_welcome().await;
    expect_close(&mut clients[1], 4506).await;
    let publisher = Publisher::new(&cluster.nodes[1].http_url(), &cluster.credentials);
    publisher.publish(&json!({"to": {"users": ["alice"]}, "data": 1})).await;
    assert_eq!(clients[2].expect_notification().await.notification["data"], 1);
    assert_eq!(fourth.expect_notification().await.notification["data"], 1);
}

#[tokio::test]
async fn a_hello_that_comes_late_displaces_no_connection_that_was_made_after_it() {
    let cluster = TestCluster::start().await;
    let hello = json!({"device": "phone"});
    for (node, user) in ["alice", "bob"].into_iter().enumerate() {
        let token = cluster.credentials.user_token(user);
        let early = TestClient::dial(&cluster.nodes[node].ws_url(), &token).await;
        let mut early = early.expect("an upgrade");
        redis_goes_on(&cluster).await;
        let mut later = TestClient::connect(&cluster.nodes[1].ws_url(), &token, hello.clone()).await;
        later.expect_welcome().await;
        early.hello(hello.clone()).await.expect("it is open");
        let ended = within(DEADLINE, "the early one's end", async {
            loop {
                if let Frame::Closed { code, .. } = early.next_frame().await {
                    return code;
                }
            }
        });
        assert_eq!(ended.await, 4500, "on node {node}");
        let publisher = Publisher::new(&cluster.nodes[0].http_url(), &cluster.credentials);
        publisher.publish(&json!({"to": {"users": [user]}, "data": node})).await;
        assert_eq!(later.expect_notification().await.notification["data"], node);
    }
}

#[tokio::test]
async fn presence_outlives_a_flush_of_redis_and_not_a_killed_node() {
    let mut cluster = TestCluster::start_with(SHORT_TTL).await;
    let mut bob = cluster.device_on(1, "bob", "phone", &[]);
    // She stays on her node: through Nginx, she would be back at once.
    let carol = cluster.nodes[0].ws_url();
    let carol = TestClient::connect(&carol, &cluster.credentials.user_token("carol"), json!({})).await;
    let carol = tokio::spawn(async move {
        let mut carol = carol;
        while !matches!(carol.next_frame().await, Frame::Closed { .. }) {}
    });
    bob.connected(DEADLINE, 1).await;
    for user in ["bob", "carol"] {
        becomes(&cluster, user, true, DEADLINE).await;
    }

    let url = cluster.nodes[0].settings.presence_url.clone().expect("a cluster has Redis");
    let client = redis::Client::open(url).expect("a Redis URL");
    let mut redis = client.get_multiplexed_async_connection().await.expect("Redis answers");
    redis::cmd("FLUSHDB").query_async::<()>(&mut redis).await.expect("Redis flushes");
    let publisher = Publisher::new(&cluster.nodes[0].http_url(), &cluster.credentials);
    for user in ["bob", "carol"] {
        becomes(&cluster, user, true, DEADLINE).await;
    }
    eventually(DEADLINE, "both nodes are listed again", async || {
        let (_, body) = cluster.operator(0).get("/admin/nodes").await;
        ["node-1", "node-2"].iter().all(|id| body.to_string().contains(id))
    })
    .await;
    let answer = publisher.publish(&json!({"to": {"users": ["bob"]}, "data": 1})).await;
    assert_eq!(answer.body["online"], 1);
    bob.received(Duration::from_secs(5), 1).await;

    cluster.nodes[0].process().kill();
    becomes(&cluster, "carol", false, TTL + SLACK).await;
    assert_eq!(presence(&cluster, "bob").await["online"], true);
    within(DEADLINE, "carol's connection is gone", carol).await.expect("it was read to its end");
}
