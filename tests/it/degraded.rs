//! Degraded modes, word by word: what goes on without Redis, RabbitMQ or SQL, what does not, where it shows, and
//! that all of it is back by itself.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{Connection as _, Executor, PgConnection};

use crate::cluster::QUICK;
use crate::lanes::Backend;
use crate::support::backends::http_client;
use crate::support::client::TestClient;
use crate::support::cluster::TestCluster;
use crate::support::device::{Device, all_received};
use crate::support::process::{NodeProcess, NodeSettings};
use crate::support::proxy::ChaosProxy;
use crate::support::publisher::Publisher;
use crate::support::{DEADLINE, eventually};

/// Timeouts, backoffs and head checks, one after the other, on two busy cores.
const HEALED: Duration = Duration::from_secs(40);

fn to_both(number: u64) -> Value {
    json!({"to": {"users": ["alice", "bob"]}, "data": number})
}

/// Alice on the first node, bob on the second.
async fn alice_and_bob(cluster: &TestCluster) -> [Device; 2] {
    let mut devices =
        [cluster.device_on(0, "alice", "phone", &[]), cluster.device_on(1, "bob", "phone", &[])];
    for device in &mut devices {
        device.connected(DEADLINE, 1).await;
    }
    devices
}

fn publisher(cluster: &TestCluster) -> Publisher {
    Publisher::new(&cluster.nodes[0].http_url(), &cluster.credentials)
}

/// Starts the first node anew behind a way to RabbitMQ of its own.
async fn own_way_to_rabbitmq(cluster: &mut TestCluster) -> ChaosProxy {
    let (proxy, url) = ChaosProxy::before(&cluster.amqp_url).await;
    let settings = NodeSettings { broker_urls: vec![url], ..cluster.nodes[0].settings.clone() };
    cluster.nodes[0].process().kill();
    cluster.nodes[0] = NodeProcess::start(settings, cluster.folder(), &cluster.credentials).await;
    proxy
}

/// Waits until both nodes say in `/readyz` and by the gauge that `dependency` is `state`, and answer `status`.
async fn shows(cluster: &TestCluster, dependency: &str, state: &str, status: u16) {
    for node in 0..cluster.nodes.len() {
        let operator = cluster.operator(node);
        let what = format!("node {node} says that {dependency} is {state}");
        let gauge = format!("fanfare_dependency{{dependency=\"{dependency}\",state=\"{state}\"}}");
        eventually(HEALED, &what, async || {
            let (answered, body) = operator.get("/readyz").await;
            let ready = answered == status && body["checks"][dependency]["status"] == state;
            ready && operator.metric(&gauge).await == 1.0
        })
        .await;
    }
}

/// What a new connection to a node is told: whether it is degraded.
async fn welcomed_degraded(cluster: &TestCluster, node: usize) -> bool {
    let token = cluster.credentials.user_token("carol");
    let hello = json!({"device": "desk"});
    let mut client = TestClient::connect(&cluster.nodes[node].ws_url(), &token, hello).await;
    let degraded = client.expect_welcome().await.degraded;
    client.close().await;
    degraded
}

/// Each node wrote each of these lines once.
fn logged_once(cluster: &mut TestCluster, lines: &[&str]) {
    lines.iter().for_each(|line| logged(cluster, line, 1));
}

fn logged(cluster: &mut TestCluster, line: &str, times: usize) {
    for node in &mut cluster.nodes {
        let log = node.process().log();
        assert_eq!(log.matches(line).count(), times, "{line:?} in:\n{log}");
    }
}

/// What both have got, each in order and once.
fn got(devices: &[Device; 2], expected: &[u64]) {
    for device in devices {
        let data: Vec<u64> = device.data("user").iter().filter_map(Value::as_u64).collect();
        assert_eq!(data, expected);
        assert!(device.diary().closes.is_empty(), "the connection lived through it");
    }
}

#[tokio::test]
async fn without_redis_all_nodes_get_everything_and_nobody_knows_who_is_online() {
    let mut cluster = TestCluster::start_with(QUICK).await;
    let mut devices = alice_and_bob(&cluster).await;
    assert!(!welcomed_degraded(&cluster, 0).await);
    cluster.redis.cut();
    shows(&cluster, "presence", "down", 200).await;
    let answer = publisher(&cluster).publish(&to_both(1)).await;
    assert_eq!(answer.body["online"], Value::Null);
    all_received(&mut devices, DEADLINE, 1).await;
    assert!(welcomed_degraded(&cluster, 1).await);
    cluster.redis.heal();
    shows(&cluster, "presence", "up", 200).await;
    assert!(!welcomed_degraded(&cluster, 1).await);
    eventually(HEALED, "it is known again who is online", async || {
        publisher(&cluster).publish(&json!({"to": {"users": ["dave"]}})).await.body["online"] == 0
    })
    .await;
    let answer = publisher(&cluster).publish(&to_both(2)).await;
    assert_eq!(answer.body["online"], 2);
    all_received(&mut devices, HEALED, 2).await;
    got(&devices, &[1, 2]);
    logged_once(&mut cluster, &["presence is away", "presence is back"]);
}

#[tokio::test]
async fn without_rabbitmq_own_connections_are_pushed_to_and_others_found_by_the_head_check() {
    let mut cluster = TestCluster::start_with(QUICK).await;
    let mut devices = alice_and_bob(&cluster).await;
    cluster.rabbit.cut();
    shows(&cluster, "broker", "down", 200).await;
    lives_without_the_broker(&cluster, &mut devices).await;
    cluster.rabbit.heal();
    shows(&cluster, "broker", "up", 200).await;
    assert!(!welcomed_degraded(&cluster, 1).await);
    publisher(&cluster).publish(&to_both(2)).await;
    all_received(&mut devices, HEALED, 2).await;
    got(&devices, &[1, 2]);
    logged_once(&mut cluster, &["the session with RabbitMQ ended"]);
    // At its start and now.
    logged(&mut cluster, "RabbitMQ takes messages", 2);
}

/// What holds alike with RabbitMQ away and blocked: notification 1 reaches both.
async fn lives_without_the_broker(cluster: &TestCluster, devices: &mut [Device; 2]) {
    let operator = cluster.operator(0);
    let repairs = operator.metric("fanfare_delivery_head_repairs_total").await;
    let began = tokio::time::Instant::now();
    let answer = publisher(cluster).publish(&to_both(1)).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(answer.body["online"], 2, "Redis is there");
    devices[0].received(DEADLINE, 1).await;
    let now = operator.metric("fanfare_delivery_head_repairs_total").await;
    assert_eq!(now, repairs, "own connections wait for no head check");
    devices[1].received(DEADLINE, 1).await;
    let repaired = cluster.operator(1).metric("fanfare_delivery_head_repairs_total").await;
    assert!(repaired > 0.0, "the other node found it by comparing heads");
    assert!(welcomed_degraded(cluster, 1).await);
}

/// The second node publishes nothing of its own, and neither does before both say so: RabbitMQ tells only who publishes.
#[tokio::test]
async fn a_blocked_rabbitmq_is_told_apart_and_costs_no_answer() {
    let mut cluster = TestCluster::start_with(QUICK).await;
    let mut devices = alice_and_bob(&cluster).await;
    cluster.rabbit.block();
    shows(&cluster, "broker", "blocked", 200).await;
    lives_without_the_broker(&cluster, &mut devices).await;
    cluster.rabbit.heal();
    shows(&cluster, "broker", "up", 200).await;
    assert!(!welcomed_degraded(&cluster, 1).await);
    publisher(&cluster).publish(&to_both(2)).await;
    all_received(&mut devices, HEALED, 2).await;
    got(&devices, &[1, 2]);
    logged_once(&mut cluster, &["RabbitMQ takes no messages now"]);
    logged(&mut cluster, "RabbitMQ takes messages", 2);
}

/// The other node sees nothing wrong and cannot know that it was sent less. By itself it would look in ten minutes.
#[tokio::test]
async fn what_a_node_that_alone_was_without_rabbitmq_could_not_send_is_found_when_it_is_back() {
    let quick = QUICK.iter().copied().filter(|(key, _)| *key != "delivery.head_check_ms");
    let seldom: Vec<_> = quick.chain([("delivery.head_check_ms", "600000")]).collect();
    let mut cluster = TestCluster::start_with(&seldom).await;
    let proxy = own_way_to_rabbitmq(&mut cluster).await;
    let mut devices = alice_and_bob(&cluster).await;
    let [first, second] = [cluster.operator(0), cluster.operator(1)];
    proxy.cut();
    eventually(HEALED, "the first node is without RabbitMQ", async || {
        first.get("/readyz").await.1["checks"]["broker"]["status"] == "down"
    })
    .await;
    publisher(&cluster).publish(&to_both(1)).await;
    devices[0].received(DEADLINE, 1).await;
    assert_eq!(second.get("/readyz").await.1["checks"]["broker"]["status"], "up");
    assert!(devices[1].data("user").is_empty(), "nothing came to the second node");
    proxy.heal();
    devices[1].received(HEALED, 1).await;
    got(&devices, &[1]);
    assert!(second.metric("fanfare_delivery_head_repairs_total").await > 0.0, "by comparing heads");
}

/// Publishes into the normal lane, as a backend does: RabbitMQ has them when this returns.
async fn publish_over_amqp(backend: &Backend, numbers: std::ops::RangeInclusive<u64>) {
    let bodies = numbers.map(|number| to_both(number).to_string().into_bytes());
    backend.publish("normal", bodies).await;
}

/// Waits until the normal lane has `ready` messages that wait for a consumer, and `consumers`.
async fn lane_has(backend: &Backend, ready: u64, consumers: u32) {
    let wanted = (u32::try_from(ready).expect("a few"), consumers);
    // Twice: a queue that is too busy to answer looks empty.
    let mut times = 0;
    eventually(HEALED, &format!("{wanted:?} are the ready ones and the consumers of the lane"), async || {
        let found = backend.ready_and_consumers("fanfare.ingress.normal").await;
        println!("the lane has {found:?}");
        times = if found == wanted { times + 1 } else { 0 };
        times == 2
    })
    .await;
}

#[tokio::test]
async fn without_sql_ingress_stays_in_rabbitmq_and_now_or_never_goes_on() {
    const MANY: u64 = 50;
    let mut cluster = TestCluster::start_with(QUICK).await;
    let mut devices = alice_and_bob(&cluster).await;
    cluster.postgres.cut();
    shows(&cluster, "inbox", "down", 503).await;
    let refused = http_client()
        .post(format!("{}/v1/notifications", cluster.nodes[0].http_url()))
        .bearer_auth(&cluster.credentials.publisher_key)
        .body(to_both(0).to_string())
        .header("content-type", "application/json")
        .send()
        .await
        .expect("an answer");
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    let mut now_or_never = to_both(0);
    now_or_never["ttl"] = 0.into();
    let sent = publisher(&cluster).try_publish(&now_or_never, None).await.expect("an answer");
    assert_eq!((sent.status, &sent.body["status"]), (200, &json!("sent")));
    all_received(&mut devices, DEADLINE, 1).await;

    let backend = Backend::of(&cluster).await;
    lane_has(&backend, 0, 0).await;
    publish_over_amqp(&backend, 1..=MANY).await;
    lane_has(&backend, MANY, 0).await;
    let arrived = "fanfare_broker_ingress_settled_total";
    for node in 0..2 {
        assert_eq!(cluster.operator(node).metric(arrived).await, 0.0, "none was taken and put back");
    }
    cluster.postgres.heal();
    shows(&cluster, "inbox", "up", 200).await;
    let all = usize::try_from(MANY).expect("a few") + 1;
    all_received(&mut devices, HEALED, all).await;
    for device in &devices {
        let mut data: Vec<u64> = device.data("user").iter().filter_map(Value::as_u64).collect();
        data.sort_unstable();
        assert_eq!(data, (0..=MANY).collect::<Vec<_>>(), "each once");
        assert!(device.diary().closes.is_empty(), "the connection lived through it");
    }
    lane_has(&backend, 0, 2).await;
    logged_once(&mut cluster, &["the inbox is away", "the inbox is back"]);
}

/// As `alter table` or `vacuum full` hold it for minutes: everything else in PostgreSQL answers.
#[tokio::test]
async fn while_only_appends_are_stuck_ingress_stays_in_rabbitmq_and_it_shows() {
    const MANY: u64 = 50;
    let mut cluster = TestCluster::start_with(QUICK).await;
    let mut devices = alice_and_bob(&cluster).await;
    let mut other = PgConnection::connect(&cluster.postgres_url).await.expect("PostgreSQL answers");
    let lock = "begin; lock table entries in share mode";
    other.execute(lock).await.expect("the lock is given");
    shows(&cluster, "inbox", "down", 503).await;
    assert!(welcomed_degraded(&cluster, 0).await, "whoever connects is told");
    let backend = Backend::of(&cluster).await;
    lane_has(&backend, 0, 0).await;
    publish_over_amqp(&backend, 1..=MANY).await;
    lane_has(&backend, MANY, 0).await;
    other.execute("rollback").await.expect("the lock was held");
    shows(&cluster, "inbox", "up", 200).await;
    assert!(!welcomed_degraded(&cluster, 0).await);
    all_received(&mut devices, HEALED, usize::try_from(MANY).expect("a few")).await;
    for device in &devices {
        let mut data: Vec<u64> = device.data("user").iter().filter_map(Value::as_u64).collect();
        data.sort_unstable();
        assert_eq!(data, (1..=MANY).collect::<Vec<_>>(), "each once");
    }
    lane_has(&backend, 0, 2).await;
    logged_once(&mut cluster, &["the inbox is away", "the inbox is back"]);
    for node in &mut cluster.nodes {
        let log = node.process().log();
        assert!(!log.contains("the job fails"), "one line says it:\n{log}");
    }
}
