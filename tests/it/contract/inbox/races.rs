//! What meets an erasure or a new epoch half-way. PostgreSQL alone: SQLite has one writer at a time.

use std::sync::Arc;
use std::time::Duration;

use fanfare::domain::{NotificationId, Seq, Stream};
use fanfare::inbox::{Append, Cancelled, Mark, Marked, Place, new_epoch};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::task::JoinHandle;

use super::store::*;
use crate::support::eventually;

/// How long anything here may take.
const SOON: Duration = Duration::from_secs(10);

/// A transaction that keeps others waiting.
struct Obstacle {
    holder: PgConnection,
    pid: i32,
    onlooker: PgConnection,
}

impl Obstacle {
    async fn of(store: &Store, row: &str) -> Self {
        let mut holder = PgConnection::connect(&store.settings.url).await.expect("PostgreSQL");
        let lock = format!("begin; select from {row} for update");
        holder.execute(AssertSqlSafe(lock)).await.expect("the row is locked");
        let pid = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut holder).await.expect("a pid");
        let onlooker = PgConnection::connect(&store.settings.url).await.expect("PostgreSQL");
        Self { holder, pid, onlooker }
    }

    /// Until so many wait for it, or for who waits for it.
    async fn holds_up(&mut self, count: i64) {
        let waiting = "with recursive waiting as (
                select pid from pg_stat_activity where $1 = any(pg_blocking_pids(pid))
                union
                select others.pid from pg_stat_activity as others
                join waiting on waiting.pid = any(pg_blocking_pids(others.pid))
            )
            select count(*) from waiting";
        eventually(SOON, "others wait for the lock", async || {
            let waiting = sqlx::query_scalar::<_, i64>(waiting).bind(self.pid);
            waiting.fetch_one(&mut self.onlooker).await.expect("a count") >= count
        })
        .await;
    }

    async fn ends(mut self) {
        self.holder.execute("rollback").await.expect("the lock goes");
    }
}

fn appending(store: &Store, item: Append) -> JoinHandle<Vec<Place>> {
    let inbox = Arc::clone(&store.inbox);
    tokio::spawn(async move { places(inbox.append(vec![item]).await.remove(0)) })
}

fn erasing(store: &Store, name: &'static str) -> JoinHandle<()> {
    let inbox = Arc::clone(&store.inbox);
    tokio::spawn(async move { inbox.erase(&user(name)).await.map(drop).expect("erased") })
}

async fn version(store: &Store, name: &str) -> u64 {
    store.inbox.unread(&user(name), store.now()).await.expect("known").0.version
}

async fn head(store: &Store, stream: &Stream) -> Seq {
    store.inbox.heads(std::slice::from_ref(stream)).await.expect("the head")[0].head
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_what_waits_for_an_erasure_is_appended_above_all_that_was_erased() {
    let store = Store::postgres().await;
    let alice = own("alice");
    store.fill(&alice, 5).await;
    let mark = Mark { stream: alice.clone(), marked: Marked::UpTo(Seq(3)) };
    store.inbox.mark_read(&user("alice"), &mark, store.now()).await.expect("marked");
    let told = version(&store, "alice").await;
    let mut obstacle = Obstacle::of(&store, "store").await;
    let erased = erasing(&store, "alice");
    obstacle.holds_up(1).await;
    let appended = appending(&store, item_for(vec![to(&alice), to(&own("bob"))]));
    obstacle.holds_up(2).await;
    obstacle.ends().await;
    erased.await.expect("erased");
    let places = appended.await.expect("appended");
    assert!(places.iter().all(|place| place.seq > Seq(5)), "{places:?}");
    assert!(version(&store, "alice").await > told, "its unread version does not go back");
    let page = store.read_one(reading(&alice, 0)).await;
    assert_eq!(page_seqs(&page), [places[0].seq.0], "once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_a_stream_that_is_made_beside_an_erasure_begins_above_what_its_user_was_told() {
    let store = Store::postgres().await;
    store.fill(&own("alice"), 5).await;
    store.fill(&own("carol"), 1).await;
    let mut obstacle = Obstacle::of(&store, "streams where name = 'user:carol'").await;
    let appended = appending(&store, item_for(vec![to(&own("bob")), to(&own("carol"))]));
    obstacle.holds_up(1).await;
    store.inbox.erase(&user("alice")).await.expect("erased");
    let told = version(&store, "bob").await;
    obstacle.ends().await;
    appended.await.expect("appended");
    assert!(version(&store, "bob").await > told);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_a_cancellation_that_waits_for_an_erasure_makes_no_stream() {
    let store = Store::postgres().await;
    let (alice, bob) = (own("alice"), own("bob"));
    let both = item_for(vec![to(&alice), to(&bob)]);
    let id: NotificationId = both.notification.id;
    places(store.append_one(both).await);
    let mut obstacle = Obstacle::of(&store, "store").await;
    let erased = erasing(&store, "alice");
    obstacle.holds_up(1).await;
    let inbox = Arc::clone(&store.inbox);
    let cancelled = tokio::spawn(async move { inbox.cancel(id, &publisher(), START).await });
    obstacle.holds_up(2).await;
    obstacle.ends().await;
    erased.await.expect("erased");
    let answer = cancelled.await.expect("it ends").expect("an answer");
    let Cancelled::Stored { entries, .. } = answer else {
        panic!("expected it to be cancelled; got {answer:?}");
    };
    assert_eq!(entries.iter().map(|(recipient, _)| recipient).collect::<Vec<_>>(), [&to(&bob)]);
    assert_eq!((head(&store, &alice).await, head(&store, &bob).await), (Seq(0), Seq(2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_a_stream_that_is_made_beside_a_new_epoch_is_of_one_epoch_with_the_store() {
    let store = Store::postgres().await;
    store.fill(&own("carol"), 1).await;
    let mut obstacle = Obstacle::of(&store, "streams where name = 'user:carol'").await;
    let appended = appending(&store, item_for(vec![to(&own("bob")), to(&own("carol"))]));
    obstacle.holds_up(1).await;
    let url = store.settings.url.clone();
    let renewed = tokio::spawn(async move { new_epoch(&url).await.expect("another life") });
    obstacle.holds_up(2).await;
    obstacle.ends().await;
    appended.await.expect("appended");
    let epoch = renewed.await.expect("another life");
    for name in ["bob", "carol", "dave"] {
        assert_eq!(store.inbox.heads(&[own(name)]).await.expect("the head")[0].epoch, epoch, "{name}");
    }
}
