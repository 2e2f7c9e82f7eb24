//! `fanfare publish` against a server that keeps what it gets.

use std::io::Write;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use fanfare::config::Trial;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use warp::Filter;

use super::{ended, fanfare, folder, run_beside};

/// A request that the HTTP server got.
#[derive(Debug, Clone, PartialEq)]
struct Posted {
    authorization: String,
    idempotency_key: Option<String>,
    body: Value,
}

/// A server whose `POST /v1/notifications` answers the same to all; its address and its
/// requests.
async fn http_server(status: u16, answer: Value) -> (String, Arc<Mutex<Vec<Posted>>>) {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&requests);
    let route = warp::path!("v1" / "notifications")
        .and(warp::post())
        .and(warp::header("authorization"))
        .and(warp::header::optional("idempotency-key"))
        .and(warp::body::json())
        .map(move |authorization, idempotency_key, body| {
            let posted = Posted { authorization, idempotency_key, body };
            kept.lock().expect("no panic holds it").push(posted);
            http::Response::builder()
                .status(status)
                .header("content-type", "application/problem+json")
                .body(answer.to_string())
        });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(warp::serve(route).incoming(listener).run());
    (url, requests)
}

#[tokio::test]
async fn publish_sends_what_the_flags_say_and_prints_the_answer() {
    let folder = folder();
    let accepted = json!({"id": "x", "status": "accepted", "recipients": 1, "online": 0});
    let (url, requests) = http_server(202, accepted.clone()).await;
    let common = ["publish", "--url", &url, "--key", "ffk_a_b"];
    let flags = [
        "--user",
        "alice",
        "--user",
        "bob",
        "--title",
        "Hi",
        "--body",
        "there",
        "--type",
        "t",
        "--data",
        "{\"a\":[1]}",
        "--priority",
        "high",
        "--ttl",
        "1h",
        "--collapse-key",
        "c",
        "--deliver-at",
        "2026-12-01T09:00:00Z",
        "--idempotency-key",
        "k1",
    ];
    let ran = run_beside(folder.path(), &[&common[..], &flags[..]].concat()).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_eq!(serde_json::from_str::<Value>(&ran.out).expect("JSON"), accepted);
    for flags in [vec!["--topic", "news"], vec!["--everyone", "--ttl", "0"], vec!["--device", "alice/web-1"]]
    {
        let ran = run_beside(folder.path(), &[&common[..], &flags[..]].concat()).await;
        assert_eq!(ran.code, Some(0), "{}", ran.err);
    }
    let posted = requests.lock().expect("no panic holds it").clone();
    let expected = Posted {
        authorization: "Bearer ffk_a_b".to_owned(),
        idempotency_key: Some("k1".to_owned()),
        body: json!({
            "to": {"users": ["alice", "bob"]}, "title": "Hi", "body": "there", "type": "t",
            "data": {"a": [1]}, "priority": "high", "ttl": 3600, "collapse_key": "c",
            "deliver_at": "2026-12-01T09:00:00Z"
        }),
    };
    assert_eq!(posted[0], expected);
    assert_eq!(posted[1].body, json!({"to": {"topic": "news"}}));
    assert_eq!(posted[2].body, json!({"to": {"everyone": true}, "ttl": 0}));
    let device = json!({"to": {"devices": [{"user": "alice", "device": "web-1"}]}});
    assert_eq!(posted[3].body, device);
}

#[tokio::test]
async fn publish_takes_address_and_key_from_the_trial_and_json_from_standard_input() {
    let folder = folder();
    let (url, requests) = http_server(202, json!({"id": "x"})).await;
    let data_dir = folder.path().join("data");
    let mut trial = Trial::load_or_create(&data_dir).expect("made");
    trial.keep_url(&data_dir, &url).expect("kept");
    let mut command = fanfare(folder.path(), &["publish", "-"]);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(br#"{"to":{"everyone":true}}"#).expect("written");
    drop(stdin);
    let ran = ended(child).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let posted = requests.lock().expect("no panic holds it").clone();
    assert_eq!(posted[0].body, json!({"to": {"everyone": true}}));
    let bearer = format!("Bearer {}", trial.publisher_key.expose());
    assert_eq!(posted[0].authorization, bearer);
}

#[tokio::test]
async fn publish_fails_with_the_code_and_the_detail_of_a_refusal() {
    let folder = folder();
    let problem = json!({"code": "unknown_field", "detail": "colour is\u{1b}[31m no field"});
    let (url, _) = http_server(422, problem).await;
    let common = ["publish", "--url", &url, "--key", "ffk_a_b"];
    let ran = run_beside(folder.path(), &[&common[..], &["--user", "a"]].concat()).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
    let expected = "fanfare: refused with 422 (unknown_field): colour is\\u{1b}[31m no field\n";
    assert_eq!(ran.err, expected);

    for (arguments, expected) in [
        (vec!["publish", "--user", "a"], "no key: give --key or FANFARE_KEY"),
        (vec!["publish", "--url", &url, "--key", "k"], "say whom it is for, in one way"),
        (vec!["publish", "--key", "k", "--everyone", "--user", "a"], "say whom it is for, in one way"),
        (
            vec!["publish", "--url", "http://127.0.0.1:1", "--key", "hunter2", "--everyone"],
            "http://127.0.0.1:1 cannot be reached: Connection refused",
        ),
        (vec!["publish", "-"], "standard input is not JSON"),
    ] {
        let ran = run_beside(folder.path(), &arguments).await;
        assert_eq!(ran.code, Some(1), "{arguments:?}");
        assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
        assert!(ran.err.contains(expected), "{}", ran.err);
        assert!(!ran.err.contains("hunter2"), "{}", ran.err);
    }
}
