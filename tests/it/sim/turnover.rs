//! Connections that nodes send away in good order: when, how many at a time, and what they are told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fanfare::delivery::{Drain, Recycling};
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

/// When all are to be gone at the latest.
fn deadline() -> Instant {
    Instant::now() + 2 * MINUTE
}

fn over(seconds: u64) -> Drain {
    Drain { window: Duration::from_secs(seconds), spread: Duration::from_secs(seconds) }
}

#[tokio::test(start_paused = true)]
async fn fifteen_thousand_are_sent_away_evenly_and_come_back_evenly() {
    const ALL: usize = 15_000;
    let house = House::open(Plan::CALM, 1).await;
    let stays = many(&house, ALL).await;
    let delivery = Arc::clone(&house.nodes[0].delivery);
    assert_eq!(delivery.drain_progress(), None);
    let began = Instant::now();
    let drain = tokio::spawn(async move { delivery.drain(over(10), deadline(), || {}).await });
    sleep(Duration::from_secs(5)).await;
    let progress = house.nodes[0].delivery.drain_progress().expect("it is under way");
    assert_eq!(progress.connections, ALL);
    assert!(progress.left.abs_diff(ALL / 2) < ALL / 50, "{progress:?}");
    assert_eq!(house.nodes[0].metrics.draining.get(), 1);
    assert_eq!(house.nodes[0].metrics.connections.get(), progress.left as i64);
    let late = house.comes(0, Guest::of("late")).await;
    assert_eq!(late.code(), Some(CloseCode::Draining));
    let report = drain.await.expect("it ends");
    assert_eq!((report.connections, report.left, report.cursors_lost), (ALL, 0, 0));
    assert!(began.elapsed() < Duration::from_secs(11), "{:?}", began.elapsed());

    assert!(stays.iter().all(|stay| stay.code() == Some(CloseCode::Draining)));
    let sent = ends(&stays, began, Duration::from_millis(500));
    assert!(sent.values().all(|count| *count < ALL / 20 * 5 / 4), "{sent:?}");
    let mut back = BTreeMap::new();
    for stay in &stays {
        *back.entry((comes_back(stay) - began).as_secs()).or_insert(0) += 1;
    }
    // Twenty seconds, most of them in the middle.
    assert!(back.values().all(|count| *count < ALL / 10 * 11 / 10), "{back:?}");
    assert!(back.keys().last() >= Some(&17), "{back:?}");
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_early_when_all_have_gone_and_calls_first() {
    let house = House::open(Plan::CALM, 1).await;
    let stays = many(&house, 1_000).await;
    let delivery = Arc::clone(&house.nodes[0].delivery);
    let began = Instant::now();
    let emptied = Arc::new(Mutex::new(None));
    let noted = Arc::clone(&emptied);
    let drain = tokio::spawn(async move {
        let note = move || *noted.lock().expect("no panic under it") = Some(Instant::now());
        delivery.drain(over(60), deadline(), note).await
    });
    sleep(Duration::from_secs(2)).await;
    assert_eq!(*emptied.lock().expect("no panic under it"), None, "some are left");
    stays.iter().filter(|stay| stay.is_in()).for_each(Stay::leave);
    let report = drain.await.expect("it ends");
    assert_eq!((report.connections, report.left), (1_000, 0));
    let emptied = emptied.lock().expect("no panic under it").expect("it was called") - began;
    assert!(emptied < Duration::from_millis(2_200), "{emptied:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_with_a_few_connections_is_drained_at_once() {
    let house = House::open(Plan::CALM, 1).await;
    let stays = many(&house, 8).await;
    let began = Instant::now();
    let report = house.nodes[0].delivery.drain(over(10), deadline(), || {}).await;
    assert_eq!((report.connections, report.left), (8, 0));
    assert!(stays.iter().all(|stay| stay.line.ended_at() == Some(began)));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_waits_for_its_turn_in_a_drain_is_served() {
    let house = House::open(Plan::CALM, 1).await;
    let stays = many(&house, 100).await;
    let delivery = Arc::clone(&house.nodes[0].delivery);
    let drain = tokio::spawn(async move { delivery.drain(over(60), deadline(), || {}).await });
    sleep(Duration::from_millis(500)).await;
    let id = |stay: &&Stay| stay.connection.as_ref().map(|made| made.id());
    let last = stays.iter().max_by_key(id).expect("many");
    assert!(last.is_in(), "the oldest go first");
    last.says(r#"{"type":"subscribe","id":1,"topic":"t1"}"#);
    sleep(Duration::from_millis(300)).await;
    assert!(last.is_in(), "not its turn yet");
    assert!(last.texts().iter().any(|frame| frame["type"] == "subscribed"));
    drain.await.expect("it ends");
    assert_eq!(last.code(), Some(CloseCode::Draining));
}

#[tokio::test(start_paused = true)]
async fn a_device_that_stays_connected_is_noted_as_used_after_a_day_with_what_it_follows() {
    let house = House::open(Plan::CALM, 1).await;
    let guest = |user| Guest { topics: vec!["news"], ..Guest::of(user).with("phone") };
    let [stays, leaves] = [house.comes(0, guest("alice")).await, house.comes(0, guest("bob")).await];
    stays.says(r#"{"type": "subscribe", "id": 1, "topic": "sports"}"#);
    stays.says(r#"{"type": "unsubscribe", "id": 2, "topic": "news"}"#);
    let began = house.nodes[0].clock.now();
    let day = 24 * 60 * MINUTE;
    sleep(day / 2).await;
    leaves.leave();
    sleep(day / 2 + 2 * MINUTE).await;
    let used = house.shared.store.lock().used.clone();
    let mut names: Vec<&str> = used.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["alice/phone", "alice/phone/topic:sports"]);
    for (name, at) in &used {
        let late = at.since(began).as_millis() % day.as_millis();
        assert!(late <= 2 * MINUTE.as_millis(), "{name} was noted {late} ms late");
    }
}
