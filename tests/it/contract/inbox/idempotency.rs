//! Idempotency keys: a retry is not a second notification.

use std::sync::Arc;

use fanfare::domain::{PublisherId, Seq};
use fanfare::inbox::{Appended, InboxError};

use super::cases;
use super::store::*;

cases!(
    a_second_request_replays_the_first_answer,
    the_same_key_for_another_request_is_told_apart,
    keys_of_two_publishers_never_meet,
    one_key_twice_in_a_group_replays_the_earlier,
    a_key_whose_first_item_is_refused_is_free_for_the_next,
    concurrent_requests_with_one_key_store_once,
    concurrent_groups_with_the_same_keys_in_any_order_do_not_deadlock,
    a_key_no_store_can_hold_is_refused,
);

fn replayed(answer: Result<Appended, InboxError>) -> fanfare::inbox::FirstAnswer {
    match answer {
        Ok(Appended::Replayed(first)) => first,
        other => panic!("expected a replay; got {other:?}"),
    }
}

async fn head(store: &Store, name: &str) -> Seq {
    let heads = store.inbox.heads(&[own(name)]).await;
    heads.expect("the head")[0].head
}

async fn a_second_request_replays_the_first_answer(store: &Store) {
    let first = keyed(item(&own("alice")), "order-1", 1);
    places(store.append_one(first.clone()).await);
    // A retry is a new notification until the key is found.
    let retry = keyed(item(&own("alice")), "order-1", 1);
    let answer = replayed(store.append_one(retry.clone()).await);
    assert_eq!(answer.id, first.notification.id);
    assert_eq!((answer.answered, answer.online), (false, None));

    let answered = store.inbox.answered(&publisher(), "order-1", Some(3)).await;
    answered.expect("the answer is kept");
    let answer = replayed(store.append_one(retry.clone()).await);
    assert_eq!((answer.answered, answer.online), (true, Some(3)));

    let answered = store.inbox.answered(&publisher(), "order-1", None).await;
    answered.expect("the last answer is kept");
    let answer = replayed(store.append_one(retry).await);
    assert_eq!((answer.answered, answer.online), (true, None));
    assert_eq!(head(store, "alice").await, Seq(1));
}

async fn the_same_key_for_another_request_is_told_apart(store: &Store) {
    places(store.append_one(keyed(item(&own("alice")), "order-1", 1)).await);
    let other = keyed(item(&own("alice")), "order-1", 2);
    let answer = store.append_one(other).await.expect("an answer");
    assert_eq!(answer, Appended::KeyReused);
    assert_eq!(head(store, "alice").await, Seq(1));
}

async fn keys_of_two_publishers_never_meet(store: &Store) {
    places(store.append_one(keyed(item(&own("alice")), "order-1", 1)).await);
    let mut other = keyed(item(&own("alice")), "order-1", 2);
    if let Some(key) = &mut other.idempotency {
        key.publisher = PublisherId::new("billing").expect("a valid id");
    }
    places(store.append_one(other).await);
    assert_eq!(head(store, "alice").await, Seq(2));
}

async fn one_key_twice_in_a_group_replays_the_earlier(store: &Store) {
    let alice = own("alice");
    let group = vec![
        keyed(item(&alice), "a", 1),
        item(&alice),
        keyed(item(&alice), "a", 1),
        keyed(item(&alice), "a", 2),
        keyed(item(&alice), "b", 1),
    ];
    let first = group[0].notification.id;
    let mut answers = store.inbox.append(group).await.into_iter();
    let mut next = || answers.next().expect("an answer for each");
    assert_eq!(seqs(&places(next())), [1]);
    assert_eq!(seqs(&places(next())), [2]);
    assert_eq!(replayed(next()).id, first);
    assert_eq!(next().expect("an answer"), Appended::KeyReused);
    assert_eq!(seqs(&places(next())), [3]);
    assert_eq!(head(store, "alice").await, Seq(3));
}

async fn a_key_whose_first_item_is_refused_is_free_for_the_next(store: &Store) {
    let alice = own("alice");
    let stored = item(&alice);
    places(store.append_one(stored.clone()).await);
    let group = vec![keyed(stored, "a", 1), keyed(item(&alice), "a", 1)];
    let answers = store.inbox.append(group).await;
    assert!(matches!(answers[0], Err(InboxError::Refused(_))));
    assert!(matches!(answers[1], Ok(Appended::Stored(_))));
}

async fn concurrent_requests_with_one_key_store_once(store: &Store) {
    let requests = (0..10).map(|_| {
        let inbox = Arc::clone(&store.inbox);
        let item = keyed(item(&own("alice")), "order-1", 1);
        let id = item.notification.id;
        tokio::spawn(async move { (id, inbox.append(vec![item]).await.remove(0)) })
    });
    let (mut stored, mut replays) = (Vec::new(), Vec::new());
    for request in requests.collect::<Vec<_>>() {
        match request.await.expect("the request ends") {
            (id, Ok(Appended::Stored(_))) => stored.push(id),
            (_, answer) => replays.push(replayed(answer).id),
        }
    }
    assert_eq!(stored.len(), 1);
    assert_eq!(replays, vec![stored[0]; 9]);
    assert_eq!(head(store, "alice").await, Seq(1));
}

async fn concurrent_groups_with_the_same_keys_in_any_order_do_not_deadlock(store: &Store) {
    let groups = (0..8).map(|number| {
        let inbox = Arc::clone(&store.inbox);
        let mut group: Vec<_> =
            (0..20).map(|key| keyed(item(&own(&format!("user-{key}"))), &format!("key-{key}"), 1)).collect();
        if number % 2 == 1 {
            group.reverse();
        }
        tokio::spawn(async move { inbox.append(group).await })
    });
    let mut stored = 0;
    for group in groups.collect::<Vec<_>>() {
        for answer in group.await.expect("the group ends") {
            match answer.expect("nothing fails") {
                Appended::Stored(_) => stored += 1,
                Appended::Replayed(_) => {}
                Appended::KeyReused | Appended::NotScheduled => {
                    panic!("all hashes are equal, and nothing is scheduled")
                }
            }
        }
    }
    assert_eq!(stored, 20);
}

async fn a_key_no_store_can_hold_is_refused(store: &Store) {
    let long = "x".repeat(256);
    for key in ["", "a\0b", &long] {
        let answer = store.append_one(keyed(item(&own("alice")), key, 1)).await;
        assert!(matches!(answer, Err(InboxError::Refused(_))), "{key:?}");
    }
    let longest = "é".repeat(127);
    places(store.append_one(keyed(item(&own("alice")), &longest, 1)).await);
}
