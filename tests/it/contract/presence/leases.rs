//! Leases of nodes, tickets, clocks.

use std::sync::Arc;
use std::time::Duration;

use fanfare::presence::Lease;

use super::subject::{LONG, SHORT, Subject, member, node_lease};

on_both!(
    a_lease_is_kept_until_it_is_forgotten,
    another_boot_waits_until_the_lease_runs_out,
    only_the_own_boot_releases_a_lease,
    live_nodes_are_listed_in_order,
    the_users_of_a_dead_node_are_taken_over_once,
    of_a_living_node_nothing_is_taken,
    a_ticket_is_taken_by_one_of_many,
    a_ticket_runs_out,
    a_ticket_is_not_overwritten,
    the_clocks_agree,
);

async fn a_lease_is_kept_until_it_is_forgotten(subject: Subject) {
    assert_eq!(subject.lease("b1", LONG, true).await, Lease::Kept);
    assert_eq!(subject.lease("b1", LONG, false).await, Lease::Kept);
    subject.forget().await;
    assert_eq!(subject.lease("b1", LONG, false).await, Lease::Renewed);
    assert_eq!(subject.lease("b1", LONG, false).await, Lease::Kept);
    let nodes = subject.presence.nodes().await.unwrap();
    assert_eq!(nodes, [node_lease("n1", "b1")]);
}

async fn another_boot_waits_until_the_lease_runs_out(subject: Subject) {
    assert_eq!(subject.lease("b1", SHORT, true).await, Lease::Kept);
    match subject.lease("b2", LONG, true).await {
        Lease::Held { boot, remaining } => {
            assert_eq!(boot, "b1");
            assert!(remaining > Duration::ZERO && remaining <= SHORT, "{remaining:?}");
        }
        other => panic!("{other:?}"),
    }
    let nodes = subject.presence.nodes().await.unwrap();
    assert_eq!(nodes, [node_lease("n1", "b1")], "it is not overwritten");
    let free = async || subject.lease("b2", LONG, true).await == Lease::Kept;
    subject.after(SHORT, "the lease is free", free).await;
    let late = subject.lease("b1", LONG, false).await;
    assert!(matches!(late, Lease::Held { .. }), "{late:?}");
}

async fn only_the_own_boot_releases_a_lease(subject: Subject) {
    let node = "n1".parse().unwrap();
    subject.lease("b1", LONG, true).await;
    subject.presence.release(&node, "b2").await.unwrap();
    let held = subject.lease("b2", LONG, true).await;
    assert!(matches!(held, Lease::Held { .. }), "{held:?}");
    subject.presence.release(&node, "b1").await.unwrap();
    assert_eq!(subject.presence.nodes().await.unwrap(), []);
    assert_eq!(subject.lease("b2", LONG, true).await, Lease::Kept);
}

async fn live_nodes_are_listed_in_order(subject: Subject) {
    for node in ["n3", "n1", "n2"] {
        let lease = node_lease(node, "b1");
        let ttl = if node == "n2" { SHORT } else { LONG };
        subject.presence.lease(&lease, ttl, true).await.unwrap();
    }
    let mut changed = node_lease("n3", "b1");
    changed.connections = 7;
    changed.draining = true;
    subject.presence.lease(&changed, LONG, false).await.unwrap();
    let expected = [node_lease("n1", "b1"), changed];
    let listed = async || subject.presence.nodes().await.unwrap() == expected;
    subject.after(SHORT, "n2 is dead, n3 is changed", listed).await;
}

async fn the_users_of_a_dead_node_are_taken_over_once(subject: Subject) {
    let (dead, alive) = (node_lease("n1", "b1"), node_lease("n2", "b1"));
    subject.presence.lease(&dead, SHORT, true).await.unwrap();
    subject.presence.lease(&alive, LONG, true).await.unwrap();
    let other = member("u1", "n2", 9, "web");
    let gone = member("u0", "n1", 8, "phone");
    let left: Vec<_> = (1..=5).map(|number| member(&format!("u{number}"), "n1", number, "phone")).collect();
    subject.announce(&left, LONG).await;
    subject.announce(&[other.clone(), gone.clone()], LONG).await;
    subject.presence.withdraw(&[gone]).await.unwrap();
    let is_dead = async || subject.presence.dead_nodes().await.unwrap() == [dead.node.clone()];
    subject.after(SHORT, "n1 is dead", is_dead).await;

    let mut claimed = subject.presence.claim_users(&dead.node, 2).await.unwrap();
    assert_eq!(claimed.len(), 2);
    let mut takers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (presence, node) = (Arc::clone(&subject.presence), dead.node.clone());
        takers.spawn(async move { presence.claim_users(&node, 100).await.unwrap() });
    }
    claimed.extend(takers.join_all().await.into_iter().flatten());
    claimed.sort();
    let users = claimed.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(users, ["u1", "u2", "u3", "u4", "u5"], "each once, and nobody who said goodbye");
    assert_eq!(subject.of_user("u1").await, [other], "those of the living stay");
    assert_eq!(subject.of_user("u2").await, []);
}

async fn of_a_living_node_nothing_is_taken(subject: Subject) {
    let lease = node_lease("n1", "b1");
    subject.presence.lease(&lease, LONG, true).await.unwrap();
    let alice = member("alice", "n1", 1, "phone");
    subject.announce(&[alice.clone()], LONG).await;
    assert_eq!(subject.presence.dead_nodes().await.unwrap(), []);
    assert_eq!(subject.presence.claim_users(&lease.node, 100).await.unwrap(), []);
    assert_eq!(subject.of_user("alice").await, [alice]);
    let nobody = "never-there".parse().unwrap();
    assert_eq!(subject.presence.claim_users(&nobody, 100).await.unwrap(), []);
}

async fn a_ticket_is_taken_by_one_of_many(subject: Subject) {
    let put = subject.presence.put_ticket("t-1", "alice", LONG);
    put.await.unwrap();
    let mut takers = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let presence = Arc::clone(&subject.presence);
        takers.spawn(async move { presence.take_ticket("t-1").await.unwrap() });
    }
    let taken = takers.join_all().await;
    let won: Vec<String> = taken.into_iter().flatten().collect();
    assert_eq!(won, ["alice"]);
}

async fn a_ticket_runs_out(subject: Subject) {
    let presence = &subject.presence;
    presence.put_ticket("brief", "a", SHORT).await.unwrap();
    // Its name is free when it has run out, which is how this knows without taking it.
    let ran_out = async || presence.put_ticket("brief", "b", LONG).await.is_ok();
    subject.after(SHORT, "the name is free again", ran_out).await;
    let taken = presence.take_ticket("brief").await.unwrap();
    assert_eq!(taken.as_deref(), Some("b"));
}

async fn a_ticket_is_not_overwritten(subject: Subject) {
    let presence = &subject.presence;
    presence.put_ticket("t", "first", LONG).await.unwrap();
    assert!(presence.put_ticket("t", "second", LONG).await.is_err());
    let taken = presence.take_ticket("t").await.unwrap();
    assert_eq!(taken.as_deref(), Some("first"));
    assert_eq!(presence.take_ticket("t").await.unwrap(), None);
}

async fn the_clocks_agree(subject: Subject) {
    let skew_ms = subject.presence.skew_ms().await.unwrap();
    assert!(skew_ms.abs() < 1_000, "{skew_ms} ms on one machine");
}
