//! The rest: checks, last seen, the sweep, and refusals to open.

use std::time::Duration;

use fanfare::clock::Clock;
use fanfare::domain::UnixMillis;
use fanfare::inbox::{Appended, InboxError, OpenError, PostgresInbox, Settings, SqliteInbox, migrate};
use fanfare::metrics::inbox::InboxMetrics;

use super::cases;
use super::store::*;
use crate::support::backends;

cases!(
    a_store_that_works_says_so_until_it_is_closed,
    the_last_time_seen_never_goes_back,
    the_sweep_removes_what_is_out_of_date_and_nothing_else,
    the_sweep_goes_in_batches,
    old_idempotency_keys_are_forgotten,
    migrating_again_does_nothing,
);

async fn a_store_that_works_says_so_until_it_is_closed(store: &Store) {
    store.inbox.check().await.expect("it works");
    store.inbox.close().await;
    let check = store.inbox.check().await;
    assert!(matches!(check, Err(InboxError::Unavailable(_))), "{check:?}");
    let answer = store.append_one(item(&own("alice"))).await;
    assert!(matches!(answer, Err(InboxError::Unavailable(_))));
    let opened = store.open_one(opening("alice", Some("web"))).await;
    assert!(matches!(opened, Err(InboxError::Unavailable(_))));
}

async fn the_last_time_seen_never_goes_back(store: &Store) {
    let (alice, bob) = (user("alice"), user("bob"));
    let at = |seconds: u64| START.after(Duration::from_secs(seconds));
    let seen = vec![(alice.clone(), at(5)), (bob.clone(), at(1)), (alice.clone(), at(3))];
    store.inbox.seen(seen).await.expect("noted");
    let seen = vec![(alice.clone(), at(4)), (bob.clone(), at(2))];
    store.inbox.seen(seen).await.expect("noted");
    let asked = [bob, user("nobody"), alice];
    let last = store.inbox.last_seen(&asked).await.expect("known");
    assert_eq!(last, [Some(at(2)), None, Some(at(5))]);
}

/// Appends a notification that lives for so many seconds.
async fn short_lived(store: &Store, seconds: u64) {
    let mut item = item_for(vec![to(&own("alice")), to(&own("bob"))]);
    let expires_at = store.now().after(Duration::from_secs(seconds));
    item.notification.expires_at = Some(expires_at);
    places(store.append_one(item).await);
}

async fn the_sweep_removes_what_is_out_of_date_and_nothing_else(store: &Store) {
    let alice = own("alice");
    short_lived(store, 60).await;
    store.fill(&alice, 1).await;
    short_lived(store, 120).await;
    let sweep = async || {
        let before = out_of_date(store.now(), UnixMillis(0));
        store.inbox.sweep(&before, 100).await
    };
    assert_eq!(sweep().await.expect("swept"), 0);
    store.pass(Duration::from_secs(60));
    // Two entries and their body.
    assert_eq!(sweep().await.expect("swept"), 3);
    assert_eq!(sweep().await.expect("swept"), 0);
    let page = store.read_one(reading(&alice, 0)).await;
    assert_eq!(page_seqs(&page), [2, 3]);
    assert_eq!((page.floor.0, page.through.0), (0, 3));
    let next = places(store.append_one(item(&alice)).await);
    assert_eq!(seqs(&next), [4]);
}

async fn the_sweep_goes_in_batches(store: &Store) {
    for _ in 0..3 {
        short_lived(store, 60).await;
    }
    store.pass(Duration::from_secs(61));
    let mut batches = Vec::new();
    loop {
        let swept = store.inbox.sweep(&out_of_date(store.now(), UnixMillis(0)), 2).await;
        match swept.expect("swept") {
            0 => break,
            rows => batches.push(rows),
        }
    }
    // Six entries and three bodies, two of a kind at a time.
    assert_eq!(batches, [4, 3, 2]);
}

async fn old_idempotency_keys_are_forgotten(store: &Store) {
    let keyed = || keyed(item(&own("alice")), "order-1", 1);
    places(store.append_one(keyed()).await);
    let sweep = async |before| {
        let before = out_of_date(UnixMillis(0), before);
        store.inbox.sweep(&before, 100).await
    };
    assert_eq!(sweep(START).await.expect("swept"), 0);
    let replay = store.append_one(keyed()).await.expect("an answer");
    assert!(matches!(replay, Appended::Replayed(_)));
    let later = START.after(Duration::from_millis(1));
    assert_eq!(sweep(later).await.expect("swept"), 1);
    assert_eq!(seqs(&places(store.append_one(keyed()).await)), [2]);
}

async fn migrating_again_does_nothing(store: &Store) {
    let report = migrate(&store.settings.url).await.expect("migrated");
    let known = if store.settings.url.starts_with("sqlite:") { 4 } else { 6 };
    assert_eq!((report.applied.len(), report.before), (0, known));
}

fn settings(url: String) -> Settings {
    Settings {
        url,
        max_connections: 2,
        timeout: Duration::from_secs(5),
        max_devices: MAX_DEVICES,
        receipt_events: false,
        undelivered_after: None,
    }
}

async fn refusal_of_postgres(url: String) -> OpenError {
    let opened = PostgresInbox::open(&settings(url), Clock::system(), InboxMetrics::default()).await;
    opened.map(drop).expect_err("it does not open")
}

async fn refusal_of_sqlite(url: String) -> OpenError {
    let opened = SqliteInbox::open(&settings(url), Clock::system(), InboxMetrics::default()).await;
    opened.map(drop).expect_err("it does not open")
}

#[tokio::test]
async fn postgres_without_tables_names_the_command() {
    let refusal = refusal_of_postgres(backends::postgres_url().await).await;
    let line = refusal.to_string();
    assert!(line.contains("fanfare migrate"), "{line}");
    assert!(!line.contains('\n'), "{line}");
}

#[tokio::test]
async fn sqlite_without_tables_names_the_command() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}/inbox.db", folder.path().display());
    let line = refusal_of_sqlite(url).await.to_string();
    assert!(line.contains("fanfare migrate"), "{line}");
}

#[tokio::test]
async fn a_database_that_is_not_there_is_named_and_the_password_is_not() {
    let url = backends::postgres_url().await;
    let (server, options) = url.split_once('?').expect("the schema");
    let (server, _) = server.rsplit_once('/').expect("the database");
    let url = format!("{server}/no_such_database?{options}");
    let line = refusal_of_postgres(url).await.to_string();
    assert!(line.contains("no_such_database"), "{line}");

    // Port 9 (discard) is taken by nobody.
    let url = "postgres://fanfare:s3cret@127.0.0.1:9/inbox".to_owned();
    let line = refusal_of_postgres(url).await.to_string();
    assert!(line.contains("127.0.0.1:9"), "{line}");
    assert!(!line.contains("s3cret"), "{line}");

    let url = "postgres://fanfare:s3/cret@127.0.0.1:x/inbox".to_owned();
    let line = refusal_of_postgres(url).await.to_string();
    assert!(line.contains("percent-encoded"), "{line}");
    assert!(!line.contains("s3"), "{line}");
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let blocker = folder.path().join("file");
    std::fs::write(&blocker, "not a folder").expect("a file");
    let url = format!("sqlite://{}/inbox.db", blocker.display());
    let line = refusal_of_sqlite(url).await.to_string();
    assert!(line.contains("inbox.db"), "{line}");
    assert!(line.contains("writable"), "{line}");

    let memory = refusal_of_sqlite("sqlite::memory:".to_owned()).await;
    assert!(matches!(memory, OpenError::Url { .. }), "{memory}");
}
