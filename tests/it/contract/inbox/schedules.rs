//! Schedules: kept, claimed, fired once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanfare::domain::{NotificationId, PublisherId};
use fanfare::inbox::{
    Append, Appended, Cancelled, Counts, DueSchedule, Idempotency, Receipt, Schedule, Scheduled,
};

use super::cases;
use super::store::*;

cases!(
    what_is_due_is_claimed_oldest_first,
    a_claimed_schedule_is_nobody_elses_until_the_lease_ends,
    it_fires_once_with_its_own_id,
    its_receipt_says_when_until_it_has_fired,
    one_that_was_cancelled_does_not_fire,
    a_key_schedules_once,
    a_schedule_that_cannot_be_published_is_dropped,
    of_two_that_fire_it_at_once_one_does,
    it_is_cancelled_or_fires_never_both,
    others_of_its_group_are_not_held_up,
);

const MINUTE: Duration = Duration::from_secs(60);

/// A schedule of the publisher `shop`, so many minutes from now.
fn in_minutes(store: &Store, minutes: u32) -> Schedule {
    Schedule {
        id: NotificationId(uuid::Uuid::now_v7()),
        fire_at: store.now().after(MINUTE * minutes),
        publisher: publisher(),
        request: Bytes::from_static(b"{\"to\":{\"users\":[\"alice\"]},\"title\":\"\\u0000\"}"),
        created_at: store.now(),
        idempotency: None,
    }
}

async fn keep(store: &Store, schedule: &Schedule) {
    let kept = store.inbox.schedule(schedule.clone()).await;
    assert_eq!(kept.expect("kept"), Scheduled::Kept);
}

async fn claim(store: &Store, limit: u32) -> Vec<DueSchedule> {
    store.inbox.claim_schedules(store.now(), MINUTE, limit).await.expect("claimed")
}

async fn claimed(store: &Store, limit: u32) -> Vec<NotificationId> {
    claim(store, limit).await.into_iter().map(|due| due.id).collect()
}

/// What is appended when it fires.
fn firing(schedule: &Schedule) -> Append {
    let mut item = item(&own("alice"));
    item.notification.id = schedule.id;
    item.scheduled = true;
    item
}

async fn what_is_due_is_claimed_oldest_first(store: &Store) {
    let (late, soon, never) = (in_minutes(store, 3), in_minutes(store, 1), in_minutes(store, 60));
    for schedule in [&late, &soon, &never] {
        keep(store, schedule).await;
    }
    assert_eq!(claim(store, 10).await, []);
    store.pass(MINUTE * 3);
    let first = claim(store, 1).await;
    let expected = DueSchedule {
        id: soon.id,
        fire_at: soon.fire_at,
        publisher: publisher(),
        request: soon.request.clone(),
    };
    assert_eq!(first, [expected]);
    assert_eq!(claimed(store, 10).await, [late.id]);
    assert_eq!(claimed(store, 10).await, []);
}

async fn a_claimed_schedule_is_nobody_elses_until_the_lease_ends(store: &Store) {
    let schedules: Vec<_> = (0..20).map(|_| in_minutes(store, 1)).collect();
    for schedule in &schedules {
        keep(store, schedule).await;
    }
    store.pass(MINUTE);
    let claims = (0..4).map(|_| {
        let (inbox, now) = (Arc::clone(&store.inbox), store.now());
        tokio::spawn(async move { inbox.claim_schedules(now, MINUTE, 20).await.expect("claimed") })
    });
    let mut all = Vec::new();
    for claim in claims.collect::<Vec<_>>() {
        all.extend(claim.await.expect("it ends").into_iter().map(|due| due.id));
    }
    // A claim may skip what another is claiming; what is left is there for the next.
    all.extend(claimed(store, 20).await);
    all.sort();
    let mut expected: Vec<_> = schedules.iter().map(|schedule| schedule.id).collect();
    expected.sort();
    assert_eq!(all, expected);
    store.pass(MINUTE);
    assert_eq!(claimed(store, 100).await.len(), 20, "whoever claimed them is gone");
}

async fn it_fires_once_with_its_own_id(store: &Store) {
    let schedule = in_minutes(store, 1);
    keep(store, &schedule).await;
    let stored = places(store.append_one(firing(&schedule)).await);
    assert_eq!(seqs(&stored), [1]);
    let again = store.append_one(firing(&schedule)).await;
    assert_eq!(again.expect("an answer"), Appended::NotScheduled);
    store.pass(MINUTE * 2);
    assert_eq!(claimed(store, 10).await, []);
    let heads = store.inbox.heads(&[own("alice")]).await.expect("the head");
    assert_eq!(heads[0].head.0, 1);
}

async fn its_receipt_says_when_until_it_has_fired(store: &Store) {
    let schedule = in_minutes(store, 1);
    keep(store, &schedule).await;
    let receipt = async || {
        let receipt = store.inbox.receipt(schedule.id, &publisher(), store.now()).await;
        receipt.expect("an answer").expect("a receipt")
    };
    let expected = Receipt {
        created_at: START,
        deliver_at: Some(schedule.fire_at),
        is_cancelled: false,
        recipients: None,
        counts: Counts::default(),
    };
    assert_eq!(receipt().await, expected);
    store.pass(MINUTE);
    let mut item = firing(&schedule);
    item.notification.created_at = store.now();
    places(store.append_one(item).await);
    let expected = Receipt {
        created_at: store.now(),
        deliver_at: None,
        is_cancelled: false,
        recipients: Some(1),
        counts: Counts { stored: 1, ..Counts::default() },
    };
    assert_eq!(receipt().await, expected);
}

async fn one_that_was_cancelled_does_not_fire(store: &Store) {
    let schedule = in_minutes(store, 1);
    keep(store, &schedule).await;
    let other = PublisherId::new("billing").expect("a valid id");
    let cancel = async |publisher: &PublisherId| {
        store.inbox.cancel(schedule.id, publisher, store.now()).await.expect("an answer")
    };
    assert_eq!(cancel(&other).await, Cancelled::Unknown);
    assert_eq!(cancel(&publisher()).await, Cancelled::Unscheduled);
    assert_eq!(cancel(&publisher()).await, Cancelled::Unknown);
    store.pass(MINUTE);
    assert_eq!(claimed(store, 10).await, []);
    let fired = store.append_one(firing(&schedule)).await;
    assert_eq!(fired.expect("an answer"), Appended::NotScheduled);
    assert_eq!(store.inbox.receipt(schedule.id, &publisher(), store.now()).await.expect("an answer"), None);
}

async fn a_key_schedules_once(store: &Store) {
    let keyed_with = |schedule: &mut Schedule, hash| {
        let key = Idempotency { publisher: publisher(), key: "order-1".into(), request_hash: [hash; 32] };
        schedule.idempotency = Some(key);
    };
    let mut first = in_minutes(store, 1);
    keyed_with(&mut first, 1);
    keep(store, &first).await;
    let mut second = in_minutes(store, 1);
    keyed_with(&mut second, 1);
    let Ok(Scheduled::Replayed(answer)) = store.inbox.schedule(second.clone()).await else {
        panic!("the key was used before");
    };
    assert_eq!((answer.id, answer.answered), (first.id, false));
    keyed_with(&mut second, 2);
    let answer = store.inbox.schedule(second).await.expect("an answer");
    assert_eq!(answer, Scheduled::KeyReused);
    // The key is the same for what is published at once.
    let now = store.append_one(keyed(item(&own("alice")), "order-1", 1)).await;
    assert!(matches!(now, Ok(Appended::Replayed(answer)) if answer.id == first.id));
    assert_eq!(seqs(&places(store.append_one(firing(&first)).await)), [1]);
    store.pass(MINUTE);
    assert_eq!(claimed(store, 10).await, []);
}

async fn a_schedule_that_cannot_be_published_is_dropped(store: &Store) {
    let (bad, good) = (in_minutes(store, 1), in_minutes(store, 1));
    keep(store, &bad).await;
    keep(store, &good).await;
    store.pass(MINUTE);
    store.inbox.drop_schedule(bad.id).await.expect("dropped");
    store.inbox.drop_schedule(bad.id).await.expect("nothing to do");
    assert_eq!(claimed(store, 10).await, [good.id]);
}

async fn of_two_that_fire_it_at_once_one_does(store: &Store) {
    for round in 1..=10 {
        let schedules: Vec<_> = (0..5).map(|_| in_minutes(store, 1)).collect();
        for schedule in &schedules {
            keep(store, schedule).await;
        }
        let firings = (0..2).map(|turned| {
            let inbox = Arc::clone(&store.inbox);
            let mut group: Vec<_> = schedules.iter().map(firing).collect();
            if turned == 1 {
                group.reverse();
            }
            tokio::spawn(async move { inbox.append(group).await })
        });
        let mut stored = 0;
        for firing in firings.collect::<Vec<_>>() {
            for answer in firing.await.expect("it ends") {
                match answer.expect("an answer") {
                    Appended::Stored(_) => stored += 1,
                    Appended::NotScheduled => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(stored, 5);
        let heads = store.inbox.heads(&[own("alice")]).await.expect("the head");
        assert_eq!(heads[0].head.0, 5 * round);
    }
}

async fn it_is_cancelled_or_fires_never_both(store: &Store) {
    for _ in 0..20 {
        let schedule = in_minutes(store, 1);
        keep(store, &schedule).await;
        let (inbox, now, id) = (Arc::clone(&store.inbox), store.now(), schedule.id);
        let cancel = tokio::spawn(async move { inbox.cancel(id, &publisher(), now).await });
        let fired = store.append_one(firing(&schedule)).await.expect("an answer");
        let cancelled = cancel.await.expect("it ends").expect("an answer");
        match (fired, cancelled) {
            (Appended::NotScheduled, Cancelled::Unscheduled) => {}
            (Appended::Stored(_), Cancelled::Stored { entries, .. }) => assert_eq!(entries.len(), 1),
            other => panic!("{other:?}"),
        }
    }
}

async fn others_of_its_group_are_not_held_up(store: &Store) {
    let (kept, gone) = (in_minutes(store, 1), in_minutes(store, 1));
    keep(store, &kept).await;
    let group = vec![item(&own("alice")), firing(&gone), firing(&kept), item(&own("alice"))];
    let mut answers = store.inbox.append(group).await.into_iter();
    let mut next = || answers.next().expect("an answer for each");
    assert_eq!(seqs(&places(next())), [1]);
    assert_eq!(next().expect("an answer"), Appended::NotScheduled);
    assert_eq!(seqs(&places(next())), [2]);
    assert_eq!(seqs(&places(next())), [3]);
}

/// A schedule outlives whoever accepted it.
async fn survives_reopening(mut store: Store) {
    let schedule = in_minutes(&store, 90 * 24 * 60);
    keep(&store, &schedule).await;
    store.reopen().await;
    store.pass(Duration::from_secs(90 * 24 * 3600));
    assert_eq!(claimed(&store, 10).await, [schedule.id]);
}

#[tokio::test]
async fn a_sqlite_file_keeps_schedules_when_it_is_opened_again() {
    survives_reopening(Store::sqlite().await).await;
}

#[tokio::test]
async fn postgres_keeps_schedules_when_it_is_opened_again() {
    survives_reopening(Store::postgres().await).await;
}
