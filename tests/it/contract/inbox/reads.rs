//! Read state: what a person has read, on whichever device, and what is left.

use std::sync::Arc;
use std::time::Duration;

use fanfare::domain::{Epoch, NotificationId, Seq, Stream, TopicName, UserId};
use fanfare::inbox::{
    Append, Content, InboxEntry, InboxPage, Look, MAX_SHARED_UNREAD, Mark, Marked, Open, ReadChange, State,
    Unread, new_epoch,
};

use super::cases;
use super::store::*;

cases!(
    marking_answers_what_changed_and_raises_the_version_once,
    marking_twice_changes_nothing,
    marking_up_to_a_seq_marks_what_is_there_to_be_read,
    what_retention_has_passed_is_not_marked,
    what_was_read_is_told_in_pages_and_receipts,
    reading_acknowledges_nothing,
    a_missed_mark_is_found_by_the_counter,
    what_is_superseded_cancelled_or_expired_is_not_unread,
    shared_streams_have_read_state_for_each_user,
    unread_of_a_shared_stream_counts_from_when_a_device_first_followed_it,
    unread_of_a_shared_stream_is_counted_up_to_a_limit,
    a_further_device_starts_after_what_was_read,
    marks_at_once_raise_the_version_each,
    the_inbox_is_looked_at_newest_first,
    the_inbox_shows_what_is_unread_alone,
    the_inbox_of_a_shared_stream_knows_what_this_user_read,
    a_new_epoch_takes_nothing_back_but_places,
    marks_of_what_retention_took_go_with_the_next,
);

fn news() -> Stream {
    Stream::Topic(TopicName::new("news").expect("a topic"))
}

/// Appends one to a stream and answers its id.
async fn publish(store: &Store, stream: &Stream) -> NotificationId {
    publish_item(store, item(stream)).await
}

async fn publish_item(store: &Store, item: Append) -> NotificationId {
    let id = item.notification.id;
    places(store.append_one(item).await);
    id
}

async fn mark(store: &Store, name: &str, stream: &Stream, marked: Marked) -> (Marked, Unread) {
    let mark = Mark { stream: stream.clone(), marked };
    let done = store.inbox.mark_read(&user(name), &mark, store.now()).await;
    done.expect("it is marked")
}

async fn standing(store: &Store, name: &str) -> (Unread, Vec<(Stream, u64)>) {
    let standing = store.inbox.unread(&user(name), store.now()).await;
    standing.expect("it is known")
}

async fn unread(store: &Store, name: &str) -> u64 {
    standing(store, name).await.0.unread
}

async fn follow(store: &Store, name: &str, on: Option<&str>, stream: &Stream) -> u64 {
    let open = Open { stream: stream.clone(), ..opening(name, on) };
    store.open_one(open).await.expect("it opens").unread
}

fn ids(ids: &[NotificationId]) -> Marked {
    Marked::Ids(ids.to_vec())
}

async fn marking_answers_what_changed_and_raises_the_version_once(store: &Store) {
    let alice = own("alice");
    let (first, second) = (publish(store, &alice).await, publish(store, &alice).await);
    let others = publish(store, &own("bob")).await;
    let before = standing(store, "alice").await.0;
    assert_eq!((before.unread, before.reads), (2, 0));
    let unknown = NotificationId(uuid::Uuid::now_v7());
    let (marked, after) = mark(store, "alice", &alice, ids(&[second, unknown, others, first, second])).await;
    assert_eq!(marked, ids(&[second, first]));
    assert_eq!((after.unread, after.reads, after.version), (0, 1, before.version + 1));
    assert_eq!(standing(store, "alice").await.0, after);
    assert_eq!(unread(store, "bob").await, 1);
    publish(store, &alice).await;
    let later = standing(store, "alice").await.0;
    assert_eq!((later.unread, later.version), (1, after.version + 1));
    // Sessions are told the same when they start, and heads are compared by the counter.
    let opened = store.attach("alice", "web").await;
    assert_eq!((opened.unread, opened.version, opened.reads), (1, later.version, 1));
    let heads = store.inbox.heads(&[own("bob"), alice]).await.expect("the heads");
    assert_eq!((heads[0].reads, heads[1].reads), (0, 1));
}

async fn marking_twice_changes_nothing(store: &Store) {
    let alice = own("alice");
    let first = publish(store, &alice).await;
    for (stream, marked) in [(&alice, ids(&[first])), (&alice, Marked::UpTo(Seq(1)))] {
        mark(store, "alice", stream, marked.clone()).await;
        let before = standing(store, "alice").await.0;
        assert_eq!(mark(store, "alice", stream, marked).await, (ids(&[]), before));
    }
    assert_eq!(standing(store, "alice").await.0.reads, 1);
    let first = publish(store, &news()).await;
    for marked in [ids(&[first]), Marked::UpTo(Seq(1))] {
        mark(store, "alice", &news(), marked.clone()).await;
        let before = standing(store, "alice").await.0;
        assert_eq!(mark(store, "alice", &news(), marked).await, (ids(&[]), before));
    }
    // Up to a seq covers the single ones.
    assert_eq!(mark(store, "alice", &news(), ids(&[first])).await.0, ids(&[]));
    for stream in [own("nobody"), Stream::Everyone] {
        let (marked, unread) = mark(store, "nobody", &stream, Marked::UpTo(Seq(9))).await;
        assert_eq!((marked, unread.reads), (ids(&[]), 0));
    }
}

async fn marking_up_to_a_seq_marks_what_is_there_to_be_read(store: &Store) {
    let alice = own("alice");
    let kept = publish(store, &alice).await;
    let cancelled = publish(store, &alice).await;
    let now = store.now();
    store.inbox.cancel(cancelled, &publisher(), now).await.expect("it is cancelled");
    publish(store, &alice).await;
    let (marked, after) = mark(store, "alice", &alice, Marked::UpTo(Seq(3))).await;
    assert!(matches!(marked, Marked::UpTo(seq) if seq <= Seq(3)), "{marked:?}");
    assert_eq!(after.unread, 1);
    for (id, expected) in [(kept, State::Read), (cancelled, State::Cancelled)] {
        let page = store.inbox.recipients(id, &publisher(), None, 10, now).await.expect("known");
        assert_eq!(page[0].state, expected);
    }
    // What comes later is unread, however far the mark meant to go.
    let (marked, _) = mark(store, "alice", &alice, Marked::UpTo(Seq(900))).await;
    assert_eq!(marked, Marked::UpTo(Seq(4)));
    publish(store, &alice).await;
    assert_eq!(unread(store, "alice").await, 1);
    publish(store, &news()).await;
    let (marked, _) = mark(store, "alice", &news(), Marked::UpTo(Seq(900))).await;
    assert_eq!(marked, Marked::UpTo(Seq(1)));
    follow(store, "alice", Some("web"), &news()).await;
    publish(store, &news()).await;
    assert_eq!(standing(store, "alice").await.1, [(news(), 1)]);
}

async fn what_retention_has_passed_is_not_marked(store: &Store) {
    let alice = own("alice");
    // Bob has it still, so it stays, below the floor of Alice's stream.
    let both = publish_item(store, item_for(vec![to(&alice), to(&own("bob"))])).await;
    let kept = publish(store, &alice).await;
    assert_eq!(store.inbox.retain_by_count(std::slice::from_ref(&alice), 1).await.expect("removed"), 1);
    let (before, _) = standing(store, "alice").await;
    assert_eq!(before.unread, 1);
    for marked in [Marked::Ids(vec![both]), Marked::UpTo(Seq(1))] {
        assert_eq!(mark(store, "alice", &alice, marked).await, (Marked::Ids(vec![]), before));
    }
    let (marked, after) = mark(store, "alice", &alice, Marked::Ids(vec![both, kept])).await;
    assert_eq!((marked, after.unread, after.reads), (Marked::Ids(vec![kept]), 0, 1));
}

async fn what_was_read_is_told_in_pages_and_receipts(store: &Store) {
    let alice = own("alice");
    let read = publish_item(store, item_for(vec![to(&alice), to(&own("bob"))])).await;
    publish(store, &alice).await;
    store.pass(Duration::from_secs(5));
    mark(store, "alice", &alice, ids(&[read])).await;
    let page = store.read_one(reading(&alice, 0)).await;
    let is_read = |content: &Content| matches!(content, Content::Notification { is_read: true, .. });
    let told: Vec<bool> = page.entries.iter().map(|entry| is_read(&entry.content)).collect();
    assert_eq!(told, [true, false]);
    let receipt = store.inbox.receipt(read, &publisher(), store.now()).await.expect("an answer");
    let counts = receipt.expect("it is known").counts;
    assert_eq!((counts.read, counts.stored), (1, 1));
    let recipients = store.inbox.recipients(read, &publisher(), None, 10, store.now()).await;
    let recipients = recipients.expect("they are known");
    assert_eq!((recipients[0].state, recipients[0].read_at), (State::Read, Some(store.now())));
    assert_eq!((recipients[1].state, recipients[1].read_at), (State::Stored, None));
    // Of shared streams publishers are told nothing of single people.
    let shared = publish(store, &news()).await;
    mark(store, "alice", &news(), ids(&[shared])).await;
    let page = store.read_one(reading(&news(), 0)).await;
    assert!(!is_read(&page.entries[0].content));
    let receipt = store.inbox.receipt(shared, &publisher(), store.now()).await.expect("an answer");
    assert_eq!(receipt.expect("it is known").counts.read, 0);
}

async fn reading_acknowledges_nothing(store: &Store) {
    let alice = own("alice");
    let id = publish(store, &alice).await;
    store.attach("alice", "web").await;
    mark(store, "alice", &alice, ids(&[id])).await;
    assert_eq!(store.attach("alice", "web").await.position, Seq(0));
    let recipients = store.inbox.recipients(id, &publisher(), None, 10, store.now()).await;
    assert_eq!(recipients.expect("known")[0].delivered_at, None);
}

async fn a_missed_mark_is_found_by_the_counter(store: &Store) {
    let alice = own("alice");
    let first = publish(store, &alice).await;
    let second = publish(store, &alice).await;
    let third = publish(store, &alice).await;
    let shared = publish(store, &news()).await;
    let since = async |reads, limit| {
        let changes = store.inbox.read_since(&user("alice"), reads, limit, store.now()).await;
        changes.expect("the changes")
    };
    assert_eq!(since(0, 10).await.0, []);
    mark(store, "alice", &alice, ids(&[third])).await;
    mark(store, "alice", &news(), ids(&[shared])).await;
    mark(store, "alice", &alice, Marked::UpTo(Seq(2))).await;
    publish(store, &news()).await;
    let (_, last) = mark(store, "alice", &news(), Marked::UpTo(Seq(2))).await;
    let change = |stream: &Stream, marked| ReadChange { stream: stream.clone(), marked };
    let (changes, unread) = since(1, 10).await;
    assert_eq!(unread, last);
    // What a later mark covers need not be told again.
    assert_eq!(changes, [change(&alice, ids(&[first, second])), change(&news(), Marked::UpTo(Seq(2)))]);
    assert_eq!(since(0, 1).await.0, [change(&alice, ids(&[third]))]);
    assert_eq!(since(last.reads, 10).await.0, []);
    let others = store.inbox.read_since(&user("bob"), 0, 10, store.now()).await;
    assert_eq!(others.expect("the changes").0, []);
}

async fn what_is_superseded_cancelled_or_expired_is_not_unread(store: &Store) {
    let alice = own("alice");
    for _ in 0..3 {
        let mut item = item(&alice);
        item.collapse_key = Some("badge".to_owned());
        places(store.append_one(item).await);
    }
    assert_eq!(unread(store, "alice").await, 1);
    let mut short = item(&alice);
    short.notification.expires_at = Some(store.now().after(Duration::from_secs(60)));
    places(store.append_one(short).await);
    let id = publish(store, &alice).await;
    assert_eq!(unread(store, "alice").await, 3);
    store.inbox.cancel(id, &publisher(), store.now()).await.expect("it is cancelled");
    // Neither it nor its cancellation counts.
    assert_eq!(unread(store, "alice").await, 2);
    store.pass(Duration::from_secs(60));
    assert_eq!(unread(store, "alice").await, 1);
    assert_eq!(store.attach("alice", "web").await.unread, 1);
}

async fn shared_streams_have_read_state_for_each_user(store: &Store) {
    for name in ["alice", "bob"] {
        follow(store, name, Some("web"), &news()).await;
        follow(store, name, Some("web"), &Stream::Everyone).await;
    }
    let mut published = Vec::new();
    for _ in 0..4 {
        published.push(publish(store, &news()).await);
    }
    publish(store, &Stream::Everyone).await;
    let shared = async |name| standing(store, name).await.1;
    assert_eq!(shared("alice").await, [(Stream::Everyone, 1), (news(), 4)]);
    let (marked, _) = mark(store, "alice", &news(), ids(&[published[2]])).await;
    assert_eq!(marked, ids(&[published[2]]));
    assert_eq!(shared("alice").await, [(Stream::Everyone, 1), (news(), 3)]);
    let (marked, _) = mark(store, "alice", &news(), Marked::UpTo(Seq(2))).await;
    assert_eq!(marked, Marked::UpTo(Seq(2)));
    assert_eq!(shared("alice").await, [(Stream::Everyone, 1), (news(), 1)]);
    assert_eq!(follow(store, "alice", Some("phone"), &news()).await, 1);
    assert_eq!(shared("bob").await, [(Stream::Everyone, 1), (news(), 4)]);
    // The own stream's count is not touched, but its version tells that something was marked.
    let (own, _) = standing(store, "alice").await;
    assert_eq!((own.unread, own.reads, own.version), (0, 2, 2));
}

async fn unread_of_a_shared_stream_counts_from_when_a_device_first_followed_it(store: &Store) {
    store.fill(&news(), 5).await;
    assert_eq!(follow(store, "alice", None, &news()).await, 0);
    assert_eq!(follow(store, "alice", Some("web"), &news()).await, 0);
    store.fill(&news(), 2).await;
    assert_eq!(follow(store, "alice", Some("web"), &news()).await, 2);
    assert_eq!(follow(store, "alice", Some("phone"), &news()).await, 2);
    // Acknowledging is not reading.
    store.fill(&news(), 1).await;
    assert_eq!(standing(store, "alice").await.1, [(news(), 3)]);
    // Who asks for more with the first device follows from there.
    let open = Open { stream: news(), ..opening("bob", Some("web")) };
    let opened = store.open_one(resuming(open, None, 2)).await.expect("it opens");
    assert_eq!((opened.position, opened.unread), (Seq(2), 6));
    assert_eq!(standing(store, "bob").await.1, [(news(), 6)]);
    // What retention removed is not unread.
    store.retain_after(&news(), 6).await;
    assert_eq!(standing(store, "bob").await.1, [(news(), 2)]);
    assert_eq!(standing(store, "nobody").await, (Unread::default(), vec![]));
}

async fn unread_of_a_shared_stream_is_counted_up_to_a_limit(store: &Store) {
    follow(store, "alice", Some("web"), &Stream::Everyone).await;
    for _ in 0..3 {
        let group = (0..400).map(|_| item(&Stream::Everyone)).collect();
        for answer in store.inbox.append(group).await {
            places(answer);
        }
    }
    assert_eq!(standing(store, "alice").await.1, [(Stream::Everyone, MAX_SHARED_UNREAD)]);
    assert_eq!(follow(store, "alice", Some("web"), &Stream::Everyone).await, MAX_SHARED_UNREAD);
    mark(store, "alice", &Stream::Everyone, Marked::UpTo(Seq(1150))).await;
    assert_eq!(standing(store, "alice").await.1, [(Stream::Everyone, 50)]);
}

async fn a_further_device_starts_after_what_was_read(store: &Store) {
    let alice = own("alice");
    store.fill(&alice, 5).await;
    store.attach("alice", "web").await;
    mark(store, "alice", &alice, Marked::UpTo(Seq(3))).await;
    assert_eq!(store.attach("alice", "phone").await.position, Seq(3));
    mark(store, "alice", &alice, Marked::UpTo(Seq(5))).await;
    assert_eq!(store.attach("alice", "tablet").await.position, Seq(5));
}

async fn marks_at_once_raise_the_version_each(store: &Store) {
    let alice = own("alice");
    let mut published = Vec::new();
    for _ in 0..20 {
        published.push(publish(store, &alice).await);
    }
    let marks = published.into_iter().map(|id| {
        let (inbox, now) = (Arc::clone(&store.inbox), store.now());
        let mark = Mark { stream: own("alice"), marked: Marked::Ids(vec![id]) };
        tokio::spawn(async move { inbox.mark_read(&user("alice"), &mark, now).await })
    });
    let (mut versions, mut numbers) = (Vec::new(), Vec::new());
    for mark in marks.collect::<Vec<_>>() {
        let (_, unread) = mark.await.expect("it ends").expect("it is marked");
        versions.push((unread.version, unread.unread));
        numbers.push(unread.reads);
    }
    versions.sort_unstable();
    numbers.sort_unstable();
    assert_eq!(numbers, Vec::from_iter(1..=20), "each has a number of its own");
    // An answer may tell of marks that were made at the same time.
    for (version, unread) in &versions {
        assert_eq!(version + unread, 40, "each version goes with one count");
    }
    let at_least = |(place, (version, _)): (usize, &(u64, u64))| *version > 20 + place as u64;
    assert!(versions.iter().enumerate().all(at_least), "each mark is in its own answer: {versions:?}");
    assert_eq!(versions.last(), Some(&(40, 0)));
}

async fn look(store: &Store, name: &str, stream: &Stream, before: Option<u64>, limit: u32) -> InboxPage {
    let look =
        Look { user: user(name), stream: stream.clone(), before: before.map(Seq), limit, unread_only: false };
    store.inbox.look(&look, store.now()).await.expect("a page")
}

async fn look_unread(store: &Store, who: UserId, stream: &Stream) -> Vec<u64> {
    let look = Look { user: who, stream: stream.clone(), before: None, limit: 10, unread_only: true };
    let page = store.inbox.look(&look, store.now()).await.expect("a page");
    assert!(page.entries.iter().all(|entry| !entry.is_read));
    seen(&page)
}

fn seen(page: &InboxPage) -> Vec<u64> {
    page.entries.iter().map(|entry| entry.seq.0).collect()
}

async fn the_inbox_is_looked_at_newest_first(store: &Store) {
    let alice = own("alice");
    let empty = look(store, "alice", &alice, None, 5).await;
    assert_eq!((seen(&empty), empty.more), (vec![], false));
    store.fill(&alice, 3).await;
    places(store.append_one(item_for(vec![to_device("alice", "web")])).await);
    store.fill(&alice, 1).await;
    let page = look(store, "alice", &alice, None, 2).await;
    assert_eq!((seen(&page), page.more), (vec![5, 4], true));
    let expected =
        InboxEntry { seq: Seq(4), is_read: false, device: Some(device("web")), json: notification().json };
    assert_eq!(page.entries[1], expected);
    assert_eq!(page.epoch, store.attach("alice", "web").await.epoch);
    let page = look(store, "alice", &alice, Some(4), 3).await;
    assert_eq!((seen(&page), page.more), (vec![3, 2, 1], false));
    store.retain_after(&alice, 2).await;
    assert_eq!(seen(&look(store, "alice", &alice, None, 10).await), [5, 4, 3]);
}

async fn the_inbox_shows_what_is_unread_alone(store: &Store) {
    let alice = own("alice");
    let mut badge = item(&alice);
    badge.collapse_key = Some("badge".to_owned());
    let mut newer = item(&alice);
    newer.collapse_key = Some("badge".to_owned());
    let mut short = item(&alice);
    short.notification.expires_at = Some(store.now().after(Duration::from_secs(60)));
    for item in [badge, newer, short] {
        publish_item(store, item).await;
    }
    let cancelled = publish(store, &alice).await;
    let read = publish(store, &alice).await;
    store.inbox.cancel(cancelled, &publisher(), store.now()).await.expect("it is cancelled");
    mark(store, "alice", &alice, ids(&[read])).await;
    assert_eq!(seen(&look(store, "alice", &alice, None, 10).await), [5, 3, 2]);
    assert_eq!(look_unread(store, user("alice"), &alice).await, [3, 2]);
    store.pass(Duration::from_secs(60));
    assert_eq!(seen(&look(store, "alice", &alice, None, 10).await), [5, 2]);
    assert_eq!(look_unread(store, user("alice"), &alice).await, [2]);
}

async fn the_inbox_of_a_shared_stream_knows_what_this_user_read(store: &Store) {
    store.fill(&news(), 2).await;
    follow(store, "alice", Some("web"), &news()).await;
    let mut published = Vec::new();
    for _ in 0..4 {
        published.push(publish(store, &news()).await);
    }
    mark(store, "alice", &news(), ids(&[published[2]])).await;
    mark(store, "alice", &news(), Marked::UpTo(Seq(3))).await;
    let page = look(store, "alice", &news(), None, 10).await;
    let told: Vec<(u64, bool)> = page.entries.iter().map(|entry| (entry.seq.0, entry.is_read)).collect();
    assert_eq!(told, [(6, false), (5, true), (4, false), (3, true), (2, true), (1, true)]);
    // As many as the count says.
    assert_eq!(look_unread(store, user("alice"), &news()).await, [6, 4]);
    assert_eq!(standing(store, "alice").await.1, [(news(), 2)]);
    let page = look(store, "bob", &news(), None, 10).await;
    assert!(page.entries.iter().all(|entry| !entry.is_read));
}

async fn a_new_epoch_takes_nothing_back_but_places(store: &Store) {
    let alice = own("alice");
    let read = publish(store, &alice).await;
    store.fill(&alice, 2).await;
    follow(store, "alice", Some("web"), &news()).await;
    store.fill(&news(), 3).await;
    mark(store, "alice", &news(), Marked::UpTo(Seq(1))).await;
    let (before, _) = mark(store, "alice", &alice, ids(&[read])).await;
    assert_eq!(before, ids(&[read]));
    let opened = store.attach("alice", "web").await;
    store.ack("alice", "web", opened.epoch, 3).await;

    let mut known = vec![opened.epoch];
    let mut version = standing(store, "alice").await.0.version;
    for _ in 0..3 {
        let epoch: Epoch = new_epoch(&store.settings.url).await.expect("another life");
        assert!(!known.contains(&epoch));
        known.push(epoch);
        let (unread, shared) = standing(store, "alice").await;
        assert!(unread.version > version, "{} after {version}", unread.version);
        version = unread.version;
        assert_eq!((unread.unread, shared), (2, vec![(news(), 2)]));
        let streams = [alice.clone(), news(), own("nobody")];
        let heads = store.inbox.heads(&streams).await.expect("the heads");
        assert!(heads.iter().all(|head| head.epoch == epoch));
    }
    // A node that had the store open all the time goes on.
    let stored = places(store.append_one(item(&alice)).await);
    assert_eq!((stored[0].epoch, stored[0].seq), (known[3], Seq(4)));
    let again = store.attach("alice", "web").await;
    assert_eq!((again.epoch, again.position, again.gap_from), (known[3], Seq(0), Some(Seq(3))));
    assert_eq!((again.unread, again.version), (3, version + 1));
}

async fn marks_of_what_retention_took_go_with_the_next(store: &Store) {
    let mut ids = Vec::new();
    for _ in 0..4 {
        let item = item(&Stream::Everyone);
        ids.push(item.notification.id);
        places(store.append_one(item).await);
    }
    let mark = async |ids: &[NotificationId]| {
        let mark = Mark { stream: Stream::Everyone, marked: Marked::Ids(ids.to_vec()) };
        store.inbox.mark_read(&user("alice"), &mark, store.now()).await.expect("marked");
    };
    mark(&ids[..3]).await;
    store.retain_after(&Stream::Everyone, 2).await;
    mark(&ids[3..]).await;
    let erased = store.inbox.erase(&user("alice")).await.expect("erased");
    assert_eq!(erased.reads, 2, "of the third and the fourth");
}
