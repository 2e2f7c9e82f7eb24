//! Connections that nodes send away in good order: when, how many at a time, and what they are told.

use std::collections::BTreeMap;
use std::time::Duration;

use fanfare::delivery::Recycling;
use fanfare::wire::CloseCode;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, sleep_until};

use super::house::{Guest, House, Stay};
use super::plan::Plan;

const MINUTE: Duration = Duration::from_secs(60);

/// Each of another user.
async fn many(house: &House, count: usize) -> Vec<Stay> {
    let began = house.nodes[0].clock.now();
    // Ten in a millisecond: more, and two of so many would have one id.
    let guest = |number: usize| Guest {
        accepted_at: Some(began.after(Duration::from_millis(number as u64 / 10))),
        ..Guest::of(format!("u{number}"))
    };
    join_all((0..count).map(|number| house.comes(0, guest(number)))).await
}

/// How many ended in each of these spans of time since `began`.
fn ends(stays: &[Stay], began: Instant, span: Duration) -> BTreeMap<u128, usize> {
    let mut ends = BTreeMap::new();
    for at in stays.iter().filter_map(|stay| stay.line.ended_at()) {
        *ends.entry((at - began).as_millis() / span.as_millis()).or_default() += 1;
    }
    ends
}

/// When the client comes back if it keeps to what it was told.
fn comes_back(stay: &Stay) -> Instant {
    let bye = stay.bye().expect("it was told");
    let after = bye["reconnect_after_ms"].as_u64().expect("and for how long to stay away");
    stay.line.ended_at().expect("it has ended") + Duration::from_millis(after)
}

#[tokio::test(start_paused = true)]
async fn old_connections_are_sent_away_a_few_a_second_and_young_ones_are_not() {
    let recycling = Some(Recycling { age: MINUTE, per_second: 5 });
    let house = House::open(Plan { recycling, ..Plan::CALM }, 1).await;
    let began = Instant::now();
    let old = many(&house, 200).await;
    sleep_until(began + MINUTE / 2).await;
    let young = many(&house, 3).await;
    sleep_until(began + MINUTE).await;
    assert!(old.iter().all(Stay::is_in), "none is old enough");
    sleep_until(began + MINUTE + Duration::from_secs(20)).await;
    let gone = old.iter().filter(|stay| !stay.is_in()).count();
    assert!((85..=100).contains(&gone), "{gone}");
    assert_eq!(house.nodes[0].metrics.overdue_connections.get(), 200 - gone as i64, "all are due");
    sleep_until(began + MINUTE + Duration::from_secs(29)).await;
    assert!(young.iter().all(Stay::is_in));
    sleep_until(began + MINUTE * 2).await;
    assert!(old.iter().chain(&young).all(|stay| stay.code() == Some(CloseCode::Recycled)));
    assert_eq!(house.nodes[0].metrics.overdue_connections.get(), 0);
    let in_a_second = ends(&old, began, Duration::from_secs(1));
    assert!(in_a_second.values().all(|count| *count <= 5), "{in_a_second:?}");
    let stays_away = |stay: &Stay| comes_back(stay) - stay.line.ended_at().expect("it has ended");
    let away: Vec<Duration> = old.iter().map(stays_away).collect();
    assert!(away.iter().all(|away| *away < Duration::from_secs(2)));
    assert!(away.iter().max() > away.iter().min(), "not as one");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_old_and_not_caught_up_stays_until_it_is() {
    let recycling = Some(Recycling { age: MINUTE, per_second: 5 });
    let house = House::open(Plan { recycling, ..Plan::CALM }, 1).await;
    let (reading, live) = (house.comes(0, Guest::of("a")).await, house.comes(0, Guest::of("b")).await);
    house.shared.store.hang.set(true);
    // Each fails after some seconds, and so it waits for minutes.
    for id in 0..60 {
        reading.says(&format!(r#"{{"type":"subscribe","id":{id},"topic":"t1"}}"#));
    }
    sleep(2 * MINUTE).await;
    assert_eq!(live.code(), Some(CloseCode::Recycled));
    assert!(reading.is_in(), "what it asked for is not read yet");
    assert_eq!(house.nodes[0].metrics.overdue_connections.get(), 1);
    house.shared.store.hang.set(false);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(reading.code(), Some(CloseCode::Recycled));
}

#[tokio::test(start_paused = true)]
async fn where_it_is_not_set_no_connection_is_too_old() {
    let house = House::open(Plan::CALM, 1).await;
    let stay = house.comes(0, Guest::of("a")).await;
    sleep(10 * MINUTE).await;
    assert!(stay.is_in());
}
