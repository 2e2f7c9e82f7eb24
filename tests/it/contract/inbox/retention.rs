//! Retention: what expires, what is too old, what is too much.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fanfare::domain::{NotificationId, Seq, Stream, UnixMillis};
use fanfare::inbox::{Append, Cancelled, Content, Counts, Mark, Marked};

use super::cases;
use super::store::*;

cases!(
    what_expired_is_noted_once,
    what_somebody_had_or_what_was_replaced_does_not_expire,
    expiry_is_noted_in_batches,
    what_expired_is_told_until_it_is_swept,
    age_removes_what_is_old_and_raises_the_floors,
    age_goes_in_batches,
    a_notification_of_many_is_removed_whole,
    a_cancellation_outlives_what_it_cancels,
    count_leaves_the_last_entries,
    count_keeps_what_others_have_and_tells_whose_was_dropped,
    only_streams_with_too_much_are_overfull,
    a_device_that_was_passed_by_is_told_of_a_gap,
    publishers_and_readers_go_on_while_much_is_removed,
);

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Appends one item and answers its id.
async fn publish(store: &Store, mut item: Append) -> NotificationId {
    item.notification.created_at = store.now();
    let id = item.notification.id;
    places(store.append_one(item).await);
    id
}

fn short_lived(store: &Store, mut item: Append, seconds: u64) -> Append {
    item.notification.expires_at = Some(store.now().after(Duration::from_secs(seconds)));
    item
}

async fn counts(store: &Store, id: NotificationId) -> Option<Counts> {
    let receipt = store.inbox.receipt(id, &publisher(), store.now()).await;
    receipt.expect("an answer").map(|receipt| receipt.counts)
}

async fn expire(store: &Store, limit: u32) -> u64 {
    store.inbox.expire(store.now(), limit).await.expect("noted")
}

/// The ids of all events with this routing key, each handed out once.
async fn events(store: &Store, key: &str) -> Vec<String> {
    let events = store.inbox.claim_events(store.now(), DAY, 10_000).await;
    let events = events.expect("the events").into_iter();
    let mut ids: Vec<String> =
        events.filter(|event| event.routing_key == key).map(|event| event.id).collect();
    ids.sort();
    ids
}

async fn delivered(store: &Store, name: &str, seq: u64) {
    let epoch = store.attach(name, "web").await.epoch;
    let entry = fanfare::inbox::Delivered { user: user(name), epoch, seq: Seq(seq) };
    store.inbox.delivered(vec![entry], store.now()).await.expect("noted");
}

async fn stands(store: &Store, stream: &Stream) -> (Vec<u64>, u64, u64) {
    let page = store.read_one(reading(stream, 0)).await;
    (page_seqs(&page), page.floor.0, page.head.0)
}

async fn what_expired_is_noted_once(store: &Store) {
    let both = item_for(vec![to(&own("alice")), to_device("bob", "web")]);
    let id = publish(store, short_lived(store, both, 60)).await;
    let shared = publish(store, short_lived(store, item(&Stream::Everyone), 60)).await;
    publish(store, item(&own("alice"))).await;
    assert_eq!(expire(store, 100).await, 0);
    store.pass(Duration::from_secs(60));
    assert_eq!(expire(store, 100).await, 3);
    assert_eq!(expire(store, 100).await, 0);
    let mut expected = [
        format!("receipt.expired/{id}/alice"),
        format!("receipt.expired/{id}/bob/web"),
        format!("receipt.expired/{shared}/everyone"),
    ];
    expected.sort();
    assert_eq!(events(store, "receipt.expired").await, expected);
    assert_eq!(counts(store, id).await, Some(Counts { expired: 2, ..Counts::default() }));
}

async fn what_somebody_had_or_what_was_replaced_does_not_expire(store: &Store) {
    let alice = own("alice");
    let short = |item| short_lived(store, item, 60);
    let had = publish(store, short(item(&alice))).await;
    let read = publish(store, short(item(&alice))).await;
    let cancelled = publish(store, short(item(&alice))).await;
    let mut badge = item(&alice);
    badge.collapse_key = Some("badge".to_owned());
    let superseded = publish(store, short(badge.clone())).await;
    badge.notification = notification();
    publish(store, badge).await;
    delivered(store, "alice", 1).await;
    let mark = Mark { stream: alice, marked: Marked::Ids(vec![read]) };
    store.inbox.mark_read(&user("alice"), &mark, store.now()).await.expect("marked");
    store.inbox.cancel(cancelled, &publisher(), store.now()).await.expect("cancelled");
    store.pass(Duration::from_secs(60));
    assert_eq!(expire(store, 100).await, 0);
    for (id, expected) in [
        (had, Counts { delivered: 1, ..Counts::default() }),
        (read, Counts { read: 1, ..Counts::default() }),
        (cancelled, Counts { cancelled: 1, ..Counts::default() }),
        (superseded, Counts { superseded: 1, ..Counts::default() }),
    ] {
        assert_eq!(counts(store, id).await, Some(expected));
    }
}

async fn expiry_is_noted_in_batches(store: &Store) {
    for _ in 0..5 {
        publish(store, short_lived(store, item(&own("alice")), 60)).await;
    }
    store.pass(Duration::from_secs(61));
    let mut batches = Vec::new();
    while batches.last() != Some(&0) {
        batches.push(expire(store, 2).await);
    }
    assert_eq!(batches, [2, 2, 1, 0]);
}

async fn what_expired_is_told_until_it_is_swept(store: &Store) {
    let id = publish(store, short_lived(store, item(&own("alice")), 60)).await;
    store.pass(Duration::from_secs(61));
    let expired = Some(Counts { expired: 1, ..Counts::default() });
    // Whether it was noted makes no difference to who asks.
    assert_eq!(counts(store, id).await, expired);
    assert_eq!(expire(store, 100).await, 1);
    assert_eq!(counts(store, id).await, expired);
    let sweep = async || {
        let before = out_of_date(UnixMillis(store.now().0 - 24 * 3_600_000), UnixMillis(0));
        store.inbox.sweep(&before, 100).await.expect("swept")
    };
    assert_eq!(sweep().await, 0);
    store.pass(DAY);
    assert_eq!(sweep().await, 2);
    assert_eq!(counts(store, id).await, None);
    assert_eq!(stands(store, &own("alice")).await, (vec![], 0, 1));
}

async fn age_removes_what_is_old_and_raises_the_floors(store: &Store) {
    let (alice, bob) = (own("alice"), own("bob"));
    let first = publish(store, item_for(vec![to(&alice), to(&bob)])).await;
    let second = publish(store, item(&alice)).await;
    let shared = publish(store, item(&Stream::Everyone)).await;
    delivered(store, "alice", 2).await;
    store.pass(DAY);
    let young = publish(store, item_for(vec![to(&alice), to(&bob)])).await;
    let retain = async |limit| {
        let removed = store.inbox.retain_by_age(store.now(), limit).await;
        removed.expect("removed")
    };
    assert_eq!(store.inbox.retain_by_age(START, 100).await.expect("nothing"), 0);
    assert_eq!(retain(100).await, 4);
    assert_eq!(retain(100).await, 0);
    assert_eq!(stands(store, &alice).await, (vec![3], 2, 3));
    assert_eq!(stands(store, &bob).await, (vec![2], 1, 2));
    assert_eq!(stands(store, &Stream::Everyone).await, (vec![], 1, 1));
    for gone in [first, second, shared] {
        assert_eq!(counts(store, gone).await, None);
    }
    assert_eq!(counts(store, young).await, Some(Counts { stored: 2, ..Counts::default() }));
    // The second was delivered.
    let mut expected = [
        format!("receipt.dropped/{first}/alice"),
        format!("receipt.dropped/{first}/bob"),
        format!("receipt.dropped/{shared}/everyone"),
    ];
    expected.sort();
    assert_eq!(events(store, "receipt.dropped").await, expected);
    // Seqs go on.
    assert_eq!(seqs(&places(store.append_one(item(&bob)).await)), [3]);
}

async fn age_goes_in_batches(store: &Store) {
    for _ in 0..5 {
        publish(store, item(&own("alice"))).await;
    }
    store.pass(DAY);
    let mut batches = Vec::new();
    while batches.last() != Some(&0) {
        batches.push(store.inbox.retain_by_age(store.now(), 2).await.expect("removed"));
        let floor = batches.iter().sum::<u64>();
        assert_eq!(stands(store, &own("alice")).await, ((floor + 1..=5).collect(), floor, 5));
    }
    assert_eq!(batches, [2, 2, 1, 0]);
}

async fn a_notification_of_many_is_removed_whole(store: &Store) {
    let recipients = (0..1_200).map(|number| to(&own(&format!("user-{number}")))).collect();
    let id = publish(store, item_for(recipients)).await;
    store.pass(DAY);
    let mut removed = 0;
    for _ in 0..10 {
        removed += store.inbox.retain_by_age(store.now(), 1).await.expect("removed");
    }
    assert_eq!(removed, 1_200);
    assert_eq!(counts(store, id).await, None);
    for number in [0, 599, 1_199] {
        assert_eq!(stands(store, &own(&format!("user-{number}"))).await, (vec![], 1, 1));
    }
}

async fn a_cancellation_outlives_what_it_cancels(store: &Store) {
    let alice = own("alice");
    let id = publish(store, item(&alice)).await;
    store.pass(DAY);
    let cancelled = store.inbox.cancel(id, &publisher(), store.now()).await;
    assert!(matches!(cancelled, Ok(Cancelled::Stored { .. })), "{cancelled:?}");
    assert_eq!(store.inbox.retain_by_age(store.now(), 100).await.expect("removed"), 1);
    // A device that had it before may still have to hear of it.
    let page = store.read_one(reading(&alice, 1)).await;
    assert_eq!(page.entries[0].content, Content::Cancelled(id));
    assert_eq!((page_seqs(&page), page.floor), (vec![2], Seq(1)));
    publish(store, item(&alice)).await;
    store.pass(DAY);
    assert_eq!(store.inbox.retain_by_age(store.now(), 100).await.expect("removed"), 1);
    assert_eq!(stands(store, &alice).await, (vec![], 3, 3));
}

async fn count_leaves_the_last_entries(store: &Store) {
    let (alice, bob) = (own("alice"), own("bob"));
    let first = publish(store, item(&alice)).await;
    store.fill(&alice, 6).await;
    store.fill(&bob, 3).await;
    let retain = async || {
        let removed = store.inbox.retain_by_count(&[alice.clone(), own("nobody"), bob.clone()], 4).await;
        removed.expect("removed")
    };
    delivered(store, "alice", 2).await;
    assert_eq!(retain().await, 3);
    assert_eq!(retain().await, 0);
    assert_eq!(stands(store, &alice).await, (vec![4, 5, 6, 7], 3, 7));
    assert_eq!(stands(store, &bob).await, (vec![1, 2, 3], 0, 3));
    assert_eq!(counts(store, first).await, None, "nobody has it any more");
    assert_eq!(events(store, "receipt.dropped").await.len(), 2, "one of three was delivered");
    assert_eq!(store.attach("alice", "phone").await.unread, 4);
}

async fn count_keeps_what_others_have_and_tells_whose_was_dropped(store: &Store) {
    let (alice, bob) = (own("alice"), own("bob"));
    let both = publish(store, item_for(vec![to(&alice), to(&bob)])).await;
    store.fill(&alice, 3).await;
    let removed = store.inbox.retain_by_count(&[alice.clone(), bob.clone()], 3).await;
    assert_eq!(removed.expect("removed"), 1);
    assert_eq!(stands(store, &alice).await, (vec![2, 3, 4], 1, 4));
    assert_eq!(stands(store, &bob).await, (vec![1], 0, 1));
    assert_eq!(counts(store, both).await, Some(Counts { stored: 1, dropped: 1, ..Counts::default() }));
    // Nobody has it any more: it goes.
    store.fill(&bob, 3).await;
    let removed = store.inbox.retain_by_count(&[alice, bob.clone()], 3).await;
    assert_eq!(removed.expect("removed"), 1);
    assert_eq!(counts(store, both).await, None);
    assert_eq!(stands(store, &bob).await, (vec![2, 3, 4], 1, 4));
}

async fn only_streams_with_too_much_are_overfull(store: &Store) {
    store.fill(&own("alice"), 5).await;
    store.fill(&own("bob"), 4).await;
    store.fill(&Stream::Everyone, 6).await;
    let overfull = async |limit| {
        let streams = store.inbox.overfull(4, limit).await;
        let mut streams = streams.expect("the streams");
        streams.sort();
        streams
    };
    assert_eq!(overfull(1).await.len(), 1);
    let streams = overfull(10).await;
    assert_eq!(streams, [own("alice"), Stream::Everyone]);
    assert_eq!(store.inbox.retain_by_count(&streams, 4).await.expect("removed"), 3);
    assert_eq!(overfull(10).await, []);
}

async fn a_device_that_was_passed_by_is_told_of_a_gap(store: &Store) {
    let alice = own("alice");
    store.fill(&alice, 6).await;
    for (on, seq) in [("behind", 1), ("level", 3)] {
        let epoch = store.attach("alice", on).await.epoch;
        store.ack("alice", on, epoch, seq).await;
    }
    store.inbox.retain_by_count(&[alice], 3).await.expect("removed");
    let opened = store.attach("alice", "behind").await;
    assert_eq!((opened.position, opened.gap_from), (Seq(3), Some(Seq(1))));
    let opened = store.attach("alice", "level").await;
    assert_eq!((opened.position, opened.gap_from), (Seq(3), None));
}

async fn publishers_and_readers_go_on_while_much_is_removed(store: &Store) {
    let alice = own("alice");
    for _ in 0..6 {
        let group = (0..500).map(|_| item(&alice)).collect();
        for answer in store.inbox.append(group).await {
            places(answer);
        }
    }
    let done = Arc::new(AtomicBool::new(false));
    let publishing = {
        let (inbox, done) = (Arc::clone(&store.inbox), Arc::clone(&done));
        tokio::spawn(async move {
            let mut published = 0_u64;
            while !done.load(Ordering::SeqCst) {
                places(inbox.append(vec![item(&own("bob"))]).await.remove(0));
                published += 1;
            }
            published
        })
    };
    let removed = store.inbox.retain_by_count(std::slice::from_ref(&alice), 100).await;
    assert_eq!(removed.expect("removed"), 2_900);
    done.store(true, Ordering::SeqCst);
    let published = publishing.await.expect("it ends");
    assert!(published > 2, "only {published} were published meanwhile");
    let (seqs, floor, head) = stands(store, &alice).await;
    assert_eq!((seqs.len(), floor, head), (100, 2_900, 3_000));
}
