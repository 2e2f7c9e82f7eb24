//! What presence does when Redis is down, slow, full, read-only or replaced. Each test breaks a server of its own.

use fanfare::metrics::presence::{Operation, PresenceMetrics};
use fanfare::presence::redis::RedisPresence;
use fanfare::presence::{Lease, Presence, PresenceError};
use tokio::time::Instant;

use super::own_redis::{BRIEF, GRACE, TIMEOUT, TTL, alice, lease, open, open_within, refusal, to_alice};
use crate::support::redis_server::{RedisServer, free_port};
use crate::support::{DEADLINE, eventually};

/// Announces once and gives the error, which must come within the deadline.
async fn failing_announce(presence: &RedisPresence) -> PresenceError {
    let began = Instant::now();
    let answer = presence.announce(&[alice("n1", 1)], TTL).await;
    assert!(began.elapsed() < TIMEOUT + GRACE, "{:?}", began.elapsed());
    answer.expect_err("redis cannot take it")
}

async fn announces_again(presence: &RedisPresence) {
    eventually(DEADLINE, "presence is back by itself", async || {
        presence.announce(&[alice("n1", 1)], TTL).await.is_ok()
    })
    .await;
    let located = presence.locate(&to_alice()).await.unwrap();
    assert_eq!(located[0].members, [alice("n1", 1)]);
}

#[tokio::test]
async fn when_redis_comes_back_presence_does_too() {
    let mut server = RedisServer::start(&[]).await;
    let presence = open(&server.url()).await.unwrap();
    presence.announce(&[alice("n1", 1)], TTL).await.unwrap();
    let kept = presence.lease(&lease("b1"), TTL, true).await.unwrap();
    assert_eq!(kept, Lease::Kept);
    server.kill();
    for _ in 0..4 {
        let error = failing_announce(&presence).await;
        assert!(matches!(error, PresenceError::Unavailable(_)), "{error:?}");
    }
    server.start_again().await;
    announces_again(&presence).await;
    // What it held is lost, and the lease says so.
    let renewed = presence.lease(&lease("b1"), TTL, false).await.unwrap();
    assert_eq!(renewed, Lease::Renewed);
}

#[tokio::test]
async fn a_redis_that_hangs_is_a_timeout_and_is_used_again_when_it_answers() {
    let server = RedisServer::start(&[]).await;
    let metrics = PresenceMetrics::default();
    let presence = open_within(BRIEF, &server.url(), metrics.clone()).await.unwrap();
    presence.lease(&lease("b1"), TTL, true).await.unwrap();
    let () = server.run(&["CLIENT", "PAUSE", "5000", "ALL"]).await;
    let error = failing_announce(&presence).await;
    assert!(matches!(error, PresenceError::Timeout(BRIEF)), "{error:?}");
    let began = Instant::now();
    let ticket = presence.take_ticket("t").await;
    assert!(matches!(ticket, Err(PresenceError::Timeout(_))), "{ticket:?}");
    assert!(began.elapsed() < BRIEF + GRACE, "{:?}", began.elapsed());
    let lost = presence.lease(&lease("b1"), TTL, false).await;
    assert!(matches!(lost, Err(PresenceError::Timeout(_))), "{lost:?}");
    announces_again(&presence).await;
    // The lease whose answer was lost may have hidden that all was forgotten before.
    for expected in [Lease::Renewed, Lease::Kept] {
        let taken = presence.lease(&lease("b1"), TTL, false).await.unwrap();
        assert_eq!(taken, expected);
    }
    let label = PresenceMetrics::label(Operation::TakeTicket);
    assert_eq!(metrics.failures.get_or_create(&label).get(), 1);
    assert_eq!(metrics.calls.get_or_create(&label).get(), 1);
}

#[tokio::test]
async fn a_full_redis_refuses_writes_and_still_locates() {
    let server = RedisServer::start(&["--maxmemory-policy", "noeviction"]).await;
    let presence = open(&server.url()).await.unwrap();
    presence.announce(&[alice("n1", 1)], TTL).await.unwrap();
    let () = server.run(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let error = failing_announce(&presence).await;
    assert!(matches!(error, PresenceError::Unavailable(_)), "{error:?}");
    let lease = presence.lease(&lease("b1"), TTL, true).await;
    assert!(matches!(lease, Err(PresenceError::Unavailable(_))), "{lease:?}");
    let located = presence.locate(&to_alice()).await.unwrap();
    assert_eq!(located[0].members, [alice("n1", 1)]);
    let () = server.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
    announces_again(&presence).await;
}

#[tokio::test]
async fn connections_to_a_former_primary_are_dropped() {
    let server = RedisServer::start(&[]).await;
    let metrics = PresenceMetrics::default();
    let presence = open_within(TIMEOUT, &server.url(), metrics.clone()).await.unwrap();
    let opened = metrics.connects.get();
    let nobody = free_port().to_string();
    let () = server.run(&["REPLICAOF", "127.0.0.1", &nobody]).await;
    let error = failing_announce(&presence).await;
    assert!(matches!(error, PresenceError::Unavailable(_)), "{error:?}");
    let () = server.run(&["REPLICAOF", "NO", "ONE"]).await;
    announces_again(&presence).await;
    assert!(metrics.connects.get() > opened, "by a new connection");
}

#[tokio::test]
async fn connections_that_redis_closes_are_replaced_without_an_error() {
    let server = RedisServer::start(&[]).await;
    let presence = open(&server.url()).await.unwrap();
    for _ in 0..3 {
        let killed: u64 = server.run(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
        assert!(killed > 0);
        presence.announce(&[alice("n1", 1)], TTL).await.unwrap();
    }
}

#[tokio::test]
async fn sentinels_lead_to_the_primary_and_after_its_death_to_the_next() {
    let mut primary = RedisServer::start(&["--repl-diskless-sync-delay", "0"]).await;
    let port = primary.port().to_string();
    let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &port]).await;
    eventually(DEADLINE, "the replica follows", async || {
        let role: String = replica.run(&["INFO", "replication"]).await;
        role.contains("master_link_status:up")
    })
    .await;
    let sentinel = RedisServer::sentinel(&primary, "pres").await;
    eventually(DEADLINE, "the sentinel knows the replica", async || {
        let known: String = sentinel.run(&["INFO", "sentinel"]).await;
        known.contains("slaves=1")
    })
    .await;
    let url = |service: &str| {
        let (nobody, port) = (free_port(), sentinel.port());
        format!("redis+sentinel://127.0.0.1:{nobody},127.0.0.1:{port}/{service}/1")
    };
    let text = refusal(&url("other")).await;
    assert!(text.contains("know no living primary"), "{text}");

    let presence = open(&url("pres")).await.unwrap();
    presence.announce(&[alice("n1", 1)], TTL).await.unwrap();
    primary.kill();
    announces_again(&presence).await;
    let role: String = replica.run(&["INFO", "replication"]).await;
    assert!(role.contains("role:master"), "{role}");
}
