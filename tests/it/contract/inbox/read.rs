//! Reading pages and heads, moving cursors.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fanfare::domain::{Epoch, Seq, Stream};
use fanfare::inbox::{Audience, Cursor, Head};

use super::cases;
use super::store::*;

cases!(
    a_stream_that_is_not_there_reads_as_empty,
    paging_to_the_end_meets_every_entry_once,
    a_page_ends_before_it_gets_too_large,
    a_page_reaches_the_head_past_what_is_not_for_its_reader,
    expired_entries_are_absent,
    a_read_starts_no_lower_than_the_floor,
    many_pages_in_one_call_keep_their_order,
    a_page_under_concurrent_appends_is_of_one_snapshot,
    heads_are_told_in_order,
    a_cursor_never_goes_back,
    a_cursor_moves_in_its_own_epoch_only,
    one_cursor_twice_in_a_commit_ends_at_the_further,
    a_cursor_that_is_gone_stays_gone,
);

async fn a_stream_that_is_not_there_reads_as_empty(store: &Store) {
    let page = store.read_one(reading(&own("nobody"), 0)).await;
    assert_eq!((page.floor, page.head, page.through), Default::default());
    assert_eq!(page.entries, []);
    assert_eq!(page.epoch, store.attach("alice", "web").await.epoch);
    let later = store.read_one(reading(&own("nobody"), 5)).await;
    assert_eq!((later.head, later.entries.len()), (Seq(0), 0));
}

async fn paging_to_the_end_meets_every_entry_once(store: &Store) {
    let alice = own("alice");
    store.fill(&alice, 10).await;
    for size in [1, 3, 5, 10, 11] {
        let (mut after, mut met, mut pages) = (0, Vec::new(), 0);
        loop {
            let mut read = reading(&alice, after);
            read.max_entries = size;
            let page = store.read_one(read).await;
            assert!(page.entries.len() <= size as usize);
            met.extend(page_seqs(&page));
            pages += 1;
            assert!(page.through.0 > after, "a page gets on");
            after = page.through.0;
            if page.through == page.head {
                break;
            }
            assert_eq!(page.through, page.entries[page.entries.len() - 1].seq);
        }
        assert_eq!(met, (1..=10).collect::<Vec<u64>>());
        assert_eq!(pages, 10_u32.div_ceil(size));
    }
}

async fn a_page_ends_before_it_gets_too_large(store: &Store) {
    let alice = own("alice");
    for length in [10, 10, 200, 10, 10] {
        let mut item = item(&alice);
        item.notification = notification_of(&"x".repeat(length));
        places(store.append_one(item).await);
    }
    let expected = [
        (0, 20, vec![1, 2], 2),
        (0, 19, vec![1], 1),
        // One is always there, however large.
        (0, 0, vec![1], 1),
        (2, 20, vec![3], 3),
        (3, 20, vec![4, 5], 5),
        (0, 240, vec![1, 2, 3, 4, 5], 5),
        (0, 239, vec![1, 2, 3, 4], 4),
        (0, usize::MAX, vec![1, 2, 3, 4, 5], 5),
    ];
    for (after, max_bytes, seqs, through) in expected {
        let mut read = reading(&alice, after);
        read.max_bytes = max_bytes;
        let page = store.read_one(read).await;
        assert_eq!((page_seqs(&page), page.through), (seqs, Seq(through)));
        assert_eq!(page.head, Seq(5));
    }
}

async fn a_page_reaches_the_head_past_what_is_not_for_its_reader(store: &Store) {
    let alice = own("alice");
    store.fill(&alice, 1).await;
    for on in ["web", "phone", "phone"] {
        places(store.append_one(item_for(vec![to_device("alice", on)])).await);
    }
    let audiences = [
        (Audience::Device(Some(device("web"))), vec![1, 2]),
        (Audience::Device(Some(device("phone"))), vec![1, 3, 4]),
        (Audience::Device(None), vec![1]),
        (Audience::All, vec![1, 2, 3, 4]),
    ];
    for (audience, seqs) in audiences {
        let mut read = reading(&alice, 0);
        read.audience = audience;
        read.max_entries = u32::try_from(seqs.len()).expect("a few");
        let page = store.read_one(read).await;
        assert_eq!((page_seqs(&page), page.through), (seqs, Seq(4)));
    }
    // Cut short, it ends at its last entry: number 3 is still to come.
    let mut read = reading(&alice, 0);
    read.audience = Audience::Device(Some(device("phone")));
    read.max_entries = 1;
    assert_eq!(store.read_one(read).await.through, Seq(1));
}

async fn expired_entries_are_absent(store: &Store) {
    let alice = own("alice");
    let lives = Duration::from_secs(60);
    for seq in 1..=4 {
        let mut item = item(&alice);
        item.notification.expires_at = (seq % 2 == 0).then(|| store.now().after(lives));
        places(store.append_one(item).await);
    }
    let page = store.read_one(reading(&alice, 0)).await;
    assert_eq!(page_seqs(&page), [1, 2, 3, 4]);
    assert_eq!(page.entries[1].expires_at, Some(START.after(lives)));
    assert_eq!(page.entries[0].expires_at, None);
    store.pass(lives);
    let page = store.read_one(reading(&alice, 0)).await;
    assert_eq!((page_seqs(&page), page.through), (vec![1, 3], Seq(4)));
}

async fn a_read_starts_no_lower_than_the_floor(store: &Store) {
    let alice = own("alice");
    store.fill(&alice, 6).await;
    // Entries that retention has passed but not removed yet.
    store.sql("update streams set floor_seq = 4 where name = 'user:alice'".into()).await;
    let page = store.read_one(reading(&alice, 1)).await;
    assert_eq!((page_seqs(&page), page.floor), (vec![5, 6], Seq(4)));
    let page = store.read_one(reading(&alice, 5)).await;
    assert_eq!(page_seqs(&page), [6]);
}

async fn many_pages_in_one_call_keep_their_order(store: &Store) {
    store.fill(&own("alice"), 3).await;
    store.fill(&own("bob"), 2).await;
    let reads = vec![
        reading(&own("bob"), 0),
        reading(&own("nobody"), 0),
        reading(&own("alice"), 1),
        reading(&own("alice"), 3),
        reading(&own("bob"), 0),
    ];
    let pages = store.inbox.read(reads, store.now()).await;
    let pages = pages.expect("the pages");
    let seqs: Vec<_> = pages.iter().map(page_seqs).collect();
    assert_eq!(seqs, [vec![1, 2], vec![], vec![2, 3], vec![], vec![1, 2]]);
    let none = store.inbox.read(vec![], store.now()).await;
    assert_eq!(none.expect("no pages"), []);
}

async fn a_page_under_concurrent_appends_is_of_one_snapshot(store: &Store) {
    let (alice, done) = (own("alice"), Arc::new(AtomicBool::new(false)));
    let publishers = (0..4).map(|_| {
        let (inbox, alice) = (Arc::clone(&store.inbox), alice.clone());
        tokio::spawn(async move {
            for _ in 0..50 {
                for answer in inbox.append(vec![item(&alice), item(&alice)]).await {
                    places(answer);
                }
            }
        })
    });
    let publishers: Vec<_> = publishers.collect();
    let readers = (0..2).map(|_| {
        let (inbox, alice) = (Arc::clone(&store.inbox), alice.clone());
        let (done, now) = (Arc::clone(&done), store.now());
        tokio::spawn(async move {
            let mut met = 0;
            loop {
                let is_last = done.load(Ordering::SeqCst);
                let read = inbox.read(vec![reading(&alice, met)], now).await;
                let page = read.expect("a page").remove(0);
                let expected: Vec<u64> = (met + 1..=page.through.0).collect();
                assert_eq!(page_seqs(&page), expected, "nothing up to `through` is missing");
                assert!(page.through <= page.head);
                met = page.through.0;
                if is_last && page.through == page.head {
                    return met;
                }
            }
        })
    });
    let readers: Vec<_> = readers.collect();
    for publisher in publishers {
        publisher.await.expect("the publisher ends");
    }
    done.store(true, Ordering::SeqCst);
    for reader in readers {
        assert_eq!(reader.await.expect("the reader ends"), 400);
    }
}

async fn heads_are_told_in_order(store: &Store) {
    store.fill(&own("alice"), 2).await;
    store.fill(&Stream::Everyone, 1).await;
    let epoch = store.attach("alice", "web").await.epoch;
    let streams = [Stream::Everyone, own("nobody"), own("alice"), Stream::Everyone];
    let heads = store.inbox.heads(&streams).await.expect("the heads");
    let expected = [1, 0, 2, 1].map(|head| Head { epoch, head: Seq(head), reads: 0 });
    assert_eq!(heads, expected);
}

async fn a_cursor_never_goes_back(store: &Store) {
    store.fill(&own("alice"), 5).await;
    let epoch = store.attach("alice", "web").await.epoch;
    for (ack, position) in [(3, 3), (2, 3), (3, 3), (5, 5), (1, 5)] {
        store.ack("alice", "web", epoch, ack).await;
        assert_eq!(store.attach("alice", "web").await.position, Seq(position));
    }
}

async fn a_cursor_moves_in_its_own_epoch_only(store: &Store) {
    store.fill(&own("alice"), 5).await;
    let epoch = store.attach("alice", "web").await.epoch;
    store.ack("alice", "web", epoch, 1).await;
    let other = Epoch(epoch.0.wrapping_add(1));
    store.ack("alice", "web", other, 4).await;
    assert_eq!(store.attach("alice", "web").await.position, Seq(1));
}

async fn one_cursor_twice_in_a_commit_ends_at_the_further(store: &Store) {
    store.fill(&own("alice"), 5).await;
    let epoch = store.attach("alice", "web").await.epoch;
    store.attach("alice", "phone").await;
    let cursor = |on: &str, acked| Cursor {
        user: user("alice"),
        device: device(on),
        stream: own("alice"),
        epoch,
        acked: Seq(acked),
    };
    let cursors = vec![cursor("web", 2), cursor("phone", 1), cursor("web", 4), cursor("web", 3)];
    store.inbox.commit(cursors).await.expect("committed");
    assert_eq!(store.attach("alice", "web").await.position, Seq(4));
    assert_eq!(store.attach("alice", "phone").await.position, Seq(1));
    store.inbox.commit(vec![]).await.expect("nothing to do");
}

async fn a_cursor_that_is_gone_stays_gone(store: &Store) {
    store.fill(&own("alice"), 5).await;
    let epoch = store.attach("alice", "web").await.epoch;
    store.ack("alice", "phone", epoch, 2).await;
    // Had the commit made a cursor, the phone would go on at 2.
    assert_eq!(store.attach("alice", "phone").await.position, Seq(0));
}
