//! A node that is stopped while many are connected: who is left is served, newcomers are sent elsewhere.

use std::time::Duration;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Error;

use crate::support::client::{Frame, TestClient};
use crate::support::single::TestNode;
use crate::support::{DEADLINE, eventually, within};

/// Eighty a second go at least, so it takes five seconds.
const CLIENTS: usize = 400;

#[tokio::test]
async fn a_node_that_drains_serves_who_is_left_and_sends_newcomers_elsewhere() {
    let mut node = TestNode::start_with(&[("drain.window_ms", "15000"), ("drain.spread_ms", "2000")]).await;
    let url = node.process.ws_url();
    let mut clients = vec![];
    for number in 0..CLIENTS {
        let token = node.credentials.user_token(&format!("user-{number}"));
        let mut client = TestClient::connect(&url, &token, json!({})).await;
        client.expect_welcome().await;
        clients.push(client);
    }
    let operator = node.operator();
    assert_eq!(operator.get("/admin/drain").await.1, json!({"status": "serving", "connections": CLIENTS}));
    assert_eq!(operator.post("/admin/drain").await.0, 202);
    eventually(DEADLINE, "it is not ready", async || operator.get("/readyz").await.0 == 503).await;
    refuses(&url, &node.credentials.user_token("late")).await;
    let progress = operator.get("/admin/drain").await.1;
    assert_eq!(
        (&progress["status"], &progress["connections_at_start"]),
        (&json!("draining"), &json!(CLIENTS))
    );
    assert!(progress["connections"].as_u64().is_some_and(|left| left < CLIENTS as u64), "{progress}");
    assert_eq!(operator.metric("fanfare_delivery_draining").await, 1.0);
    let last = format!("user-{}", CLIENTS - 1);
    node.publisher().publish(&json!({"to": {"users": [last]}, "data": 1})).await;
    assert_eq!(clients.last_mut().expect("many").expect_notification().await.notification["data"], 1);

    for client in &mut clients {
        let after = within(DEADLINE, "bye", told_to_go(client)).await;
        assert!(after < 2_000, "{after}");
    }
    assert!(node.process.process().wait(Duration::from_secs(30)).await.success());
}

/// A newcomer is told to try again, elsewhere or later.
async fn refuses(url: &str, token: &str) {
    let Err(Error::Http(refusal)) = TestClient::dial(url, token).await else {
        panic!("an answer other than 101 was expected")
    };
    assert_eq!(refusal.status(), 503);
    let after = refusal.headers()["retry-after"].to_str().expect("ASCII").parse::<u32>().expect("seconds");
    assert!((1..=5).contains(&after), "{after}");
    let body: Value = serde_json::from_slice(refusal.body().as_deref().expect("a body")).expect("JSON");
    assert_eq!(body["code"], "draining");
}

/// Reads on until `bye`, which must say that the node drains; answers for how long to stay away.
async fn told_to_go(client: &mut TestClient) -> u64 {
    loop {
        match client.next_frame().await {
            Frame::Bye { code, reconnect_after_ms, .. } => {
                assert_eq!(code, 4000);
                return reconnect_after_ms.expect("a time to come back");
            }
            Frame::Closed { code, .. } => panic!("closed with {code} without a bye"),
            _ => {}
        }
    }
}
