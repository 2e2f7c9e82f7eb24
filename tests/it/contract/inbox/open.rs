//! Opening streams: where a session starts.

use std::sync::Arc;

use fanfare::domain::{Epoch, Seq, Stream, TopicName};
use fanfare::inbox::{InboxError, Open};

use super::cases;
use super::store::*;

cases!(
    a_stream_nobody_used_stands_at_zero,
    a_resume_starts_where_the_client_says,
    a_resume_that_does_not_fit_starts_at_the_floor_with_a_gap,
    a_stored_cursor_is_where_its_device_goes_on,
    a_resume_wins_over_the_cursor_and_leaves_it,
    a_cursor_of_another_epoch_is_moved_to_the_floor,
    a_cursor_above_the_head_is_moved_to_the_floor,
    a_place_of_another_life_takes_the_cursor_back_until_the_device_acknowledges_again,
    a_place_under_the_floor_becomes_the_floor_with_a_gap,
    the_first_device_starts_at_the_floor,
    a_further_device_starts_before_what_no_device_acknowledged,
    a_further_device_starts_at_the_head_when_all_is_acknowledged,
    beginning_late_is_no_acknowledgement,
    shared_streams_and_unnamed_devices_start_at_the_head,
    two_first_devices_at_once_both_get_everything,
    unread_counts_what_is_alive_whichever_device_it_is_for,
    a_user_has_no_more_devices_than_allowed,
    devices_that_come_at_once_stay_within_the_cap,
    many_sessions_open_in_one_call,
);

fn news() -> Stream {
    Stream::Topic(TopicName::new("news").expect("a topic"))
}

async fn a_stream_nobody_used_stands_at_zero(store: &Store) {
    let opened = store.attach("alice", "web").await;
    assert_eq!((opened.head, opened.position), (Seq(0), Seq(0)));
    assert_eq!((opened.gap_from, opened.unread), (None, 0));
    // The first entry keeps the epoch that the session was told.
    let stored = places(store.append_one(item(&own("alice"))).await);
    assert_eq!(stored[0].epoch, opened.epoch);
    let again = store.attach("alice", "web").await;
    assert_eq!((again.position, again.unread), (Seq(0), 1));
    assert!(again.version > opened.version);
}

async fn a_resume_starts_where_the_client_says(store: &Store) {
    store.fill(&own("alice"), 5).await;
    let epoch = store.attach("alice", "web").await.epoch;
    for (epoch, seq) in [(Some(epoch), 3), (None, 4), (Some(epoch), 5), (None, 0)] {
        let open = resuming(opening("alice", Some("web")), epoch, seq);
        let opened = store.open_one(open).await.expect("it opens");
        assert_eq!((opened.position, opened.gap_from), (Seq(seq), None));
    }
}

async fn a_resume_that_does_not_fit_starts_at_the_floor_with_a_gap(store: &Store) {
    store.fill(&own("alice"), 5).await;
    store.retain_after(&own("alice"), 2).await;
    let epoch = store.attach("alice", "web").await.epoch;
    let other = Epoch(epoch.0.wrapping_add(1));
    for (epoch, seq) in [(Some(other), 3), (Some(epoch), 6), (None, 6), (Some(epoch), 1)] {
        let open = resuming(opening("alice", None), epoch, seq);
        let opened = store.open_one(open).await.expect("it opens");
        assert_eq!((opened.position, opened.floor), (Seq(2), Seq(2)));
        assert_eq!(opened.gap_from, Some(Seq(seq)));
    }
}

async fn a_stored_cursor_is_where_its_device_goes_on(store: &Store) {
    store.fill(&own("alice"), 5).await;
    let opened = store.attach("alice", "web").await;
    store.ack("alice", "web", opened.epoch, 3).await;
    let again = store.attach("alice", "web").await;
    assert_eq!((again.position, again.gap_from), (Seq(3), None));
    assert_eq!((again.head, again.epoch), (Seq(5), opened.epoch));
}

async fn a_resume_wins_over_the_cursor_and_leaves_it(store: &Store) {
    store.fill(&own("alice"), 5).await;
    let epoch = store.attach("alice", "web").await.epoch;
    store.ack("alice", "web", epoch, 3).await;
    for seq in [1, 5] {
        let open = resuming(opening("alice", Some("web")), Some(epoch), seq);
        let opened = store.open_one(open).await.expect("it opens");
        assert_eq!((opened.position, opened.cursor), (Seq(seq), Seq(seq.min(3))));
        let attached = store.attach("alice", "web").await;
        assert_eq!((attached.position, attached.cursor), (Seq(3), Seq(3)));
    }
}

async fn a_cursor_of_another_epoch_is_moved_to_the_floor(store: &Store) {
    store.fill(&own("alice"), 5).await;
    let epoch = store.attach("alice", "web").await.epoch;
    store.ack("alice", "web", epoch, 4).await;
    store.retain_after(&own("alice"), 2).await;
    store.new_epoch(7).await;
    let opened = store.attach("alice", "web").await;
    assert_eq!((opened.epoch, opened.position), (Epoch(7), Seq(2)));
    assert_eq!(opened.gap_from, Some(Seq(4)));
    // The cursor is of the new epoch now: no gap again, and it moves on from the floor.
    let again = store.attach("alice", "web").await;
    assert_eq!((again.position, again.gap_from), (Seq(2), None));
    store.ack("alice", "web", Epoch(7), 3).await;
    assert_eq!(store.attach("alice", "web").await.position, Seq(3));
}

async fn a_place_of_another_life_takes_the_cursor_back_until_the_device_acknowledges_again(store: &Store) {
    store.fill(&own("alice"), 5).await;
    let epoch = store.attach("alice", "web").await.epoch;
    let other = Epoch(epoch.0.wrapping_add(1));
    for (of, seq) in [(other, 3), (epoch, 6)] {
        store.ack("alice", "web", epoch, 3).await;
        assert_eq!(store.attach("alice", "web").await.position, Seq(3));
        let open = resuming(opening("alice", Some("web")), Some(of), seq);
        let opened = store.open_one(open).await.expect("it opens");
        assert_eq!((opened.position, opened.gap_from), (Seq(0), Some(Seq(seq))));
        // It may have lost its connection before it had anything of that.
        assert_eq!(store.attach("alice", "web").await.position, Seq(0));
    }
}

async fn a_cursor_above_the_head_is_moved_to_the_floor(store: &Store) {
    store.fill(&own("alice"), 5).await;
    let epoch = store.attach("alice", "web").await.epoch;
    store.ack("alice", "web", epoch, 5).await;
    // A restore that forgot to change the epoch.
    store.sql("update streams set last_seq = 3; delete from entries where seq > 3;".into()).await;
    let opened = store.attach("alice", "web").await;
    assert_eq!((opened.position, opened.gap_from), (Seq(0), Some(Seq(5))));
    let again = store.attach("alice", "web").await;
    assert_eq!((again.position, again.gap_from), (Seq(0), None));
}

async fn a_place_under_the_floor_becomes_the_floor_with_a_gap(store: &Store) {
    store.fill(&own("alice"), 5).await;
    let epoch = store.attach("alice", "web").await.epoch;
    store.ack("alice", "web", epoch, 1).await;
    store.retain_after(&own("alice"), 3).await;
    let opened = store.attach("alice", "web").await;
    assert_eq!((opened.position, opened.floor), (Seq(3), Seq(3)));
    assert_eq!((opened.gap_from, opened.unread), (Some(Seq(1)), 2));
}

async fn the_first_device_starts_at_the_floor(store: &Store) {
    store.fill(&own("alice"), 5).await;
    assert_eq!(store.attach("alice", "web").await.position, Seq(0));
    store.fill(&own("bob"), 5).await;
    store.retain_after(&own("bob"), 2).await;
    let opened = store.attach("bob", "web").await;
    assert_eq!((opened.position, opened.gap_from), (Seq(2), None));
}

async fn a_further_device_starts_before_what_no_device_acknowledged(store: &Store) {
    store.fill(&own("alice"), 6).await;
    let epoch = store.attach("alice", "web").await.epoch;
    store.ack("alice", "web", epoch, 2).await;
    let opened = store.attach("alice", "phone").await;
    assert_eq!((opened.position, opened.gap_from), (Seq(2), None));
    store.ack("alice", "phone", epoch, 4).await;
    assert_eq!(store.attach("alice", "tablet").await.position, Seq(4));
    // Where a device started stays, whatever others acknowledge later.
    store.ack("alice", "web", epoch, 6).await;
    assert_eq!(store.attach("alice", "tablet").await.position, Seq(4));
}

async fn a_further_device_starts_at_the_head_when_all_is_acknowledged(store: &Store) {
    store.fill(&own("alice"), 3).await;
    let epoch = store.attach("alice", "web").await.epoch;
    store.ack("alice", "web", epoch, 3).await;
    let targeted = item_for(vec![to_device("alice", "web")]);
    places(store.append_one(targeted).await);
    // Number 4 is for another device: nothing waits for this one.
    assert_eq!(store.attach("alice", "phone").await.position, Seq(4));
}

async fn beginning_late_is_no_acknowledgement(store: &Store) {
    store.fill(&own("alice"), 5).await;
    let epoch = store.attach("alice", "web").await.epoch;
    store.ack("alice", "web", epoch, 1).await;
    let late = resuming(opening("alice", Some("phone")), Some(epoch), 5);
    let opened = store.open_one(late).await.expect("it opens");
    assert_eq!(opened.position, Seq(5));
    assert_eq!(store.attach("alice", "tablet").await.position, Seq(1));
}

async fn shared_streams_and_unnamed_devices_start_at_the_head(store: &Store) {
    store.fill(&own("alice"), 3).await;
    store.fill(&news(), 2).await;
    store.fill(&Stream::Everyone, 1).await;
    let opened = store.open_one(opening("alice", None)).await;
    assert_eq!(opened.expect("it opens").position, Seq(3));
    for (stream, head) in [(news(), 2), (Stream::Everyone, 1)] {
        let open = |on| Open { stream: stream.clone(), ..opening("alice", on) };
        let opened = store.open_one(open(Some("web"))).await.expect("it opens");
        assert_eq!((opened.position, opened.unread), (Seq(head), 0));
        // With a device that place is kept; without one there is none to keep.
        store.fill(&stream, 1).await;
        let named = store.open_one(open(Some("web"))).await.expect("it opens");
        let unnamed = store.open_one(open(None)).await.expect("it opens");
        assert_eq!(named.position, Seq(head));
        assert_eq!(unnamed.position, Seq(head + 1));
    }
}

async fn two_first_devices_at_once_both_get_everything(store: &Store) {
    for round in 0..10 {
        let name = format!("user-{round}");
        store.fill(&own(&name), 3).await;
        let attaches = ["web", "phone"].map(|on| {
            let (inbox, open) = (Arc::clone(&store.inbox), opening(&name, Some(on)));
            tokio::spawn(async move { inbox.open(vec![open]).await.remove(0) })
        });
        for attach in attaches {
            let opened = attach.await.expect("it ends").expect("it opens");
            assert_eq!(opened.position, Seq(0));
        }
        for on in ["web", "phone"] {
            assert_eq!(store.attach(&name, on).await.position, Seq(0));
        }
    }
}

async fn unread_counts_what_is_alive_whichever_device_it_is_for(store: &Store) {
    let alice = own("alice");
    store.fill(&alice, 2).await;
    let mut short = item(&alice);
    short.notification.expires_at = Some(store.now().after(std::time::Duration::from_secs(60)));
    places(store.append_one(short).await);
    let targeted = item_for(vec![to_device("alice", "web"), to_device("alice", "phone")]);
    places(store.append_one(targeted).await);
    assert_eq!(store.attach("alice", "web").await.unread, 5);
    let unnamed = store.open_one(opening("alice", None)).await;
    assert_eq!(unnamed.expect("it opens").unread, 5);
    store.pass(std::time::Duration::from_secs(60));
    let opened = store.attach("alice", "phone").await;
    assert_eq!((opened.unread, opened.position), (4, Seq(0)));
    store.retain_after(&alice, 1).await;
    assert_eq!(store.attach("alice", "web").await.unread, 3);
}

async fn a_user_has_no_more_devices_than_allowed(store: &Store) {
    for number in 0..MAX_DEVICES {
        store.attach("alice", &format!("device-{number}")).await;
    }
    let refused = store.open_one(opening("alice", Some("one-more"))).await;
    assert!(matches!(refused, Err(InboxError::DevicesFull { limit }) if limit == MAX_DEVICES), "{refused:?}");
    // Those that are known, those without a name, and those of others come in as before.
    store.attach("alice", "device-0").await;
    let unnamed = store.open_one(opening("alice", None)).await;
    assert!(unnamed.is_ok());
    store.attach("bob", "one-more").await;
    let refused = store.open_one(opening("alice", Some("one-more"))).await;
    assert!(refused.is_err(), "a refusal leaves nothing behind");
}

async fn devices_that_come_at_once_stay_within_the_cap(store: &Store) {
    let attaches = (0..16).map(|number| {
        let inbox = Arc::clone(&store.inbox);
        let open = |device| opening("alice", Some(&format!("device-{device}")));
        // Two a call, so that new devices of one user also meet within a call.
        let opens = vec![open(2 * number), open(2 * number + 1)];
        tokio::spawn(async move { inbox.open(opens).await })
    });
    let (mut let_in, mut full) = (0, 0);
    for attach in attaches.collect::<Vec<_>>() {
        for answer in attach.await.expect("it ends") {
            match answer {
                Ok(_) => let_in += 1,
                Err(InboxError::DevicesFull { .. }) => full += 1,
                Err(error) => panic!("{error:?}"),
            }
        }
    }
    assert_eq!((let_in, full), (MAX_DEVICES, 32 - MAX_DEVICES));
}

async fn many_sessions_open_in_one_call(store: &Store) {
    store.fill(&Stream::Everyone, 2).await;
    store.fill(&own("user-7"), 1).await;
    let mut opens = Vec::new();
    for number in 0..50 {
        let open = opening(&format!("user-{number}"), Some("web"));
        opens.push(Open { stream: Stream::Everyone, ..open.clone() });
        opens.push(open);
    }
    let again = opens.clone();
    for opens in [opens, again] {
        let answers = store.inbox.open(opens.clone()).await;
        assert_eq!(answers.len(), opens.len());
        for (open, answer) in opens.iter().zip(answers) {
            let opened = answer.expect("it opens");
            let (head, position) = match open.stream {
                Stream::Everyone => (2, 2),
                _ if open.user == user("user-7") => (1, 0),
                _ => (0, 0),
            };
            assert_eq!((opened.head, opened.position), (Seq(head), Seq(position)));
        }
    }
}
