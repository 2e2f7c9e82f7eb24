//! What only RabbitMQ does: lost queues and connections, refusals, expiry, returns.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fanfare::broker::{Destination, Health, Ingress, Outcome};
use fanfare::domain::Priority;
use lapin::BasicProperties;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::Value;

use super::bench::{Node, Rabbit, eventually, node_id, within};
use crate::support::backends::{http_client, rabbit_api};
use crate::support::proxy::ChaosProxy;

const LONG: Duration = Duration::from_secs(20);

async fn api(method: reqwest::Method, path: &str) -> Option<Value> {
    let request = http_client().request(method, format!("{}{path}", rabbit_api()));
    let answer = within(path, request.send()).await.expect("the management API answers");
    if !answer.status().is_success() {
        return None;
    }
    answer.json().await.ok()
}

/// Names of the queues that start so.
async fn queues(rabbit: &Rabbit, start: &str) -> Vec<String> {
    let all = api(reqwest::Method::GET, &format!("/api/queues/{}", rabbit.vhost())).await;
    let all = all.expect("the vhost is there");
    let names = all.as_array().expect("a list").iter();
    let names = names.filter_map(|queue| queue["name"].as_str());
    names.filter(|name| name.starts_with(start)).map(str::to_owned).collect()
}

async fn delete_queue(rabbit: &Rabbit, name: &str) {
    let path = format!("/api/queues/{}/{name}", rabbit.vhost());
    api(reqwest::Method::DELETE, &path).await;
}

/// Deletes a queue that is exclusive to another connection: the management API may not, `rabbitmqctl` may.
async fn delete_exclusive_queue(rabbit: &Rabbit, name: &str) {
    rabbit.ctl(&["-p", rabbit.vhost(), "delete_queue", name]).await;
}

/// Closes the connections of nodes, not the test's own.
async fn close_connections(rabbit: &Rabbit) {
    let path = format!("/api/vhosts/{}/connections", rabbit.vhost());
    let mut found = Vec::new();
    eventually("the connections in the management API", async || {
        let all = api(reqwest::Method::GET, &path).await.unwrap_or_default();
        let all = all.as_array().cloned().unwrap_or_default();
        let ours = all.iter().filter(|connection| {
            let name = connection["client_properties"]["connection_name"].as_str();
            name.is_some_and(|name| name.starts_with("fanfare "))
        });
        found = ours.filter_map(|connection| connection["name"].as_str().map(str::to_owned)).collect();
        found.len() >= 2
    })
    .await;
    for name in found {
        let name = percent_encoding::utf8_percent_encode(&name, percent_encoding::NON_ALPHANUMERIC);
        api(reqwest::Method::DELETE, &format!("/api/connections/{name}")).await;
    }
}

async fn sends_to_itself(node: &mut Node) {
    let me = Destination::Node(node.id.clone());
    let mut tries = 0;
    eventually("an envelope to itself", async || {
        tries += 1;
        let body = format!("try {tries}");
        node.broker.send(me.clone(), body.into()).is_ok()
            && tokio::time::timeout(Duration::from_millis(500), node.inlets.envelopes.recv())
                .await
                .is_ok_and(|envelope| envelope.is_some())
    })
    .await;
}

/// What the management API knows of the node's connections, by their names: how many messages were published by
/// each, and how many consumers it has.
async fn uses(rabbit: &Rabbit, node: &str) -> BTreeMap<String, (u64, u64)> {
    let list = async |kind: &str| {
        let all = api(reqwest::Method::GET, &format!("/api/vhosts/{}/{kind}", rabbit.vhost())).await;
        all.and_then(|all| all.as_array().cloned()).unwrap_or_default()
    };
    let mut uses = BTreeMap::new();
    let channels = list("channels").await;
    for connection in list("connections").await {
        let name = connection["client_properties"]["connection_name"].as_str().unwrap_or_default();
        if !name.starts_with(&format!("fanfare {node} ")) {
            continue;
        }
        let of = |channel: &&Value| channel["connection_details"]["name"] == connection["name"];
        let sum = channels.iter().filter(of).fold((0, 0), |(published, consumers), channel| {
            let count = |value: &Value| value.as_u64().unwrap_or(0);
            let publishes = count(&channel["message_stats"]["publish"]);
            (published + publishes, consumers + count(&channel["consumer_count"]))
        });
        uses.insert(name.to_owned(), sum);
    }
    uses
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_publishes_consumes_nothing() {
    let rabbit = Rabbit::new().await;
    let mut one = rabbit.join("n1").await;
    one.broker.take_ingress(true);
    rabbit.publish("low", b"taken", BasicProperties::default()).await;
    one.ingress().await.settle.settle(Outcome::Done);
    sends_to_itself(&mut one).await;
    // RabbitMQ reads nothing more of a connection that it blocks, acknowledgements included.
    let mut met = BTreeMap::new();
    eventually("both uses in the management API", async || {
        met = uses(&rabbit, "n1").await;
        let any = |of: fn(&(u64, u64)) -> u64| met.values().any(|uses| of(uses) > 0);
        any(|uses| uses.0) && any(|uses| uses.1)
    })
    .await;
    assert!(met.values().all(|(published, consumers)| *published == 0 || *consumers == 0), "{met:?}");
    drop(one);
    rabbit.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_queue_deleted_under_its_consumer_is_replaced() {
    let rabbit = Rabbit::new().await;
    let mut one = rabbit.join("n1").await;
    sends_to_itself(&mut one).await;
    let before = queues(&rabbit, "fanfare.node.n1.").await;
    assert_eq!(before.len(), 1);
    let mut health = one.broker.health();
    health.mark_unchanged();
    delete_exclusive_queue(&rabbit, &before[0]).await;
    // Whoever looks after what was lost is told at once.
    within("a word about the health", health.changed()).await.expect("the broker is there");
    assert_eq!(*health.borrow(), Health::Up);
    sends_to_itself(&mut one).await;
    let mut after = Vec::new();
    eventually("the next queue", async || {
        after = queues(&rabbit, "fanfare.node.n1.").await;
        after.len() == 1 && after != before
    })
    .await;
    assert_eq!(one.metrics.sessions.get(), 1, "the connection was not rebuilt");
    drop(one);
    rabbit.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_queue_deleted_under_its_consumer_is_replaced() {
    let rabbit = Rabbit::new().await;
    let mut one = rabbit.join("n1").await;
    let control = queues(&rabbit, "fanfare.control.n1.").await;
    assert_eq!(control.len(), 1);
    delete_exclusive_queue(&rabbit, &control[0]).await;
    eventually("the next session", async || one.metrics.sessions.get() == 2).await;
    one.healthy(Health::Up).await;
    let me = one.id.clone();
    let asking = one.broker.request(&me, "me?".into(), LONG);
    let answering = async {
        let request = within("a request", one.inlets.control.recv()).await;
        request.expect("open").answer.send("me.".into()).expect("it waits");
    };
    let (answer, ()) = tokio::join!(asking, answering);
    assert_eq!(answer.expect("an answer"), "me.");
    drop(one);
    rabbit.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_deleted_under_its_consumer_is_declared_again() {
    let rabbit = Rabbit::new().await;
    let mut one = rabbit.join("n1").await;
    one.broker.take_ingress(true);
    rabbit.publish("low", b"before", BasicProperties::default()).await;
    one.ingress().await.settle.settle(Outcome::Done);
    delete_queue(&rabbit, "fanfare.ingress.low").await;
    // Until it is there again nobody would get it.
    let mut taken = None;
    eventually("a message through the new queue", async || {
        rabbit.publish("low", b"after", BasicProperties::default()).await;
        let waiting = Duration::from_millis(500);
        taken = tokio::time::timeout(waiting, one.inlets.ingress.recv()).await.ok().flatten();
        taken.is_some()
    })
    .await;
    assert_eq!(taken.expect("it was just taken").body, "after");
    drop(one);
    rabbit.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_is_built_again_and_unsettled_ingress_comes_again() {
    let rabbit = Rabbit::new().await;
    let mut one = rabbit.join("n1").await;
    one.broker.take_ingress(true);
    rabbit.publish("high", b"unsettled", BasicProperties::default()).await;
    let lost = one.ingress().await;
    close_connections(&rabbit).await;
    eventually("the next session", async || one.metrics.sessions.get() >= 2).await;
    one.healthy(Health::Up).await;
    // Of a channel that is gone: it must do no harm.
    lost.settle.settle(Outcome::Done);
    let again = one.ingress().await;
    assert_eq!(again.body, "unsettled");
    again.settle.settle(Outcome::Done);
    sends_to_itself(&mut one).await;
    one.broker.close(LONG).await;
    drop(one);
    rabbit.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_url_is_tried() {
    let rabbit = Rabbit::new().await;
    let mut settings = rabbit.settings("n1");
    settings.urls.insert(0, "amqp://guest:guest@127.0.0.1:1/%2f".to_owned());
    let mut one = rabbit.join_with(settings).await;
    sends_to_itself(&mut one).await;
    drop(one);
    rabbit.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_routing_key_goes_to_the_normal_lane() {
    let rabbit = Rabbit::new().await;
    let mut one = rabbit.join("n1").await;
    one.broker.take_ingress(true);
    rabbit.publish("urgent.please", b"hello", BasicProperties::default()).await;
    let taken = one.ingress().await;
    assert_eq!(taken.lane, fanfare::domain::Priority::Normal);
    taken.settle.settle(Outcome::Done);
    drop(one);
    rabbit.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn properties_reach_the_node() {
    let rabbit = Rabbit::new().await;
    let mut one = rabbit.join("n1").await;
    one.broker.take_ingress(true);
    let mut headers = FieldTable::default();
    headers.insert("traceparent".into(), AMQPValue::LongString("00-abc-def-01".into()));
    let properties = BasicProperties::default()
        .with_message_id("id-1".into())
        .with_expiration("60000".into())
        .with_user_id("guest".into())
        .with_headers(headers);
    rabbit.publish("normal", b"hello", properties).await;
    let taken = one.ingress().await;
    assert_eq!(taken.message_id.as_deref(), Some("id-1"));
    assert_eq!(taken.expiration.as_deref(), Some("60000"));
    assert_eq!(taken.user_id.as_deref(), Some("guest"));
    assert_eq!(taken.traceparent.as_deref(), Some("00-abc-def-01"));
    // With a user id, which only its owner may publish: it is kept as a header.
    taken.settle.settle(Outcome::Dead { code: "test", reason: "for the test".to_owned() });
    let mut headers = FieldTable::default();
    eventually("the dead letter", async || {
        let found = rabbit.headers_of_dead().await;
        found.is_some_and(|(found, _)| {
            headers = found;
            true
        })
    })
    .await;
    let kept = headers.inner().get("fanfare-user-id");
    assert_eq!(kept, Some(&AMQPValue::LongString("guest".into())));
    assert!(headers.contains_key("fanfare-first-failed-ms"));
    assert!(headers.contains_key("traceparent"));
    assert_eq!(one.metrics.sessions.get(), 1);
    drop(one);
    rabbit.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_expires_in_a_lane_is_counted_and_not_kept() {
    let rabbit = Rabbit::new().await;
    let one = rabbit.join("n1").await;
    let soon = BasicProperties::default().with_expiration("1".into());
    rabbit.publish("low", b"short-lived", soon).await;
    eventually("the count", async || one.metrics.expired.get() == 1).await;
    assert!(rabbit.headers_of_dead().await.is_none());
    drop(one);
    rabbit.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_for_a_node_that_left_comes_back_and_is_counted() {
    let rabbit = Rabbit::new().await;
    let one = rabbit.join("n1").await;
    let two = rabbit.join("n2").await;
    two.broker.close(LONG).await;
    drop(two);
    // RabbitMQ says close-ok first and deletes the exclusive queue then: what comes between is lost with it.
    eventually("the count", async || {
        one.send(Destination::Node(node_id("n2")), "anybody?");
        one.metrics.unroutable.get() > 0
    })
    .await;
    drop(one);
    rabbit.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_does_not_block_its_lane() {
    let rabbit = Rabbit::new().await;
    let mut settings = rabbit.settings("n1");
    settings.prefetch.normal = 4;
    let mut one = rabbit.join_with(settings).await;
    one.broker.take_ingress(true);
    for number in 0..100 {
        let body = if number % 10 == 0 { "poison".to_owned() } else { format!("good {number}") };
        rabbit.publish("normal", body.as_bytes(), BasicProperties::default()).await;
    }
    for _ in 0..100 {
        let taken = one.ingress().await;
        let outcome = if taken.body == "poison" {
            Outcome::Dead { code: "poison", reason: "for the test".to_owned() }
        } else {
            Outcome::Done
        };
        taken.settle.settle(outcome);
    }
    eventually("all settled", async || one.metrics.unsettled.get() == 0).await;
    for _ in 0..10 {
        let (_, dead) = rabbit.headers_of_dead().await.expect("ten are kept");
        assert_eq!(dead.body, b"poison");
    }
    one.broker.close(LONG).await;
    drop(one);
    let left = rabbit
        .channel
        .queue_declare(
            "fanfare.ingress.normal".into(),
            QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() },
            FieldTable::default(),
        )
        .await
        .expect("it is there");
    assert_eq!(left.message_count(), 0);
    rabbit.end().await;
}

/// Settles whatever comes as a node would that refuses poison; answers how often each came.
fn judge(mut arrivals: tokio::sync::mpsc::Receiver<Ingress>) -> Arc<[AtomicUsize; 2]> {
    let seen = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let counts = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Some(taken) = arrivals.recv().await {
            let is_poison = taken.body.starts_with(b"poison");
            let reason = || format!("{:?} is bad; it had {:?}", taken.body, taken.expiration);
            taken.settle.settle(match is_poison {
                true => Outcome::Dead { code: "poison", reason: reason() },
                false => Outcome::Done,
            });
            counts[usize::from(is_poison)].fetch_add(1, Ordering::Relaxed);
        }
    });
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_under_an_alarm_holds_up_nothing_and_is_kept_with_its_reason_after_it() {
    const POISON: usize = 12;
    let rabbit = Rabbit::new().await;
    let (proxy, through) = ChaosProxy::before(&rabbit.url).await;
    let mut settings = rabbit.settings("n1");
    (settings.urls, settings.prefetch.normal) = (vec![through], 4);
    let one = rabbit.join_with(settings).await;
    proxy.block();
    one.healthy(Health::Blocked).await;
    let seen = judge(one.inlets.ingress);
    one.broker.take_ingress(true);
    for number in 0..POISON {
        let properties = BasicProperties::default().with_expiration("3600000".into());
        rabbit.publish("normal", format!("poison {number:02}").as_bytes(), properties).await;
    }
    rabbit.publish("normal", b"good", BasicProperties::default()).await;
    eventually("what is behind the poison", async || seen[0].load(Ordering::Relaxed) == 1).await;
    eventually("nothing is held", async || one.metrics.unsettled.get() == 0).await;
    assert!(rabbit.headers_of_dead().await.is_none(), "nothing could be published");

    proxy.heal();
    let kept = fanfare::metrics::broker::Reason { reason: "poison" };
    let kept = || usize::try_from(one.metrics.dead_letters.get_or_create(&kept).get()).expect("a few");
    eventually("all are kept", async || kept() == POISON).await;
    let letters = one.graveyard.list(None, 100).await.expect("letters").letters;
    let mut reasons: Vec<String> = letters.iter().map(|letter| letter.reason.clone()).collect();
    reasons.sort_unstable();
    let expected =
        (0..POISON).map(|number| format!("b\"poison {number:02}\" is bad; it had Some(\"3600000\")"));
    assert_eq!(reasons, expected.collect::<Vec<_>>());
    assert!(letters.iter().all(|letter| letter.code == "poison" && letter.lane == Priority::Normal));
    assert_eq!(seen[0].load(Ordering::Relaxed), 1, "what is good came once");
    drop(one.broker);
    rabbit.end().await;
}

/// More often than a quorum queue would deliver it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_number_of_outages_of_the_inbox_brings_a_message_to_its_delivery_limit() {
    const OUTAGES: u64 = 25;
    let rabbit = Rabbit::new().await;
    let mut one = rabbit.join("n1").await;
    one.broker.take_ingress(true);
    rabbit.publish("normal", b"patience", BasicProperties::default()).await;
    let later = fanfare::metrics::broker::Settled { lane: "normal", outcome: "later" };
    for outage in 1..=OUTAGES {
        one.ingress().await.settle.settle(Outcome::Later);
        eventually("it rests", async || one.metrics.ingress.get_or_create(&later).get() == outage).await;
        one.broker.take_ingress(false);
        one.broker.take_ingress(true);
    }
    let taken = one.ingress().await;
    assert_eq!(taken.body, "patience");
    taken.settle.settle(Outcome::Done);
    eventually("it is settled", async || one.metrics.unsettled.get() == 0).await;
    assert!(rabbit.headers_of_dead().await.is_none(), "RabbitMQ did not give it up");
    one.broker.close(LONG).await;
    drop(one);
    rabbit.end().await;
}
