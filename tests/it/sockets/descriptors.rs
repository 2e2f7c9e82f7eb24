//! A node that has used up its file descriptors.

use std::time::{Duration, Instant};

use super::client::{Client, frame, handshake_to};
use super::{PING, PONG};
use crate::support::single::TestNode;
use crate::support::{DEADLINE, eventually};

/// A WebSocket of somebody who has yet to say `hello`.
async fn connect(node: &TestNode) -> Client {
    let mut client = Client::open(([127, 0, 0, 1], node.process.settings.http_port).into()).await;
    client.upgrade(&handshake_to("/v1/connect", "Sec-WebSocket-Protocol: fanfare.v1\r\n")).await;
    client
}

#[tokio::test]
async fn a_node_without_descriptors_serves_who_is_there_and_takes_others_later_without_spinning() {
    const REFUSED: &str = "connections cannot be accepted";
    let patient = [("http.header_timeout_ms", "60000"), ("gateway.hello_timeout_ms", "60000")];
    let mut node = TestNode::start_with(&patient).await;
    let operator = node.operator();
    let mut neighbour = connect(&node).await;
    let mut vandal = connect(&node).await;
    let start = Instant::now();
    node.process.process().limit_descriptors(2);
    let mut crowd = vec![];
    for _ in 0..50 {
        crowd.push(Client::open(([127, 0, 0, 1], node.process.settings.http_port).into()).await);
    }
    eventually(DEADLINE, "it says so", async || node.process.process().log().contains(REFUSED)).await;

    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    for round in 0..10 {
        ticks.tick().await;
        neighbour.send(&frame(PING, &[round])).await;
        assert_eq!(neighbour.frame().await, (PONG, vec![round]));
    }
    // More than is read at once is behind the mistake, and the end is an orderly one all the same.
    vandal.send(&[frame(0x83, b"x"), frame(PING, b"late").repeat(4_000)].concat()).await;
    let (_, bye) = vandal.frame().await;
    assert!(bye.starts_with(br#"{"type":"bye","code":1002"#), "{}", bye.escape_ascii());
    assert_eq!(vandal.close_code().await, 1002);
    vandal.ends().await;

    drop((crowd, vandal));
    node.process.process().limit_descriptors(100);
    let mut newcomer = connect(&node).await;
    newcomer.send(&frame(PING, b"new")).await;
    assert_eq!(newcomer.frame().await, (PONG, b"new".to_vec()));
    let tries = operator.metric("fanfare_gateway_accept_errors_total").await;
    // At most one in 50 ms, on each of two listeners.
    let most = 2.0 * (start.elapsed().as_secs_f64() / 0.05 + 1.0);
    assert!((1.0..=most).contains(&tries), "{tries} tries, at most {most}");
    let said = node.process.process().log().matches(REFUSED).count();
    assert!(said < 5, "said {said} times");
}
