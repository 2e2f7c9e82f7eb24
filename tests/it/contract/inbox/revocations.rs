//! Revocations: kept once for each, the further one of two, until they lapse or are lifted.

use std::time::Duration;

use fanfare::domain::revocation::{ALWAYS, Revocation, Revoked, TokenId};
use fanfare::domain::{UnixMillis, UserId};
use fanfare::inbox::OutOfDate;

use super::cases;
use super::store::*;

cases!(
    a_revocation_is_kept_and_a_second_one_about_the_same_takes_nothing_back,
    each_change_has_another_version_and_nothing_else_has,
    what_is_lifted_or_has_lapsed_is_not_there,
    no_more_than_the_limit_are_kept_but_those_that_are_can_be_renewed,
);

const HOUR: Duration = Duration::from_secs(3_600);

fn token(id: &str) -> Revoked {
    Revoked::Token(TokenId::new(id).expect("an id"))
}

fn of(of: Revoked, issued_before: UnixMillis) -> Revocation {
    Revocation { of, issued_before, created_at: START, lapses_at: START.after(HOUR) }
}

fn alices(issued_before: UnixMillis) -> Revocation {
    of(Revoked::User(UserId::new("alice").expect("an id")), issued_before)
}

async fn revoke(store: &Store, revocation: &Revocation) -> Revocation {
    store.inbox.revoke(revocation, 10).await.expect("it is kept").expect("there is room")
}

async fn kept(store: &Store, now: UnixMillis) -> Vec<Revocation> {
    let mut all = store.inbox.revocations(now).await.expect("they are read").all;
    all.sort_by_key(|one| format!("{:?}", one.of));
    all
}

async fn a_revocation_is_kept_and_a_second_one_about_the_same_takes_nothing_back(store: &Store) {
    assert_eq!(kept(store, START).await, []);
    let everyone = of(Revoked::Everyone, UnixMillis(5));
    let strange = of(token("a'b \u{1F511}{}"), ALWAYS);
    for one in [&everyone, &strange, &alices(UnixMillis(7))] {
        assert_eq!(revoke(store, one).await, *one);
    }
    let later = Revocation { created_at: UnixMillis(9), ..alices(ALWAYS) };
    assert_eq!(revoke(store, &later).await, alices(ALWAYS), "it is the same one, and goes further");
    let shorter = Revocation { lapses_at: START, ..alices(UnixMillis(1)) };
    assert_eq!(revoke(store, &shorter).await, alices(ALWAYS));
    assert_eq!(kept(store, START).await, [everyone, strange, alices(ALWAYS)]);
}

async fn each_change_has_another_version_and_nothing_else_has(store: &Store) {
    let version = async || {
        let version = store.inbox.revocations_version().await.expect("it is read");
        let stored = store.inbox.revocations(START).await.expect("they are read");
        assert_eq!(stored.version, version);
        version
    };
    let mut seen = vec![version().await];
    revoke(store, &alices(ALWAYS)).await;
    seen.push(version().await);
    revoke(store, &of(token("t"), ALWAYS)).await;
    seen.push(version().await);
    assert!(store.inbox.lift(&token("t")).await.expect("asked"));
    seen.push(version().await);
    assert!(!store.inbox.lift(&token("t")).await.expect("asked"), "it is gone already");
    assert_eq!(store.inbox.revoke(&of(token("u"), ALWAYS), 1).await.expect("asked"), None);
    assert_eq!(version().await, seen[3]);
    seen.dedup();
    assert_eq!(seen.len(), 4, "{seen:?}");
}

async fn what_is_lifted_or_has_lapsed_is_not_there(store: &Store) {
    revoke(store, &alices(ALWAYS)).await;
    revoke(store, &of(token("lifted"), ALWAYS)).await;
    let longer = Revocation { lapses_at: START.after(2 * HOUR), ..of(token("longer"), ALWAYS) };
    revoke(store, &longer).await;
    assert!(store.inbox.lift(&token("lifted")).await.expect("asked"));
    assert_eq!(kept(store, START.after(HOUR)).await, std::slice::from_ref(&longer));
    let sweep = async |now| {
        let before = OutOfDate { revocations: now, ..out_of_date(UnixMillis(0), UnixMillis(0)) };
        store.inbox.sweep(&before, 100).await.expect("swept")
    };
    assert_eq!(sweep(START).await, 0);
    assert_eq!(sweep(START.after(HOUR)).await, 1);
    assert_eq!(kept(store, START).await, [longer]);
}

async fn no_more_than_the_limit_are_kept_but_those_that_are_can_be_renewed(store: &Store) {
    let revoke = async |revocation: Revocation| store.inbox.revoke(&revocation, 2).await.expect("asked");
    assert!(revoke(of(token("a"), ALWAYS)).await.is_some());
    assert!(revoke(alices(UnixMillis(1))).await.is_some());
    assert!(revoke(of(token("b"), ALWAYS)).await.is_none());
    assert!(revoke(alices(ALWAYS)).await.is_some(), "it is there already");
    assert_eq!(kept(store, START).await, [of(token("a"), ALWAYS), alices(ALWAYS)]);
}
