//! Real backends: a stand-in until the harness has its own.

use std::sync::atomic::{AtomicU32, Ordering};

use deadpool_redis::redis;

/// A Redis database that is empty and that no other test of this run uses.
pub(crate) async fn redis_url() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let server = std::env::var("FANFARE_TEST_REDIS_URL").expect("run tests/run");
    let url = format!("{server}/{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let client = redis::Client::open(url.as_str()).expect("a redis url");
    let mut connection = client
        .get_multiplexed_async_connection()
        .await
        .expect("the test redis answers");
    let () = redis::cmd("FLUSHDB")
        .query_async(&mut connection)
        .await
        .expect("the database can be emptied");
    url
}
