//! Who ends while it begins to follow a topic, one case after the other.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::house::{Guest, House};
use super::plan::Plan;

/// Longer than a call to the store may take.
const SETTLED: Duration = Duration::from_secs(10);

fn alice() -> Guest {
    Guest::of("alice")
}

/// How many shared streams the node keeps: everyone is one.
fn streams(house: &House) -> i64 {
    house.nodes[0].metrics.shared_streams.get()
}

#[tokio::test(start_paused = true)]
async fn one_that_was_displaced_as_it_came_keeps_no_topic_when_the_last_who_follows_it_leaves() {
    let house = House::open(Plan::CALM, 1).await;
    let before = house.nodes[0].clock.now();
    let newer = house.comes(0, alice().with("phone")).await;
    let follower = house.comes(0, Guest { topics: vec!["a"], ..Guest::of("bob") }).await;
    assert_eq!(streams(&house), 2);
    let late = Guest { accepted_at: Some(before), topics: vec!["a"], ..alice().with("phone") };
    // It is entered in the moment after this, and waits for presence and the inbox then.
    let leaving = |_: &_| {
        drop(tokio::spawn({
            let line = std::sync::Arc::clone(&follower.line);
            let connection = follower.connection.clone().expect("it was made");
            async move {
                line.end();
                connection.on_closed();
            }
        }))
    };
    let late = house.comes_with(0, late, leaving).await;
    assert!(newer.is_in() && !late.is_in());
    assert_eq!(streams(&house), 1, "nobody follows it");
}

#[tokio::test(start_paused = true)]
async fn one_that_left_while_it_subscribed_to_what_it_follows_is_not_kept() {
    let house = House::open(Plan::CALM, 1).await;
    let guest = house.comes(0, Guest { topics: vec!["a"], ..alice().with("phone") }).await;
    house.shared.store.hang.set(true);
    guest.says(r#"{"type": "subscribe", "topic": "b"}"#);
    guest.says(r#"{"type": "subscribe", "topic": "a"}"#);
    tokio::time::sleep(Duration::from_millis(100)).await;
    guest.leave();
    house.shared.store.away.store(true, Ordering::Relaxed);
    house.shared.store.hang.set(false);
    tokio::time::sleep(SETTLED).await;
    house.shared.store.away.store(false, Ordering::Relaxed);
    let follower = house.comes(0, Guest { topics: vec!["a", "b"], ..Guest::of("bob") }).await;
    assert!(follower.is_in());
    assert_eq!(streams(&house), 3);
    follower.leave();
    assert_eq!(streams(&house), 1, "nobody follows them");
}
