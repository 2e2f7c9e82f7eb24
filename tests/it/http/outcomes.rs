//! What became of notifications: receipts, waiting for them, taking one back, many at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fanfare::inbox::Upkeep;
use reqwest::Method;
use serde_json::{Value, json};

use super::rig::{KEY, LIMITED_KEY, Rig, got, user_token};

const UNKNOWN: &str = "019ab3f0-c7d2-7f04-a1b2-0123456789ab";

fn counts(of: &[(&str, u64)]) -> Value {
    let states = ["stored", "delivered", "read", "expired", "superseded", "cancelled", "dropped"];
    let count = |state| of.iter().find(|(name, _)| name == state).map_or(0, |(_, count)| *count);
    states
        .iter()
        .map(|state| ((*state).to_owned(), json!(count(state))))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn one(id: &str) -> String {
    format!("/v1/notifications/{id}")
}

#[tokio::test]
async fn a_receipt_says_how_many_are_in_which_state_and_on_request_who() {
    let rig = Rig::start().await;
    let id = rig.published(&json!({"to": {"users": ["carol", "alice", "bob"]}, "title": "Hello"})).await;
    rig.acknowledge("bob").await;
    let ask = |query: &str| got(rig.ask(Method::GET, &format!("{}{query}", one(&id))).bearer_auth(KEY));
    let receipt = ask("").await;
    assert_eq!(receipt.status, 200, "{}", receipt.json);
    assert!(receipt.json["created_at"].as_str().is_some_and(|at| at.ends_with('Z')), "{}", receipt.json);
    let mut json = receipt.json.clone();
    json["created_at"] = Value::Null;
    let expected = json!({
        "id": id, "status": "stored", "created_at": null, "deliver_at": null, "recipients": 3,
        "counts": counts(&[("stored", 2), ("delivered", 1)]),
    });
    assert_eq!(json, expected);

    let page = ask("?recipients=true&limit=2").await;
    let list = page.json["recipients_list"].as_array().expect("a list");
    let of = |it: &Value| (it["user"].clone(), it["device"].clone(), it["state"].clone());
    assert_eq!(of(&list[0]), (json!("alice"), Value::Null, json!("stored")));
    assert_eq!(of(&list[1]), (json!("bob"), Value::Null, json!("delivered")));
    assert!(list[0]["delivered_at"].is_null() && list[1]["delivered_at"].is_string(), "{}", page.json);
    let next = page.json["next"].as_str().expect("there is one more").to_owned();
    let last = ask(&format!("?recipients=true&after={next}")).await;
    assert_eq!(last.json["recipients_list"].as_array().map(|list| of(&list[0]).0), Some(json!("carol")));
    assert_eq!((&last.json["next"], &last.json["counts"]), (&Value::Null, &page.json["counts"]));

    // Reading is more than having it.
    let read = rig.ask_as("bob", Method::POST, "/v1/inbox/read").body(json!({"ids": [id]}).to_string());
    assert_eq!(got(read).await.status, 200);
    assert_eq!(ask("").await.json["counts"], counts(&[("stored", 2), ("read", 1)]));
}

#[tokio::test]
async fn what_was_for_one_device_or_for_all_who_follow_has_receipts_too() {
    let rig = Rig::start().await;
    let device = json!({"to": {"devices": [{"user": "alice", "device": "phone"}]}});
    let id = rig.published(&device).await;
    let receipt = got(rig.ask(Method::GET, &format!("{}?recipients=true", one(&id))).bearer_auth(KEY)).await;
    assert_eq!(receipt.json["recipients_list"][0]["device"], "phone", "{}", receipt.json);
    for to in [json!({"topic": "news"}), json!({"everyone": true})] {
        let id = rig.published(&json!({"to": to})).await;
        let receipt =
            got(rig.ask(Method::GET, &format!("{}?recipients=true", one(&id))).bearer_auth(KEY)).await;
        assert_eq!(
            (&receipt.json["recipients"], &receipt.json["counts"]["stored"]),
            (&Value::Null, &json!(1))
        );
        assert_eq!(receipt.json["recipients_list"], json!([]));
    }
}

#[tokio::test]
async fn receipts_and_cancellations_are_for_the_publisher_that_sent_it() {
    let rig = Rig::start().await;
    let id = rig.published(&json!({"to": {"users": ["bob"]}})).await;
    for method in [Method::GET, Method::DELETE] {
        let ask = |id: &str, key: &str| got(rig.ask(method.clone(), &one(id)).bearer_auth(key));
        ask(&id, LIMITED_KEY).await.is_problem(404, "not_found", &id);
        ask(UNKNOWN, KEY).await.is_problem(404, "not_found", UNKNOWN);
        ask("nonsense", KEY).await.is_problem(404, "not_found", "UUID");
        ask("%ff", KEY).await.is_problem(422, "invalid_request", "UTF-8");
        ask(&id, &user_token("bob")).await.is_problem(403, "missing_scope", "publish");
        ask(&format!("{id}?receipts=true"), KEY).await.is_problem(422, "invalid_request", "receipts");
        got(rig.ask(method, &one(&id))).await.is_problem(401, "unauthorized", "key");
    }
    let ask = |query: &str| got(rig.ask(Method::GET, &format!("{}?{query}", one(&id))).bearer_auth(KEY));
    ask("limit=5").await.is_problem(422, "invalid_request", "recipients=true");
    ask("recipients=1").await.is_problem(422, "invalid_request", "true or false");
    ask("recipients=true&limit=1001").await.is_problem(422, "invalid_request", "1..=1000");
    ask("recipients=true&after=a%20b").await.is_problem(422, "invalid_request", "after");
}

#[tokio::test]
async fn what_is_cancelled_is_taken_back_from_connected_devices_once() {
    let rig = Rig::start().await;
    let (_, sink) = rig.connect(&rig.second, "alice", "phone").await;
    let id = rig.published(&json!({"to": {"users": ["alice", "bob"]}})).await;
    sink.frame("notification").await;
    rig.acknowledge("bob").await;
    let cancel = || got(rig.ask(Method::DELETE, &one(&id)).bearer_auth(KEY));
    let answer = cancel().await;
    assert_eq!(answer.status, 200, "{}", answer.json);
    assert_eq!(answer.json, json!({"id": id, "status": "cancelled", "recipients": 2}));
    let frame = sink.frame("cancelled").await;
    assert_eq!(frame, json!({"type": "cancelled", "stream": "user", "seq": 2, "id": id}));

    let again = cancel().await;
    assert_eq!((again.status, &again.json), (200, &answer.json));
    let receipt = got(rig.ask(Method::GET, &one(&id)).bearer_auth(KEY)).await;
    assert_eq!(receipt.json["status"], "cancelled");
    assert_eq!(receipt.json["counts"], counts(&[("delivered", 1), ("cancelled", 1)]));
    // The second time made no entry: a third one has the next seq.
    let inbox = got(rig.ask_as("alice", Method::GET, "/v1/inbox")).await;
    assert_eq!(inbox.json["entries"], json!([]));
    rig.published(&json!({"to": {"users": ["alice"]}})).await;
    let inbox = got(rig.ask_as("alice", Method::GET, "/v1/inbox")).await;
    assert_eq!(inbox.json["entries"][0]["seq"], 3, "{}", inbox.json);
}

#[tokio::test]
async fn whoever_prefers_to_wait_is_answered_when_everybody_has_it_and_never_later_than_that() {
    let rig = Arc::new(Rig::start().await);
    let publish = |rig: &Rig, wait: &str| {
        let body = json!({"to": {"users": ["alice", "bob"]}}).to_string();
        rig.publish(body).header("prefer", wait.to_owned())
    };
    // In time.
    let waiting = tokio::spawn({
        let request = publish(&rig, "respond-async, wait=20");
        async move { got(request).await }
    });
    let started = Instant::now();
    crate::support::eventually(Duration::from_secs(10), "both entries are there", async || {
        rig.acknowledge("alice").await;
        rig.acknowledge("bob").await;
        waiting.is_finished()
    })
    .await;
    let answer = waiting.await.expect("an answer");
    assert!(started.elapsed() < Duration::from_secs(10), "it did not wait for the deadline");
    assert_eq!((answer.status, answer.header("preference-applied")), (202, Some("wait=20")));
    assert_eq!(answer.json["receipts"], counts(&[("delivered", 2)]), "{}", answer.json);

    // At the deadline.
    let started = Instant::now();
    let answer = got(publish(&rig, "wait=1")).await;
    assert!((1.0..3.0).contains(&started.elapsed().as_secs_f64()), "{:?}", started.elapsed());
    assert_eq!((answer.status, answer.header("preference-applied")), (202, Some("wait=1")));
    assert_eq!(answer.json["receipts"], counts(&[("stored", 2)]), "{}", answer.json);
}

#[tokio::test]
async fn what_is_no_preference_or_has_nothing_to_wait_for_is_answered_at_once() {
    let rig = Rig::start().await;
    let body = json!({"to": {"users": ["alice"]}});
    let mut now_or_never = body.clone();
    now_or_never["ttl"] = json!(0);
    for (prefer, body) in
        [("wait=soon", &body), ("wait=0", &body), ("wait", &body), ("wait=20", &now_or_never)]
    {
        let answer = got(rig.publish(body.to_string()).header("prefer", prefer)).await;
        assert!(answer.status < 300, "{}", answer.json);
        assert_eq!(answer.header("preference-applied"), None, "{prefer}");
        assert!(answer.json.get("receipts").is_none(), "{}", answer.json);
    }
}

#[tokio::test]
async fn each_of_a_batch_has_its_own_key_and_result() {
    let rig = Rig::start().await;
    let send = |body: Value| {
        let request = rig.ask(Method::POST, "/v1/notifications/batch").bearer_auth(KEY);
        got(request.body(body.to_string()))
    };
    let good = json!({"to": {"users": ["alice"]}, "data": 1.0});
    let batch = json!({"notifications": [
        {"idempotency_key": "k1", "notification": good},
        {"notification": {"to": {"users": ["bob"]}, "ttl": -1}},
        {"idempotency_key": "k 2", "notification": good},
        {"notification": {"to": {"topic": "news"}}},
        {"notification": {"to": {"users": ["bob"]}, "ttl": 0}},
    ]});
    let first = send(batch.clone()).await;
    assert_eq!(first.status, 200, "{}", first.json);
    let results = first.json["results"].as_array().expect("a list");
    let of = |at: usize| (results[at]["status"].clone(), results[at]["code"].clone());
    assert_eq!(results.len(), 5);
    assert_eq!((of(0), &results[0]["result"]), ((json!(202), Value::Null), &json!("accepted")));
    assert_eq!(of(1), (json!(422), json!("invalid_ttl")));
    assert_eq!(of(2), (json!(400), json!("invalid_idempotency_key")));
    assert_eq!((of(3), &results[3]["recipients"]), ((json!(202), Value::Null), &Value::Null));
    assert_eq!((of(4).0, &results[4]["result"]), (json!(200), &json!("sent")));
    let again = send(batch).await;
    assert_eq!(again.json["results"][0]["id"], results[0]["id"]);
    assert_eq!(again.json["results"][0]["replayed"], true);
    assert_eq!(results[0].get("replayed"), None);

    let item = json!({"notification": good});
    send(json!({"notifications": []})).await.is_problem(422, "invalid_request", "1..=1000");
    let many = vec![item.clone(); 1_001];
    send(json!({"notifications": many})).await.is_problem(422, "invalid_request", "1001");
    send(json!({"items": [item]})).await.is_problem(422, "invalid_request", "items");
    let keyed = rig.ask(Method::POST, "/v1/notifications/batch").bearer_auth(KEY);
    let keyed = keyed.header("idempotency-key", "x").body(json!({"notifications": [item]}).to_string());
    got(keyed).await.is_problem(400, "invalid_idempotency_key", "each item");
}

#[tokio::test]
async fn without_sql_nobody_is_told_what_became_of_anything() {
    let rig = Rig::start().await;
    let id = rig.published(&json!({"to": {"users": ["alice"]}})).await;
    rig.inbox.close().await;
    for method in [Method::GET, Method::DELETE] {
        let answer = got(rig.ask(method, &one(&id)).bearer_auth(KEY)).await;
        answer.is_problem(503, "inbox_unavailable", "inbox");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    for (method, path) in
        [(Method::GET, "/v1/inbox"), (Method::GET, "/v1/inbox/unread"), (Method::DELETE, "/v1/devices/phone")]
    {
        got(rig.ask_as("alice", method, path)).await.is_problem(503, "inbox_unavailable", "inbox");
    }
    let erase = got(rig.operate(Method::DELETE, "/admin/users/alice")).await;
    erase.is_problem(503, "inbox_unavailable", "inbox");
}
