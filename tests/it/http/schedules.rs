//! `deliver_at`: kept, replayed, cancelled, fired once.

use std::sync::Arc;
use std::time::Duration;

use fanfare::clock::Clock;
use fanfare::domain::{NotificationId, PublisherId, UnixMillis};
use fanfare::inbox::{DueSchedule, Schedule, Schedules};
use fanfare::publish::Fired;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Connection;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::task::JoinSet;

use super::rig::{KEY, Rig, got};

const HOUR: Duration = Duration::from_secs(3_600);

fn in_an_hour() -> UnixMillis {
    Clock::system().now().after(HOUR)
}

fn body(at: impl std::fmt::Display) -> Value {
    json!({"to": {"users": ["alice", "bob"]}, "title": "Later", "ttl": 60, "deliver_at": at.to_string()})
}

/// Milliseconds since 1970.
fn millis(time: &Value) -> u64 {
    let time = OffsetDateTime::parse(time.as_str().expect("a text"), &Rfc3339).expect("RFC 3339");
    u64::try_from(time.unix_timestamp_nanos() / 1_000_000).expect("after 1970")
}

/// What is due in two hours.
async fn claim(rig: &Rig) -> Vec<DueSchedule> {
    let then = Clock::system().now().after(2 * HOUR);
    rig.inbox.claim_schedules(then, Duration::from_millis(1), 10).await.expect("it answers")
}

#[tokio::test]
async fn what_is_for_later_is_kept_replayed_and_can_be_taken_back() {
    let rig = Rig::start().await;
    let at = in_an_hour();
    let send = |body: Value| got(rig.publish(body.to_string()).header("idempotency-key", "k"));
    let answer = send(body(at)).await;
    assert_eq!(answer.status, 202, "{}", answer.json);
    let id = answer.json["id"].as_str().expect("an id").to_owned();
    assert_eq!(answer.json, json!({"id": id, "status": "scheduled", "recipients": 2, "online": null}));
    let place = format!("/v1/notifications/{id}");
    assert_eq!(
        (answer.header("location"), answer.header("idempotent-replayed")),
        (Some(place.as_str()), None)
    );
    let again = send(body(at)).await;
    assert_eq!((again.status, &again.json), (202, &answer.json));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    send(body(at.after(HOUR))).await.is_problem(422, "idempotency_key_reused", "key");

    let ask = |method| got(rig.ask(method, &place).bearer_auth(KEY));
    let receipt = ask(Method::GET).await;
    assert_eq!((receipt.status, &receipt.json["status"]), (200, &json!("scheduled")));
    assert_eq!(receipt.json["deliver_at"], at.to_string());
    let inbox = got(rig.ask_as("alice", Method::GET, "/v1/inbox")).await;
    assert_eq!(inbox.json["entries"], json!([]), "nothing is there before its time");

    let cancelled = ask(Method::DELETE).await;
    assert_eq!(
        (cancelled.status, &cancelled.json["status"]),
        (200, &json!("cancelled")),
        "{}",
        cancelled.json
    );
    assert_eq!(claim(&rig).await, [], "it will not fire");
    ask(Method::GET).await.is_problem(404, "not_found", &id);
}

#[tokio::test]
async fn a_time_that_is_past_or_too_far_is_refused_with_the_limit() {
    let rig = Rig::start().await;
    let send = |body: Value| got(rig.publish(body.to_string()));
    let now = Clock::system().now();
    send(body("2020-01-01T00:00:00Z")).await.is_problem(422, "invalid_deliver_at", "2020-01-01");
    send(body(now.after(24 * 91 * HOUR))).await.is_problem(422, "invalid_deliver_at", "90 days");
    send(body("soon")).await.is_problem(422, "invalid_deliver_at", "soon");
    let mut never = body(in_an_hour());
    never["ttl"] = json!(0);
    send(never).await.is_problem(422, "invalid_deliver_at", "ttl");
    let mut large = body(in_an_hour());
    large["body"] = json!("x".repeat(64 << 10));
    send(large).await.is_problem(413, "notification_too_large", "65536");
    let far = send(body(now.after(24 * 89 * HOUR))).await;
    assert_eq!((far.status, &far.json["status"]), (202, &json!("scheduled")));
}

#[tokio::test]
async fn a_schedule_fires_once_under_its_own_id_and_its_ttl_counts_from_then() {
    let rig = Rig::start().await;
    let (_, sink) = rig.connect(&rig.second, "alice", "phone").await;
    let id = rig.published(&body(in_an_hour())).await;
    let due = claim(&rig).await.remove(0);
    assert_eq!(due.id.to_string(), id);
    let before = Clock::system().now();
    assert!(matches!(rig.publishing.fire(due.clone()).await, Fired::Published));
    let frame = sink.frame("notification").await;
    assert_eq!(
        (&frame["notification"]["id"], &frame["notification"]["title"]),
        (&json!(id), &json!("Later"))
    );
    let [created, expires] = ["created_at", "expires_at"].map(|name| millis(&frame["notification"][name]));
    assert!((before.0..=Clock::system().now().0).contains(&created), "it begins when it fires");
    assert_eq!(expires, created + 60_000);

    // As after a lost answer, and as another node that had claimed it before it froze.
    assert!(matches!(rig.publishing.fire(due).await, Fired::Ended));
    assert_eq!(claim(&rig).await, []);
    let inbox = got(rig.ask_as("bob", Method::GET, "/v1/inbox")).await;
    assert_eq!(inbox.json["entries"].as_array().map(Vec::len), Some(1), "{}", inbox.json);
    let receipt = got(rig.ask(Method::GET, &format!("/v1/notifications/{id}")).bearer_auth(KEY)).await;
    assert_eq!((&receipt.json["status"], &receipt.json["counts"]["stored"]), (&json!("stored"), &json!(2)));
    assert_eq!(receipt.json["deliver_at"], Value::Null);
}

#[tokio::test]
async fn a_schedule_that_can_never_be_published_is_dropped_and_says_why() {
    let rig = Rig::start().await;
    let now = Clock::system().now();
    let schedule = Schedule {
        id: NotificationId::new(now, [7; 10]),
        fire_at: in_an_hour(),
        publisher: PublisherId::new("shop").expect("an id"),
        request: bytes::Bytes::from_static(b"{\"to\":{\"users\":[]}}"),
        created_at: now,
        idempotency: None,
    };
    rig.inbox.schedule(schedule).await.expect("it is kept");
    let due = claim(&rig).await.remove(0);
    match rig.publishing.fire(due).await {
        Fired::Refused(error) => assert_eq!(error.code(), "invalid_target"),
        other => panic!("it is refused for ever; got {other:?}"),
    }
    assert_eq!(claim(&rig).await, []);
}

#[tokio::test]
async fn a_schedule_that_was_accepted_is_published_although_limits_were_lowered_since() {
    let rig = Rig::start().await;
    let now = Clock::system().now();
    // Beyond each limit of the rig: a `ttl` of 30 days, 10 000 recipients, 64 KiB.
    let users: Vec<String> = (0..10_001).map(|number| format!("u{number}")).collect();
    let request = json!({"to": {"users": users}, "body": "x".repeat(64 << 10), "ttl": 60 * 86_400});
    let schedule = Schedule {
        id: NotificationId::new(now, [8; 10]),
        fire_at: in_an_hour(),
        publisher: PublisherId::new("shop").expect("an id"),
        request: bytes::Bytes::from(request.to_string()),
        created_at: now,
        idempotency: None,
    };
    rig.inbox.schedule(schedule).await.expect("it is kept");
    let due = claim(&rig).await.remove(0);
    let fired = rig.publishing.fire(due).await;
    assert!(matches!(fired, Fired::Published), "{fired:?}");
    let inbox = got(rig.ask_as("u10000", Method::GET, "/v1/inbox")).await;
    assert_eq!(inbox.json["entries"].as_array().map(Vec::len), Some(1), "{}", inbox.json);
}

#[tokio::test]
async fn a_low_one_fires_in_its_time_however_many_low_ones_wait() {
    let rig = Rig::start().await;
    let mut later = body(in_an_hour());
    later["priority"] = json!("low");
    assert_eq!(got(rig.publish(later.to_string())).await.status, 202);
    let due = claim(&rig).await.pop().expect("it is due");
    let store = rig.hold_store().await;
    let low = json!({"to": {"users": ["bob"]}, "priority": "low"}).to_string();
    let (rig, mut waiting) = (Arc::new(rig), JoinSet::new());
    // Some are being written, and so many wait that one more is refused.
    for _ in 0..200 {
        let (rig, low) = (Arc::clone(&rig), low.clone());
        waiting.spawn(async move { got(rig.publish(low)).await.status });
    }
    assert_eq!(waiting.join_next().await.expect("there are some").expect("it ends"), 503);
    let publishing = Arc::clone(&rig.publishing);
    let firing = tokio::spawn(async move { publishing.fire(due).await });
    // All run on one thread, each in its turn: it stands in its queue now, or was refused.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    store.close().await.expect("the store goes on");
    let fired = firing.await.expect("it ends");
    assert!(matches!(fired, Fired::Published), "{fired:?}");
    while waiting.join_next().await.is_some() {}
}
