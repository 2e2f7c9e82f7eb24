//! PostgreSQL plans once a connection, and does so while the tables are small and nothing is known of them: what is
//! asked for by key must be looked up by key all the same.

use std::time::Duration;

use fanfare::domain::Seq;
use fanfare::inbox::{Cursor, Delivered, Open};
use sqlx::{Connection, PgConnection, Row};

use super::store::*;
use crate::support::eventually;

/// How many users there are.
const USERS: usize = 1_000;
/// How often each gets something.
const ROUNDS: u64 = 8;
/// How often a badge is set.
const REPLACED: i64 = 300;

#[tokio::test]
async fn on_a_store_without_statistics_no_everyday_statement_reads_a_table_whole() {
    let mut store = Store::postgres().await;
    store.settings.url.push_str("&application_name=lookups");
    store.reopen().await;
    let names: Vec<String> = (0..USERS).map(|number| format!("user-{number}")).collect();
    for group in names.chunks(50) {
        let opens: Vec<Open> = group.iter().map(|name| opening(name, Some("phone"))).collect();
        for opened in store.inbox.open(opens).await {
            opened.expect("the device is let in");
        }
    }
    for round in 1..=ROUNDS {
        for group in names.chunks(100) {
            everyday(&store, group, Seq(round)).await;
        }
    }
    store.inbox.close().await;
    let read = read_in_sequence(&store.settings.url).await;
    for (table, rows) in &read {
        assert!(*rows <= USERS as i64, "{table}: {rows} rows were read in sequence, of {read:?}");
    }
    assert!(read.iter().any(|(table, _)| table == "entries"));
}

/// What a badge costs must not grow with how often it was set.
#[tokio::test]
async fn an_append_does_not_look_at_what_its_collapse_key_has_replaced_long_ago() {
    let mut store = Store::postgres().await;
    store.settings.url.push_str("&application_name=replaced");
    store.reopen().await;
    for _ in 0..REPLACED {
        let mut badge = item(&own("alice"));
        badge.collapse_key = Some("badge".to_owned());
        places(store.append_one(badge).await);
    }
    store.inbox.close().await;
    let rows = "select coalesce(sum(idx_tup_fetch), 0)::bigint from pg_stat_user_indexes
        where schemaname = current_schema() and relname = 'entries'";
    let mut connection = ended(&store.settings.url, "replaced").await;
    let fetched: i64 = sqlx::query_scalar(rows).fetch_one(&mut connection).await.expect("statistics");
    assert!(fetched < 20 * REPLACED, "{REPLACED} appends fetched {fetched} entries");
}

/// One entry for each: appended, read, acknowledged, its cursor moved, its head asked for.
async fn everyday(store: &Store, names: &[String], seq: Seq) {
    let appended = store.inbox.append(names.iter().map(|name| item(&own(name))).collect()).await;
    let epoch = appended.into_iter().map(places).last().expect("one for each")[0].epoch;
    let reads = names.iter().map(|name| reading(&own(name), seq.0 - 1)).collect();
    let pages = store.inbox.read(reads, store.now()).await.expect("pages");
    assert!(pages.iter().all(|page| page_seqs(page) == [seq.0]));
    let delivered = names.iter().map(|name| Delivered { user: user(name), epoch, seq });
    store.inbox.delivered(delivered.collect(), store.now()).await.expect("noted");
    let cursors = names.iter().map(|name| Cursor {
        user: user(name),
        device: device("phone"),
        stream: own(name),
        epoch,
        acked: seq,
    });
    store.inbox.commit(cursors.collect()).await.expect("committed");
    let streams: Vec<_> = names.iter().map(|name| own(name)).collect();
    let heads = store.inbox.heads(&streams).await.expect("heads");
    assert!(heads.iter().all(|head| head.head == seq));
}

/// A connection when the inbox's have ended: each says before that what it has read.
async fn ended(url: &str, name: &str) -> PgConnection {
    let mut connection = PgConnection::connect(url).await.expect("PostgreSQL");
    let others = "select count(*) from pg_stat_activity
        where application_name = $1 and pid <> pg_backend_pid()";
    eventually(Duration::from_secs(10), "the inbox's connections have ended", async || {
        let others = sqlx::query_scalar::<_, i64>(others).bind(name);
        others.fetch_one(&mut connection).await.expect("a count") == 0
    })
    .await;
    connection
}

/// How many rows sequential scans have read of each table.
async fn read_in_sequence(url: &str) -> Vec<(String, i64)> {
    let mut connection = ended(url, "lookups").await;
    let tables = "select relname::text, seq_tup_read from pg_stat_user_tables
        where schemaname = current_schema() and relname in ('streams', 'bodies', 'entries', 'cursors', 'devices') order by relname";
    let rows = sqlx::query(tables).fetch_all(&mut connection).await.expect("statistics");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}
