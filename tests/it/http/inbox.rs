//! The inbox as users look at it, and marking as read.

use reqwest::Method;
use serde_json::{Value, json};

use super::rig::{KEY, Rig, got};

fn seqs(page: &Value) -> Vec<u64> {
    let entries = page["entries"].as_array().expect("a list").iter();
    entries.map(|entry| entry["seq"].as_u64().expect("a number")).collect()
}

#[tokio::test]
async fn the_inbox_pages_from_the_newest_and_shows_what_is_unread() {
    let rig = Rig::start().await;
    let mut ids = vec![];
    for number in 1..=5 {
        ids.push(rig.published(&json!({"to": {"users": ["alice"]}, "data": number})).await);
    }
    let look = |query: &str| got(rig.ask_as("alice", Method::GET, &format!("/v1/inbox{query}")));
    let page = look("?limit=2").await;
    assert_eq!(page.status, 200, "{}", page.json);
    assert_eq!((seqs(&page.json), &page.json["next"]), (vec![5, 4], &json!(4)));
    let newest = &page.json["entries"][0];
    assert_eq!((&newest["read"], &newest["device"]), (&json!(false), &Value::Null));
    assert_eq!((&newest["notification"]["id"], &newest["notification"]["data"]), (&json!(ids[4]), &json!(5)));
    assert_eq!((&page.json["stream"], &page.json["unread"]), (&json!("user"), &json!(5)));
    assert!(page.json["epoch"].is_string() && page.json["version"].is_u64(), "{}", page.json);
    let rest = look("?limit=3&before=4").await;
    assert_eq!((seqs(&rest.json), &rest.json["next"]), (vec![3, 2, 1], &Value::Null));

    let read = |body: Value| got(rig.ask_as("alice", Method::POST, "/v1/inbox/read").body(body.to_string()));
    let answer = read(json!({"ids": [ids[4], "019ab3f0-c7d2-7f04-a1b2-0123456789ab"]})).await;
    assert_eq!((answer.status, &answer.json["unread"]), (200, &json!(4)), "{}", answer.json);
    assert!(answer.json["version"].as_u64() > page.json["version"].as_u64(), "it goes on");
    let again = read(json!({"ids": [ids[4]]})).await;
    assert_eq!(again.json, answer.json, "twice is once");
    assert_eq!(seqs(&look("?unread=true").await.json), [4, 3, 2, 1]);
    assert_eq!(read(json!({"up_to": 2})).await.json["unread"], 2);
    assert_eq!(seqs(&look("?unread=true").await.json), [4, 3]);
    let all = look("").await;
    let reads: Vec<&Value> =
        all.json["entries"].as_array().expect("a list").iter().map(|it| &it["read"]).collect();
    assert_eq!(reads, [true, false, false, true, true]);
    let count = got(rig.ask_as("alice", Method::GET, "/v1/inbox/unread")).await;
    assert_eq!((count.status, &count.json["unread"]), (200, &json!(2)), "{}", count.json);
    assert_eq!(got(rig.ask_as("bob", Method::GET, "/v1/inbox/unread")).await.json["unread"], 0);
}

#[tokio::test]
async fn what_is_read_over_http_shows_on_every_device_at_once() {
    let rig = Rig::start().await;
    let (_, here) = rig.connect(&rig.first, "alice", "phone").await;
    let (_, there) = rig.connect(&rig.second, "alice", "desk").await;
    let id = rig.published(&json!({"to": {"users": ["alice"]}})).await;
    let read = rig.ask_as("alice", Method::POST, "/v1/inbox/read").body(json!({"ids": [id]}).to_string());
    let answer = got(read).await;
    assert_eq!((answer.status, &answer.json["unread"]), (200, &json!(0)), "{}", answer.json);
    for sink in [here, there] {
        let frame = sink.frame("read").await;
        assert_eq!((&frame["ids"], &frame["unread"]), (&json!([id]), &json!(0)));
        assert_eq!(frame["version"], answer.json["version"]);
    }
}

#[tokio::test]
async fn everyone_and_listed_topics_have_read_state_of_each_user() {
    let rig = Rig::start().await;
    rig.connect(&rig.first, "alice", "phone").await;
    let everyone = rig.published(&json!({"to": {"everyone": true}})).await;
    let topic = rig.published(&json!({"to": {"topic": "news.eu"}})).await;
    rig.published(&json!({"to": {"topic": "alarms"}})).await;
    let look =
        |user: &str, stream: &str| got(rig.ask_as(user, Method::GET, &format!("/v1/inbox?stream={stream}")));
    let page = look("alice", "everyone").await;
    assert_eq!((seqs(&page.json), &page.json["unread"]), (vec![1], &json!(1)), "{}", page.json);
    let followed = look("alice", "topic:news.eu").await;
    assert_eq!((seqs(&followed.json), &followed.json["stream"]), (vec![1], &json!("topic:news.eu")));
    assert_eq!(followed.json["unread"], Value::Null, "no device of hers follows it");
    assert_eq!(followed.json["entries"][0]["notification"]["id"], topic);

    let body = json!({"stream": "everyone", "ids": [everyone]}).to_string();
    let read = got(rig.ask_as("alice", Method::POST, "/v1/inbox/read").body(body)).await;
    assert_eq!(read.status, 200, "{}", read.json);
    assert_eq!(look("alice", "everyone").await.json["entries"][0]["read"], true);
    assert_eq!(look("bob", "everyone").await.json["entries"][0]["read"], false);
    let count = got(rig.ask_as("alice", Method::GET, "/v1/inbox/unread")).await;
    assert_eq!(count.json["streams"], json!([{"stream": "everyone", "unread": 0}]), "{}", count.json);

    look("alice", "topic:alarms").await.is_problem(403, "topic_forbidden", "alarms");
    let body = json!({"stream": "topic:alarms", "up_to": 1}).to_string();
    let read = rig.ask_as("alice", Method::POST, "/v1/inbox/read").body(body);
    got(read).await.is_problem(403, "topic_forbidden", "alarms");
    look("alice", "user:bob").await.is_problem(422, "invalid_request", "user:bob");
}

#[tokio::test]
async fn bad_input_is_named_and_a_listed_sites_page_may_read_the_answer() {
    let rig = Rig::start().await;
    let look = |query: &str| got(rig.ask_as("alice", Method::GET, &format!("/v1/inbox{query}")));
    look("?limit=101").await.is_problem(422, "invalid_request", "1..=100");
    look("?before=0").await.is_problem(422, "invalid_request", "before");
    look("?unread=yes").await.is_problem(422, "invalid_request", "true or false");
    look("?page=2").await.is_problem(422, "invalid_request", "page");
    look("/unread?stream=user").await.is_problem(422, "invalid_request", "stream");
    let read = |body: &'static str| got(rig.ask_as("alice", Method::POST, "/v1/inbox/read").body(body));
    read("{}").await.is_problem(422, "invalid_request", "neither");
    read(r#"{"ids":[]}"#).await.is_problem(422, "invalid_request", "1..=1000");
    read(r#"{"ids":["x"],"up_to":1}"#).await.is_problem(422, "invalid_request", "both");
    read(r#"{"ids":["x"]}"#).await.is_problem(422, "invalid_request", "ids[0]");
    read(r#"{"upto":1}"#).await.is_problem(422, "invalid_request", "upto");
    read("{").await.is_problem(400, "invalid_json", "EOF");
    for (method, path) in [
        (Method::GET, "/v1/inbox"),
        (Method::GET, "/v1/inbox/unread"),
        (Method::POST, "/v1/inbox/read"),
        (Method::DELETE, "/v1/devices/phone"),
    ] {
        got(rig.ask(method.clone(), path)).await.is_problem(401, "unauthorized", "user's token");
        let publisher = got(rig.ask(method.clone(), path).bearer_auth(KEY)).await;
        publisher.is_problem(401, "invalid_token", "token");
        let of_site = |origin| rig.ask_as("alice", method.clone(), path).header("origin", origin);
        let evil = got(of_site("https://evil.example")).await;
        evil.is_problem(403, "origin_forbidden", "evil.example");
        let listed = got(of_site("https://shop.example").body("{\"up_to\":1}")).await;
        assert!(listed.status < 300, "{path}: {}", listed.json);
        assert_eq!(listed.header("access-control-allow-origin"), Some("https://shop.example"), "{path}");
    }
}
