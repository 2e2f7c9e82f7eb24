//! The hub against a naive list.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::domain::UnixMillis;

#[derive(Debug)]
struct Line(ConnectionId, UserId, Option<DeviceId>);

impl Member for Line {
    fn id(&self) -> ConnectionId {
        self.0
    }
    fn user(&self) -> &UserId {
        &self.1
    }
    fn device(&self) -> Option<&DeviceId> {
        self.2.as_ref()
    }
}

fn line(number: u64, user: &str, device: Option<&str>) -> Arc<Line> {
    let device = device.map(|device| DeviceId::new(device).expect("valid"));
    Arc::new(Line(ConnectionId::new(UnixMillis(number), 0), UserId::new(user).expect("valid"), device))
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name).expect("valid")
}

fn stream(name: &str) -> Arc<Stream> {
    Arc::new(Stream::Topic(topic(name)))
}

#[test]
fn a_newcomer_is_told_of_the_other_connections_of_its_device() {
    let hub = Hub::default();
    let first = line(1, "alice", Some("web"));
    assert!(hub.insert(Arc::clone(&first)).is_empty());
    assert!(hub.insert(line(2, "alice", Some("phone"))).is_empty());
    assert!(hub.insert(line(3, "alice", None)).is_empty());
    assert!(hub.insert(line(4, "alice", None)).is_empty());
    let displaced = hub.insert(line(5, "alice", Some("web")));
    assert_eq!(displaced.iter().map(|line| line.id()).collect::<Vec<_>>(), [first.id()]);
}

#[test]
fn a_late_goodbye_does_not_remove_the_newer_connection() {
    let hub = Hub::default();
    let (older, newer) = (line(1, "alice", Some("web")), line(2, "alice", Some("web")));
    hub.insert(Arc::clone(&older));
    hub.insert(Arc::clone(&newer));
    assert!(hub.remove(&older, &[]));
    assert!(!hub.remove(&older, &[]));
    assert_eq!(hub.of_user(newer.user()).len(), 1);
    assert!(hub.get(newer.id()).is_some());
}

#[test]
fn the_first_and_the_last_follower_of_a_topic_are_known() {
    let hub = Hub::default();
    let (one, two) = (line(1, "a", None), line(2, "b", None));
    assert!(hub.follow(&one, &stream("news")));
    assert!(!hub.follow(&two, &stream("news")));
    assert!(!hub.unfollow(&one, &topic("news")));
    assert!(!hub.unfollow(&one, &topic("news")), "a second time ends nothing");
    assert!(hub.unfollow(&two, &topic("news")));
    assert!(!hub.has_topic(&topic("news")));
}

#[test]
fn those_who_follow_a_topic_share_its_name() {
    let hub = Hub::default();
    let news = hub.name(&stream("news"));
    hub.follow(&line(1, "a", None), &news);
    assert!(Arc::ptr_eq(&news, &hub.name(&stream("news"))));
    assert!(!Arc::ptr_eq(&news, &hub.name(&stream("sports"))));
    assert!(Arc::ptr_eq(&hub.name(&Stream::Everyone), &hub.name(&Stream::Everyone)));
}

#[test]
fn on_random_runs_it_agrees_with_a_naive_list() {
    for seed in 0..200 {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let hub = Hub::default();
        let mut model: Vec<(Arc<Line>, Vec<TopicName>)> = Vec::new();
        for number in 0..200 {
            match random.random_range(0..4) {
                0 | 1 => {
                    let line = line(number, ["a", "b", "c"][random.random_range(0..3)], None);
                    hub.insert(Arc::clone(&line));
                    model.push((line, Vec::new()));
                }
                2 if !model.is_empty() => {
                    let at = random.random_range(0..model.len());
                    let word = ["x", "y"][random.random_range(0..2)];
                    let name = topic(word);
                    let first = !model.iter().any(|(_, topics)| topics.contains(&name));
                    assert_eq!(hub.follow(&model[at].0, &stream(word)), first, "seed {seed}");
                    if !model[at].1.contains(&name) {
                        model[at].1.push(name);
                    }
                }
                3 if !model.is_empty() => {
                    let (line, topics) = model.swap_remove(random.random_range(0..model.len()));
                    assert!(hub.remove(&line, &topics), "seed {seed}");
                }
                _ => {}
            }
            let even: Vec<_> =
                model.iter().map(|(line, _)| line.id()).filter(|id| id.as_u64() % 2 == 0).collect();
            let mut found: Vec<_> =
                hub.all_where(|line| line.id().as_u64() % 2 == 0).iter().map(|line| line.id()).collect();
            found.sort();
            assert_eq!(found.len(), even.len(), "seed {seed}");
            assert!(found.iter().all(|id| even.contains(id)), "seed {seed}");
            for stream in ["user:a", "user:b", "topic:x", "topic:y", "everyone"] {
                agree(&hub, &model, &Stream::parse(stream).expect("valid"), seed);
            }
        }
    }
}

fn agree(hub: &Hub<Line>, model: &[(Arc<Line>, Vec<TopicName>)], stream: &Stream, seed: u64) {
    let reads = |(line, topics): &&(Arc<Line>, Vec<TopicName>)| match stream {
        Stream::User(user) => line.user() == user,
        Stream::Topic(topic) => topics.contains(topic),
        Stream::Everyone => true,
    };
    let mut expected: Vec<ConnectionId> = model.iter().filter(reads).map(|(line, _)| line.id()).collect();
    let mut found: Vec<ConnectionId> = hub.readers(stream).iter().map(|line| line.id()).collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected, "seed {seed}");
}

#[test]
fn a_list_by_age_agrees_with_a_sorted_set_whoever_comes_and_goes() {
    for seed in 0..5 {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let (mut list, mut model) = (ByAge::default(), BTreeSet::new());
        // Most come in order, and some overtake.
        for number in 0..3_000 {
            let line = line(number + random.random_range(0..5) * 400, "a", None);
            model.insert(line.id());
            list.insert(line);
        }
        for goes in [true, false].into_iter().cycle().take(4_000) {
            let id = match random.random_range(0..2) {
                0 => line(random.random_range(0..5_000), "a", None).id(),
                _ => *model.iter().nth(random.random_range(0..model.len())).expect("some are left"),
            };
            assert_eq!(list.get(id).map(|line| line.id()), model.get(&id).copied(), "seed {seed}");
            if goes {
                assert_eq!(list.remove(id), model.remove(&id), "seed {seed}");
            }
            assert_eq!(list.len(), model.len(), "seed {seed}");
        }
        assert!(list.iter().map(|line| line.id()).eq(model.iter().copied()), "seed {seed}");
        model.iter().for_each(|id| assert!(list.remove(*id), "seed {seed}"));
        assert!(list.is_empty() && list.iter().next().is_none(), "seed {seed}");
    }
}

#[test]
fn a_topic_with_many_followers_takes_little_more_than_a_pointer_for_each() {
    let mut list = ByAge::default();
    (0..10_000).for_each(|number| list.insert(line(number, "a", None)));
    assert!(list.bytes() <= 10_000 * 9, "{} bytes", list.bytes());
    (0..9_000).for_each(|number| assert!(list.remove(line(number, "a", None).id())));
    assert!(list.bytes() <= 1_000 * 9, "{} bytes", list.bytes());
}
