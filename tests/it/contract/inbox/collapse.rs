//! Collapse keys: a newer one replaces what a device has not acknowledged.

use std::sync::Arc;
use std::time::Duration;

use fanfare::domain::{NotificationId, Seq};
use fanfare::inbox::{Append, Audience, Cancelled, Counts, Delivered, State};

use super::cases;
use super::store::*;

cases!(
    a_newer_one_replaces_the_older,
    a_key_replaces_in_its_own_stream_and_for_its_own_device_only,
    within_a_group_the_last_stands,
    what_a_device_had_stays_delivered,
    cancelling_the_newer_revives_nothing,
    one_that_was_not_marked_is_passed_over_and_marked_by_the_next,
    what_expired_and_was_then_replaced_is_superseded,
    of_many_at_once_one_stands,
);

/// One with the collapse key `badge`.
fn badge(mut item: Append) -> Append {
    item.collapse_key = Some("badge".to_owned());
    item
}

async fn publish(store: &Store, item: Append) -> NotificationId {
    let id = item.notification.id;
    places(store.append_one(item).await);
    id
}

async fn counts(store: &Store, id: NotificationId) -> Counts {
    store.inbox.counts(&[id], store.now()).await.expect("the counts").remove(0)
}

fn superseded() -> Counts {
    Counts { superseded: 1, ..Counts::default() }
}

fn stored() -> Counts {
    Counts { stored: 1, ..Counts::default() }
}

async fn superseded_events(store: &Store) -> Vec<String> {
    let mut ids = told(store, "receipt.superseded").await;
    ids.sort();
    ids
}

async fn a_newer_one_replaces_the_older(store: &Store) {
    let alice = own("alice");
    let first = publish(store, badge(item(&alice))).await;
    publish(store, item(&alice)).await;
    let last = publish(store, badge(item(&alice))).await;
    let page = store.read_one(reading(&alice, 0)).await;
    assert_eq!((page_seqs(&page), page.through), (vec![2, 3], Seq(3)));
    assert_eq!((counts(store, first).await, counts(store, last).await), (superseded(), stored()));
    assert_eq!(store.attach("alice", "web").await.unread, 2);
    assert_eq!(superseded_events(store).await, [format!("receipt.superseded/{first}/alice")]);
}

async fn a_key_replaces_in_its_own_stream_and_for_its_own_device_only(store: &Store) {
    let (web, phone) = (to_device("alice", "web"), to_device("alice", "phone"));
    for recipient in [to(&own("alice")), web.clone(), phone, to(&own("bob"))] {
        publish(store, badge(item_for(vec![recipient]))).await;
    }
    let mut other = badge(item(&own("alice")));
    other.collapse_key = Some("Badge".to_owned());
    publish(store, other).await;
    publish(store, badge(item_for(vec![web]))).await;
    let mut all = reading(&own("alice"), 0);
    all.audience = Audience::All;
    assert_eq!(page_seqs(&store.read_one(all).await), [1, 3, 4, 5]);
    assert_eq!(page_seqs(&store.read_one(reading(&own("bob"), 0)).await), [1]);
}

async fn within_a_group_the_last_stands(store: &Store) {
    let (alice, bob) = (own("alice"), own("bob"));
    let before = publish(store, badge(item(&alice))).await;
    let group = vec![
        badge(item(&alice)),
        badge(item_for(vec![to(&bob), to(&alice)])),
        item(&alice),
        badge(item(&alice)),
    ];
    let ids: Vec<_> = group.iter().map(|item| item.notification.id).collect();
    let answers = store.inbox.append(group).await;
    let seqs: Vec<_> = answers.into_iter().map(|answer| seqs(&places(answer))).collect();
    assert_eq!(seqs, [vec![2], vec![1, 3], vec![4], vec![5]]);
    assert_eq!(page_seqs(&store.read_one(reading(&alice, 0)).await), [4, 5]);
    assert_eq!(page_seqs(&store.read_one(reading(&bob, 0)).await), [1]);
    assert_eq!(counts(store, before).await, superseded());
    assert_eq!(counts(store, ids[0]).await, superseded());
    assert_eq!(counts(store, ids[1]).await, Counts { stored: 1, superseded: 1, ..Counts::default() });
    let mut expected = [before, ids[0], ids[1]].map(|id| format!("receipt.superseded/{id}/alice"));
    expected.sort();
    assert_eq!(superseded_events(store).await, expected);
}

async fn what_a_device_had_stays_delivered(store: &Store) {
    let alice = own("alice");
    let first = publish(store, badge(item(&alice))).await;
    let epoch = store.attach("alice", "web").await.epoch;
    let had = vec![Delivered { user: user("alice"), epoch, seq: Seq(1) }];
    store.inbox.delivered(had, store.now()).await.expect("noted");
    publish(store, badge(item(&alice))).await;
    assert_eq!(counts(store, first).await, Counts { delivered: 1, ..Counts::default() });
    assert_eq!(superseded_events(store).await, [""; 0]);
    // A device that has not had it gets the newer one alone.
    assert_eq!(page_seqs(&store.read_one(reading(&alice, 0)).await), [2]);
}

async fn cancelling_the_newer_revives_nothing(store: &Store) {
    let alice = own("alice");
    let first = publish(store, badge(item(&alice))).await;
    let second = publish(store, badge(item(&alice))).await;
    store.inbox.cancel(second, &publisher(), store.now()).await.expect("cancelled");
    let page = store.read_one(reading(&alice, 0)).await;
    assert_eq!(page_seqs(&page), [3], "the cancellation alone");
    assert_eq!(counts(store, first).await, superseded());
    assert_eq!(store.attach("alice", "web").await.unread, 0);
}

async fn one_that_was_not_marked_is_passed_over_and_marked_by_the_next(store: &Store) {
    let alice = own("alice");
    let first = publish(store, badge(item(&alice))).await;
    publish(store, badge(item(&alice))).await;
    // As if the second had been committed while the first was not visible to it.
    store.sql("update entries set state = 0".into()).await;
    assert_eq!(page_seqs(&store.read_one(reading(&alice, 0)).await), [2]);
    assert_eq!(counts(store, first).await, superseded());
    assert_eq!(store.attach("alice", "web").await.unread, 1);
    let cancelled = store.inbox.cancel(first, &publisher(), store.now()).await;
    let Ok(Cancelled::Stored { entries, .. }) = cancelled else {
        panic!("expected an answer; got {cancelled:?}");
    };
    assert_eq!(entries.len(), 1, "a device may show it");
    assert_eq!(counts(store, first).await, superseded());
    publish(store, badge(item(&alice))).await;
    store.sql("delete from entries where seq > 1".into()).await;
    assert_eq!(counts(store, first).await, superseded(), "by its own mark now");
}

async fn what_expired_and_was_then_replaced_is_superseded(store: &Store) {
    let alice = own("alice");
    let mut short = badge(item(&alice));
    short.notification.expires_at = Some(store.now().after(Duration::from_secs(60)));
    let first = publish(store, short).await;
    store.pass(Duration::from_secs(60));
    assert_eq!(store.inbox.expire(store.now(), 10).await.expect("noted"), 1);
    assert_eq!(counts(store, first).await, Counts { expired: 1, ..Counts::default() });
    publish(store, badge(item(&alice))).await;
    assert_eq!(counts(store, first).await, superseded());
    let recipients = store.inbox.recipients(first, &publisher(), None, 10, store.now()).await;
    assert_eq!(recipients.expect("the list")[0].state, State::Superseded);
}

async fn of_many_at_once_one_stands(store: &Store) {
    let alice = own("alice");
    let publishers = (0..8).map(|_| {
        let (inbox, alice) = (Arc::clone(&store.inbox), alice.clone());
        tokio::spawn(async move {
            let mut ids = Vec::new();
            for _ in 0..20 {
                let item = badge(item(&alice));
                ids.push(item.notification.id);
                places(inbox.append(vec![item]).await.remove(0));
            }
            ids
        })
    });
    let mut ids = Vec::new();
    for publisher in publishers.collect::<Vec<_>>() {
        ids.extend(publisher.await.expect("it ends"));
    }
    let page = store.read_one(reading(&alice, 0)).await;
    assert_eq!((page_seqs(&page), page.head), (vec![160], Seq(160)));
    let counts = store.inbox.counts(&ids, store.now()).await.expect("the counts");
    let stored: u64 = counts.iter().map(|counts| counts.stored).sum();
    let superseded: u64 = counts.iter().map(|counts| counts.superseded).sum();
    assert_eq!((stored, superseded), (1, 159));
    assert_eq!(
        superseded_events(store).await.len(),
        159,
        "each is told, also of those that were not visible"
    );
    assert_eq!(store.attach("alice", "web").await.unread, 1);
}
