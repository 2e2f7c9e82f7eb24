//! Connections and topic readers: announced, refreshed, withdrawn, located, dead.

use std::sync::atomic::Ordering;

use fanfare::domain::UserId;
use fanfare::presence::{Lease, Located, Member, Presence, Route};

use super::subject::{LONG, SHORT, Subject, World, member, node_lease, route, topic};

on_both!(
    what_was_announced_is_located,
    an_announce_answers_with_the_others_of_the_user,
    members_of_one_announce_see_each_other,
    a_connection_is_gone_when_its_ttl_has_passed,
    the_dead_are_not_answered_to_an_announce,
    a_refresh_keeps_alive_what_would_die,
    a_refresh_brings_back_what_was_forgotten,
    withdraw_removes_exactly_that_connection,
    a_late_goodbye_does_not_remove_the_successor,
    readers_of_a_topic_are_located_by_node,
    a_reader_that_stops_refreshing_is_gone,
    many_routes_are_answered_in_their_order,
    one_user_may_have_more_connections_than_a_batch,
    nothing_in_is_nothing_out,
    ids_may_have_every_allowed_character,
);

async fn what_was_announced_is_located(subject: Subject) {
    let phone = member("alice", "n1", 1, "phone");
    let web = member("alice", "n2", 2, "");
    let bob = member("bob", "n2", 3, "phone");
    subject.announce(&[phone.clone(), bob.clone(), web.clone()], LONG).await;
    let located = subject.locate(&[route("alice"), route("bob")]).await;
    assert_eq!(located[0].members, [phone.clone(), web.clone()]);
    assert_eq!(located[0].nodes, [phone.node, web.node.clone()]);
    assert_eq!(located[1].members, [bob]);
    assert_eq!(located[1].nodes, [web.node]);
    assert_eq!(subject.locate(&[route("carol")]).await, [Located::default()]);
}

async fn an_announce_answers_with_the_others_of_the_user(subject: Subject) {
    let phone = member("alice", "n1", 1, "phone");
    let web = member("alice", "n2", 2, "web");
    let bob = member("bob", "n1", 3, "phone");
    let nobody: [Vec<Member>; 1] = [vec![]];
    assert_eq!(subject.announce(&[phone.clone()], LONG).await, nobody);
    let answer = subject.announce(&[bob, web.clone()], LONG).await;
    assert_eq!(answer, [vec![], vec![phone.clone()]]);
    let again = subject.announce(&[phone], LONG).await;
    assert_eq!(again, [vec![web]], "an announce is also a refresh");
}

async fn members_of_one_announce_see_each_other(subject: Subject) {
    let older = member("alice", "n1", 1, "phone");
    let newer = member("alice", "n1", 2, "phone");
    let answer = subject.announce(&[older.clone(), newer.clone()], LONG).await;
    assert_eq!(answer, [vec![newer], vec![older]]);
}

async fn a_connection_is_gone_when_its_ttl_has_passed(subject: Subject) {
    let short = member("alice", "n1", 1, "phone");
    let long = member("alice", "n1", 2, "web");
    subject.announce(&[long.clone()], LONG).await;
    subject.announce(&[short.clone()], SHORT).await;
    assert_eq!(subject.of_user("alice").await, [short, long.clone()]);
    let only_long = async || subject.of_user("alice").await == [long.clone()];
    subject.after(SHORT, "one is left", only_long).await;
}

async fn the_dead_are_not_answered_to_an_announce(subject: Subject) {
    subject.announce(&[member("alice", "n1", 1, "phone")], SHORT).await;
    let web = member("alice", "n2", 2, "web");
    let alone = async || subject.announce(&[web.clone()], LONG).await[0].is_empty();
    subject.after(SHORT, "no other is alive", alone).await;
}

async fn a_refresh_keeps_alive_what_would_die(subject: Subject) {
    let kept = member("alice", "n1", 1, "phone");
    let left = member("bob", "n1", 2, "phone");
    subject.announce(&[kept.clone(), left.clone()], SHORT).await;
    let refreshed = [kept.clone()];
    let refresh = subject.presence.refresh(&refreshed, &[], &kept.node, LONG);
    refresh.await.unwrap();
    let bob_gone = async || subject.of_user("bob").await.is_empty();
    subject.after(SHORT, "bob is gone", bob_gone).await;
    assert_eq!(subject.of_user("alice").await, [kept]);
}

async fn a_refresh_brings_back_what_was_forgotten(subject: Subject) {
    let phone = member("alice", "n1", 1, "phone");
    let members = [phone.clone()];
    let topics = [topic("news")];
    subject.announce(&members, LONG).await;
    subject.forget().await;
    assert_eq!(subject.of_user("alice").await, []);
    let refresh = subject.presence.refresh(&members, &topics, &phone.node, LONG);
    refresh.await.unwrap();
    assert_eq!(subject.of_user("alice").await, members);
    assert_eq!(subject.readers("news").await, ["n1"]);
}

async fn withdraw_removes_exactly_that_connection(subject: Subject) {
    let phone = member("alice", "n1", 1, "phone");
    let web = member("alice", "n1", 2, "web");
    let bob = member("bob", "n1", 3, "");
    subject.announce(&[phone.clone(), web.clone(), bob.clone()], LONG).await;
    for _ in 0..2 {
        let gone = [phone.clone()];
        subject.presence.withdraw(&gone).await.unwrap();
        assert_eq!(subject.of_user("alice").await, [web.clone()]);
        assert_eq!(subject.of_user("bob").await, [bob.clone()]);
    }
}

async fn a_late_goodbye_does_not_remove_the_successor(subject: Subject) {
    let older = member("alice", "n1", 1, "phone");
    let newer = member("alice", "n1", 2, "phone");
    subject.announce(&[older.clone()], LONG).await;
    subject.announce(&[newer.clone()], LONG).await;
    subject.presence.withdraw(&[older]).await.unwrap();
    assert_eq!(subject.of_user("alice").await, [newer]);
}

async fn readers_of_a_topic_are_located_by_node(subject: Subject) {
    for node in ["n2", "n1", "n2"] {
        let topics = [topic("news.sport"), topic("weather")];
        let node = node.parse().unwrap();
        let announced = subject.presence.announce_topics(&topics, &node, LONG);
        announced.await.unwrap();
    }
    assert_eq!(subject.readers("news.sport").await, ["n1", "n2"]);
    assert_eq!(subject.readers("weather").await, ["n1", "n2"]);
    assert_eq!(subject.readers("news").await, [""; 0]);
    // A user of the same name is somebody else.
    assert_eq!(subject.of_user("weather").await, []);
}

async fn a_reader_that_stops_refreshing_is_gone(subject: Subject) {
    let (one, two) = ("n1".parse().unwrap(), "n2".parse().unwrap());
    let topics = [topic("news")];
    let presence = &subject.presence;
    for node in [&one, &two] {
        presence.announce_topics(&topics, node, SHORT).await.unwrap();
    }
    presence.refresh(&[], &topics, &one, LONG).await.unwrap();
    let one_left = async || subject.readers("news").await == ["n1"];
    subject.after(SHORT, "n2 is gone", one_left).await;
}

async fn many_routes_are_answered_in_their_order(subject: Subject) {
    let users: Vec<Member> =
        (0..1_201).map(|number| member(&format!("u{number}"), "n1", number, "d")).collect();
    let answers = subject.announce(&users, LONG).await;
    assert_eq!(answers, vec![Vec::<Member>::new(); users.len()]);
    let routes: Vec<Route> = users
        .iter()
        .rev()
        .flat_map(|member| [Route::User(member.user.clone()), Route::Topic(topic("t"))])
        .collect();
    let located = subject.locate(&routes).await;
    assert_eq!(located.len(), routes.len());
    for (pair, expected) in located.chunks(2).zip(users.iter().rev()) {
        assert_eq!(pair[0].members, [expected.clone()]);
        assert_eq!(pair[1], Located::default());
    }
    subject.presence.withdraw(&users).await.unwrap();
    let located = subject.locate(&routes).await;
    assert!(located.iter().all(|one| *one == Located::default()));
}

async fn one_user_may_have_more_connections_than_a_batch(subject: Subject) {
    let many: Vec<Member> = (0..700).map(|number| member("alice", "n1", number, "")).collect();
    let answers = subject.announce(&many, LONG).await;
    assert!(answers.iter().all(|others| others.len() == 699));
    assert_eq!(subject.of_user("alice").await, many);
}

async fn nothing_in_is_nothing_out(subject: Subject) {
    let node = "n1".parse().unwrap();
    let presence = &subject.presence;
    assert!(subject.announce(&[], LONG).await.is_empty());
    assert!(subject.locate(&[]).await.is_empty());
    presence.withdraw(&[]).await.unwrap();
    presence.refresh(&[], &[], &node, LONG).await.unwrap();
    presence.announce_topics(&[], &node, LONG).await.unwrap();
    assert_eq!(presence.nodes().await.unwrap(), []);
    presence.release(&node, "b1").await.unwrap();
    assert_eq!(presence.take_ticket("none").await.unwrap(), None);
}

async fn ids_may_have_every_allowed_character(subject: Subject) {
    let odd = "a|b~c:d@e.f_g-h";
    let known = member(odd, odd, 1, odd);
    let other = member("a|b~c:d@e.f_g", odd, 2, "");
    let members = [known.clone(), other.clone()];
    subject.announce(&members, LONG).await;
    let topics = [topic(odd)];
    let announced = subject.presence.announce_topics(&topics, &known.node, LONG);
    announced.await.unwrap();
    assert_eq!(subject.of_user(odd).await, [known.clone()]);
    assert_eq!(subject.readers(odd).await, [odd]);
    let lease = node_lease(odd, odd);
    let taken = subject.presence.lease(&lease, LONG, true).await.unwrap();
    assert_eq!(taken, Lease::Kept);
    assert_eq!(subject.presence.nodes().await.unwrap(), [lease]);
    subject.presence.withdraw(&[known]).await.unwrap();
    assert_eq!(subject.of_user(odd).await, []);
    assert_eq!(subject.of_user(other.user.as_str()).await, [other]);
}

#[tokio::test]
async fn the_twin_honours_a_ttl_to_the_millisecond() {
    let subject = Subject::embedded().await;
    let World::Embedded { twin, now } = &subject.world else {
        unreachable!("it is embedded");
    };
    let user: UserId = "alice".parse().unwrap();
    subject.announce(&[member(user.as_str(), "n1", 1, "")], LONG).await;
    now.fetch_add(599_999, Ordering::Relaxed);
    assert_eq!(subject.of_user("alice").await.len(), 1);
    now.fetch_add(1, Ordering::Relaxed);
    assert_eq!(subject.of_user("alice").await, []);
    let other_node = twin.clone();
    let located = other_node.locate(&[Route::User(user)]).await.unwrap();
    assert_eq!(located, [Located::default()], "clones share one store");
}
