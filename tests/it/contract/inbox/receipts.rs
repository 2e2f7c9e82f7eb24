//! Receipts: what became of a notification for each of its recipients.

use std::time::Duration;

use fanfare::domain::{Epoch, NotificationId, PublisherId, Seq, Stream, TopicName};
use fanfare::inbox::{
    AfterRecipient, Counts, Delivered, DeliveredShared, Mark, Marked, Receipt, RecipientReceipt, State,
};
use fanfare::metrics::inbox::ReceiptLabels;
use serde_json::{Value, json};

use super::cases;
use super::store::*;

cases!(
    a_receipt_follows_its_notification,
    only_its_publisher_is_told,
    the_first_acknowledgement_counts,
    what_is_gone_or_of_another_epoch_is_passed_over,
    one_acknowledgement_of_many_in_a_call,
    devices_that_share_a_stream_are_counted,
    recipients_are_told_in_pages_by_user_and_device,
    counts_of_several_are_told_in_order,
    events_say_what_happened_to_whom,
    events_of_a_shared_stream_name_the_stream,
    nothing_is_told_where_that_is_switched_off,
    what_comes_into_a_state_is_counted_once,
);

async fn publish(store: &Store, item: fanfare::inbox::Append) -> NotificationId {
    let id = item.notification.id;
    places(store.append_one(item).await);
    id
}

async fn receipt(store: &Store, id: NotificationId) -> Receipt {
    let receipt = store.inbox.receipt(id, &publisher(), store.now()).await;
    receipt.expect("an answer").expect("a receipt")
}

async fn deliver(store: &Store, entries: &[(&str, Epoch, u64)]) {
    let entries = entries.iter().map(|(name, epoch, seq)| Delivered {
        user: user(name),
        epoch: *epoch,
        seq: Seq(*seq),
    });
    store.inbox.delivered(entries.collect(), store.now()).await.expect("noted");
}

async fn epoch(store: &Store) -> Epoch {
    store.inbox.heads(&[Stream::Everyone]).await.expect("the head")[0].epoch
}

async fn a_receipt_follows_its_notification(store: &Store) {
    let (alice, bob) = (own("alice"), own("bob"));
    let mut both = item_for(vec![to(&alice), to_device("bob", "web")]);
    both.notification.created_at = START.after(Duration::from_secs(7));
    let id = publish(store, both).await;
    let expected = Receipt {
        created_at: START.after(Duration::from_secs(7)),
        deliver_at: None,
        is_cancelled: false,
        recipients: Some(2),
        counts: Counts { stored: 2, ..Counts::default() },
    };
    assert_eq!(receipt(store, id).await, expected);
    deliver(store, &[("alice", epoch(store).await, 1)]).await;
    assert_eq!(receipt(store, id).await.counts, Counts { stored: 1, delivered: 1, ..Counts::default() });
    let mark = Mark { stream: alice, marked: Marked::UpTo(Seq(1)) };
    store.inbox.mark_read(&user("alice"), &mark, store.now()).await.expect("marked");
    assert_eq!(receipt(store, id).await.counts, Counts { stored: 1, read: 1, ..Counts::default() });
    // Read without an acknowledgement, as on a page of the inbox.
    let mark = Mark { stream: bob, marked: Marked::Ids(vec![id]) };
    store.inbox.mark_read(&user("bob"), &mark, store.now()).await.expect("marked");
    assert_eq!(receipt(store, id).await.counts, Counts { read: 2, ..Counts::default() });
}

async fn only_its_publisher_is_told(store: &Store) {
    let id = publish(store, item(&own("alice"))).await;
    let other = PublisherId::new("billing").expect("a valid id");
    assert_eq!(store.inbox.receipt(id, &other, store.now()).await.expect("an answer"), None);
    let recipients = store.inbox.recipients(id, &other, None, 10, store.now()).await;
    assert_eq!(recipients.expect("an answer"), []);
    let nothing = NotificationId(uuid::Uuid::now_v7());
    assert_eq!(store.inbox.receipt(nothing, &publisher(), store.now()).await.expect("an answer"), None);
}

async fn the_first_acknowledgement_counts(store: &Store) {
    let id = publish(store, item(&own("alice"))).await;
    let epoch = epoch(store).await;
    deliver(store, &[("alice", epoch, 1)]).await;
    store.pass(Duration::from_secs(5));
    deliver(store, &[("alice", epoch, 1)]).await;
    let recipients = store.inbox.recipients(id, &publisher(), None, 10, store.now()).await;
    let expected = RecipientReceipt {
        user: user("alice"),
        device: None,
        state: State::Delivered,
        delivered_at: Some(START),
        read_at: None,
    };
    assert_eq!(recipients.expect("the list"), [expected]);
    assert_eq!(told(store, "receipt.delivered").await, [format!("receipt.delivered/{id}/alice")]);
}

async fn what_is_gone_or_of_another_epoch_is_passed_over(store: &Store) {
    let id = publish(store, item(&own("alice"))).await;
    let epoch = epoch(store).await;
    let other = Epoch(epoch.0.wrapping_add(1));
    deliver(store, &[("alice", other, 1), ("alice", epoch, 2), ("nobody", epoch, 1)]).await;
    deliver(store, &[]).await;
    let shared = |epoch, seq| DeliveredShared { stream: Stream::Everyone, epoch, seq: Seq(seq), devices: 1 };
    let noted = store.inbox.delivered_shared(vec![shared(epoch, 1)], store.now()).await;
    noted.expect("nothing to do");
    let everyone = publish(store, item(&Stream::Everyone)).await;
    let noted = store.inbox.delivered_shared(vec![shared(other, 1), shared(epoch, 2)], store.now()).await;
    noted.expect("nothing to do");
    for id in [id, everyone] {
        assert_eq!(receipt(store, id).await.counts, Counts { stored: 1, ..Counts::default() });
    }
    assert_eq!(told(store, "receipt.delivered").await, [""; 0]);
}

async fn one_acknowledgement_of_many_in_a_call(store: &Store) {
    let id = publish(store, item_for(vec![to(&own("alice")), to(&own("bob"))])).await;
    let later = publish(store, item(&own("alice"))).await;
    let epoch = epoch(store).await;
    let twice = [("bob", epoch, 1), ("alice", epoch, 2), ("alice", epoch, 1), ("alice", epoch, 2)];
    deliver(store, &twice).await;
    assert_eq!(receipt(store, id).await.counts, Counts { delivered: 2, ..Counts::default() });
    assert_eq!(receipt(store, later).await.counts, Counts { delivered: 1, ..Counts::default() });
    assert_eq!(told(store, "receipt.delivered").await.len(), 3);
}

async fn devices_that_share_a_stream_are_counted(store: &Store) {
    let news = Stream::Topic(TopicName::new("news").expect("a topic"));
    let first = publish(store, item(&news)).await;
    let second = publish(store, item(&news)).await;
    let epoch = epoch(store).await;
    let had = |seq, devices| DeliveredShared { stream: news.clone(), epoch, seq: Seq(seq), devices };
    for had in [vec![had(1, 3), had(2, 1), had(1, 4)], vec![had(1, 10)], vec![]] {
        store.inbox.delivered_shared(had, store.now()).await.expect("counted");
    }
    let counts = store.inbox.counts(&[first, second], store.now()).await.expect("the counts");
    let delivered = |delivered| Counts { delivered, ..Counts::default() };
    assert_eq!(counts, [delivered(17), delivered(1)]);
    assert_eq!(receipt(store, first).await.recipients, None);
    let recipients = store.inbox.recipients(first, &publisher(), None, 10, store.now()).await;
    assert_eq!(recipients.expect("the list"), []);
    assert_eq!(told(store, "receipt.delivered").await, [""; 0], "nobody in particular had it");
}

async fn recipients_are_told_in_pages_by_user_and_device(store: &Store) {
    let recipients = vec![
        to_device("carol", "web"),
        to(&own("bob")),
        to_device("carol", "phone"),
        to(&own("alice")),
        to(&own("carol")),
        to(&own("Dave")),
    ];
    let id = publish(store, item_for(recipients)).await;
    deliver(store, &[("carol", epoch(store).await, 2)]).await;
    let all = [
        ("Dave", None, State::Stored),
        ("alice", None, State::Stored),
        ("bob", None, State::Stored),
        ("carol", None, State::Stored),
        ("carol", Some("phone"), State::Delivered),
        ("carol", Some("web"), State::Stored),
    ];
    let all = all.map(|(name, on, state)| (user(name), on.map(device), state));
    for size in [1, 2, 4, 6, 7] {
        let (mut met, mut after): (Vec<_>, Option<AfterRecipient>) = (Vec::new(), None);
        loop {
            let page = store.inbox.recipients(id, &publisher(), after.as_ref(), size, store.now()).await;
            let page = page.expect("a page");
            assert!(page.len() <= size as usize);
            let Some(last) = page.last() else { break };
            after = Some((last.user.clone(), last.device.clone()));
            met.extend(page.into_iter().map(|receipt| (receipt.user, receipt.device, receipt.state)));
        }
        assert_eq!(met, all);
    }
}

async fn counts_of_several_are_told_in_order(store: &Store) {
    let many =
        publish(store, item_for((0..5).map(|number| to(&own(&format!("u-{number}")))).collect())).await;
    let one = publish(store, item(&own("u-1"))).await;
    deliver(store, &[("u-1", epoch(store).await, 2)]).await;
    let nothing = NotificationId(uuid::Uuid::now_v7());
    let counts = store.inbox.counts(&[one, nothing, many, one], store.now()).await;
    let delivered = Counts { delivered: 1, ..Counts::default() };
    let stored = Counts { stored: 5, ..Counts::default() };
    assert_eq!(counts.expect("the counts"), [delivered, Counts::default(), stored, delivered]);
    assert_eq!(store.inbox.counts(&[], store.now()).await.expect("none"), []);
}

/// All events as JSON, by id.
async fn events(store: &Store) -> Vec<Value> {
    let events = store.inbox.claim_events(store.now(), Duration::ZERO, 1_000).await;
    let mut events: Vec<Value> = events
        .expect("the events")
        .into_iter()
        .map(|event| {
            let json: Value = serde_json::from_slice(&event.json).expect("JSON");
            assert_eq!((&json["id"], &json["type"]), (&json!(event.id), &json!(event.routing_key)));
            json
        })
        .collect();
    events.sort_by_key(|event| event["id"].to_string());
    events
}

async fn events_say_what_happened_to_whom(store: &Store) {
    let id = publish(store, item_for(vec![to(&own("alice")), to_device("bob", "web")])).await;
    store.pass(Duration::from_millis(1_120));
    deliver(store, &[("bob", epoch(store).await, 1)]).await;
    let event = |word: &str, name: &str, on: Option<&str>, at: &str| {
        let of = on.map(|on| format!("/{on}")).unwrap_or_default();
        json!({
            "id": format!("receipt.{word}/{id}/{name}{of}"), "type": format!("receipt.{word}"),
            "notification": id.to_string(), "publisher": "shop", "user": name, "device": on, "at": at,
        })
    };
    let expected = [
        event("delivered", "bob", Some("web"), "2025-12-01T00:00:01.120Z"),
        event("stored", "alice", None, "2025-12-01T00:00:00.000Z"),
        event("stored", "bob", Some("web"), "2025-12-01T00:00:00.000Z"),
    ];
    assert_eq!(events(store).await, expected);
}

async fn events_of_a_shared_stream_name_the_stream(store: &Store) {
    let news = Stream::Topic(TopicName::new("news").expect("a topic"));
    let id = publish(store, item(&news)).await;
    let events = events(store).await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["id"], json!(format!("receipt.stored/{id}/topic:news")));
    assert_eq!((&events[0]["stream"], &events[0]["user"]), (&json!("topic:news"), &Value::Null));
}

async fn nothing_is_told_where_that_is_switched_off(store: &Store) {
    let mut settings = store.settings.clone();
    (settings.receipt_events, settings.undelivered_after) = (false, None);
    let inbox = store.another(&settings).await;
    let mut badge = item(&own("alice"));
    badge.collapse_key = Some("badge".to_owned());
    for _ in 0..3 {
        badge.notification = notification();
        places(inbox.append(vec![badge.clone(), item(&own("alice"))]).await.remove(0));
    }
    let had = vec![Delivered { user: user("alice"), epoch: epoch(store).await, seq: Seq(6) }];
    inbox.delivered(had, store.now()).await.expect("noted");
    inbox.cancel(badge.notification.id, &publisher(), store.now()).await.expect("cancelled");
    let mark = Mark { stream: own("alice"), marked: Marked::UpTo(Seq(6)) };
    inbox.mark_read(&user("alice"), &mark, store.now()).await.expect("marked");
    assert_eq!(inbox.waiting().await.expect("known"), (0, None));
    let later = store.now().after(UNDELIVERED_AFTER);
    assert_eq!(inbox.look_for_undelivered(later, 100).await.expect("nothing is due"), 0);
}

async fn what_comes_into_a_state_is_counted_once(store: &Store) {
    let alice = own("alice");
    let mut badge = item(&alice);
    badge.collapse_key = Some("badge".to_owned());
    publish(store, badge.clone()).await;
    badge.notification = notification();
    publish(store, badge).await;
    let cancelled = publish(store, item_for(vec![to(&alice), to(&own("bob"))])).await;
    let shared = publish(store, item(&Stream::Everyone)).await;
    let epoch = epoch(store).await;
    for _ in 0..2 {
        deliver(store, &[("alice", epoch, 2), ("bob", epoch, 1)]).await;
        let had = DeliveredShared { stream: Stream::Everyone, epoch, seq: Seq(1), devices: 9 };
        store.inbox.delivered_shared(vec![had], store.now()).await.expect("counted");
        store.inbox.cancel(cancelled, &publisher(), store.now()).await.expect("cancelled");
        let mark = Mark { stream: alice.clone(), marked: Marked::UpTo(Seq(9)) };
        store.inbox.mark_read(&user("alice"), &mark, store.now()).await.expect("marked");
    }
    assert_eq!(receipt(store, shared).await.counts.delivered, 18);
    let counted = |state| store.metrics.receipts.get_or_create(&ReceiptLabels { state }).get();
    let counts = State::ALL.map(|state| (state.as_str(), counted(state.as_str())));
    let expected = [
        ("stored", 5),
        ("delivered", 3),
        ("read", 1),
        ("expired", 0),
        ("superseded", 1),
        // Bob had it.
        ("cancelled", 1),
        ("dropped", 0),
    ];
    assert_eq!(counts, expected);
}
