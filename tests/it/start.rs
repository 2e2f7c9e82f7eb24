//! What a node refuses to start with: exit code 1, and one line that says what to change.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use lapin::options::ExchangeDeclareOptions;
use lapin::types::FieldTable;
use tempfile::TempDir;

use crate::support::backends::{amqp_url, http_client, postgres_url, redis_url};
use crate::support::operator::Operator;
use crate::support::process::{NodeProcess, NodeSettings};
use crate::support::redis_server::RedisServer;
use crate::support::tokens::Credentials;
use crate::support::{DEADLINE, eventually};

/// Runs a node that should refuse; coreutils' `timeout` ends one that does not. In a thread of its own:
/// what it talks to may run here.
async fn refused(settings: NodeSettings, words: &[&str]) {
    let folder = TempDir::new().expect("a temporary folder");
    let output = serve(settings, folder.path()).await;
    let error = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(1), "{error}");
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), 1, "{error}");
    for word in words {
        assert!(lines[0].contains(word), "{word} is missing in: {error}");
    }
}

async fn serve(mut settings: NodeSettings, folder: &Path) -> Output {
    settings.others.push(("log.level", "\"error\"".to_owned()));
    let config = settings.write(folder, &Credentials::new());
    let home = folder.join("home");
    fs::create_dir(&home).expect("the folder is writable");
    let mut command = Command::new("timeout");
    command.arg("40").arg(env!("CARGO_BIN_EXE_fanfare")).arg("serve").arg("--config").arg(config);
    command.current_dir(home).env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
    let run = tokio::task::spawn_blocking(move || command.output());
    run.await.expect("not cancelled").expect("the program starts")
}

/// All three backends; the tables are made at the start.
async fn on_backends() -> NodeSettings {
    NodeSettings {
        broker_urls: vec![amqp_url().await],
        presence_url: Some(redis_url().await),
        inbox_url: Some(postgres_url().await),
        others: vec![
            ("node.lease_ttl_ms", "3000".to_owned()),
            ("inbox.migrate_at_start", "\"on\"".to_owned()),
        ],
        ..NodeSettings::embedded("node-1")
    }
}

#[tokio::test]
async fn rabbitmq_with_a_wrong_password_or_an_exchange_of_another_type() {
    let mut settings = on_backends().await;
    let url = settings.broker_urls[0].clone();
    settings.broker_urls = vec![url.replace("guest:guest@", "guest:s3cret-word@")];
    refused(settings.clone(), &["broker.urls", "password", "\"guest\""]).await;

    let connection = lapin::Connection::connect(&url, lapin::ConnectionProperties::default()).await;
    let channel = connection.expect("the vhost is there").create_channel().await.expect("a channel");
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let (name, kind) = ("fanfare.notifications".into(), lapin::ExchangeKind::Direct);
    channel.exchange_declare(name, kind, options, FieldTable::default()).await.expect("declared");
    settings.broker_urls = vec![url];
    refused(settings, &["fanfare.notifications", "another kind", "delete it"]).await;
}

#[tokio::test]
async fn postgresql_without_the_tables() {
    let mut settings = on_backends().await;
    settings.others.retain(|(key, _)| *key != "inbox.migrate_at_start");
    refused(settings, &["fanfare migrate"]).await;
}

#[tokio::test]
async fn redis_that_is_read_only() {
    let primary = RedisServer::start(&[]).await;
    let port = primary.port().to_string();
    let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &port]).await;
    let settings = NodeSettings { presence_url: Some(replica.url()), ..on_backends().await };
    refused(settings, &["read-only", "presence.url"]).await;
}

#[tokio::test]
async fn a_port_in_use() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("it is bound").port();
    let settings = NodeSettings { http_port: port, ..NodeSettings::embedded("node-1") };
    refused(settings, &["http.listen", &port.to_string()]).await;
    let settings = NodeSettings { admin_port: port, ..NodeSettings::embedded("node-1") };
    refused(settings, &["admin.listen", &port.to_string()]).await;
}

#[tokio::test]
async fn the_id_of_a_node_that_lives_after_its_lease_was_waited_for() {
    let folder = TempDir::new().expect("a temporary folder");
    let settings = on_backends().await;
    let mut first = NodeProcess::start(settings.clone(), folder.path(), &Credentials::new()).await;
    let NodeSettings { http_port, admin_port, .. } = NodeSettings::embedded("node-1");
    let began = tokio::time::Instant::now();
    refused(NodeSettings { http_port, admin_port, ..settings }, &["node.id", "\"node-1\""]).await;
    let waited = began.elapsed().as_millis();
    assert!(waited >= 1_000, "a predecessor's lease is waited for; this took {waited} ms");
    first.ready().await;
}

#[tokio::test]
async fn a_start_that_takes_its_time_can_be_watched_on_the_admin_listener() {
    let folder = TempDir::new().expect("a temporary folder");
    let settings = on_backends().await;
    let mut first = NodeProcess::start(settings.clone(), folder.path(), &Credentials::new()).await;
    // Its lease is waited out by the next life.
    first.process().kill();
    let credentials = Credentials::new();
    let mut second = NodeProcess::spawn(settings, folder.path(), &credentials);
    let operator = Operator::new(&second.admin_url(), &credentials);
    let (client, url) = (http_client(), format!("{}/readyz", second.admin_url()));
    eventually(DEADLINE, "it says that it is starting", async || {
        let Ok(answer) = client.get(&url).send().await else { return false };
        let status = answer.status().as_u16();
        let body: serde_json::Value =
            serde_json::from_str(&answer.text().await.expect("a body")).expect("JSON");
        assert_eq!((status, &body["status"]), (503, &"starting".into()), "not before the lease has run out");
        true
    })
    .await;
    assert_eq!(operator.get("/livez").await, (200, "ok".into()));
    assert_eq!(operator.get("/admin/nodes").await.0, 503);
    second.ready().await;
    assert_eq!(operator.get("/admin/nodes").await.0, 200);
}
