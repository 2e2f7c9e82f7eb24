//! Erasing a person: nothing of them stays, and nobody else loses anything.

use std::time::Duration;

use bytes::Bytes;
use fanfare::domain::{NotificationId, Seq, Stream, TopicName};
use fanfare::inbox::{Appended, Cancelled, Erased, Mark, Marked, Open, PresenceChange, Schedule, Scheduled};

use super::cases;
use super::store::*;

cases!(
    everything_of_a_person_goes_and_is_counted,
    erasing_nobody_changes_nothing,
    what_others_got_too_stays_with_them,
    a_large_inbox_is_erased,
    an_old_clients_place_is_never_taken_for_one_in_the_stream_that_comes_after,
    unread_versions_do_not_go_back_when_somebody_is_erased,
    a_stream_that_begins_late_is_not_overfull,
    scheduled_notifications_lose_the_person_and_keep_the_others,
    what_is_to_be_told_of_a_person_is_not_told,
);

fn news() -> Stream {
    Stream::Topic(TopicName::new("news").expect("a topic"))
}

async fn erase(store: &Store, name: &str) -> Erased {
    store.inbox.erase(&user(name)).await.expect("erased")
}

async fn publish(store: &Store, to_streams: &[&Stream]) -> NotificationId {
    let item = item_for(to_streams.iter().map(|stream| to(stream)).collect());
    let id = item.notification.id;
    places(store.append_one(item).await);
    id
}

async fn follow(store: &Store, name: &str, stream: &Stream) {
    let open = Open { stream: stream.clone(), ..opening(name, Some("web")) };
    store.open_one(open).await.expect("it opens");
}

async fn mark(store: &Store, name: &str, stream: &Stream, marked: Marked) {
    let mark = Mark { stream: stream.clone(), marked };
    store.inbox.mark_read(&user(name), &mark, store.now()).await.expect("marked");
}

async fn told(store: &Store, ids: &[String]) {
    store.inbox.told(ids).await.expect("removed");
}

/// All events that nobody was handed.
async fn events(store: &Store) -> Vec<String> {
    let events = store.inbox.claim_events(store.now(), Duration::from_secs(60), 1_000).await;
    events.expect("the events").into_iter().map(|event| event.id).collect()
}

async fn everything_of_a_person_goes_and_is_counted(store: &Store) {
    let alice = own("alice");
    let first = publish(store, &[&alice]).await;
    publish(store, &[&alice, &own("bob")]).await;
    for on in ["web", "phone"] {
        store.attach("alice", on).await;
    }
    follow(store, "alice", &news()).await;
    let shared = publish(store, &[&news()]).await;
    mark(store, "alice", &news(), Marked::Ids(vec![shared])).await;
    mark(store, "alice", &alice, Marked::Ids(vec![first])).await;
    store.inbox.cancel(first, &publisher(), store.now()).await.expect("cancelled");
    store.inbox.seen(vec![(user("alice"), store.now())]).await.expect("noted");
    told(store, &events(store).await).await;

    let expected = Erased {
        // Two notifications and a cancellation, one of which was for nobody else.
        entries: 3,
        notifications: 1,
        devices: 2,
        cursors: 3,
        // One mark, and where the topic was followed from.
        reads: 2,
        scheduled: 0,
        events: 0,
        other: 3,
    };
    assert_eq!(erase(store, "alice").await, expected);
    assert_eq!(erase(store, "alice").await, Erased::default());

    let (unread, shared) = store.inbox.unread(&user("alice"), store.now()).await.expect("known");
    assert_eq!((unread.unread, unread.reads, shared), (0, 0, vec![]));
    assert_eq!(store.inbox.last_seen(&[user("alice")]).await.expect("known"), [None]);
    assert!(!store.inbox.remove_device(&user("alice"), &device("web")).await.expect("known"));
    let page = store.read_one(reading(&alice, 0)).await;
    assert_eq!((page_seqs(&page), page.head), (vec![], Seq(0)));
}

async fn erasing_nobody_changes_nothing(store: &Store) {
    store.fill(&own("bob"), 2).await;
    assert_eq!(erase(store, "alice").await, Erased::default());
    assert_eq!(seqs(&places(store.append_one(item(&own("alice"))).await)), [1]);
    assert_eq!(seqs(&places(store.append_one(item(&own("bob"))).await)), [3]);
}

async fn what_others_got_too_stays_with_them(store: &Store) {
    let (alice, bob) = (own("alice"), own("bob"));
    let both = publish(store, &[&alice, &bob]).await;
    store.attach("bob", "web").await;
    follow(store, "bob", &news()).await;
    // A name that begins alike, and one that others might mistake for the person's stream.
    store.fill(&own("alice2"), 1).await;
    store.fill(&Stream::Topic(TopicName::new("alice").expect("a topic")), 1).await;
    erase(store, "alice").await;
    let page = store.read_one(reading(&bob, 0)).await;
    assert_eq!(json_of(&page.entries[0]), &notification().json[..]);
    let recipients = store.inbox.recipients(both, &publisher(), None, 10, store.now()).await;
    let users: Vec<_> = recipients.expect("known").into_iter().map(|recipient| recipient.user).collect();
    assert_eq!(users, [user("bob")]);
    let cancelled = store.inbox.cancel(both, &publisher(), store.now()).await.expect("cancelled");
    assert!(matches!(cancelled, Cancelled::Stored { entries, .. } if entries.len() == 1));
    assert!(store.inbox.remove_device(&user("bob"), &device("web")).await.expect("known"));
    let streams = [own("alice2"), Stream::Topic(TopicName::new("alice").expect("a topic"))];
    let heads = store.inbox.heads(&streams).await.expect("the heads");
    assert_eq!((heads[0].head, heads[1].head), (Seq(1), Seq(1)));
}

async fn a_large_inbox_is_erased(store: &Store) {
    for _ in 0..3 {
        let group = (0..500).map(|_| item(&own("alice"))).collect();
        for answer in store.inbox.append(group).await {
            places(answer);
        }
    }
    let erased = erase(store, "alice").await;
    assert_eq!((erased.entries, erased.notifications), (1_500, 1_500));
    assert_eq!(erase(store, "alice").await, Erased::default());
}

async fn an_old_clients_place_is_never_taken_for_one_in_the_stream_that_comes_after(store: &Store) {
    let alice = own("alice");
    store.fill(&alice, 5).await;
    let old = store.attach("alice", "web").await;
    store.fill(&own("carol"), 1).await;
    mark(store, "alice", &alice, Marked::UpTo(Seq(2))).await;
    let told = store.inbox.unread(&user("alice"), store.now()).await.expect("known").0.version;
    erase(store, "alice").await;

    // While there is nothing, the old place is above the head.
    let resume = || resuming(opening("alice", None), Some(old.epoch), 4);
    let opened = store.open_one(resume()).await.expect("it opens");
    assert_eq!((opened.head, opened.position, opened.gap_from), (Seq(0), Seq(0), Some(Seq(4))));
    // Whoever began before the first entry gets it without a gap.
    let fresh = store.attach("alice", "fresh").await;
    assert_eq!((fresh.position, fresh.gap_from), (Seq(0), None));
    // What comes then is above all that the old client can have, however much it is.
    let mut after = Vec::new();
    for _ in 0..6 {
        let stored = places(store.append_one(item(&alice)).await);
        assert!(stored[0].seq > Seq(5), "{stored:?}");
        after.push(stored[0].seq.0);
        let opened = store.open_one(resume()).await.expect("it opens");
        let page = store.read_one(reading(&alice, opened.position.0)).await;
        assert_eq!(page_seqs(&page), after, "the old client gets everything");
        assert!(opened.version > told, "its unread version does not go back");
    }
    assert!(after.is_sorted());
    let again = store.attach("alice", "fresh").await;
    assert_eq!((again.position, again.gap_from, again.unread), (Seq(0), None, 6));
    // Streams that were there before go on as they were.
    assert_eq!(seqs(&places(store.append_one(item(&own("carol"))).await)), [2]);
}

/// The version and how much is unread, which an open and a look must tell alike.
async fn versions_of(store: &Store, name: &str) -> (u64, u64) {
    let own = store.inbox.unread(&user(name), store.now()).await.expect("known").0;
    let opened = store.open_one(opening(name, None)).await.expect("it opens");
    assert_eq!((opened.version, opened.unread), (own.version, own.unread), "an open says the same");
    (own.version, own.unread)
}

async fn unread_versions_do_not_go_back_when_somebody_is_erased(store: &Store) {
    let alice = own("alice");
    store.fill(&alice, 5).await;
    mark(store, "alice", &alice, Marked::UpTo(Seq(3))).await;
    // Of this person there are only marks in a topic, and of that one nothing.
    let shared = publish(store, &[&news()]).await;
    mark(store, "bob", &news(), Marked::Ids(vec![shared])).await;
    let told = [versions_of(store, "alice").await, versions_of(store, "bob").await];
    assert_eq!(told, [(6, 2), (1, 0)]);

    erase(store, "alice").await;
    let (mut version, unread) = versions_of(store, "alice").await;
    assert!(version > 6 && unread == 0, "a client that keeps the highest takes the count: {version}");
    assert!(versions_of(store, "bob").await.0 >= 1);
    for count in 1..=3 {
        store.fill(&alice, 1).await;
        let (next, unread) = versions_of(store, "alice").await;
        assert!(next > version && unread == count, "{next} after {version}; {unread} unread");
        version = next;
    }

    let (told, _) = versions_of(store, "bob").await;
    erase(store, "bob").await;
    let (version, _) = versions_of(store, "bob").await;
    assert!(version > told, "{version} after {told}");
    erase(store, "bob").await;
    assert_eq!(versions_of(store, "bob").await.0, version, "nothing changed");
    // Who never had a stream stands further, too, and the stream begins above that.
    let (told, _) = versions_of(store, "carol").await;
    store.fill(&own("carol"), 1).await;
    assert!(versions_of(store, "carol").await.0 > told);
}

async fn a_stream_that_begins_late_is_not_overfull(store: &Store) {
    store.fill(&own("alice"), 9).await;
    erase(store, "alice").await;
    store.fill(&own("alice"), 3).await;
    assert_eq!(store.inbox.overfull(3, 10).await.expect("the streams"), []);
    assert_eq!(store.inbox.retain_by_count(&[own("alice")], 3).await.expect("removed"), 0);
    assert_eq!(store.read_one(reading(&own("alice"), 0)).await.entries.len(), 3);
    store.fill(&own("alice"), 1).await;
    assert_eq!(store.inbox.overfull(3, 10).await.expect("the streams"), [own("alice")]);
    assert_eq!(store.inbox.retain_by_count(&[own("alice")], 3).await.expect("removed"), 1);
    assert_eq!(store.read_one(reading(&own("alice"), 0)).await.entries.len(), 3);
}

async fn scheduled_notifications_lose_the_person_and_keep_the_others(store: &Store) {
    let schedule = async |request: &'static str| {
        let schedule = Schedule {
            id: NotificationId(uuid::Uuid::now_v7()),
            fire_at: store.now(),
            publisher: publisher(),
            request: Bytes::from_static(request.as_bytes()),
            created_at: store.now(),
            idempotency: None,
        };
        let id = schedule.id;
        let kept = store.inbox.schedule(schedule).await.expect("an answer");
        assert_eq!(kept, Scheduled::Kept);
        id
    };
    let alone = schedule(r#"{"to":{"users":["alice"]},"title":"a"}"#).await;
    schedule(r#"{"to":{"devices":[{"user":"alice","device":"web"}]}}"#).await;
    let both = schedule(r#"{"to":{"users":["alice","bob"]},"data":{"b": 1.50, "a": "alice"}}"#).await;
    let others = [
        r#"{"to":{"users":["bob"]},"title":"alice"}"#,
        r#"{"to":{"everyone":true}}"#,
        r#"{"to":{"topic":"alice"}}"#,
    ];
    for request in others {
        schedule(request).await;
    }
    assert_eq!(erase(store, "alice").await, Erased { scheduled: 2, ..Erased::default() });
    let due = store.inbox.claim_schedules(store.now(), Duration::from_secs(60), 10).await;
    let due = due.expect("what is due");
    assert_eq!(due.len(), 4);
    for schedule in due {
        let text = std::str::from_utf8(&schedule.request).expect("text");
        if schedule.id == both {
            let request: serde_json::Value = serde_json::from_str(text).expect("JSON");
            assert_eq!(request["to"], serde_json::json!({"users": ["bob"]}));
            assert!(text.contains(r#"{"b": 1.50, "a": "alice"}"#), "data stays as it is: {text}");
        } else {
            assert!(others.contains(&text), "{text}");
        }
    }
    let mut item = item(&own("alice"));
    item.notification.id = alone;
    item.scheduled = true;
    assert_eq!(store.append_one(item).await.expect("an answer"), Appended::NotScheduled);
}

async fn what_is_to_be_told_of_a_person_is_not_told(store: &Store) {
    let both = publish(store, &[&own("alice"), &own("bob")]).await;
    publish(store, &[&Stream::Topic(TopicName::new("alice").expect("a topic"))]).await;
    let change = |name| PresenceChange { user: user(name), is_online: true, at: store.now() };
    let changes = [change("alice"), change("alice2")];
    assert_eq!(store.inbox.presence_changed(&changes).await.expect("changed"), [true, true]);
    assert_eq!(erase(store, "alice").await.events, 2);
    let left = events(store).await;
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(left.contains(&format!("receipt.stored/{both}/bob")), "{left:?}");
    assert!(left.contains(&format!("presence/alice2/{}", store.now().0)), "{left:?}");
    let online = store.inbox.online_users(None, 10).await.expect("known");
    assert_eq!(online, [user("alice2")]);
}

/// Whether the file of this store has these bytes anywhere, once its log was written back.
async fn file_has(store: &Store, bytes: &[u8]) -> bool {
    store.sql("pragma wal_checkpoint(truncate)".into()).await;
    let path = store.settings.url.strip_prefix("sqlite://").expect("a file");
    let file = std::fs::read(path).expect("it is read");
    file.windows(bytes.len()).any(|window| window == bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_erased_is_nowhere_in_the_file_of_sqlite() {
    let store = Store::sqlite().await;
    // On a page with others, and on pages of its own.
    for length in [1, 20_000] {
        let mut item = item(&own("alice"));
        item.notification = notification_of(&format!("{{\"body\":\"{}\"}}", "a-secret-word".repeat(length)));
        places(store.append_one(item).await);
        store.fill(&own("bob"), 3).await;
    }
    assert!(file_has(&store, b"a-secret-word").await, "else it shows nothing");
    assert_eq!(erase(&store, "alice").await.notifications, 2);
    assert!(!file_has(&store, b"a-secret-word").await);
}
