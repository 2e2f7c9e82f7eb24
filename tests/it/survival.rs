//! One embedded node that is killed without a word: what it answered 202 is on its disk.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::DEADLINE;
use crate::support::single::TestNode;

const ALL: u64 = 300;

#[tokio::test]
async fn what_a_killed_node_had_accepted_is_delivered_once_and_in_order_by_its_next_life() {
    let mut node = TestNode::start().await;
    let mut away = node.device("alice", "desk", &[]);
    away.connected(DEADLINE, 1).await;
    drop(away);
    let mut device = node.device("alice", "phone", &[]);
    device.connected(DEADLINE, 1).await;

    let publisher = node.publisher();
    let publishing = tokio::spawn(async move {
        for number in 0..ALL {
            let body = json!({"to": {"users": ["alice"]}, "data": number});
            publisher.publish_surely(&body, &number.to_string(), Duration::from_secs(60)).await;
        }
    });
    device.received(DEADLINE, 100).await;
    node.process.process().kill();
    node.process.restart().await;
    publishing.await.expect("everything is accepted in the end");
    // Straight after the last answer, too.
    node.process.process().kill();
    node.process.restart().await;

    let all: Vec<Value> = (0..ALL).map(Value::from).collect();
    let mut away = node.device("alice", "desk", &[]);
    for device in [&mut device, &mut away] {
        device.received(Duration::from_secs(30), all.len()).await;
        assert_eq!(device.data("user"), all);
        assert_eq!(device.diary().gaps, []);
    }
}
