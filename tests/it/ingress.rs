//! What comes over AMQP and has waited in its lane: what is left of its TTL.

use std::time::Duration;

use fanfare::clock::Clock;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::lanes::Backend;
use crate::support::cluster::TestCluster;
use crate::support::{DEADLINE, eventually};

/// A notification for alice, with this `ttl`.
fn body(number: u64, ttl: Option<u64>) -> Vec<u8> {
    json!({"to": {"users": ["alice"]}, "data": number, "ttl": ttl}).to_string().into_bytes()
}

/// Sent so long ago, as a publisher says it.
fn said(ago: Duration) -> BasicProperties {
    let seconds = Clock::system().now().0 / 1_000 - ago.as_secs();
    BasicProperties::default().with_timestamp(seconds)
}

/// Came so long ago, as RabbitMQ notes it.
fn noted(properties: BasicProperties, ago: Duration) -> BasicProperties {
    let millis = Clock::system().now().as_i64() - i64::try_from(ago.as_millis()).expect("not long");
    let mut headers = FieldTable::default();
    headers.insert("timestamp_in_ms".into(), AMQPValue::LongLongInt(millis));
    properties.with_headers(headers)
}

/// Seconds from one time in a notification to another.
fn seconds(notification: &Value, from: &str, to: &str) -> i64 {
    let [from, to] = [from, to].map(|name| {
        let text = notification[name].as_str().unwrap_or_else(|| panic!("{name} in {notification}"));
        OffsetDateTime::parse(text, &Rfc3339).expect("RFC 3339")
    });
    (to - from).whole_seconds()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ttl_counts_from_when_the_message_was_sent_as_far_as_that_is_known() {
    let cluster = TestCluster::start().await;
    let mut device = cluster.device_on(0, "alice", "phone", &[]);
    device.connected(DEADLINE, 1).await;
    let backend = Backend::of(&cluster).await;
    let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3_600));
    let in_an_hour = Clock::system().now().after(hour).0 / 1_000;
    let messages = [
        // Whose time is over; of the last one only as RabbitMQ notes it.
        (said(2 * minute), body(0, Some(60))),
        (said(2 * minute).with_expiration("60000".into()), body(0, None)),
        (noted(BasicProperties::default(), 2 * minute), body(0, Some(60))),
        (noted(said(Duration::ZERO), 2 * minute), body(0, Some(60))),
        (said(minute), body(0, Some(0))),
        // Whose time is not.
        (said(40 * minute), body(1, Some(3_600))),
        (said(40 * minute).with_expiration("3600000".into()), body(2, None)),
        (noted(said(2 * hour), 40 * minute), body(3, Some(3_600))),
        (BasicProperties::default().with_timestamp(in_an_hour), body(4, Some(1_200))),
        (BasicProperties::default(), body(5, Some(1_200))),
        (said(2 * hour), body(6, None)),
    ];
    backend.publish_with("normal", messages.into_iter()).await;
    device.received(DEADLINE, 6).await;
    let mut got: Vec<Value> =
        device.diary().notifications.iter().map(|frame| frame.notification.clone()).collect();
    got.sort_by_key(|notification| notification["data"].as_u64());
    let numbers: Vec<&Value> = got.iter().map(|notification| &notification["data"]).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
    assert_eq!(got[5]["expires_at"], Value::Null, "without a TTL nothing ends");
    for notification in &got[..5] {
        let left = seconds(notification, "created_at", "expires_at");
        assert!((1_190..=1_200).contains(&left), "20 minutes are left of {notification}; got {left} s");
    }
    let expired = "fanfare_publish_requests_total{source=\"amqp\",outcome=\"expired\"}";
    eventually(DEADLINE, "five had expired", async || {
        cluster.operator(0).metric(expired).await + cluster.operator(1).metric(expired).await == 5.0
    })
    .await;
}
