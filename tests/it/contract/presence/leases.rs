//! Leases of nodes, tickets, clocks.

use std::sync::Arc;
use std::time::Duration;

use fanfare::presence::Lease;

use super::subject::{LONG, SHORT, Subject, node_lease};

on_both!(
    a_lease_is_kept_until_it_is_forgotten,
    another_boot_waits_until_the_lease_runs_out,
    only_the_own_boot_releases_a_lease,
    live_nodes_are_listed_in_order,
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
