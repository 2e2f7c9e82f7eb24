//! CloudEvents: a notification in an event.

use reqwest::RequestBuilder;
use serde_json::{Value, json};

use super::rig::{Rig, got};

const STRUCTURED: &str = "application/cloudevents+json; charset=UTF-8";

fn event(id: &str, data: &Value) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "/shop", "type": "order.shipped", "time": "2026-12-01T09:00:00Z",
        "datacontenttype": "application/json", "partitionkey": "7", "data": data})
}

fn structured(rig: &Rig, event: &Value) -> RequestBuilder {
    rig.publish(event.to_string()).header("content-type", STRUCTURED)
}

fn binary(rig: &Rig, data: &Value) -> RequestBuilder {
    let request = rig.publish(data.to_string()).header("content-type", "application/json");
    request
        .header("ce-specversion", "1.0")
        .header("ce-type", "order.shipped")
        .header("ce-source", "/caf%C3%A9")
}

#[tokio::test]
async fn a_structured_event_is_published_and_once_however_often_it_comes() {
    let rig = Rig::start().await;
    let (_, sink) = rig.connect(&rig.second, "alice", "phone").await;
    let order = event("order-42", &json!({"to": {"users": ["alice"]}, "title": "On its way"}));
    let first = got(structured(&rig, &order)).await;
    assert_eq!((first.status, first.header("idempotent-replayed")), (202, None), "{}", first.json);
    let frame = sink.frame("notification").await;
    assert_eq!(frame["notification"]["type"], "order.shipped");
    assert_eq!(frame["notification"]["title"], "On its way");
    let again = got(structured(&rig, &order)).await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (202, Some("true")));
    assert_eq!(again.json["id"], first.json["id"]);

    let mut elsewhere = order.clone();
    elsewhere["source"] = json!("/shop/2");
    assert_ne!(
        got(structured(&rig, &elsewhere)).await.json["id"],
        first.json["id"],
        "another source, another event"
    );
    let other = event("order-42", &json!({"to": {"users": ["bob"]}}));
    got(structured(&rig, &other)).await.is_problem(422, "idempotency_key_reused", "key");
    let named = structured(&rig, &other).header("idempotency-key", "of-my-own");
    assert_eq!(got(named).await.status, 202, "a key that is given decides");
}

#[tokio::test]
async fn a_binary_event_is_published_and_its_notification_keeps_a_type_of_its_own() {
    let rig = Rig::start().await;
    let (_, sink) = rig.connect(&rig.second, "alice", "phone").await;
    let data = json!({"to": {"users": ["alice"]}, "type": "mine"});
    let first = got(binary(&rig, &data).header("ce-id", "1")).await;
    assert_eq!(first.status, 202, "{}", first.json);
    assert_eq!(sink.frame("notification").await["notification"]["type"], "mine");
    let again = got(binary(&rig, &data).header("ce-id", "1")).await;
    assert_eq!(again.json["id"], first.json["id"]);
    assert_ne!(got(binary(&rig, &data).header("ce-id", "2")).await.json["id"], first.json["id"]);
}

#[tokio::test]
async fn an_event_in_base64_is_published() {
    let rig = Rig::start().await;
    let mut encoded = event("1", &Value::Null);
    // {"to":{"users":["alice"]}}
    encoded["data_base64"] = json!("eyJ0byI6eyJ1c2VycyI6WyJhbGljZSJdfX0=");
    let answer = got(structured(&rig, &encoded)).await;
    assert_eq!((answer.status, &answer.json["recipients"]), (202, &json!(1)), "{}", answer.json);
}

#[tokio::test]
async fn what_is_no_event_is_refused_and_named() {
    let rig = Rig::start().await;
    let good = event("1", &json!({"to": {"users": ["alice"]}}));
    for (name, value, word) in [
        ("id", Value::Null, "id must"),
        ("id", json!(""), "id must"),
        ("source", Value::Null, "source must"),
        ("type", Value::Null, "type must"),
        ("specversion", json!("0.3"), "0.3"),
        ("specversion", json!(1), "string"),
        ("data", Value::Null, "data must"),
        ("data_base64", json!("e30="), "both"),
    ] {
        let mut bad = good.clone();
        bad[name] = value;
        got(structured(&rig, &bad)).await.is_problem(400, "invalid_cloudevent", word);
    }
    got(structured(&rig, &json!([]))).await.is_problem(400, "invalid_cloudevent", "struct");
    got(structured(&rig, &event("1", &json!([1])))).await.is_problem(400, "invalid_json", "map");
    got(structured(&rig, &event("1", &json!({})))).await.is_problem(422, "invalid_request", "to");
    got(binary(&rig, &json!({}))).await.is_problem(400, "invalid_cloudevent", "id must");
    let batch = rig.publish("[]").header("content-type", "application/cloudevents-batch+json");
    got(batch).await.is_problem(415, "unsupported_media_type", "one by one");
    assert_eq!(got(structured(&rig, &good)).await.status, 202);
}
