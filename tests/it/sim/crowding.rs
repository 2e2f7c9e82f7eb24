//! Who has room among a user's connections, one case after the other.

use std::time::Duration;

use fanfare::delivery::{Crowd, OverLimit};
use fanfare::domain::{ConnectionId, DeviceId, NodeId, UserId};
use fanfare::presence::{Member, Presence, Route};
use fanfare::wire::CloseCode;

use super::house::{Guest, House};
use super::model_presence::Mood;
use super::plan::Plan;

/// Longer than nodes ask each other.
const SETTLED: Duration = Duration::from_secs(5);
/// Longer than presence believes.
const FORGOTTEN: Duration = Duration::from_secs(20);

fn plan(limit: usize, over_limit: OverLimit) -> Plan {
    Plan { crowd: Crowd { limit, over_limit }, ..Plan::CALM }
}

fn alice() -> Guest {
    Guest::of("alice")
}

/// A connection of alice that a node had which is no more.
fn dead(number: u64, device: Option<&str>) -> Member {
    Member {
        user: UserId::new("alice").expect("an id"),
        node: NodeId::new("n9").expect("an id"),
        connection: format!("{number:016x}").parse::<ConnectionId>().expect("an id"),
        device: device.map(|device| DeviceId::new(device).expect("an id")),
    }
}

async fn die(house: &House, members: &[Member]) {
    let announced = house.shared.presence.announce(members, Duration::from_secs(14)).await;
    announced.expect("the embedded one does not fail");
}

#[tokio::test(start_paused = true)]
async fn whoever_says_hello_first_has_room_whichever_handshake_came_first() {
    let house = House::open(plan(2, OverLimit::RefuseNewest), 1).await;
    let began = house.nodes[0].clock.now();
    let mut taken = 0;
    for place in (0..6).rev() {
        let late = Guest { accepted_at: Some(began.after(Duration::from_millis(place))), ..alice() };
        let stay = house.comes(0, late).await;
        taken += usize::from(stay.is_in());
        assert!(stay.is_in() || stay.code() == Some(CloseCode::TooManyConnections));
    }
    assert_eq!(taken, 2);
}

#[tokio::test(start_paused = true)]
async fn of_many_that_say_hello_at_once_as_many_as_allowed_have_room() {
    for over_limit in [OverLimit::RefuseNewest, OverLimit::DisplaceOldest] {
        let house = House::open(plan(3, over_limit), 1).await;
        let stays = futures_util::future::join_all((0..40).map(|_| house.comes(0, alice()))).await;
        assert_eq!(stays.iter().filter(|stay| stay.is_in()).count(), 3, "{over_limit:?}");
        assert_eq!(house.nodes[0].delivery.connections(), 3);
        stays.iter().filter(|stay| stay.is_in()).take(1).for_each(super::house::Stay::leave);
        assert!(house.comes(0, alice()).await.is_in(), "there is room again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_displaced_itself_leaves_no_topic_behind() {
    let house = House::open(plan(1, OverLimit::DisplaceOldest), 1).await;
    let before = house.nodes[0].clock.now();
    let first = house.comes(0, alice()).await;
    let streams = || house.nodes[0].metrics.shared_streams.get();
    assert_eq!(streams(), 1, "everyone");
    let late = Guest { accepted_at: Some(before), topics: vec!["a", "b"], ..alice() };
    let late = house.comes(0, late).await;
    assert_eq!(late.code(), Some(CloseCode::TooManyConnections));
    assert!(first.is_in());
    assert_eq!((streams(), house.nodes[0].delivery.connections()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn nobody_is_ended_for_what_a_dead_node_held() {
    let house = House::open(plan(3, OverLimit::DisplaceOldest), 2).await;
    let phone = house.comes(1, alice().with("phone")).await;
    // Newer than the phone, and dead.
    let newer = u64::MAX - 9;
    die(&house, &[dead(newer, Some("tv")), dead(newer + 1, Some("laptop")), dead(newer + 2, None)]).await;
    let tv = house.comes(1, alice().with("tv")).await;
    let laptop = house.comes(0, alice().with("laptop")).await;
    tokio::time::sleep(SETTLED).await;
    assert!(phone.is_in() && tv.is_in() && laptop.is_in());
    // One more that lives is one too many.
    let fourth = house.comes(0, alice()).await;
    tokio::time::sleep(SETTLED).await;
    assert_eq!(phone.code(), Some(CloseCode::TooManyConnections), "the oldest, on the other node");
    assert!(tv.is_in() && laptop.is_in() && fourth.is_in());
}

#[tokio::test(start_paused = true)]
async fn who_is_refused_for_what_a_dead_node_held_may_come_again_and_is_taken_when_that_is_forgotten() {
    let house = House::open(plan(2, OverLimit::RefuseNewest), 1).await;
    // One device twice: it moved before its nodes died.
    die(&house, &[dead(1, Some("tv")), dead(2, Some("tv")), dead(3, None)]).await;
    let early = house.comes(0, alice()).await;
    assert_eq!(early.code(), Some(CloseCode::Unavailable));
    let again = house.comes(0, alice().with("tv")).await;
    assert!(again.is_in(), "it takes the place of its own connection");
    tokio::time::sleep(FORGOTTEN).await;
    assert!(house.comes(0, alice()).await.is_in());
    let third = house.comes(0, alice()).await;
    assert_eq!(third.code(), Some(CloseCode::TooManyConnections), "two live here");
}

#[tokio::test(start_paused = true)]
async fn without_presence_each_node_keeps_to_the_limit_by_itself() {
    for over_limit in [OverLimit::RefuseNewest, OverLimit::DisplaceOldest] {
        let house = House::open(plan(2, over_limit), 2).await;
        *house.shared.presence_mood.lock().expect("no panic under it") = Mood::Away;
        let mut stays = vec![];
        for place in 0..8 {
            stays.push(house.comes(place % 2, alice()).await);
        }
        for node in &house.nodes {
            assert_eq!(node.delivery.connections(), 2, "{over_limit:?} on {}", node.id);
        }
        assert_eq!(stays.iter().filter(|stay| stay.is_in()).count(), 4);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_gives_up_while_it_is_announced_leaves_nothing_in_presence() {
    let house = House::open(plan(1, OverLimit::RefuseNewest), 1).await;
    let only = house.comes(0, alice()).await;
    house
        .comes_with(0, alice(), |made| {
            let made = std::sync::Arc::clone(made);
            tokio::spawn(async move { made.on_closed() });
        })
        .await;
    tokio::time::sleep(SETTLED).await;
    let route = Route::User(UserId::new("alice").expect("an id"));
    let located = house.shared.presence.locate(&[route]).await.expect("it does not fail").remove(0);
    let known: Vec<_> = located.members.iter().map(|member| member.connection).collect();
    assert_eq!(known, [only.connection.as_ref().expect("it was made").id()]);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_comes_again_where_all_room_is_taken_has_the_room_that_it_had() {
    let house = House::open(plan(2, OverLimit::RefuseNewest), 2).await;
    let phone = house.comes(0, alice().with("phone")).await;
    let other = house.comes(0, alice()).await;
    let again = house.comes(0, alice().with("phone")).await;
    assert!(again.is_in() && other.is_in());
    assert_eq!(phone.code(), Some(CloseCode::Displaced));
    // Also when it moves to another node; and who is refused displaces nobody.
    let moved = house.comes(1, alice().with("phone")).await;
    tokio::time::sleep(SETTLED).await;
    assert!(moved.is_in() && other.is_in());
    assert_eq!(again.code(), Some(CloseCode::Displaced));
    assert_eq!(house.comes(1, alice().with("tv")).await.code(), Some(CloseCode::Unavailable));
}
