//! A node that cannot use RabbitMQ says why in one line and leaves nothing behind; and the shipped definitions fit.

use std::time::Duration;

use fanfare::broker::Destination;
use fanfare::broker::rabbit::{OpenError, RabbitBroker, Settings};
use fanfare::metrics::broker::BrokerMetrics;
use lapin::options::{BasicPublishOptions, ExchangeDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties, ExchangeKind};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::bench::{Rabbit, node_id, within};
use crate::support::backends::{http_client, rabbit_api};

const LONG: Duration = Duration::from_secs(20);

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
    let missing = format!("{}-missing", rabbit.vhost());
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

async fn put(path: &str, body: Value) {
    let request = http_client().request(reqwest::Method::PUT, format!("{}{path}", rabbit_api())).json(&body);
    let answer = within(path, request.send()).await.expect("the management API answers");
    assert!(answer.status().is_success(), "{path}: {}", answer.status());
}

/// Imports the shipped exchanges, queues and bindings into the vhost, and makes its users with other names.
pub async fn import_definitions(rabbit: &Rabbit) -> Value {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/rabbitmq-definitions.json");
    let shipped = std::fs::read_to_string(shipped).expect("it is shipped");
    let shipped: Value = serde_json::from_str(&shipped).expect("it is JSON");
    let mut parts = json!({});
    for part in ["exchanges", "queues", "bindings"] {
        parts[part] = shipped[part].clone();
        for entry in parts[part].as_array_mut().expect("a list") {
            entry.as_object_mut().expect("an object").remove("vhost");
        }
    }
    let path = format!("/api/definitions/{}", rabbit.vhost());
    let request =
        http_client().request(reqwest::Method::POST, format!("{}{path}", rabbit_api())).json(&parts);
    let answer = within(&path, request.send()).await.expect("the management API answers");
    assert!(answer.status().is_success(), "{path}: {}", answer.status());
    for permission in shipped["permissions"].as_array().expect("a list") {
        let user = format!("{}-{}", permission["user"].as_str().expect("a name"), rabbit.vhost());
        put(&format!("/api/users/{user}"), json!({"password": "word", "tags": ""})).await;
        put(&format!("/api/permissions/{}/{user}", rabbit.vhost()), permission.clone()).await;
    }
    shipped
}

pub fn as_user(rabbit: &Rabbit, user: &str) -> String {
    let login = format!("{user}-{}:word@", rabbit.vhost());
    rabbit.url.replace("guest:guest@", &login)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_works_with_the_shipped_definitions_and_its_shipped_permissions() {
    let rabbit = Rabbit::new().await;
    import_definitions(&rabbit).await;
    let mut settings = rabbit.settings("n1");
    settings.urls = vec![as_user(&rabbit, "fanfare")];
    let mut one = rabbit.join_with(settings).await;
    one.send(Destination::Node(one.id.clone()), "hello");
    assert_eq!(one.envelope().await, "hello");
    drop(one);
    rabbit.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_may_write_notifications_and_nothing_else() {
    let rabbit = Rabbit::new().await;
    import_definitions(&rabbit).await;
    let connection = Connection::connect(&as_user(&rabbit, "backend"), ConnectionProperties::default())
        .await
        .expect("a backend may connect");
    for (exchange, allowed) in [
        ("fanfare.notifications", true),
        ("fanfare.nodes", false),
        ("fanfare.broadcast", false),
        ("fanfare.ingress.dropped", false),
        ("", false),
    ] {
        let channel = connection.create_channel().await.expect("a channel opens");
        channel.confirm_select(Default::default()).await.expect("confirms are on");
        let options = BasicPublishOptions::default();
        let properties = BasicProperties::default();
        let confirm = channel
            .basic_publish(exchange.into(), "fanfare.dead".into(), options, b"{}", properties)
            .await
            .expect("it is sent");
        let confirmed = within("a confirm", confirm).await;
        assert_eq!(confirmed.is_ok(), allowed, "{exchange:?}: {confirmed:?}");
    }
    rabbit.end().await;
}
