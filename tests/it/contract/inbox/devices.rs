//! Devices that go: removed by their user, or idle for long.

use std::time::Duration;

use fanfare::domain::{Epoch, Seq, Stream, TopicName, UnixMillis};
use fanfare::inbox::{Cursor, InboxError, Mark, Marked, Open, OutOfDate, Settings};
use sqlx::{Connection, Executor, PgConnection};

use super::cases;
use super::store::*;
use crate::support::eventually;

cases!(
    a_removed_device_starts_as_a_new_one,
    removing_a_device_leaves_the_others,
    a_removed_device_makes_room_for_another,
    what_a_removed_device_acknowledges_is_passed_over,
    idle_devices_are_forgotten_with_their_cursors,
    a_device_that_is_in_use_does_not_look_idle,
    idle_devices_are_forgotten_in_batches,
    cursors_of_topics_that_were_left_long_ago_go,
    with_the_last_cursor_of_a_topic_its_marks_go,
    with_the_last_device_in_a_topic_its_marks_go,
    ten_thousand_unused_cursors_go_at_once,
    where_a_user_follows_from_is_known_again_when_a_device_starts,
);

const IDLE: Duration = Duration::from_secs(90 * 24 * 3600);

async fn remove(store: &Store, name: &str, on: &str) -> bool {
    let removed = store.inbox.remove_device(&user(name), &device(on)).await;
    removed.expect("it is known whether it was there")
}

/// Forgets what was idle for [`IDLE`], at most `limit` rows; answers how many rows went.
async fn sweep(store: &Store, limit: u32) -> u64 {
    let devices = UnixMillis(store.now().0 - u64::try_from(IDLE.as_millis()).expect("90 days"));
    let before = OutOfDate { devices, ..out_of_date(UnixMillis(0), UnixMillis(0)) };
    store.inbox.sweep(&before, limit).await.expect("swept")
}

async fn follow_everyone(store: &Store, name: &str, on: &str) -> Seq {
    let open = Open { stream: Stream::Everyone, ..opening(name, Some(on)) };
    store.open_one(open).await.expect("it opens").position
}

async fn a_removed_device_starts_as_a_new_one(store: &Store) {
    store.fill(&own("alice"), 3).await;
    let epoch = store.attach("alice", "web").await.epoch;
    follow_everyone(store, "alice", "web").await;
    store.ack("alice", "web", epoch, 2).await;
    store.fill(&Stream::Everyone, 2).await;
    assert!(remove(store, "alice", "web").await);
    assert!(!remove(store, "alice", "web").await);
    assert!(!remove(store, "nobody", "web").await);
    // The user's first device again: from the floor on; of everyone from the head on.
    assert_eq!(store.attach("alice", "web").await.position, Seq(0));
    assert_eq!(follow_everyone(store, "alice", "web").await, Seq(2));
}

async fn removing_a_device_leaves_the_others(store: &Store) {
    store.fill(&own("alice"), 3).await;
    for (name, on, seq) in [("alice", "web", 1), ("alice", "phone", 2), ("bob", "web", 0)] {
        let Epoch(epoch) = store.attach(name, on).await.epoch;
        store.ack(name, on, Epoch(epoch), seq).await;
    }
    assert!(remove(store, "alice", "web").await);
    assert_eq!(store.attach("alice", "phone").await.position, Seq(2));
    // A further device, as the phone is there: it starts at what nobody acknowledged.
    assert_eq!(store.attach("alice", "web").await.position, Seq(2));
    assert!(remove(store, "bob", "web").await);
}

async fn a_removed_device_makes_room_for_another(store: &Store) {
    for number in 0..MAX_DEVICES {
        store.attach("alice", &format!("device-{number}")).await;
    }
    let refused = store.open_one(opening("alice", Some("one-more"))).await;
    assert!(matches!(refused, Err(InboxError::DevicesFull { .. })), "{refused:?}");
    assert!(remove(store, "alice", "device-2").await);
    store.attach("alice", "one-more").await;
    let refused = store.open_one(opening("alice", Some("device-2"))).await;
    assert!(matches!(refused, Err(InboxError::DevicesFull { .. })), "{refused:?}");
}

async fn what_a_removed_device_acknowledges_is_passed_over(store: &Store) {
    store.fill(&own("alice"), 3).await;
    let epoch = store.attach("alice", "web").await.epoch;
    assert!(remove(store, "alice", "web").await);
    store.ack("alice", "web", epoch, 3).await;
    assert_eq!(store.attach("alice", "web").await.position, Seq(0));
}

async fn idle_devices_are_forgotten_with_their_cursors(store: &Store) {
    store.fill(&own("alice"), 3).await;
    let epoch = store.attach("alice", "old").await.epoch;
    follow_everyone(store, "alice", "old").await;
    store.ack("alice", "old", epoch, 3).await;
    store.pass(Duration::from_secs(3600));
    store.attach("alice", "new").await;
    store.pass(IDLE.saturating_sub(Duration::from_secs(3600)));
    assert_eq!(sweep(store, 100).await, 0);
    store.pass(Duration::from_millis(1));
    assert!(sweep(store, 100).await > 0);
    assert_eq!(sweep(store, 100).await, 0);
    assert!(!remove(store, "alice", "old").await);
    // Where the device had been is forgotten, too: it starts like any other.
    store.fill(&own("alice"), 1).await;
    assert_eq!(store.attach("alice", "new").await.position, Seq(3));
    assert_eq!(store.attach("alice", "old").await.position, Seq(0));
}

async fn a_device_that_is_in_use_does_not_look_idle(store: &Store) {
    for on in ["web", "phone"] {
        store.attach("alice", on).await;
    }
    store.pass(IDLE);
    // One is connected all the time, the other comes back now; of what is not known nothing is made.
    let used = [(user("alice"), device("web")), (user("alice"), device("unknown"))];
    store.inbox.used(&used, store.now()).await.expect("noted");
    store.attach("alice", "phone").await;
    store.pass(Duration::from_secs(1));
    assert_eq!(sweep(store, 100).await, 0);
    assert!(!remove(store, "alice", "unknown").await);
    // Its last use never goes back.
    store.inbox.used(&used, START).await.expect("noted");
    assert_eq!(sweep(store, 100).await, 0);
    assert!(remove(store, "alice", "web").await);
}

async fn idle_devices_are_forgotten_in_batches(store: &Store) {
    for number in 0..5 {
        store.attach(&format!("user-{number}"), "web").await;
    }
    store.pass(IDLE + Duration::from_secs(1));
    let mut rounds = 0;
    while sweep(store, 2).await > 0 {
        rounds += 1;
        assert!(rounds < 10, "it ends");
    }
    assert!(rounds >= 3, "two at a time: {rounds}");
    for number in 0..5 {
        assert!(!remove(store, &format!("user-{number}"), "web").await);
    }
}

fn topic(name: &str) -> Stream {
    Stream::Topic(TopicName::new(name).expect("a topic"))
}

/// How many of a topic alice has not read.
async fn unread(store: &Store, of: &str) -> u64 {
    let open = Open { stream: topic(of), ..opening("alice", None) };
    store.open_one(open).await.expect("it opens").unread
}

/// Where a device begins in a topic now.
async fn follow(store: &Store, name: &str, on: &str, of: &str) -> Seq {
    let open = Open { stream: topic(of), ..opening(name, Some(on)) };
    store.open_one(open).await.expect("it opens").position
}

/// Removes cursors of topics that were not used for [`IDLE`], `limit` looked at at a time; answers how many went.
async fn remove_unused(store: &Store, limit: u32) -> u64 {
    let before = UnixMillis(store.now().0 - u64::try_from(IDLE.as_millis()).expect("90 days"));
    let (mut removed, mut at) = (0, None);
    loop {
        let looked = store.inbox.remove_unused_cursors(at.as_ref(), before, limit).await.expect("looked at");
        removed += looked.removed;
        at = looked.next;
        if at.is_none() {
            return removed;
        }
    }
}

async fn cursors_of_topics_that_were_left_long_ago_go(store: &Store) {
    let epoch = store.attach("alice", "web").await.epoch;
    let of = ["left", "followed", "acked", "noted"];
    for of in of {
        assert_eq!(follow(store, "alice", "web", of).await, Seq(0));
        store.fill(&topic(of), 2).await;
    }
    follow_everyone(store, "alice", "web").await;
    store.pass(IDLE);
    assert_eq!(follow(store, "alice", "web", "followed").await, Seq(0), "it is where it was");
    let key = |of| (user("alice"), device("web"), topic(of));
    let (user, device, stream) = key("acked");
    let acked = Cursor { user, device, stream, epoch, acked: Seq(1) };
    store.inbox.commit(vec![acked]).await.expect("kept");
    // Of what is not there nothing is made, and a time never goes back.
    store.inbox.used_cursors(&[key("noted"), key("unknown")], store.now()).await.expect("noted");
    store.inbox.used_cursors(&[key("noted")], START).await.expect("noted");
    assert_eq!(remove_unused(store, 100).await, 0, "not yet");
    store.pass(Duration::from_millis(1));
    assert_eq!(remove_unused(store, 2).await, 1);
    assert_eq!(remove_unused(store, 100).await, 0);
    let mut begins = Vec::new();
    for of in of {
        begins.push(follow(store, "alice", "web", of).await.0);
    }
    assert_eq!(begins, [2, 0, 1, 0], "who left it begins at the head, like anybody new");
    assert_eq!(follow(store, "alice", "web", "unknown").await, Seq(0));
}

/// Two devices lose it in one statement.
async fn with_the_last_cursor_of_a_topic_its_marks_go(store: &Store) {
    for on in ["web", "phone", "desk"] {
        store.attach("alice", on).await;
        follow(store, "alice", on, "left").await;
    }
    store.fill(&topic("left"), 3).await;
    let mark = Mark { stream: topic("left"), marked: Marked::UpTo(Seq(2)) };
    store.inbox.mark_read(&user("alice"), &mark, store.now()).await.expect("marked");
    assert_eq!(unread(store, "left").await, 1);
    store.pass(IDLE);
    follow(store, "alice", "desk", "left").await;
    store.pass(Duration::from_millis(1));
    assert_eq!(remove_unused(store, 100).await, 2);
    assert_eq!(unread(store, "left").await, 1, "there is the desk");
    follow(store, "alice", "phone", "left").await;
    store.pass(IDLE + Duration::from_millis(1));
    assert_eq!(remove_unused(store, 100).await, 2);
    assert_eq!(unread(store, "left").await, 0, "nobody follows it: it would begin at the head");
}

async fn with_the_last_device_in_a_topic_its_marks_go(store: &Store) {
    for on in ["web", "phone", "desk"] {
        store.attach("alice", on).await;
        follow(store, "alice", on, "left").await;
    }
    store.fill(&topic("left"), 3).await;
    let mark = Mark { stream: topic("left"), marked: Marked::UpTo(Seq(2)) };
    store.inbox.mark_read(&user("alice"), &mark, store.now()).await.expect("marked");
    assert!(remove(store, "alice", "web").await);
    assert_eq!(unread(store, "left").await, 1, "two are left");
    store.pass(IDLE + Duration::from_millis(1));
    let phone = [(user("alice"), device("phone"))];
    store.inbox.used(&phone, store.now()).await.expect("noted");
    sweep(store, 100).await;
    assert_eq!(unread(store, "left").await, 1, "one is left");
    assert!(remove(store, "alice", "phone").await);
    assert_eq!(unread(store, "left").await, 0, "nobody follows it: it would begin at the head");
}

/// As after an upgrade, when whatever was left before it grows old at one moment. A user has two devices in each topic.
async fn ten_thousand_unused_cursors_go_at_once(store: &Store) {
    let numbers =
        "with recursive numbers (n) as (select 0 union all select n + 1 from numbers where n < 9999)";
    let cursors =
        "'user-' || (n / 20) as user_id, 'device-' || (n % 2) as device, 'topic:t' || (n / 2 % 10) as stream";
    store
        .sql(format!(
            "insert into cursors (user_id, device, stream, epoch, start_seq, acked_seq, used_at)
                {numbers} select {cursors}, 1, 0, 0, {START} from numbers;
             insert into follows (user_id, stream, epoch, start_seq)
                select distinct user_id, stream, 1, 0 from cursors;",
            START = START.0
        ))
        .await;
    store.fill(&topic("t0"), 1).await;
    let unread = async || {
        let open = Open { stream: topic("t0"), ..opening("user-0", None) };
        store.open_one(open).await.expect("it opens").unread
    };
    assert_eq!(unread().await, 1);
    store.pass(Duration::from_millis(1));
    // As shipped: it was longer once than a call may take.
    let inbox = store.another(&Settings { timeout: Duration::from_secs(5), ..store.settings.clone() }).await;
    let looked = inbox.remove_unused_cursors(None, store.now(), 10_000).await.expect("in time");
    assert_eq!(looked.removed, 10_000);
    assert_eq!(unread().await, 0, "nobody follows it");
}

/// A sweep may take the user's following while a device of it comes back.
async fn where_a_user_follows_from_is_known_again_when_a_device_starts(store: &Store) {
    store.attach("alice", "web").await;
    follow(store, "alice", "web", "news").await;
    store.sql("delete from follows".to_owned()).await;
    store.fill(&topic("news"), 2).await;
    assert_eq!(unread(store, "news").await, 0, "it is not known");
    assert_eq!(follow(store, "alice", "web", "news").await, Seq(0));
    assert_eq!(unread(store, "news").await, 2);
}

/// A restored store has cursors of another epoch: one that is swept between the look at it and its replacement.
#[tokio::test]
async fn postgres_places_a_cursor_that_was_swept_when_it_was_to_be_replaced() {
    let store = Store::postgres().await;
    store.attach("alice", "web").await;
    follow(&store, "alice", "web", "news").await;
    store.fill(&topic("news"), 1).await;
    store.new_epoch(9).await;
    let mut sweep = PgConnection::connect(&store.settings.url).await.expect("PostgreSQL");
    sweep.execute("begin; delete from cursors where stream = 'topic:news'").await.expect("deleted");
    let mut other = PgConnection::connect(&store.settings.url).await.expect("PostgreSQL");
    let swept = async {
        let waiting = "select count(*) from pg_stat_activity
            where datname = current_database() and wait_event_type = 'Lock'";
        eventually(Duration::from_secs(5), "the device waits for the sweep", async || {
            sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut other).await.expect("a count") > 0
        })
        .await;
        sweep.execute("commit").await.expect("committed");
    };
    let open = Open { stream: topic("news"), ..opening("alice", Some("web")) };
    let (opened, ()) = tokio::join!(store.open_one(open), swept);
    let opened = opened.expect("it opens");
    store.fill(&topic("news"), 1).await;
    assert_eq!(
        follow(&store, "alice", "web", "news").await,
        opened.position,
        "it is kept where it was told to be"
    );
}
