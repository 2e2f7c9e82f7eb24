//! Appending: order, groups, durability.

use std::collections::HashMap;
use std::sync::Arc;

use fanfare::domain::{Seq, Stream, TopicName};
use fanfare::inbox::{Audience, InboxError, Open};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::cases;
use super::store::*;

cases!(
    a_stream_counts_from_one_in_the_order_of_its_group,
    two_entries_of_one_item_in_one_stream_get_two_seqs_in_order,
    one_body_serves_all_recipients_byte_for_byte,
    a_broadcast_is_one_entry_however_many_users_are_known,
    twenty_publishers_to_overlapping_streams_leave_no_hole,
    a_bad_item_does_not_fail_the_others,
    an_item_for_nobody_is_refused,
    a_group_of_512_items_is_taken,
    a_group_for_more_recipients_than_one_commit_takes_keeps_its_order,
);

async fn a_stream_counts_from_one_in_the_order_of_its_group(store: &Store) {
    let (alice, everyone) = (own("alice"), Stream::Everyone);
    let group = vec![item(&alice), item(&everyone), item(&alice), item(&alice)];
    let bodies: Vec<_> = group.iter().map(|item| item.notification.id.to_string()).collect();
    assert_eq!(bodies.len(), 4);
    let answers = store.inbox.append(group).await;
    let seqs: Vec<_> = answers.into_iter().map(|answer| seqs(&places(answer))).collect();
    assert_eq!(seqs, [[1], [1], [2], [3]]);
    let later = places(store.append_one(item(&alice)).await);
    assert_eq!(later[0].seq, Seq(4));
}

async fn two_entries_of_one_item_in_one_stream_get_two_seqs_in_order(store: &Store) {
    store.fill(&own("alice"), 1).await;
    let both =
        item_for(vec![to_device("alice", "web"), to_device("bob", "web"), to_device("alice", "phone")]);
    assert_eq!(seqs(&places(store.append_one(both).await)), [2, 1, 3]);
    let mut all = reading(&own("alice"), 1);
    all.audience = Audience::All;
    let page = store.read_one(all).await;
    let devices: Vec<_> =
        page.entries.iter().map(|entry| entry.device.clone().map(|device| device.to_string())).collect();
    assert_eq!(devices, [Some("web".to_owned()), Some("phone".to_owned())]);
}

async fn one_body_serves_all_recipients_byte_for_byte(store: &Store) {
    let json = "{ \"data\" : {\"b\":1,\"a\":\"\\u0000é\"} }";
    let mut item = item_for(vec![to(&own("alice")), to(&own("bob"))]);
    item.notification = notification_of(json);
    places(store.append_one(item).await);
    for name in ["alice", "bob"] {
        let page = store.read_one(reading(&own(name), 0)).await;
        assert_eq!(json_of(&page.entries[0]), json.as_bytes());
    }
}

async fn a_broadcast_is_one_entry_however_many_users_are_known(store: &Store) {
    let names: Vec<String> = (0..100).map(|number| format!("user-{number}")).collect();
    let opens = names.iter().map(|name| Open { stream: Stream::Everyone, ..opening(name, Some("web")) });
    for opened in store.inbox.open(opens.collect()).await {
        assert_eq!(opened.expect("opened").head, Seq(0));
    }
    let appended = places(store.append_one(item(&Stream::Everyone)).await);
    assert_eq!(seqs(&appended), [1]);
    let streams: Vec<Stream> = names.iter().map(|name| own(name)).chain([Stream::Everyone]).collect();
    let heads = store.inbox.heads(&streams).await.expect("the heads");
    let (everyone, of_users) = heads.split_last().expect("as many as were asked for");
    assert_eq!(everyone.head, Seq(1));
    assert!(of_users.iter().all(|stream| stream.head == Seq(0)));
}

async fn twenty_publishers_to_overlapping_streams_leave_no_hole(store: &Store) {
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let publishers = (0..20).map(|publisher| {
        let inbox = Arc::clone(&store.inbox);
        let mut random = StdRng::seed_from_u64(seed.wrapping_add(publisher));
        tokio::spawn(async move {
            let mut seen: HashMap<Stream, Vec<u64>> = HashMap::new();
            for _ in 0..10 {
                let group: Vec<_> =
                    (0..random.random_range(1..4)).map(|_| item_for(some_recipients(&mut random))).collect();
                for (item, answer) in group.iter().zip(inbox.append(group.clone()).await) {
                    for (recipient, place) in item.recipients.iter().zip(places(answer)) {
                        let seqs = seen.entry(recipient.stream.clone()).or_default();
                        seqs.push(place.seq.0);
                    }
                }
            }
            seen
        })
    });
    let mut all: HashMap<Stream, Vec<u64>> = HashMap::new();
    for publisher in publishers.collect::<Vec<_>>() {
        for (stream, seqs) in publisher.await.expect("the publisher ends") {
            assert!(seqs.is_sorted(), "a publisher's own seqs grow: {seqs:?}");
            all.entry(stream).or_default().extend(seqs);
        }
    }
    for (stream, mut seqs) in all {
        seqs.sort_unstable();
        let expected: Vec<u64> = (1..=seqs.len() as u64).collect();
        assert_eq!(seqs, expected, "{stream}");
        let heads = store.inbox.heads(&[stream]).await.expect("the head");
        assert_eq!(heads[0].head, Seq(expected.len() as u64));
    }
}

/// One to four of six streams, in any order, perhaps one of them twice.
fn some_recipients(random: &mut StdRng) -> Vec<fanfare::domain::Recipient> {
    (0..random.random_range(1..5))
        .map(|_| match random.random_range(0..6) {
            0 => to(&Stream::Everyone),
            1 => to(&Stream::Topic(TopicName::new("news").expect("a topic"))),
            user => to(&own(&format!("user-{user}"))),
        })
        .collect()
}

async fn a_bad_item_does_not_fail_the_others(store: &Store) {
    let alice = own("alice");
    let first = item(&alice);
    places(store.append_one(first.clone()).await);
    for place in [0, 3, 6] {
        let mut group: Vec<_> = (0..7).map(|_| item(&alice)).collect();
        // Its body is there already, so neither store can take it.
        group[place] = first.clone();
        let answers = store.inbox.append(group).await;
        let mut stored = Vec::new();
        for (number, answer) in answers.into_iter().enumerate() {
            if number == place {
                assert!(matches!(answer, Err(InboxError::Refused(_))), "{answer:?}");
            } else {
                stored.extend(seqs(&places(answer)));
            }
        }
        let start = stored[0];
        assert_eq!(stored, (start..start + 6).collect::<Vec<_>>());
    }
    let heads = store.inbox.heads(&[alice]).await.expect("the head");
    assert_eq!(heads[0].head, Seq(1 + 3 * 6), "refused items leave no hole");
}

async fn an_item_for_nobody_is_refused(store: &Store) {
    let answers = store.inbox.append(vec![item_for(vec![]), item(&own("alice"))]).await;
    assert!(matches!(answers[0], Err(InboxError::Refused(_))));
    assert!(answers[1].is_ok());
}

async fn a_group_of_512_items_is_taken(store: &Store) {
    let alice = own("alice");
    let group = (0..512).map(|_| item(&alice)).collect();
    let answers = store.inbox.append(group).await;
    for (answer, seq) in answers.into_iter().zip(1..) {
        assert_eq!(seqs(&places(answer)), [seq]);
    }
}

/// What was answered is on disk: another process finds it.
async fn survives_reopening(mut store: Store) {
    let alice = own("alice");
    let opened = store.attach("alice", "web").await;
    let keyed_item = keyed(item(&alice), "order-1", 1);
    places(store.append_one(keyed_item.clone()).await);
    store.ack("alice", "web", opened.epoch, 1).await;
    store.fill(&alice, 1).await;
    store.reopen().await;
    let again = store.attach("alice", "web").await;
    assert_eq!((again.epoch, again.position), (opened.epoch, Seq(1)));
    let page = store.read_one(reading(&alice, 1)).await;
    assert_eq!(page_seqs(&page), [2]);
    let replay = store.append_one(keyed_item).await.expect("an answer");
    assert!(matches!(replay, fanfare::inbox::Appended::Replayed(_)));
}

#[tokio::test]
async fn a_sqlite_file_keeps_everything_when_it_is_opened_again() {
    survives_reopening(Store::sqlite().await).await;
}

#[tokio::test]
async fn postgres_keeps_everything_when_it_is_opened_again() {
    survives_reopening(Store::postgres().await).await;
}

async fn a_group_for_more_recipients_than_one_commit_takes_keeps_its_order(store: &Store) {
    let everybody: Vec<_> = (0..4_000).map(|number| to(&own(&format!("user-{number}")))).collect();
    let group = (0..3).map(|_| item_for(everybody.clone())).collect();
    for (seq, answer) in (1..).zip(store.inbox.append(group).await) {
        let places = places(answer);
        assert_eq!(places.len(), 4_000);
        assert!(places.iter().all(|place| place.seq == Seq(seq)));
    }
}
