//! Who came and went, as backends are told on `fanfare.events`: once a change, after a grace, whoever dies.

use std::time::Duration;

use deadpool_redis::redis;
use serde_json::json;

use crate::support::client::{Frame, TestClient};
use crate::support::cluster::TestCluster;
use crate::support::events::Events;
use crate::support::process::{NodeProcess, NodeSettings};
use crate::support::proxy::ChaosProxy;
use crate::support::{DEADLINE, eventually};

/// The grace is a heartbeat: long enough to come back within it on a busy machine, short enough to wait for.
const EVENTS: &[(&str, &str)] = &[
    ("events.presence", "true"),
    ("node.lease_ttl_ms", "3000"),
    ("gateway.heartbeat_ms", "2000"),
    ("presence.ttl_ms", "6000"),
];
/// A lease, a grace, a doubt, a pass of the reconciliation, one after the other, on two busy cores.
const NOTICED: Duration = Duration::from_secs(30);
const ONLINE: &str = "presence.online";
const OFFLINE: &str = "presence.offline";

async fn connect(cluster: &TestCluster, node: usize, user: &str, device: &str) -> TestClient {
    let (url, token) = (cluster.nodes[node].ws_url(), cluster.credentials.user_token(user));
    let mut client = TestClient::connect(&url, &token, json!({"device": device})).await;
    client.expect_welcome().await;
    client
}

/// A client that stays until its connection ends, and answers pings meanwhile.
fn stay(mut client: TestClient) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move { while !matches!(client.next_frame().await, Frame::Closed { .. }) {} })
}

/// A user who comes and goes after everything until now: what was to be told before has been.
async fn until_everything_is_told(cluster: &TestCluster, events: &Events, marker: &str) {
    connect(cluster, 0, marker, "phone").await.close().await;
    events.told(NOTICED, marker, &[ONLINE, OFFLINE]).await;
}

#[tokio::test]
async fn a_user_is_online_with_the_first_connection_anywhere_and_offline_a_grace_after_the_last() {
    let cluster = TestCluster::start_with(EVENTS).await;
    let events = Events::bind(&cluster.amqp_url, "presence.*").await;
    let phone = connect(&cluster, 0, "alice", "phone").await;
    events.told(DEADLINE, "alice", &[ONLINE]).await;
    let first = events.all().remove(0);
    assert!(first.id.starts_with("presence/alice/"), "{}", first.id);
    assert_eq!(first.key.as_str(), ONLINE);
    assert_eq!((&first.json["id"], &first.json["type"]), (&json!(first.id), &json!(ONLINE)));
    assert!(first.json["at"].as_str().is_some_and(|at| at.ends_with('Z')), "{}", first.json);

    let desk = stay(connect(&cluster, 1, "alice", "desk").await);
    phone.close().await;
    until_everything_is_told(&cluster, &events, "marker-1").await;
    assert_eq!(events.of_user("alice"), [ONLINE], "she is still at her desk");
    desk.abort();
    events.told(NOTICED, "alice", &[ONLINE, OFFLINE]).await;

    // Away for less than the grace, on another node.
    connect(&cluster, 0, "alice", "phone").await.close().await;
    let back = stay(connect(&cluster, 1, "alice", "phone").await);
    events.told(DEADLINE, "alice", &[ONLINE, OFFLINE, ONLINE]).await;
    until_everything_is_told(&cluster, &events, "marker-2").await;
    assert_eq!(events.of_user("alice"), [ONLINE, OFFLINE, ONLINE], "back within the grace is no event");
    let ids: Vec<String> = events.all().into_iter().map(|told| told.id).collect();
    let distinct: std::collections::HashSet<&String> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len(), "each change has an id of its own: {ids:?}");
    back.abort();
}

#[tokio::test]
async fn the_users_of_a_killed_node_are_offline_unless_they_came_back_elsewhere() {
    let mut cluster = TestCluster::start_with(EVENTS).await;
    let events = Events::bind(&cluster.amqp_url, "presence.*").await;
    let carol = stay(connect(&cluster, 0, "carol", "phone").await);
    // A device that comes back through Nginx.
    let mut bob = cluster.device_on(0, "bob", "phone", &[]);
    bob.connected(DEADLINE, 1).await;
    let dave = stay(connect(&cluster, 1, "dave", "phone").await);
    for user in ["bob", "carol", "dave"] {
        events.told(DEADLINE, user, &[ONLINE]).await;
    }
    cluster.nodes[0].process().kill();
    bob.connected(DEADLINE, 2).await;
    events.told(NOTICED, "carol", &[ONLINE, OFFLINE]).await;
    assert_eq!(events.of_user("bob"), [ONLINE]);
    assert_eq!(events.of_user("dave"), [ONLINE]);
    drop((carol, dave));
}

#[tokio::test]
async fn a_flushed_redis_sends_nobody_away_and_keeps_nobody_online() {
    let mut cluster = TestCluster::start_with(EVENTS).await;
    let events = Events::bind(&cluster.amqp_url, "presence.*").await;
    let here = stay(connect(&cluster, 1, "alice", "phone").await);
    let gone = stay(connect(&cluster, 0, "carol", "phone").await);
    for user in ["alice", "carol"] {
        events.told(DEADLINE, user, &[ONLINE]).await;
    }
    let url = cluster.redis_url.clone();
    let client = redis::Client::open(url).expect("a Redis URL");
    let mut redis = client.get_multiplexed_async_connection().await.expect("Redis answers");
    // Whose users they were is forgotten with the node itself: only the reconciliation can find them.
    cluster.nodes[0].process().kill();
    redis::cmd("FLUSHDB").query_async::<()>(&mut redis).await.expect("Redis flushes");
    events.told(NOTICED, "carol", &[ONLINE, OFFLINE]).await;
    assert_eq!(events.of_user("alice"), [ONLINE]);
    drop((here, gone));
}

#[tokio::test]
async fn a_frozen_node_loses_its_users_and_has_them_again_when_it_is_back() {
    let mut cluster = TestCluster::start_with(EVENTS).await;
    let events = Events::bind(&cluster.amqp_url, "presence.*").await;
    let mut alice = cluster.device_on(0, "alice", "phone", &[]);
    alice.connected(DEADLINE, 1).await;
    events.told(DEADLINE, "alice", &[ONLINE]).await;
    cluster.nodes[0].process().signal("STOP");
    events.told(NOTICED, "alice", &[ONLINE, OFFLINE]).await;
    cluster.nodes[0].process().signal("CONT");
    events.told(NOTICED, "alice", &[ONLINE, OFFLINE, ONLINE]).await;
}

#[tokio::test]
async fn nobody_is_called_offline_while_redis_is_away() {
    let cluster = TestCluster::start_with(EVENTS).await;
    let events = Events::bind(&cluster.amqp_url, "presence.*").await;
    let here = stay(connect(&cluster, 0, "alice", "phone").await);
    let leaves = connect(&cluster, 0, "carol", "phone").await;
    for user in ["alice", "carol"] {
        events.told(DEADLINE, user, &[ONLINE]).await;
    }
    cluster.redis.cut();
    leaves.close().await;
    let operator = cluster.operator(0);
    let blind = "fanfare_delivery_blind";
    eventually(DEADLINE, "the node is blind", async || operator.metric(blind).await > 0.0).await;
    // Longer than entries and graces last: it looks five times a second.
    let looks = async || operator.metric("fanfare_jobs_rounds_total{name=\"presence\"}").await;
    let before = looks().await;
    eventually(NOTICED, "it looked often", async || looks().await > before + 50.0).await;
    assert_eq!(events.of_user("carol"), [ONLINE], "who cannot see cannot say that somebody is away");
    cluster.redis.heal();
    events.told(NOTICED, "carol", &[ONLINE, OFFLINE]).await;
    assert_eq!(events.of_user("alice"), [ONLINE]);
    drop(here);
}

/// The first node hears of no blind node then, and what presence knows of the second one runs out.
#[tokio::test]
async fn a_node_without_rabbitmq_calls_nobody_offline() {
    let mut cluster = TestCluster::start_with(EVENTS).await;
    let (rabbit, broker_url) = ChaosProxy::before(&cluster.amqp_url).await;
    let (redis, presence_url) = ChaosProxy::before(&cluster.redis_url).await;
    let without_rabbit = NodeSettings { broker_urls: vec![broker_url], ..cluster.nodes[0].settings.clone() };
    let blind = NodeSettings { presence_url: Some(presence_url), ..cluster.nodes[1].settings.clone() };
    for (node, settings) in [without_rabbit, blind].into_iter().enumerate() {
        cluster.nodes[node].process().kill();
        cluster.nodes[node] = NodeProcess::start(settings, cluster.folder(), &cluster.credentials).await;
    }
    let events = Events::bind(&cluster.amqp_url, "presence.*").await;
    let here = stay(connect(&cluster, 1, "alice", "phone").await);
    events.told(DEADLINE, "alice", &[ONLINE]).await;
    rabbit.cut();
    let [first, second] = [cluster.operator(0), cluster.operator(1)];
    eventually(DEADLINE, "the first node is without RabbitMQ", async || {
        first.get("/readyz").await.1["checks"]["broker"]["status"] == "down"
    })
    .await;
    redis.cut();
    eventually(DEADLINE, "the second node is blind", async || {
        second.metric("fanfare_delivery_blind").await > 0.0
    })
    .await;
    // Longer than her entry lasts, and than a pass over who is believed to be online.
    let looks = async || first.metric("fanfare_jobs_rounds_total{name=\"presence\"}").await;
    let before = looks().await;
    eventually(NOTICED, "it looked often", async || looks().await > before + 60.0).await;
    assert_eq!(events.of_user("alice"), [ONLINE], "she is where nobody can see her");
    rabbit.heal();
    redis.heal();
    here.abort();
    events.told(NOTICED, "alice", &[ONLINE, OFFLINE]).await;
}
