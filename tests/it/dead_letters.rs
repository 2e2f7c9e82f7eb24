//! Dead letters from end to end: a backend's mistake, seen and settled by an operator with the program itself.

use std::path::PathBuf;

use lapin::BasicProperties;
use serde_json::{Value, json};

use crate::lanes::Backend;
use crate::support::cluster::TestCluster;
use crate::support::process::run;
use crate::support::{DEADLINE, eventually};

/// Runs `fanfare dead-letters` against a node, by its place; its exit code and the lines of JSON that it printed.
async fn dead_letters(cluster: &TestCluster, node: usize, what: &[&str]) -> (Option<i32>, Vec<Value>) {
    let (url, token) = (cluster.nodes[node].admin_url(), cluster.credentials.admin_token.clone());
    let folder: PathBuf = cluster.folder().to_owned();
    let what: Vec<String> = what.iter().map(|&argument| argument.to_owned()).collect();
    let program = tokio::task::spawn_blocking(move || {
        let common = ["dead-letters", "--json", "--admin-url", &url, "--token", &token];
        run(&folder, &common.into_iter().chain(what.iter().map(String::as_str)).collect::<Vec<_>>())
    });
    let output = program.await.expect("the program was run");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let lines = text.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    (output.status.code(), lines.collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backends_mistake_is_seen_requeued_and_deleted_by_an_operator() {
    let cluster = TestCluster::start().await;
    let backend = Backend::of(&cluster).await;
    backend.publish("low", std::iter::once(b"{\"to\":".to_vec())).await;
    let mut listed = Vec::new();
    eventually(DEADLINE, "the letter is listed", async || {
        (_, listed) = dead_letters(&cluster, 0, &["list"]).await;
        !listed.is_empty()
    })
    .await;
    let (id, code) = (listed[0]["id"].as_str().expect("an id").to_owned(), &listed[0]["code"]);
    assert_eq!(
        (code.as_str(), &listed[0]["lane"], &listed[0]["failures"]),
        (Some("invalid_json"), &Value::from("low"), &Value::from(1))
    );
    // Whichever node is asked.
    let (_, shown) = dead_letters(&cluster, 1, &["show", &id]).await;
    assert_eq!((&shown[0]["body"], &shown[0]["reason"]), (&Value::from("{\"to\":"), &listed[0]["reason"]));

    assert_eq!(dead_letters(&cluster, 1, &["requeue", &id]).await.0, Some(0));
    let mut again = Vec::new();
    eventually(DEADLINE, "the same letter is there again", async || {
        (_, again) = dead_letters(&cluster, 0, &["list"]).await;
        !again.is_empty()
    })
    .await;
    assert_eq!((again[0]["id"].as_str(), &again[0]["failures"]), (Some(id.as_str()), &Value::from(2)));
    assert_eq!(again[0]["first_failed_at"], listed[0]["first_failed_at"]);

    assert_eq!(dead_letters(&cluster, 0, &["delete", &id]).await.0, Some(0));
    assert_eq!(dead_letters(&cluster, 0, &["list"]).await, (Some(0), vec![]));
    assert_eq!(dead_letters(&cluster, 0, &["show", &id]).await.0, Some(1));
    cluster.rabbit.cut();
    eventually(DEADLINE, "without RabbitMQ there is no list", async || {
        dead_letters(&cluster, 0, &["list"]).await.0 == Some(1)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_store_can_never_take_is_a_dead_letter_and_holds_up_nothing() {
    const POISON: usize = 40;
    let cluster = TestCluster::start_with(&[("broker.prefetch.normal", "4")]).await;
    let mut device = cluster.device_on(0, "alice", "phone", &[]);
    device.connected(DEADLINE, 1).await;
    let backend = Backend::of(&cluster).await;
    let with_key =
        |key: String| BasicProperties::default().with_user_id("guest".into()).with_message_id(key.into());
    let body = |number: usize| json!({"to": {"users": ["alice"]}, "data": number}).to_string().into_bytes();
    // Ten times what both nodes may hold at a time, then a good one.
    let messages = (0..POISON).map(|number| (with_key(format!("order\0{number}")), body(number)));
    backend.publish_with("normal", messages.chain([(with_key("order".to_owned()), body(POISON))])).await;
    device.received(DEADLINE, 1).await;
    assert_eq!(device.data("user"), [json!(POISON)]);
    let mut listed = Vec::new();
    eventually(DEADLINE, "all of the poison is kept", async || {
        (_, listed) = dead_letters(&cluster, 0, &["list"]).await;
        listed.len() == POISON
    })
    .await;
    for letter in &listed {
        assert_eq!(letter["code"], "invalid_idempotency_key");
        let reason = letter["reason"].as_str().expect("a sentence");
        assert!(reason.contains("message_id") && reason.contains("NUL"), "{reason}");
    }
}
