//! What goes on in the background: schedules, expiry, retention, and what backends are told of it.

use std::time::{Duration, SystemTime};

use fanfare::domain::UnixMillis;
use serde_json::{Value, json};
use sqlx::{Connection, SqliteConnection};
use tempfile::TempDir;

use crate::cluster::QUICK;
use crate::support::backends::amqp_url;
use crate::support::client::{Frame, TestClient};
use crate::support::cluster::TestCluster;
use crate::support::device::all_received;
use crate::support::events::Events;
use crate::support::operator::Operator;
use crate::support::process::{NodeProcess, NodeSettings};
use crate::support::proxy::ChaosProxy;
use crate::support::publisher::Publisher;
use crate::support::single::TestNode;
use crate::support::tokens::Credentials;
use crate::support::{DEADLINE, eventually};

/// Outages, backoffs and paces, one after the other, on two busy cores.
const HEALED: Duration = Duration::from_secs(40);
/// The longest pace of what is done every minute or so, and some more.
const A_ROUND: Duration = Duration::from_secs(100);

/// So long from now, as `deliver_at` has it.
fn from_now(wait: Duration) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    UnixMillis::default().after(now + wait).to_string()
}

fn to_alice(number: u64) -> Value {
    json!({"to": {"users": ["alice"]}, "data": number})
}

fn scheduled(number: u64, wait: Duration) -> Value {
    let mut body = to_alice(number);
    body["deliver_at"] = from_now(wait).into();
    body
}

/// The sum of a histogram and how many it counted, in seconds.
async fn lateness(operator: &Operator) -> (f64, f64) {
    let late = "fanfare_jobs_schedule_late_seconds";
    (operator.metric(&format!("{late}_sum")).await, operator.metric(&format!("{late}_count")).await)
}

#[tokio::test]
async fn a_schedule_fires_to_the_second_and_outlives_the_death_of_its_node() {
    let mut node = TestNode::start().await;
    let mut alice = node.device("alice", "phone", &[]);
    alice.connected(DEADLINE, 1).await;
    let publisher = node.publisher();
    let answer = publisher.publish(&scheduled(1, Duration::from_secs(2))).await;
    assert_eq!(answer.body["status"], "scheduled", "{}", answer.body);
    alice.received(DEADLINE, 1).await;
    let (late, count) = lateness(&node.operator()).await;
    assert!(count == 1.0 && late < 1.0, "{late} seconds late");
    let id = alice.diary().notifications[0].notification["id"].clone();
    assert_eq!(id, answer.body["id"], "it has its id from the beginning");

    publisher.publish(&scheduled(2, Duration::from_secs(1))).await;
    node.process.process().kill();
    node.process.restart().await;
    alice.received(HEALED, 2).await;
    publisher.publish(&to_alice(3)).await;
    alice.received(DEADLINE, 3).await;
    assert_eq!(alice.data("user"), [1, 2, 3], "each once");
}

#[tokio::test]
async fn a_backlog_of_schedules_fires_each_once_although_sql_was_away_and_a_node_died() {
    const MANY: u64 = 300;
    let mut cluster = TestCluster::start_with(QUICK).await;
    let mut devices =
        [cluster.device_on(0, "alice", "phone", &[]), cluster.device_on(1, "alice", "desk", &[])];
    for device in &mut devices {
        device.connected(DEADLINE, 1).await;
    }
    let publisher = cluster.publisher();
    // Far enough ahead for all of them to be accepted first.
    for number in 0..MANY {
        publisher
            .publish_surely(&scheduled(number, Duration::from_secs(15)), &number.to_string(), HEALED)
            .await;
    }
    let last = scheduled(MANY, Duration::from_secs(20));
    publisher.publish(&last).await;
    cluster.postgres.cut();
    let operator = cluster.operator(1);
    let down = "fanfare_dependency{dependency=\"inbox\",state=\"down\"}";
    eventually(HEALED, "SQL is away", async || operator.metric(down).await == 1.0).await;
    let at = last["deliver_at"].as_str().expect("a time").to_owned();
    eventually(HEALED, "all are due", async || from_now(Duration::ZERO) > at).await;
    cluster.postgres.heal();
    // In the middle of the firing, or before it, or after it.
    devices[1].received(HEALED, 1).await;
    cluster.nodes[0].process().kill();
    let all = usize::try_from(MANY).expect("a few") + 1;
    all_received(&mut devices, HEALED, all).await;
    publisher.publish_surely(&to_alice(9_999), "after", HEALED).await;
    all_received(&mut devices, HEALED, all + 1).await;
    for device in &devices {
        let mut data: Vec<u64> = device.data("user").iter().filter_map(Value::as_u64).collect();
        data.sort_unstable();
        let expected: Vec<u64> = (0..=MANY).chain([9_999]).collect();
        assert_eq!(data, expected, "each once");
    }
}

/// One node on RabbitMQ, with its data in a file, and a backend that listens to everything.
struct Telling {
    node: NodeProcess,
    rabbit: ChaosProxy,
    events: Events,
    credentials: Credentials,
    _folder: TempDir,
}

impl Telling {
    async fn start(others: &[(&'static str, &str)]) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let credentials = Credentials::new();
        let amqp_url = amqp_url().await;
        let (rabbit, broker_url) = ChaosProxy::before(&amqp_url).await;
        let mut settings = NodeSettings::embedded("telling");
        settings.broker_urls = vec![broker_url];
        settings.others = others.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        let node = NodeProcess::start(settings, folder.path(), &credentials).await;
        let events = Events::bind(&amqp_url, "#").await;
        Self { node, rabbit, events, credentials, _folder: folder }
    }

    fn publisher(&self) -> Publisher {
        Publisher::new(&self.node.http_url(), &self.credentials)
    }

    fn operator(&self) -> Operator {
        Operator::new(&self.node.admin_url(), &self.credentials)
    }

    async fn connect(&self, user: &str) -> TestClient {
        let token = self.credentials.user_token(user);
        TestClient::connect(&self.node.ws_url(), &token, json!({"device": "phone"})).await
    }

    /// Waits until these were told of alice, in any order.
    async fn told(&self, expected: &[&str]) {
        let what = format!("alice was told {expected:?}");
        eventually(HEALED, &what, async || {
            let mut told = self.events.of_user("alice");
            told.sort_unstable();
            told == expected
        })
        .await;
    }
}

#[tokio::test]
async fn receipts_are_told_and_wait_while_rabbitmq_is_away() {
    let telling = Telling::start(&[("events.receipts", "true")]).await;
    let mut alice = telling.connect("alice").await;
    alice.expect_welcome().await;
    let answer = telling.publisher().publish(&to_alice(1)).await;
    let first = alice.expect_notification().await;
    alice.ack("user", first.seq.expect("stored")).await;
    telling.told(&["receipt.delivered", "receipt.stored"]).await;
    let id = answer.body["id"].as_str().expect("an id");
    let mut ids: Vec<String> = telling.events.all().into_iter().map(|told| told.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, [format!("receipt.delivered/{id}/alice"), format!("receipt.stored/{id}/alice")]);

    telling.rabbit.cut();
    let operator = telling.operator();
    let down = "fanfare_dependency{dependency=\"broker\",state=\"down\"}";
    eventually(HEALED, "RabbitMQ is away", async || operator.metric(down).await == 1.0).await;
    telling.publisher().publish(&to_alice(2)).await;
    alice.expect_notification().await;
    eventually(HEALED, "one waits", async || operator.metric("fanfare_events_waiting").await == 1.0).await;
    telling.rabbit.heal();
    telling.told(&["receipt.delivered", "receipt.stored", "receipt.stored"]).await;
    eventually(HEALED, "none waits", async || operator.metric("fanfare_events_waiting").await == 0.0).await;
}

#[tokio::test]
async fn what_nobody_acknowledged_is_told_as_undelivered_and_as_expired() {
    let others = [("events.receipts", "true"), ("events.undelivered_after_s", "1")];
    let telling = Telling::start(&others).await;
    let mut body = to_alice(1);
    body["ttl"] = 3.into();
    let answer = telling.publisher().publish(&body).await;
    telling.told(&["receipt.expired", "receipt.stored", "undelivered"]).await;
    let id = answer.body["id"].as_str().expect("an id");
    let undelivered = telling.events.all().into_iter().find(|told| told.key == "undelivered");
    assert_eq!(undelivered.expect("told").id, format!("undelivered/{id}/alice"));
}

/// A device of alice's that connects: whether it is told of a gap, and after which seq it goes on.
async fn connects(node: &TestNode, device: &str) -> (TestClient, (bool, u64)) {
    let token = node.credentials.user_token("alice");
    let mut alice = TestClient::connect(&node.process.ws_url(), &token, json!({"device": device})).await;
    let welcome = alice.expect_welcome().await;
    let own = welcome.streams.into_iter().find(|state| state.stream == "user").expect("her own stream");
    (alice, (own.gap, own.from))
}

/// The seqs of the next `count` notifications.
async fn seqs(alice: &mut TestClient, count: usize) -> Vec<u64> {
    let mut seqs = vec![];
    while seqs.len() < count {
        seqs.push(alice.expect_notification().await.seq.expect("stored"));
    }
    seqs
}

/// A device that has the first notification, acknowledged it and went.
async fn has_the_first(node: &TestNode, device: &str) {
    let (mut alice, _) = connects(node, device).await;
    node.publisher().publish(&to_alice(1)).await;
    assert_eq!(seqs(&mut alice, 1).await, [1]);
    alice.ack("user", 1).await;
    alice.close().await;
}

#[tokio::test]
async fn a_stream_keeps_its_last_entries_and_tells_of_the_gap() {
    let node =
        TestNode::start_with(&[("retention.max_entries", "20"), ("gateway.window_entries", "20")]).await;
    has_the_first(&node, "phone").await;
    // A new device begins above what another one acknowledged, as far as that is committed.
    let (mut slow, (_, from)) = connects(&node, "tv").await;
    let publisher = node.publisher();
    for number in 2..=60 {
        publisher.publish(&to_alice(number)).await;
    }
    let operator = node.operator();
    let cut = "fanfare_jobs_done_total{name=\"retention_count\"}";
    eventually(HEALED, "forty are gone", async || operator.metric(cut).await == 40.0).await;
    let kept: Vec<u64> = (41..=60).collect();
    // One was away, one is still connected and had no room.
    let (mut phone, begins) = connects(&node, "phone").await;
    assert_eq!((begins, seqs(&mut phone, 20).await), ((true, 40), kept.clone()));
    let first = seqs(&mut slow, 20).await;
    slow.ack("user", first[19]).await;
    let told = loop {
        match slow.frame().await {
            Frame::Gap { stream, from, to } => break (stream, from, to),
            Frame::CaughtUp { .. } => {}
            other => panic!("a gap was expected; got {other:?}"),
        }
    };
    assert_eq!((first[0], told), (from + 1, ("user".to_owned(), from + 21, 40)));
    // The gap has taken a place of the window, too: what is left comes as acks come.
    for seq in kept {
        assert_eq!(seqs(&mut slow, 1).await, [seq]);
        slow.ack("user", seq).await;
    }
}

#[tokio::test]
async fn what_is_too_old_goes_and_a_device_that_was_away_is_told_of_the_gap() {
    let days = [("retention.days", "1"), ("publish.max_ttl_days", "1")];
    let node = TestNode::start_with(&days).await;
    has_the_first(&node, "phone").await;
    let publisher = node.publisher();
    for number in 2..=4 {
        publisher.publish(&to_alice(number)).await;
    }
    let file = node.folder().join("single/data/fanfare.sqlite");
    let url = format!("sqlite://{}", file.display());
    let mut store = SqliteConnection::connect(&url).await.expect("it opens");
    let older = "update bodies set created_at = created_at - 86400000";
    sqlx::raw_sql(older).execute(&mut store).await.expect("it is written");
    publisher.publish(&to_alice(5)).await;
    let operator = node.operator();
    let gone = "fanfare_jobs_done_total{name=\"retention_age\"}";
    eventually(A_ROUND, "four are gone", async || operator.metric(gone).await == 4.0).await;
    let (mut phone, begins) = connects(&node, "phone").await;
    assert_eq!((begins, seqs(&mut phone, 1).await), ((true, 4), vec![5]));
}
