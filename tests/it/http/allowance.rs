//! How much a publisher may send over HTTP, and how it is told.

use reqwest::Method;
use serde_json::json;

use super::rig::{Got, KEY, Rig, SLOW_KEY, got};

/// What may be sent at once, as the answer says.
fn left(answer: &Got) -> u32 {
    let header = answer.header("ratelimit").expect("a RateLimit header");
    let left = header.strip_prefix("\"publisher\";r=").and_then(|rest| rest.split(';').next());
    left.and_then(|left| left.parse().ok()).unwrap_or_else(|| panic!("{header}"))
}

async fn publish(rig: &Rig, key: &str) -> Got {
    let body = r#"{"to":{"users":["alice"]}}"#;
    got(rig.ask(Method::POST, "/v1/notifications").bearer_auth(key).body(body)).await
}

async fn batch(rig: &Rig, items: usize) -> Got {
    let item = json!({"notification": {"to": {"users": ["alice"]}}});
    let body = json!({"notifications": vec![item; items]}).to_string();
    got(rig.ask(Method::POST, "/v1/notifications/batch").bearer_auth(SLOW_KEY).body(body)).await
}

#[tokio::test]
async fn beyond_its_rate_a_publisher_is_told_when_to_come_back_and_others_are_not_held_up() {
    let rig = Rig::start().await;
    let first = publish(&rig, SLOW_KEY).await;
    assert_eq!(first.status, 202, "{}", first.json);
    assert_eq!(first.header("ratelimit-policy"), Some("\"publisher\";q=5;w=5"));
    assert!((4..=5).contains(&left(&first)), "a second may have passed: {}", left(&first));
    // On a slow machine some more come in; twenty would take 15 s.
    let mut accepted = 1;
    let refused = loop {
        let answer = publish(&rig, SLOW_KEY).await;
        if answer.status != 202 {
            break answer;
        }
        accepted += 1;
        assert!(accepted < 20, "nobody is refused");
    };
    assert!(accepted >= 5, "{accepted}");
    refused.is_problem(429, "rate_limited", "1 notifications a second");
    assert!(left(&refused) <= 1, "{}", left(&refused));
    let retry_after: u32 = refused.header("retry-after").and_then(|text| text.parse().ok()).expect("seconds");
    assert!((1..=2).contains(&retry_after), "{retry_after}");
    let metrics = rig.operate(Method::GET, "/metrics").send().await.expect("an answer");
    let metrics = metrics.text().await.expect("a text");
    let counted = "fanfare_publish_requests_total{source=\"http\",outcome=\"rate_limited\"} 1\n";
    assert!(metrics.contains(counted), "{metrics}");

    let other = publish(&rig, KEY).await;
    assert_eq!((other.status, other.header("ratelimit")), (202, None));
}

#[tokio::test]
async fn a_batch_counts_its_items_and_reading_counts_nothing() {
    let rig = Rig::start().await;
    let presence = rig.ask(Method::GET, "/v1/presence?user=alice").bearer_auth(SLOW_KEY);
    assert_eq!(left(&got(presence).await), 5);
    let four = batch(&rig, 4).await;
    assert_eq!(four.status, 200);
    assert!((1..=3).contains(&left(&four)), "{}", left(&four));
    // A full bucket lets it in; this one has a few.
    let many = batch(&rig, 100).await;
    many.is_problem(429, "rate_limited", "got 100");
    let refused: u32 = many.header("retry-after").and_then(|text| text.parse().ok()).expect("seconds");
    assert!((1..=5).contains(&refused), "{refused}");
}

#[tokio::test]
async fn a_batch_larger_than_the_burst_is_taken_by_who_sent_nothing_else_and_paid_for_later() {
    let rig = Rig::start().await;
    let many = batch(&rig, 100).await;
    assert_eq!((many.status, left(&many)), (200, 0));
    let next = publish(&rig, SLOW_KEY).await;
    next.is_problem(429, "rate_limited", "room in 9");
}
