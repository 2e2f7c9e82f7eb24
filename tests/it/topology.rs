//! What is deployed is what is tested: `compose.yaml`, `deploy/` and the cluster of the tests
//! agree, and the deployed files do what they say on a real Nginx and a real RabbitMQ. What a proxy
//! must do is here once; `haproxy.rs` asks the same of HAProxy.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;

use futures_util::{SinkExt, StreamExt};
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use serde_json::Value;
use tempfile::TempDir;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use crate::support::backends::{http_client, rabbit_api};
use crate::support::cluster::NODE_IDS;
use crate::support::front::Front;
use crate::support::nginx::{self, DEPLOYED};
use crate::support::ports::unused_ports;
use crate::support::process::NodeSettings;
use crate::support::stand_in::{echo, stand_in, websocket_echo};
use crate::support::{DEADLINE, within};

const COMPOSE: &str = include_str!("../../compose.yaml");

/// The lines of a top-level section, or of one service, each without its indentation.
fn block<'a>(text: &'a str, header: &str) -> Vec<&'a str> {
    let indentation = header.len() - header.trim_start().len();
    let mut lines = text.lines().skip_while(|line| !line.starts_with(header));
    assert!(lines.next().is_some(), "{header:?} is in the file");
    lines
        .take_while(|line| line.trim().is_empty() || line.len() - line.trim_start().len() > indentation)
        .filter(|line| !line.trim().is_empty())
        .collect()
}

fn service(name: &str) -> Vec<&'static str> {
    let lines = block(COMPOSE, &format!("  {name}:"));
    lines.into_iter().map(str::trim).collect()
}

/// Which settings a list of environment variables sets.
fn keys(lines: &[&str]) -> BTreeSet<String> {
    let variables = lines.iter().filter_map(|line| line.trim().strip_prefix("FANFARE__"));
    variables
        .map(|line| {
            let name = line.split(':').next().unwrap_or_default();
            let name = name.strip_suffix("_FILE").unwrap_or(name);
            name.to_lowercase().replace("__", ".")
        })
        .collect()
}

#[test]
fn compose_starts_the_topology_that_the_tests_start() {
    let services: Vec<_> = block(COMPOSE, "services:")
        .into_iter()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   ") && line.ends_with(':'))
        .map(|line| line.trim().trim_end_matches(':'))
        .collect();
    let [first, second] = NODE_IDS;
    let expected = ["secrets", "rabbitmq", "redis", "postgres", "migrate", first, second, "nginx"];
    assert_eq!(services, expected);

    let nginx = service("nginx");
    assert!(nginx.contains(&"- ./deploy/nginx.conf:/etc/nginx/nginx.conf:ro"));
    assert!(DEPLOYED.contains("listen 8080;") && nginx.contains(&"- \"8080:8080\""));
    for id in NODE_IDS {
        assert!(DEPLOYED.contains(&format!("server {id}:8080 ")), "{id} is behind Nginx");
        assert!(nginx.contains(&format!("{id}:").as_str()), "Nginx waits for {id}");
        assert!(service(id).contains(&format!("FANFARE__NODE__ID: {id}").as_str()));
    }
    let shared = block(COMPOSE, "x-node-environment:");
    assert!(shared.contains(&"  FANFARE__HTTP__LISTEN: 0.0.0.0:8080"));
}

#[test]
fn compose_sets_exactly_the_settings_that_the_tests_set() {
    let settings = NodeSettings {
        broker_urls: vec!["amqp://".into()],
        presence_url: Some("redis://".into()),
        inbox_url: Some("postgres://".into()),
        ..NodeSettings::embedded(NODE_IDS[0])
    };
    let expected: BTreeSet<_> = settings.keys().into_iter().map(|(key, _)| key.to_owned()).collect();
    for id in NODE_IDS {
        let lines = [block(COMPOSE, "x-node-environment:"), service(id)].concat();
        assert_eq!(keys(&lines), expected, "{id}");
    }
}

#[test]
fn every_file_that_compose_mounts_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mounted: Vec<_> = COMPOSE
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- ./"))
        .filter_map(|line| line.split(':').next())
        .collect();
    assert!(mounted.len() >= 3, "{mounted:?}");
    for path in mounted {
        assert!(root.join(path).exists(), "{path}");
    }
}

/// What the nodes behind a proxy must be told; `front` is before stand-ins that echo.
pub async fn tells_nodes_who_asks_and_believes_no_client_about_it(front: &Front) {
    let request = http_client()
        .get(front.http_url())
        .header("x-forwarded-for", "6.6.6.6")
        .header("x-forwarded-proto", "gopher")
        .header("host", "push.example:8443");
    let seen = request.send().await.expect("an answer").text().await.expect("a body").to_lowercase();
    assert!(seen.contains("x-forwarded-for: 127.0.0.1\r\n"), "{seen}");
    assert!(seen.contains("x-forwarded-proto: http\r\n"), "{seen}");
    assert!(seen.contains("host: push.example:8443\r\n"), "{seen}");
    assert!(!seen.contains("6.6.6.6") && !seen.contains("gopher"), "{seen}");
}

/// A message there and back; `front` is before a node that is gone and one that is [`websocket_echo`].
pub async fn carries_websockets(front: &Front) {
    let (mut socket, _) = connect_async(front.ws_url()).await.expect("an upgrade");
    socket.send(Message::text("hello")).await.expect("sent");
    let echoed = within(DEADLINE, "an echo", socket.next()).await;
    assert_eq!(echoed.expect("open").expect("a message"), Message::text("hello"));
}

/// The status of a POST.
pub async fn post(front: &Front) -> u16 {
    let post = http_client().post(front.http_url()).body("{}");
    post.send().await.expect("an answer").status().as_u16()
}

/// Echoes, and cuts off whoever posts.
pub fn cut_posts(head: &str) -> String {
    if head.starts_with("POST") { String::new() } else { echo(head) }
}

#[tokio::test]
async fn nginx_tells_nodes_who_asks_and_believes_no_client_about_it() {
    let (port, _) = stand_in(echo).await;
    let folder = TempDir::new().expect("a temporary folder");
    let nginx = nginx::start(folder.path(), [port, port]).await;
    tells_nodes_who_asks_and_believes_no_client_about_it(&nginx).await;
}

#[tokio::test]
async fn nginx_carries_websockets_to_the_node_that_is_there() {
    let (port, server) = websocket_echo().await;
    let folder = TempDir::new().expect("a temporary folder");
    let [gone, _] = unused_ports();
    let nginx = nginx::start(folder.path(), [gone, port]).await;
    carries_websockets(&nginx).await;
    server.await.expect("no panic");
}

#[tokio::test]
async fn nginx_sends_a_post_to_another_node_only_if_the_first_never_had_it() {
    let (cutting, cut) = stand_in(cut_posts).await;
    let folder = TempDir::new().expect("a temporary folder");
    let nginx = nginx::start(folder.path(), [cutting, cutting]).await;
    let before = cut.load(Ordering::Relaxed);
    assert_eq!((post(&nginx).await, cut.load(Ordering::Relaxed)), (502, before + 1));

    let (port, _) = stand_in(echo).await;
    let folder = TempDir::new().expect("a temporary folder");
    let nginx = nginx::start(folder.path(), [unused_ports()[0], port]).await;
    for _ in 0..4 {
        assert_eq!(post(&nginx).await, 200);
    }
}

/// Runs `deploy/secrets` into a folder of the test's own.
fn generated_secrets() -> (TempDir, PathBuf) {
    let folder = TempDir::new().expect("a temporary folder");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/secrets");
    let output = Command::new(script).arg(folder.path()).output().expect("the script runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let path = folder.path().to_owned();
    (folder, path)
}

#[tokio::test]
async fn rabbitmq_takes_the_definitions_and_lets_backends_only_publish() {
    let (_folder, secrets) = generated_secrets();
    for file in ["10-users.json", "20-fanfare.json"] {
        let text = fs::read_to_string(secrets.join("rabbitmq").join(file)).expect("generated");
        let definitions: Value = serde_json::from_str(&text).expect("JSON");
        let url = format!("{}/api/definitions", rabbit_api());
        let answer = http_client().post(url).json(&definitions).send().await.expect("an answer");
        let status = answer.status();
        assert!(status.is_success(), "{file}: {status} {}", answer.text().await.unwrap_or_default());
    }

    let url = fs::read_to_string(secrets.join("broker_urls")).expect("generated");
    let broker = std::env::var("FANFARE_TEST_AMQP_URL").expect("the backends are started");
    let (_, rest) = broker.rsplit_once('@').expect("credentials");
    let address = rest.split('/').next().unwrap_or_default();
    let node_url = url.replace("rabbitmq:5672", address);
    let node = Connection::connect(&node_url, ConnectionProperties::default()).await;
    node.expect("nodes may connect").close(200, "done".into()).await.expect("closes");

    let password = fs::read_to_string(secrets.join("backend_amqp_password")).expect("generated");
    let backend_url = format!("amqp://backend:{password}@{address}/fanfare");
    let backend = Connection::connect(&backend_url, ConnectionProperties::default()).await;
    let backend = backend.expect("backends may connect");
    let channel = backend.create_channel().await.expect("a channel");
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    channel.confirm_select(Default::default()).await.expect("confirms");
    // ACCESS_REFUSED closes the channel (AMQP 0-9-1 section 1.1, reply code 403).
    let refused = async {
        channel.basic_publish("amq.topic".into(), "x".into(), options, b"{}", properties).await?.await
    };
    let refused = within(DEADLINE, "a refusal", refused).await;
    assert!(refused.is_err(), "a backend wrote to another exchange");
    backend.close(200, "done".into()).await.expect("closes");
}
