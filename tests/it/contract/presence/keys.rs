//! The keys that other nodes and operators see, and the time in them.

use std::time::Duration;

use fanfare::clock::Clock;
use fanfare::metrics::presence::PresenceMetrics;
use fanfare::presence::redis::{RedisPresence, Settings};
use fanfare::presence::{Lease, Presence};

use super::own_redis::{TIMEOUT, TTL, alice, lease, open, to_alice};
use crate::support::redis_server::RedisServer;

#[tokio::test]
async fn the_clock_that_is_ahead_is_seen_and_decides_no_deadline() {
    let server = RedisServer::start(&[]).await;
    let settings = Settings { url: server.url(), timeout: TIMEOUT, pool_size: 2 };
    let ahead = Clock::new(|| Clock::system().now().after(Duration::from_secs(3_600)));
    let opened = RedisPresence::connect(settings, PresenceMetrics::default(), ahead).await;
    let wrong = opened.unwrap();
    let right = open(&server.url()).await.unwrap();
    let skew_ms = wrong.skew_ms().await.unwrap();
    assert!((skew_ms - 3_600_000).abs() < 2_000, "{skew_ms} ms");
    right.announce(&[alice("n1", 1)], TTL).await.unwrap();
    let answer = wrong.announce(&[alice("n2", 2)], TTL).await.unwrap();
    assert_eq!(answer, [vec![alice("n1", 1)]]);
    let located = right.locate(&to_alice()).await.unwrap();
    assert_eq!(located[0].members, [alice("n1", 1), alice("n2", 2)]);
}

#[tokio::test]
async fn the_keys_are_those_that_the_documentation_names() {
    let server = RedisServer::start(&[]).await;
    let presence = open(&server.url()).await.unwrap();
    let member = alice("n1", 1);
    presence.lease(&lease("b1"), TTL, true).await.unwrap();
    presence.announce(&[member.clone()], TTL).await.unwrap();
    let topics = ["news".parse().unwrap()];
    let announced = presence.announce_topics(&topics, &member.node, TTL);
    announced.await.unwrap();
    presence.put_ticket("secret", "alice", TTL).await.unwrap();
    let mut keys: Vec<String> = server.run(&["KEYS", "*"]).await;
    keys.sort();
    let documented =
        ["node-users:{n1}", "node:{n1}", "nodes", "presence:{alice}", "ticket:{secret}", "topic:{news}"];
    assert_eq!(keys, documented);
    for key in documented {
        let ttl_s: i64 = server.run(&["TTL", key]).await;
        assert!(ttl_s > 0, "{key} would stay for ever");
    }
    let members: Vec<String> = server.run(&["ZRANGE", "presence:{alice}", "0", "-1"]).await;
    assert_eq!(members, [format!("n1/{}/phone", member.connection)]);
}

#[tokio::test]
async fn a_node_knows_its_users_until_they_leave_and_leaves_them_to_its_survivors() {
    let server = RedisServer::start(&[]).await;
    let presence = open(&server.url()).await.unwrap();
    let (one, two) = (alice("n1", 1), alice("n1", 2));
    let users = async |key: &str| -> Vec<String> { server.run(&["SMEMBERS", key]).await };
    presence.lease(&lease("b1"), TTL, true).await.unwrap();
    presence.announce(&[one.clone(), two.clone()], TTL).await.unwrap();
    presence.withdraw(&[one]).await.unwrap();
    assert_eq!(users("node-users:{n1}").await, ["alice"], "one is left");
    presence.withdraw(&[two.clone()]).await.unwrap();
    assert_eq!(users("node-users:{n1}").await, [""; 0]);

    presence.refresh(&[two], &[], &"n1".parse().unwrap(), TTL).await.unwrap();
    assert_eq!(users("node-users:{n1}").await, ["alice"], "a refresh is whole");
    // The node dies, its lease runs out, and it starts anew under another boot.
    let () = server.run(&["DEL", "node:{n1}"]).await;
    presence.lease(&lease("b2"), TTL, true).await.unwrap();
    assert_eq!(users("node-users:{n1}").await, [""; 0]);
    assert_eq!(users("node-users-left:{n1}").await, ["alice"]);
    let node = "n1".parse().unwrap();
    let claimed = presence.claim_users(&node, 10).await.unwrap();
    assert_eq!(claimed, ["alice".parse().unwrap()], "also while its next life lives");
    assert_eq!(presence.claim_users(&node, 10).await.unwrap(), []);
}

#[tokio::test]
async fn what_others_wrote_into_its_keys_does_not_take_presence_down() {
    let server = RedisServer::start(&[]).await;
    let presence = open(&server.url()).await.unwrap();
    let far = "99999999999999";
    let () = server.run(&["ZADD", "presence:{alice}", far, "rubbish", far, "n1/x/y"]).await;
    let () = server.run(&["ZADD", "nodes", far, "no/id", far, "n9"]).await;
    let () = server.run(&["SET", "node:{n9}", "rubbish"]).await;
    let () = server.run(&["SET", "node:{n1}", "7"]).await;
    let answer = presence.announce(&[alice("n1", 1)], TTL).await.unwrap();
    assert_eq!(answer, [vec![]]);
    let located = presence.locate(&to_alice()).await.unwrap();
    assert_eq!(located[0].members, [alice("n1", 1)]);
    let kept = presence.lease(&lease("b1"), TTL, false).await.unwrap();
    assert_eq!(kept, Lease::Kept);
    assert_eq!(presence.nodes().await.unwrap(), [lease("b1")]);
}
