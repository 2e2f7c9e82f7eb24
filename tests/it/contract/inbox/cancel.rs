//! Cancelling: an entry of its own in the same stream.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fanfare::domain::{NotificationId, PublisherId, Recipient, Seq, Stream, UnixMillis};
use fanfare::inbox::{Append, Audience, Cancelled, Content, Counts, Delivered, Inbox, Mark, Marked, Place};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::cases;
use super::store::*;

cases!(
    a_cancellation_takes_the_next_seq_of_each_stream,
    cancelling_twice_makes_no_second_cancellation,
    only_its_publisher_cancels_it,
    what_expired_is_not_cancelled,
    what_was_superseded_is_taken_back_and_stays_superseded,
    what_was_superseded_is_taken_back_also_when_the_newer_one_is_gone,
    what_was_delivered_is_cancelled_and_stays_delivered,
    what_was_read_stays_read,
    a_cancellation_in_a_topic_has_no_recipients_to_count,
    a_cancellation_expires_with_what_it_cancels,
    of_many_cancellations_at_once_one_is_made,
    everything_at_once_neither_blocks_nor_loses_anything,
);

async fn publish(store: &Store, item: Append) -> NotificationId {
    let id = item.notification.id;
    places(store.append_one(item).await);
    id
}

/// The cancellations that were made.
async fn cancel(store: &Store, id: NotificationId) -> Vec<(Recipient, Place)> {
    match store.inbox.cancel(id, &publisher(), store.now()).await {
        Ok(Cancelled::Stored { entries, .. }) => entries,
        other => panic!("expected it to be cancelled; got {other:?}"),
    }
}

async fn counts(store: &Store, id: NotificationId) -> Counts {
    store.inbox.counts(&[id], store.now()).await.expect("the counts").remove(0)
}

async fn a_cancellation_takes_the_next_seq_of_each_stream(store: &Store) {
    let alice = own("alice");
    let mut item = item_for(vec![to(&alice), to_device("bob", "web"), to_device("bob", "phone")]);
    let expires_at = store.now().after(Duration::from_secs(60));
    item.notification.expires_at = Some(expires_at);
    let stored = places(store.append_one(item.clone()).await);
    store.fill(&alice, 1).await;
    let answer = store.inbox.cancel(item.notification.id, &publisher(), store.now()).await;
    let Ok(Cancelled::Stored { recipients, expires_at: until, mut entries }) = answer else {
        panic!("expected it to be cancelled; got {answer:?}");
    };
    assert_eq!((recipients, until), (Some(3), Some(expires_at)));
    entries.sort_by_key(|(recipient, place)| (recipient.stream.clone(), place.seq));
    let place = |seq| Place { epoch: stored[0].epoch, seq: Seq(seq) };
    let expected =
        [(to(&alice), place(3)), (to_device("bob", "web"), place(3)), (to_device("bob", "phone"), place(4))];
    assert_eq!(entries, expected);

    let page = store.read_one(reading(&alice, 0)).await;
    assert_eq!((page_seqs(&page), page.through), (vec![2, 3], Seq(3)));
    assert_eq!(page.entries[1].content, Content::Cancelled(item.notification.id));
    assert_eq!(page.entries[1].expires_at, Some(expires_at));
    let mut phone = reading(&own("bob"), 0);
    phone.audience = Audience::Device(Some(device("phone")));
    assert_eq!(page_seqs(&store.read_one(phone).await), [4]);

    let id = item.notification.id;
    assert_eq!(counts(store, id).await, Counts { cancelled: 3, ..Counts::default() });
    let receipt = store.inbox.receipt(id, &publisher(), store.now()).await.expect("an answer");
    assert!(receipt.expect("a receipt").is_cancelled);
    assert_eq!(store.attach("alice", "web").await.unread, 1);
    let mut events = told(store, "receipt.cancelled").await;
    events.sort();
    let expected = ["alice", "bob/phone", "bob/web"].map(|whose| format!("receipt.cancelled/{id}/{whose}"));
    assert_eq!(events, expected);
}

async fn cancelling_twice_makes_no_second_cancellation(store: &Store) {
    let id = publish(store, item(&own("alice"))).await;
    assert_eq!(cancel(store, id).await.len(), 1);
    assert_eq!(cancel(store, id).await, []);
    let heads = store.inbox.heads(&[own("alice")]).await.expect("the head");
    assert_eq!(heads[0].head, Seq(2));
    assert_eq!(told(store, "receipt.cancelled").await.len(), 1);
}

async fn only_its_publisher_cancels_it(store: &Store) {
    let id = publish(store, item(&own("alice"))).await;
    let other = PublisherId::new("billing").expect("a valid id");
    let answer = store.inbox.cancel(id, &other, store.now()).await;
    assert_eq!(answer.expect("an answer"), Cancelled::Unknown);
    let nothing = NotificationId(uuid::Uuid::now_v7());
    let answer = store.inbox.cancel(nothing, &publisher(), store.now()).await;
    assert_eq!(answer.expect("an answer"), Cancelled::Unknown);
    assert_eq!(counts(store, id).await, Counts { stored: 1, ..Counts::default() });
}

async fn what_expired_is_not_cancelled(store: &Store) {
    let mut short = item(&own("alice"));
    short.notification.expires_at = Some(store.now().after(Duration::from_secs(60)));
    let short = publish(store, short).await;
    store.pass(Duration::from_secs(60));
    assert_eq!(cancel(store, short).await, []);
    assert_eq!(counts(store, short).await, Counts { expired: 1, ..Counts::default() });
}

fn badge(recipients: Vec<Recipient>) -> Append {
    Append { collapse_key: Some("badge".to_owned()), ..item_for(recipients) }
}

async fn what_was_superseded_is_taken_back_and_stays_superseded(store: &Store) {
    let (alice, bob) = (own("alice"), own("bob"));
    let first = publish(store, badge(vec![to(&alice), to(&bob)])).await;
    publish(store, badge(vec![to(&alice)])).await;
    // A device that had it may show it still: it is told, whether a newer one stands or not.
    let mut entries = cancel(store, first).await;
    entries.sort_by_key(|(recipient, _)| recipient.stream.clone());
    let told: Vec<_> = entries.iter().map(|(recipient, place)| (recipient.clone(), place.seq)).collect();
    assert_eq!(told, [(to(&alice), Seq(3)), (to(&bob), Seq(2))]);
    assert_eq!(page_seqs(&store.read_one(reading(&alice, 0)).await), [2, 3]);
    let expected = Counts { superseded: 1, cancelled: 1, ..Counts::default() };
    assert_eq!(counts(store, first).await, expected);
    assert_eq!(events(store).await, [format!("receipt.cancelled/{first}/bob")]);
    assert_eq!(store.attach("alice", "web").await.unread, 1);
    assert_eq!(cancel(store, first).await, [], "once");
}

async fn events(store: &Store) -> Vec<String> {
    told(store, "receipt.cancelled").await
}

async fn what_was_superseded_is_taken_back_also_when_the_newer_one_is_gone(store: &Store) {
    let alice = own("alice");
    let first = publish(store, badge(vec![to(&alice)])).await;
    let second = publish(store, badge(vec![to(&alice)])).await;
    assert_eq!(cancel(store, second).await.len(), 1);
    assert_eq!(cancel(store, first).await.len(), 1);
    assert_eq!(cancel(store, first).await, [], "once");
    let page = store.read_one(reading(&alice, 0)).await;
    let contents: Vec<_> = page.entries.into_iter().map(|entry| entry.content).collect();
    assert_eq!(contents, [Content::Cancelled(second), Content::Cancelled(first)]);
    assert_eq!(counts(store, first).await, Counts { superseded: 1, ..Counts::default() });
}

async fn what_was_delivered_is_cancelled_and_stays_delivered(store: &Store) {
    let id = publish(store, item(&own("alice"))).await;
    let epoch = store.attach("alice", "web").await.epoch;
    let had = vec![Delivered { user: user("alice"), epoch, seq: Seq(1) }];
    store.inbox.delivered(had, store.now()).await.expect("noted");
    assert_eq!(cancel(store, id).await.len(), 1, "the device that had it hears of it");
    assert_eq!(counts(store, id).await, Counts { delivered: 1, ..Counts::default() });
    assert_eq!(told(store, "receipt.cancelled").await, [""; 0]);
}

async fn what_was_read_stays_read(store: &Store) {
    let alice = own("alice");
    let id = publish(store, item(&alice)).await;
    let mark = Mark { stream: alice, marked: Marked::Ids(vec![id]) };
    store.inbox.mark_read(&user("alice"), &mark, store.now()).await.expect("marked");
    assert_eq!(cancel(store, id).await.len(), 1);
    assert_eq!(counts(store, id).await, Counts { read: 1, ..Counts::default() });
}

async fn a_cancellation_in_a_topic_has_no_recipients_to_count(store: &Store) {
    let id = publish(store, item(&Stream::Everyone)).await;
    let answer = store.inbox.cancel(id, &publisher(), store.now()).await;
    let Ok(Cancelled::Stored { recipients: None, expires_at: None, entries }) = answer else {
        panic!("expected it to be cancelled; got {answer:?}");
    };
    assert_eq!((entries[0].0.clone(), entries[0].1.seq), (to(&Stream::Everyone), Seq(2)));
    let page = store.read_one(reading(&Stream::Everyone, 0)).await;
    assert_eq!(page.entries[0].content, Content::Cancelled(id));
    assert_eq!(told(store, "receipt.cancelled").await, [format!("receipt.cancelled/{id}/everyone")]);
}

async fn a_cancellation_expires_with_what_it_cancels(store: &Store) {
    let alice = own("alice");
    let mut short = item(&alice);
    short.notification.expires_at = Some(store.now().after(Duration::from_secs(60)));
    let id = publish(store, short).await;
    cancel(store, id).await;
    store.pass(Duration::from_secs(59));
    assert_eq!(page_seqs(&store.read_one(reading(&alice, 0)).await), [2]);
    store.pass(Duration::from_secs(1));
    let page = store.read_one(reading(&alice, 0)).await;
    assert_eq!((page_seqs(&page), page.through), (vec![], Seq(2)));
    assert_eq!(store.inbox.expire(store.now(), 100).await.expect("nothing"), 0);
    let swept = store.inbox.sweep(&out_of_date(store.now(), UnixMillis(0)), 100).await;
    // Two entries and a body.
    assert_eq!(swept.expect("swept"), 3);
}

async fn of_many_cancellations_at_once_one_is_made(store: &Store) {
    for _ in 0..5 {
        let streams = [own("alice"), own("bob"), Stream::Everyone];
        let before = store.inbox.heads(&streams).await.expect("the heads");
        let id = publish(store, item_for(streams.iter().map(to).collect())).await;
        let cancels = (0..8).map(|_| {
            let (inbox, now) = (Arc::clone(&store.inbox), store.now());
            tokio::spawn(async move { inbox.cancel(id, &publisher(), now).await })
        });
        let mut made = 0;
        for cancel in cancels.collect::<Vec<_>>() {
            match cancel.await.expect("it ends") {
                Ok(Cancelled::Stored { entries, .. }) => made += entries.len(),
                other => panic!("expected an answer; got {other:?}"),
            }
        }
        assert_eq!(made, 3);
        let after = store.inbox.heads(&streams).await.expect("the heads");
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(after.head.0, before.head.0 + 2, "one and its cancellation");
        }
    }
}

/// What a task of the mix did.
#[derive(Default)]
struct Did {
    published: Vec<NotificationId>,
    seqs: HashMap<Stream, Vec<u64>>,
}

/// Some of few streams, so that tasks meet.
fn some_streams(random: &mut StdRng) -> Vec<Recipient> {
    (0..random.random_range(1..4))
        .map(|_| match random.random_range(0..5) {
            0 => to(&Stream::Everyone),
            user => to(&own(&format!("user-{user}"))),
        })
        .collect()
}

/// One step: mostly appends, else anything that changes entries.
async fn step(inbox: &Arc<dyn Inbox>, now: UnixMillis, random: &mut StdRng, did: &mut Did) {
    let name = format!("user-{}", random.random_range(1..5));
    let id = did.published.get(random.random_range(0..did.published.len().max(1))).copied();
    match random.random_range(0..10) {
        0 | 1 => {
            let Some(id) = id else { return };
            match inbox.cancel(id, &publisher(), now).await.expect("cancelled") {
                Cancelled::Stored { entries, .. } => {
                    for (recipient, place) in entries {
                        did.seqs.entry(recipient.stream).or_default().push(place.seq.0);
                    }
                }
                // Retention has removed it.
                Cancelled::Unknown => {}
                Cancelled::Unscheduled => panic!("it was not scheduled"),
            }
        }
        2 => {
            let heads = inbox.heads(&[own(&name)]).await.expect("the head");
            let seqs = (0..8).map(|_| Seq(random.random_range(0..=heads[0].head.0)));
            let had = seqs.map(|seq| Delivered { user: user(&name), epoch: heads[0].epoch, seq });
            inbox.delivered(had.collect(), now).await.expect("noted");
        }
        3 => {
            let marked = match id {
                Some(id) if random.random_bool(0.5) => Marked::Ids(vec![id]),
                _ => Marked::UpTo(Seq(random.random_range(1..50))),
            };
            let mark = Mark { stream: own(&name), marked };
            inbox.mark_read(&user(&name), &mark, now).await.expect("marked");
        }
        4 => {
            inbox.expire(now.after(Duration::from_secs(60)), 5).await.expect("noted");
        }
        5 if random.random_bool(0.2) => {
            inbox.retain_by_count(&[own(&name), Stream::Everyone], 40).await.expect("retained");
        }
        _ => {
            let group: Vec<_> = (0..random.random_range(1..4))
                .map(|_| {
                    let mut item = item_for(some_streams(random));
                    item.collapse_key = random.random_bool(0.5).then(|| "badge".to_owned());
                    let lives = Duration::from_secs(60);
                    item.notification.expires_at = random.random_bool(0.3).then(|| now.after(lives));
                    item
                })
                .collect();
            for (item, answer) in group.iter().zip(inbox.append(group.clone()).await) {
                did.published.push(item.notification.id);
                for (recipient, place) in item.recipients.iter().zip(places(answer)) {
                    did.seqs.entry(recipient.stream.clone()).or_default().push(place.seq.0);
                }
            }
        }
    }
}

async fn everything_at_once_neither_blocks_nor_loses_anything(store: &Store) {
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let now = store.now();
    let tasks = (0..10).map(|task| {
        let inbox = Arc::clone(&store.inbox);
        let mut random = StdRng::seed_from_u64(seed.wrapping_add(task));
        tokio::spawn(async move {
            let mut did = Did::default();
            for _ in 0..40 {
                step(&inbox, now, &mut random, &mut did).await;
            }
            did
        })
    });
    let mut seqs: HashMap<Stream, Vec<u64>> = HashMap::new();
    for task in tasks.collect::<Vec<_>>() {
        for (stream, of_task) in task.await.expect("nothing failed").seqs {
            seqs.entry(stream).or_default().extend(of_task);
        }
    }
    for (stream, mut seqs) in seqs {
        seqs.sort_unstable();
        let expected: Vec<u64> = (1..=seqs.len() as u64).collect();
        assert_eq!(seqs, expected, "{stream}");
        let heads = store.inbox.heads(std::slice::from_ref(&stream)).await.expect("the head");
        assert_eq!(heads[0].head, Seq(expected.len() as u64), "{stream}");
        // What can be read agrees with what is counted.
        if let Stream::User(user) = &stream {
            let unread = store.inbox.unread(user, now).await.expect("known").0;
            let mut all = reading(&stream, 0);
            (all.audience, all.max_entries) = (Audience::All, 10_000);
            let page = store.read_one(all).await;
            let is_unread =
                |content: &Content| matches!(content, Content::Notification { is_read: false, .. });
            let readable = page.entries.iter().filter(|entry| is_unread(&entry.content)).count();
            assert_eq!(unread.unread, readable as u64, "{stream}");
        }
    }
}
