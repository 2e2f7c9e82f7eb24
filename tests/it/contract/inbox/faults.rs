//! When a store fails: what callers are told, and that nothing is left half done.

use std::sync::Arc;
use std::time::Duration;

use fanfare::domain::Seq;
use fanfare::inbox::InboxError;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sqlx::{Connection, Executor, PgConnection, SqliteConnection};

use super::cases;
use super::store::*;

cases!(an_append_whose_caller_goes_away_is_done_or_undone);

async fn an_append_whose_caller_goes_away_is_done_or_undone(store: &Store) {
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (alice, bob) = (own("alice"), own("bob"));
    for _ in 0..40 {
        let inbox = Arc::clone(&store.inbox);
        let group = vec![item_for(vec![to(&alice), to(&bob), to(&alice)])];
        let patience = Duration::from_micros(random.random_range(0..4000));
        // Whether it was in time does not matter: both must be whole.
        let _ = tokio::time::timeout(patience, inbox.append(group)).await;
    }
    // What was abandoned ends before this, which waits for the same counters.
    places(store.append_one(item_for(vec![to(&alice), to(&bob), to(&alice)])).await);
    let reads = vec![reading(&alice, 0), reading(&bob, 0)];
    let pages = store.inbox.read(reads, store.now()).await;
    let pages = pages.expect("both pages");
    for page in &pages {
        let expected: Vec<u64> = (1..=page.head.0).collect();
        assert_eq!(page_seqs(page), expected, "no hole");
    }
    assert_eq!(pages[0].head.0, 2 * pages[1].head.0, "no half");
}

/// Appends while somebody else holds what it needs, and again when that is over.
async fn times_out_and_recovers(store: &Store, unlock: impl Future<Output = ()>) {
    let answer = store.append_one(item(&own("alice"))).await;
    assert!(matches!(answer, Err(InboxError::Timeout(_))), "{answer:?}");
    unlock.await;
    let stored = places(store.append_one(item(&own("alice"))).await);
    assert_eq!(stored[0].seq, Seq(2), "what timed out left no hole");
}

#[tokio::test]
async fn postgres_gives_up_when_another_holds_a_lock() {
    let mut store = Store::postgres().await;
    store.settings.timeout = Duration::from_secs(1);
    store.reopen().await;
    store.fill(&own("alice"), 1).await;
    let mut other = PgConnection::connect(&store.settings.url).await.expect("PostgreSQL");
    other.execute("begin; select from streams for update;").await.expect("the lock is taken");
    times_out_and_recovers(&store, async move {
        other.close().await.expect("the lock is gone");
    })
    .await;
}

#[tokio::test]
async fn sqlite_gives_up_when_another_process_writes() {
    let mut store = Store::sqlite().await;
    store.settings.timeout = Duration::from_secs(1);
    store.reopen().await;
    store.fill(&own("alice"), 1).await;
    let mut other = SqliteConnection::connect(&store.settings.url).await.expect("the file");
    other.execute("begin immediate").await.expect("the lock is taken");
    times_out_and_recovers(&store, async move {
        other.close().await.expect("the lock is gone");
    })
    .await;
}

#[tokio::test]
async fn postgres_is_used_again_after_it_ended_all_connections() {
    let mut store = Store::postgres().await;
    let name = format!("t{}", uuid::Uuid::now_v7().simple());
    store.settings.url.push_str(&format!("&application_name={name}"));
    store.reopen().await;
    store.fill(&own("alice"), 3).await;
    let ended = format!(
        "select pg_terminate_backend(pid) from pg_stat_activity
         where application_name = '{name}' and pid <> pg_backend_pid()"
    );
    store.sql(ended).await;
    // Each connection may fail once; there are no more than the pool holds.
    let mut failures = 0;
    let stored = loop {
        match store.append_one(item(&own("alice"))).await {
            Err(InboxError::Unavailable(_)) if failures < store.settings.max_connections => {
                failures += 1;
            }
            answer => break places(answer),
        }
    };
    assert_eq!(stored[0].seq, Seq(4));
}
