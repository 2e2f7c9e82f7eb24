//! The outbox: what backends are to be told, and who they believe to be online.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use fanfare::domain::{NotificationId, Seq, Stream, UnixMillis};
use fanfare::inbox::{Append, Delivered, Mark, Marked, OutOfDate, PresenceChange};
use serde_json::{Value, json};

use super::cases;
use super::store::*;

cases!(
    events_are_claimed_oldest_first_and_once_a_lease,
    what_was_told_is_gone,
    claims_at_once_share_what_there_is,
    a_change_of_presence_is_told_once,
    changes_of_one_user_in_a_call_are_told_one_after_the_other,
    of_many_who_see_a_change_one_tells_it,
    who_is_online_is_told_in_pages,
    what_nobody_acknowledged_is_told_when_it_is_due,
    undelivered_is_told_for_each_user_once,
    what_needs_nobody_any_more_is_not_told_as_undelivered,
    every_event_is_told_as_it_is_documented,
    what_expired_before_it_was_due_is_told_as_undelivered,
    what_is_due_and_not_looked_at_for_long_is_swept,
);

const MINUTE: Duration = Duration::from_secs(60);

async fn publish(store: &Store, mut item: Append) -> NotificationId {
    item.notification.created_at = store.now();
    let id = item.notification.id;
    places(store.append_one(item).await);
    id
}

async fn claim(store: &Store, limit: u32) -> Vec<String> {
    let events = store.inbox.claim_events(store.now(), MINUTE, limit).await;
    events.expect("claimed").into_iter().map(|event| event.id).collect()
}

/// Whether each change was one.
async fn change(store: &Store, changes: &[(&str, bool)]) -> Vec<bool> {
    let changes: Vec<_> = changes
        .iter()
        .map(|(name, is_online)| PresenceChange { user: user(name), is_online: *is_online, at: store.now() })
        .collect();
    store.inbox.presence_changed(&changes).await.expect("compared and set")
}

async fn events_are_claimed_oldest_first_and_once_a_lease(store: &Store) {
    let mut expected = Vec::new();
    for _ in 0..4 {
        let id = publish(store, item(&own("alice"))).await;
        expected.push(format!("receipt.stored/{id}/alice"));
        store.pass(Duration::from_secs(1));
    }
    let waiting = store.inbox.waiting().await.expect("known");
    assert_eq!(waiting, (4, Some(START)));
    assert_eq!(claim(store, 3).await, expected[..3]);
    assert_eq!(claim(store, 3).await, expected[3..]);
    assert_eq!(claim(store, 3).await, [""; 0]);
    store.pass(MINUTE);
    assert_eq!(claim(store, 9).await, expected, "whoever claimed them is gone");
}

async fn what_was_told_is_gone(store: &Store) {
    assert_eq!(store.inbox.waiting().await.expect("known"), (0, None));
    publish(store, item(&own("alice"))).await;
    store.pass(Duration::from_secs(5));
    publish(store, item(&own("alice"))).await;
    let first = claim(store, 1).await;
    for _ in 0..2 {
        store.inbox.told(&first).await.expect("removed");
        let waiting = store.inbox.waiting().await.expect("known");
        assert_eq!(waiting, (1, Some(START.after(Duration::from_secs(5)))));
    }
    store.inbox.told(&[]).await.expect("nothing to do");
    store.pass(MINUTE);
    assert_eq!(claim(store, 9).await.len(), 1);
}

async fn claims_at_once_share_what_there_is(store: &Store) {
    store.fill(&own("alice"), 30).await;
    let claims = (0..4).map(|_| {
        let (inbox, now) = (Arc::clone(&store.inbox), store.now());
        tokio::spawn(async move { inbox.claim_events(now, MINUTE, 20).await.expect("claimed") })
    });
    let mut all: Vec<String> = Vec::new();
    for claim in claims.collect::<Vec<_>>() {
        all.extend(claim.await.expect("it ends").into_iter().map(|event| event.id));
    }
    // A claim may skip what another is claiming; what is left is there for the next.
    all.extend(claim(store, 30).await);
    assert_eq!((all.len(), all.iter().collect::<HashSet<_>>().len()), (30, 30));
}

async fn a_change_of_presence_is_told_once(store: &Store) {
    assert_eq!(change(store, &[("alice", true), ("bob", false)]).await, [true, false]);
    assert_eq!(change(store, &[("bob", false), ("alice", true)]).await, [false, false]);
    store.pass(Duration::from_millis(61_007));
    assert_eq!(change(store, &[("alice", false)]).await, [true]);
    assert_eq!(change(store, &[("alice", false)]).await, [false]);
    let events = store.inbox.claim_events(store.now(), MINUTE, 10).await.expect("the events");
    let jsons: Vec<Value> =
        events.iter().map(|event| serde_json::from_slice(&event.json).expect("JSON")).collect();
    let expected = [
        json!({"id": "presence/alice/1764547200000", "type": "presence.online", "user": "alice", "at": "2025-12-01T00:00:00.000Z"}),
        json!({"id": "presence/alice/1764547261007", "type": "presence.offline", "user": "alice", "at": "2025-12-01T00:01:01.007Z"}),
    ];
    assert_eq!(jsons, expected);
    let told: Vec<_> = events.iter().map(|event| (event.id.as_str(), event.routing_key.as_str())).collect();
    assert_eq!(
        told,
        [
            ("presence/alice/1764547200000", "presence.online"),
            ("presence/alice/1764547261007", "presence.offline"),
        ]
    );
    // Going is not being seen.
    let seen = store.inbox.last_seen(&[user("alice"), user("bob")]).await.expect("known");
    assert_eq!(seen, [Some(START), None]);
}

async fn changes_of_one_user_in_a_call_are_told_one_after_the_other(store: &Store) {
    // Whoever was only seen is not online.
    store.inbox.seen(vec![(user("alice"), START)]).await.expect("noted");
    let changes = [("alice", false), ("alice", true), ("bob", true), ("alice", true), ("alice", false)];
    assert_eq!(change(store, &changes).await, [false, true, true, false, true]);
    let mut events = claim(store, 10).await;
    events.sort();
    let at = START.0;
    let expected =
        [format!("presence/alice/{at}"), format!("presence/alice/{}", at + 1), format!("presence/bob/{at}")];
    assert_eq!(events, expected);
    assert_eq!(change(store, &[]).await, [false; 0]);
}

async fn of_many_who_see_a_change_one_tells_it(store: &Store) {
    for round in 0..6 {
        let is_online = round % 2 == 0;
        let tellers = (0..6).map(|teller| {
            let (inbox, at) = (Arc::clone(&store.inbox), store.now());
            let mut names: Vec<_> = (0..10).map(|number| format!("user-{number}")).collect();
            if teller % 2 == 0 {
                names.reverse();
            }
            tokio::spawn(async move {
                let changes: Vec<_> =
                    names.iter().map(|name| PresenceChange { user: user(name), is_online, at }).collect();
                inbox.presence_changed(&changes).await.expect("compared and set")
            })
        });
        let mut changed = 0;
        for teller in tellers.collect::<Vec<_>>() {
            changed += teller.await.expect("it ends").into_iter().filter(|changed| *changed).count();
        }
        assert_eq!(changed, 10);
    }
    assert_eq!(store.inbox.waiting().await.expect("known").0, 60);
}

async fn who_is_online_is_told_in_pages(store: &Store) {
    let all = ["Zoe", "alice", "bob", "carol", "dave"];
    change(store, &all.map(|name| (name, true))).await;
    change(store, &[("bob", false)]).await;
    store.inbox.seen(vec![(user("eve"), store.now())]).await.expect("noted");
    let page = async |after: Option<&str>, limit| {
        let users = store.inbox.online_users(after.map(user).as_ref(), limit).await;
        users.expect("the users").iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(page(None, 2).await, ["Zoe", "alice"]);
    assert_eq!(page(Some("alice"), 2).await, ["carol", "dave"]);
    assert_eq!(page(Some("bob"), 1).await, ["carol"]);
    assert_eq!(page(Some("dave"), 2).await, [""; 0]);
}

async fn look(store: &Store, limit: u32) -> u64 {
    store.inbox.look_for_undelivered(store.now(), limit).await.expect("looked")
}

async fn undelivered(store: &Store) -> Vec<String> {
    let mut ids = told(store, "undelivered").await;
    ids.sort();
    ids
}

async fn what_nobody_acknowledged_is_told_when_it_is_due(store: &Store) {
    let first = publish(store, item(&own("alice"))).await;
    let shared = publish(store, item(&Stream::Everyone)).await;
    store.pass(MINUTE);
    let second = publish(store, item(&own("bob"))).await;
    assert_eq!(look(store, 10).await, 0);
    store.pass(UNDELIVERED_AFTER - MINUTE);
    assert_eq!(look(store, 10).await, 1);
    assert_eq!(look(store, 10).await, 0);
    let of = |id: NotificationId, name: &str| format!("undelivered/{id}/{name}");
    assert_eq!(undelivered(store).await, [of(first, "alice")]);
    store.pass(MINUTE);
    assert_eq!(look(store, 10).await, 1);
    let mut expected = [of(first, "alice"), of(second, "bob")];
    expected.sort();
    assert_eq!(undelivered(store).await, expected, "{shared} is for nobody in particular");
    let events = store.inbox.claim_events(store.now(), MINUTE, 100).await.expect("the events");
    let event = events.iter().find(|event| event.id == of(second, "bob")).expect("it is there");
    let json: Value = serde_json::from_slice(&event.json).expect("JSON");
    let expected = json!({
        "id": of(second, "bob"), "type": "undelivered", "notification": second.to_string(),
        "publisher": "shop", "user": "bob", "device": null, "at": "2025-12-01T00:11:00.000Z",
    });
    assert_eq!(json, expected);
}

async fn undelivered_is_told_for_each_user_once(store: &Store) {
    let recipients = vec![
        to_device("alice", "web"),
        to_device("alice", "phone"),
        to_device("bob", "web"),
        to(&own("carol")),
    ];
    let id = publish(store, item_for(recipients)).await;
    let later = publish(store, item_for(vec![to_device("bob", "web"), to_device("bob", "phone")])).await;
    let epoch = store.attach("bob", "web").await.epoch;
    let had = |seq| Delivered { user: user("bob"), epoch, seq: Seq(seq) };
    // One device of two is enough.
    store.inbox.delivered(vec![had(1), had(2)], store.now()).await.expect("noted");
    store.pass(UNDELIVERED_AFTER);
    assert_eq!((look(store, 1).await, look(store, 1).await, look(store, 1).await), (1, 1, 0));
    let expected = ["alice", "carol"].map(|name| format!("undelivered/{id}/{name}"));
    assert_eq!(undelivered(store).await, expected, "and nobody of {later}");
}

async fn what_needs_nobody_any_more_is_not_told_as_undelivered(store: &Store) {
    let alice = own("alice");
    let read = publish(store, item(&alice)).await;
    let cancelled = publish(store, item(&alice)).await;
    let mut badge = item(&alice);
    badge.collapse_key = Some("badge".to_owned());
    publish(store, badge.clone()).await;
    badge.notification = notification();
    let newest = publish(store, badge).await;
    let mark = Mark { stream: alice, marked: Marked::Ids(vec![read]) };
    store.inbox.mark_read(&user("alice"), &mark, store.now()).await.expect("marked");
    store.inbox.cancel(cancelled, &publisher(), store.now()).await.expect("cancelled");
    store.pass(UNDELIVERED_AFTER);
    assert_eq!(look(store, 10).await, 4);
    assert_eq!(undelivered(store).await, [format!("undelivered/{newest}/alice")]);
}

/// Rows of the tables of `docs/amqp.md` whose first cell is a word in backticks and that have so many cells.
fn documented(cells: usize) -> BTreeMap<String, Vec<&'static str>> {
    let page = include_str!("../../../../docs/amqp.md");
    let (_, events) = page.split_once("### What is told").expect("the heading");
    let (events, _) = events.split_once("\n## ").expect("the next heading");
    let rows = events.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |"));
    let rows = rows.map(|row| row.split(" | ").collect::<Vec<_>>()).filter(|row| row.len() == cells);
    rows.map(|row| (row[0].trim_matches('`').to_owned(), row)).collect()
}

/// One event of each kind, and of each that a shared stream has.
async fn events_of_all_kinds(store: &Store) -> Vec<Value> {
    let (alice, shared) = (own("alice"), Stream::Everyone);
    for stream in [&alice, &shared] {
        let mut badge = item(stream);
        badge.collapse_key = Some("badge".to_owned());
        publish(store, badge.clone()).await;
        badge.notification = notification();
        publish(store, badge).await;
        let cancelled = publish(store, item(stream)).await;
        store.inbox.cancel(cancelled, &publisher(), store.now()).await.expect("cancelled");
        let mut brief = item(stream);
        brief.notification.expires_at = Some(store.now().after(MINUTE));
        publish(store, brief).await;
    }
    store.pass(MINUTE);
    store.inbox.expire(store.now(), 10).await.expect("noted");
    store.inbox.retain_by_count(&[alice, shared], 1).await.expect("cut");
    let epoch = store.attach("bob", "web").await.epoch;
    publish(store, item_for(vec![to_device("bob", "web"), to(&own("carol"))])).await;
    let had = Delivered { user: user("bob"), epoch, seq: Seq(1) };
    store.inbox.delivered(vec![had], store.now()).await.expect("noted");
    let mark = Mark { stream: own("bob"), marked: Marked::UpTo(Seq(1)) };
    store.inbox.mark_read(&user("bob"), &mark, store.now()).await.expect("marked");
    store.pass(UNDELIVERED_AFTER);
    look(store, 100).await;
    change(store, &[("bob", true)]).await;
    change(store, &[("bob", false)]).await;
    let events = store.inbox.claim_events(store.now(), MINUTE, 100).await.expect("the events");
    let json = |event: &fanfare::inbox::OutboxEvent| {
        let json: Value = serde_json::from_slice(&event.json).expect("JSON");
        assert_eq!((&json["id"], &json["type"]), (&json!(event.id), &json!(event.routing_key)));
        json
    };
    events.iter().map(json).collect()
}

async fn every_event_is_told_as_it_is_documented(store: &Store) {
    let (kinds, fields) = (documented(4), documented(3));
    let mut told = BTreeSet::new();
    for event in events_of_all_kinds(store).await {
        let kind = event["type"].as_str().expect("a text").to_owned();
        let row = kinds.get(&kind).unwrap_or_else(|| panic!("docs/amqp.md has no {kind}"));
        let mut expected: BTreeSet<&str> = row[2].split(' ').map(|name| name.trim_matches('`')).collect();
        expected.extend(["id", "type", "at"]);
        let event = event.as_object().expect("an object");
        if event.contains_key("stream") {
            expected = &(&expected - &BTreeSet::from(["user", "device"])) | &BTreeSet::from(["stream"]);
        }
        assert_eq!(event.keys().map(String::as_str).collect::<BTreeSet<_>>(), expected, "{kind}");
        for (name, value) in event {
            let what = fields.get(name).unwrap_or_else(|| panic!("docs/amqp.md has no field {name}"))[1];
            let is_so = value.is_string() || (value.is_null() && what == "text or null");
            assert!(is_so, "{kind}: {name} is {what}; got {value}");
        }
        told.insert(kind);
    }
    assert_eq!(told.iter().collect::<Vec<_>>(), kinds.keys().collect::<Vec<_>>(), "and no others");
}

async fn what_expired_before_it_was_due_is_told_as_undelivered(store: &Store) {
    let (alice, now) = (own("alice"), store.now());
    let short = |mut item: Append, ttl: Duration| {
        item.notification.expires_at = Some(now.after(ttl));
        item
    };
    let noted = publish(store, short(item(&alice), MINUTE)).await;
    let at_once = publish(store, short(item(&own("bob")), UNDELIVERED_AFTER)).await;
    let had = publish(store, short(item(&own("carol")), MINUTE)).await;
    let cancelled = publish(store, short(item(&alice), MINUTE)).await;
    let mut badge = item(&alice);
    badge.collapse_key = Some("badge".to_owned());
    let replaced = publish(store, short(badge.clone(), MINUTE)).await;

    let epoch = store.attach("carol", "web").await.epoch;
    let acked = vec![Delivered { user: user("carol"), epoch, seq: Seq(1) }];
    store.inbox.delivered(acked, store.now()).await.expect("noted");
    store.inbox.cancel(cancelled, &publisher(), store.now()).await.expect("cancelled");
    store.pass(MINUTE);
    assert_eq!(store.inbox.expire(store.now(), 100).await.expect("noted"), 2);
    badge.notification = notification();
    publish(store, short(badge, UNDELIVERED_AFTER * 2)).await;
    store.pass(UNDELIVERED_AFTER - MINUTE);
    assert_eq!(look(store, 10).await, 5);
    let mut expected =
        [(noted, "alice"), (at_once, "bob")].map(|(id, name)| format!("undelivered/{id}/{name}"));
    expected.sort();
    assert_eq!(undelivered(store).await, expected, "not {had}, {cancelled} or {replaced}");
}

/// As when looking is switched off by a restart: nobody would ever take these rows away.
async fn what_is_due_and_not_looked_at_for_long_is_swept(store: &Store) {
    publish(store, item(&own("alice"))).await;
    store.pass(UNDELIVERED_AFTER);
    let sweep = async |due| {
        let before = OutOfDate { due, ..out_of_date(UnixMillis(0), UnixMillis(0)) };
        store.inbox.sweep(&before, 10).await.expect("swept")
    };
    assert_eq!(sweep(store.now()).await, 0, "it is due just now");
    store.pass(MINUTE);
    assert_eq!(sweep(store.now()).await, 1);
    assert_eq!(look(store, 10).await, 0);
}
