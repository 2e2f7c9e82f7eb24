//! What only RabbitMQ does: lost queues and connections, refusals, expiry, returns.

use std::time::Duration;

use fanfare::broker::rabbit::{OpenError, RabbitBroker, Settings};
use fanfare::broker::{Destination, Health, Outcome};
use fanfare::metrics::broker::BrokerMetrics;
use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, ExchangeKind};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::bench::{Node, Rabbit, eventually, node_id, within};
use crate::support::backends::{http_client, rabbit_api};

const LONG: Duration = Duration::from_secs(20);

fn vhost(rabbit: &Rabbit) -> &str {
    rabbit.url.rsplit('/').next().expect("a URL has slashes")
}

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
    let all = api(reqwest::Method::GET, &format!("/api/queues/{}", vhost(rabbit))).await;
    let all = all.expect("the vhost is there");
    let names = all.as_array().expect("a list").iter();
    let names = names.filter_map(|queue| queue["name"].as_str());
    names.filter(|name| name.starts_with(start)).map(str::to_owned).collect()
}

async fn delete_queue(rabbit: &Rabbit, name: &str) {
    let path = format!("/api/queues/{}/{name}", vhost(rabbit));
    api(reqwest::Method::DELETE, &path).await;
}

/// Closes the connections of nodes, not the test's own.
async fn close_connections(rabbit: &Rabbit) {
    let path = format!("/api/vhosts/{}/connections", vhost(rabbit));
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_queue_deleted_under_its_consumer_is_replaced() {
    let rabbit = Rabbit::new().await;
    let mut one = rabbit.join("n1").await;
    sends_to_itself(&mut one).await;
    let before = queues(&rabbit, "fanfare.node.n1.").await;
    assert_eq!(before.len(), 1);
    delete_queue(&rabbit, &before[0]).await;
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
    delete_queue(&rabbit, &control[0]).await;
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

async fn refused(settings: Settings) -> OpenError {
    let tracker = TaskTracker::new();
    let starting =
        RabbitBroker::start(settings, BrokerMetrics::default(), tracker.clone(), CancellationToken::new());
    let error = within("the refusal", starting).await.err().expect("it is refused");
    tracker.close();
    within("the end of all tasks", tracker.wait()).await;
    error
}

fn settings(url: String) -> Settings {
    Settings::new(vec![url], node_id("n1"), "boot")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_named_and_never_shown() {
    let rabbit = Rabbit::new().await;
    let url = rabbit.url.replace("guest:guest@", "guest:s3cret-word@");
    let settings = settings(url);
    assert!(!format!("{settings:?}").contains("s3cret"));
    let error = refused(settings).await;
    assert!(matches!(&error, OpenError::Refused { user, .. } if user == "guest"), "{error:?}");
    assert!(!format!("{error:?} {error}").contains("s3cret"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_vhost_is_named() {
    let rabbit = Rabbit::new().await;
    let url = format!("{}-missing", rabbit.url);
    let error = refused(settings(url)).await;
    let missing = format!("{}-missing", vhost(&rabbit));
    assert!(matches!(&error, OpenError::Vhost { vhost, .. } if *vhost == missing), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_where_nobody_listens_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    drop(listener);
    let error = refused(settings(format!("amqp://guest:guest@127.0.0.1:{port}/%2f"))).await;
    let named = format!("127.0.0.1:{port}");
    assert!(matches!(&error, OpenError::Unreachable { address, .. } if *address == named), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_accepts_and_says_nothing_ends_at_the_connect_timeout() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let mut settings = settings(format!("amqp://guest:guest@127.0.0.1:{port}/%2f"));
    settings.connect_timeout = Duration::from_millis(300);
    let error = refused(settings).await;
    assert!(matches!(&error, OpenError::Timeout { .. }), "{error:?}");
    // The socket is not left behind: the server sees its end.
    let (mut accepted, _) = listener.accept().expect("it connected");
    accepted.set_read_timeout(Some(LONG)).expect("a timeout can be set");
    let mut hello = Vec::new();
    let read = std::io::Read::read_to_end(&mut accepted, &mut hello);
    assert!(read.is_ok(), "the connection was closed: {read:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_of_another_type_is_named() {
    let rabbit = Rabbit::new().await;
    rabbit
        .channel
        .exchange_declare(
            "fanfare.nodes".into(),
            ExchangeKind::Topic,
            ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() },
            FieldTable::default(),
        )
        .await
        .expect("it is declared");
    let error = refused(rabbit.settings("n1")).await;
    assert!(matches!(&error, OpenError::Mismatch(what) if what.contains("fanfare.nodes")), "{error:?}");
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
    one.send(Destination::Node(node_id("n2")), "anybody?");
    eventually("the count", async || one.metrics.unroutable.get() == 1).await;
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
