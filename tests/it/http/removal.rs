//! Removing a device, erasing a user.

use std::sync::Arc;

use fanfare::wire::CloseCode;
use reqwest::Method;
use serde_json::{Value, json};

use super::rig::{Away, KEY, Rig, got};

#[tokio::test]
async fn a_device_is_forgotten_and_its_connection_closed_wherever_it_is() {
    let rig = Rig::start().await;
    let remove = |device: &str| got(rig.ask_as("alice", Method::DELETE, &format!("/v1/devices/{device}")));
    for (node, device) in [(&rig.first, "web%7C1"), (&rig.second, "phone")] {
        let (_, sink) = rig.connect(node, "alice", &device.replace("%7C", "|")).await;
        let (_, other) = rig.connect(node, "alice", "desk").await;
        let (_, of_bob) = rig.connect(node, "bob", "phone").await;
        let answer = remove(device).await;
        assert_eq!((answer.status, &answer.json), (204, &Value::Null));
        assert_eq!(sink.closed(), Some(CloseCode::Removed));
        assert_eq!((other.closed(), of_bob.closed()), (None, None), "others stay");
    }
    assert_eq!(remove("phone").await.status, 204, "twice is once");
    remove("a%2Fb").await.is_problem(422, "invalid_request", "a/b");
    let query = got(rig.ask_as("alice", Method::DELETE, "/v1/devices/phone?all=true")).await;
    query.is_problem(422, "invalid_request", "all");
}

#[tokio::test]
async fn without_redis_a_device_is_forgotten_and_closed_here_and_the_rest_is_said() {
    let rig = Rig::start_with(|state| state.presence = Arc::new(Away)).await;
    let (_, sink) = rig.connect(&rig.first, "alice", "phone").await;
    let answer = got(rig.ask_as("alice", Method::DELETE, "/v1/devices/phone")).await;
    answer.is_problem(503, "presence_unavailable", "forgotten");
    assert_eq!(sink.closed(), Some(CloseCode::Removed));
}

#[tokio::test]
async fn an_erased_user_leaves_nothing_but_what_is_others_and_the_answer_says_what_went() {
    let rig = Rig::start().await;
    let (_, here) = rig.connect(&rig.first, "alice", "phone").await;
    let (_, there) = rig.connect(&rig.second, "alice", "desk").await;
    let (_, of_bob) = rig.connect(&rig.second, "bob", "phone").await;
    rig.published(&json!({"to": {"users": ["alice"]}})).await;
    let both = rig.published(&json!({"to": {"users": ["alice", "bob"]}})).await;
    let answer = got(rig.operate(Method::DELETE, "/admin/users/alice")).await;
    assert_eq!(answer.status, 200, "{}", answer.json);
    let of = |name: &str| answer.json[name].clone();
    assert_eq!((of("user"), of("connections")), (json!("alice"), json!(2)));
    assert_eq!((of("no_answer"), of("partial")), (json!([]), json!(false)));
    let erased = |name: &str| answer.json["erased"][name].as_u64().unwrap_or_default();
    assert_eq!((erased("entries"), erased("notifications"), erased("devices")), (2, 1, 2), "{}", answer.json);
    assert_eq!((here.closed(), there.closed()), (Some(CloseCode::Removed), Some(CloseCode::Removed)));
    assert_eq!(of_bob.closed(), None);

    let inbox = |user| got(rig.ask_as(user, Method::GET, "/v1/inbox"));
    assert_eq!(inbox("alice").await.json["entries"], json!([]));
    assert_eq!(inbox("bob").await.json["entries"][0]["notification"]["id"], json!(both));
    let presence = got(rig.ask(Method::GET, "/v1/presence?user=alice").bearer_auth(KEY)).await;
    assert_eq!(presence.json["users"][0]["last_seen"], Value::Null, "nor when she was last there");

    let again = got(rig.operate(Method::DELETE, "/admin/users/alice")).await;
    let nothing = again.json["erased"].as_object().expect("an object").values().all(|count| *count == 0);
    assert!(again.status == 200 && nothing, "{}", again.json);
    let bad = got(rig.operate(Method::DELETE, "/admin/users/a%2Fb")).await;
    bad.is_problem(422, "invalid_request", "a/b");
}
