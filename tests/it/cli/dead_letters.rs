//! `fanfare dead-letters` against a server that plays a node's admin listener.

use std::sync::{Arc, Mutex};

use fanfare::config::Trial;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use warp::Filter;

use super::{folder, run_beside};

/// A request that the server got: method, path with query, and credentials.
type Asked = (String, String, String);

fn letter(id: &str, code: &str) -> Value {
    json!({"id": id, "code": code, "reason": "no\u{1b}[31m JSON", "first_failed_at": null,
           "last_failed_at": "2026-12-01T09:00:00Z", "failures": 2, "lane": "low", "routing_key": "low",
           "publisher": null, "message_id": "k1", "expiration": null, "size": 3})
}

/// Two pages of letters; `gone` is unknown.
fn answer(method: &str, path: &str) -> (u16, Value) {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    match (method, path) {
        (_, path) if path.contains("gone") => {
            (404, json!({"code": "not_found", "detail": "there is no dead letter gone"}))
        }
        ("GET", "/admin/dead-letters") if query.contains("after=b%2D2") => {
            (200, json!({"dead_letters": [letter("c-3", "invalid_json")], "next": null}))
        }
        ("GET", "/admin/dead-letters") => {
            let page = [letter("a-1", "invalid_json"), letter("b-2", "unknown_publisher")];
            (200, json!({"dead_letters": page, "next": "b-2"}))
        }
        ("GET", _) => {
            let mut letter = letter("a-1", "invalid_json");
            letter["body"] = json!("{\u{1b}\nx");
            (200, letter)
        }
        ("POST", _) => (200, json!({"status": "requeued"})),
        _ => (204, Value::Null),
    }
}

async fn admin_server() -> (String, Arc<Mutex<Vec<Asked>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&asked);
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let route = warp::method().and(warp::path::full()).and(query).and(warp::header("authorization")).map(
        move |method: http::Method, path: warp::path::FullPath, query: String, authorization: String| {
            let path = match query.as_str() {
                "" => path.as_str().to_owned(),
                query => format!("{}?{query}", path.as_str()),
            };
            let (status, body) = answer(method.as_str(), &path);
            kept.lock().expect("no panic holds it").push((method.to_string(), path, authorization));
            let body = if body.is_null() { String::new() } else { body.to_string() };
            http::Response::builder().status(status).body(body)
        },
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(warp::serve(route).incoming(listener).run());
    (url, asked)
}

#[tokio::test]
async fn letters_are_listed_as_a_table_or_as_json() {
    let folder = folder();
    let (url, asked) = admin_server().await;
    let common = ["dead-letters", "--admin-url", &url, "--token", "hunter2"];
    let ran = run_beside(folder.path(), &[&common[..], &["list"]].concat()).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let lines: Vec<&str> = ran.out.lines().collect();
    let expected = [
        "ID   LAST FAILED           TIMES  LANE  PUBLISHER  CODE               REASON",
        "a-1  2026-12-01T09:00:00Z  2      low   -          invalid_json       no\\u{1b}[31m JSON",
        "b-2  2026-12-01T09:00:00Z  2      low   -          unknown_publisher  no\\u{1b}[31m JSON",
        "c-3  2026-12-01T09:00:00Z  2      low   -          invalid_json       no\\u{1b}[31m JSON",
    ];
    assert_eq!(lines, expected);
    let first = asked.lock().expect("no panic holds it")[0].clone();
    assert_eq!((first.0.as_str(), first.2.as_str()), ("GET", "Bearer hunter2"));

    let json = [&common[..], &["list", "--json", "--code", "invalid_json"]].concat();
    let ran = run_beside(folder.path(), &json).await;
    let ids: Vec<Value> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["id"].clone())
        .collect();
    assert_eq!((ran.code, ids), (Some(0), vec![json!("a-1"), json!("c-3")]));
    let ran = run_beside(folder.path(), &[&common[..], &["list", "--limit", "1"]].concat()).await;
    assert_eq!(ran.out.lines().count(), 2, "{}", ran.out);
    let ran = run_beside(folder.path(), &[&common[..], &["list", "--code", "none"]].concat()).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "no dead letters\n"));
}

#[tokio::test]
async fn a_letter_is_shown_with_its_body_and_without_its_control_characters() {
    let folder = folder();
    let (url, _) = admin_server().await;
    let common = ["dead-letters", "show", "a-1", "--admin-url", &url, "--token", "hunter2"];
    let ran = run_beside(folder.path(), &common).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.out.starts_with("id              a-1\ncode            invalid_json\n"), "{}", ran.out);
    assert!(ran.out.ends_with("\nsize            3\n\n{\\u{1b}\nx\n"), "{}", ran.out);
    let ran = run_beside(folder.path(), &[&common[..], &["--json"]].concat()).await;
    let shown: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(shown["body"], "{\u{1b}\nx");
}

#[tokio::test]
async fn letters_are_requeued_and_deleted_and_what_fails_is_said() {
    let folder = folder();
    let (url, asked) = admin_server().await;
    let common = ["dead-letters", "--admin-url", &url, "--token", "hunter2"];
    let ran = run_beside(folder.path(), &[&common[..], &["requeue", "a-1", "gone", "c-3"]].concat()).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), "requeued a-1\nrequeued c-3\n"));
    assert_eq!(ran.err, "fanfare: refused with 404 (not_found): there is no dead letter gone\n");
    let all = ["delete", "--all", "--code", "unknown_publisher", "--json"];
    let ran = run_beside(folder.path(), &[&common[..], &all].concat()).await;
    let said: Value = serde_json::from_str(&ran.out).expect("one line of JSON");
    assert_eq!((ran.code, said), (Some(0), json!({"id": "b-2", "status": "deleted"})));
    let asked = asked.lock().expect("no panic holds it").clone();
    let paths: Vec<String> = asked.iter().map(|(method, path, _)| format!("{method} {path}")).collect();
    let expected = [
        "POST /admin/dead-letters/a%2D1/requeue",
        "POST /admin/dead-letters/gone/requeue",
        "POST /admin/dead-letters/c%2D3/requeue",
        "GET /admin/dead-letters?limit=500",
        "GET /admin/dead-letters?limit=500&after=b%2D2",
        "DELETE /admin/dead-letters/b%2D2",
    ];
    assert_eq!(paths, expected);
}

#[tokio::test]
async fn the_trials_secrets_are_used_and_what_is_missing_is_named() {
    let folder = folder();
    let ran = run_beside(folder.path(), &["dead-letters", "list"]).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.starts_with("fanfare: no admin token: give --token"), "{}", ran.err);
    let ran = run_beside(folder.path(), &["dead-letters", "delete"]).await;
    assert_eq!(ran.code, Some(2), "which ones? {}", ran.err);

    let (url, asked) = admin_server().await;
    let trial = Trial::load_or_create(&folder.path().join("data")).expect("made");
    let ran = run_beside(folder.path(), &["dead-letters", "list", "--admin-url", &url]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let bearer = format!("Bearer {}", trial.admin_token.expose());
    assert_eq!(asked.lock().expect("no panic holds it")[0].2, bearer);

    let nowhere = ["dead-letters", "list", "--admin-url", "http://127.0.0.1:1", "--token", "hunter2"];
    let ran = run_beside(folder.path(), &nowhere).await;
    assert_eq!((ran.code, ran.err.lines().count()), (Some(1), 1));
    assert!(ran.err.contains("cannot be reached") && !ran.err.contains("hunter2"), "{}", ran.err);
    assert!(ran.err.contains("is --admin-url right"), "{}", ran.err);
}
