//! A fresh corner of a real backend for one test: a schema, a database number, a vhost.
//!
//! The servers are those that `tests/backends` started and named in the environment. Nothing is
//! cleaned up: they live as long as the test run. A test must never touch what is not its own:
//! `FLUSHDB`, not `FLUSHALL`.

use std::time::Duration;

use deadpool_redis::redis;
use sqlx::{Connection, Executor, PgConnection};

/// Nothing that is asked here takes long, unless the server is gone.
const DEADLINE: Duration = Duration::from_secs(30);

fn env(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: run tests/run, which starts the backends"))
}

fn unique() -> String {
    format!("t{}", uuid::Uuid::now_v7().simple())
}

async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work)
        .await
        .unwrap_or_else(|_| panic!("{what} took longer than {DEADLINE:?}"))
}

/// A PostgreSQL URL whose connections live in a schema of their own, empty.
pub async fn postgres_url() -> String {
    let url = env("FANFARE_TEST_POSTGRES_URL");
    let schema = unique();
    within("creating a schema", async {
        let mut connection = PgConnection::connect(&url).await.expect("PostgreSQL answers");
        connection
            .execute(sqlx::AssertSqlSafe(format!("create schema {schema}")))
            .await
            .expect("a superuser can create a schema");
        connection.close().await.expect("the connection closes");
    })
    .await;
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}options=-csearch_path%3D{schema}")
}

/// A Redis URL of a database of its own, empty. Numbers are dealt by Redis itself (a counter in
/// database 0), so that test processes side by side get different ones.
pub async fn redis_url() -> String {
    let url = env("FANFARE_TEST_REDIS_URL");
    let number = within("taking a Redis database", async {
        let mut connection = redis_connection(&url).await;
        redis::cmd("INCR")
            .arg("tests:databases")
            .query_async::<u32>(&mut connection)
            .await
            .expect("Redis counts")
    })
    .await;
    assert!(number < 512, "all 512 databases are taken; give tests/backends more");
    let url = format!("{url}/{number}");
    within("emptying a Redis database", async {
        redis::cmd("FLUSHDB")
            .query_async::<()>(&mut redis_connection(&url).await)
            .await
            .expect("Redis flushes");
    })
    .await;
    url
}

async fn redis_connection(url: &str) -> redis::aio::MultiplexedConnection {
    redis::Client::open(url)
        .expect("a Redis URL")
        .get_multiplexed_async_connection()
        .await
        .expect("Redis answers")
}

/// An AMQP URL of a vhost of its own, empty.
pub async fn amqp_url() -> String {
    let url = env("FANFARE_TEST_AMQP_URL");
    let base = url.strip_suffix("%2f").expect("the default vhost, %2f");
    let vhost = unique();
    put(&format!("/api/vhosts/{vhost}"), "{}").await;
    let all = r#"{"configure":".*","write":".*","read":".*"}"#;
    put(&format!("/api/permissions/{vhost}/guest"), all).await;
    format!("{base}{vhost}")
}

/// The base URL of RabbitMQ's management API, with the credentials of an administrator in it.
pub fn rabbit_api() -> String {
    env("FANFARE_TEST_RABBIT_API")
}

async fn put(path: &str, body: &'static str) {
    let request = http_client()
        .put(format!("{}{path}", rabbit_api()))
        .header("content-type", "application/json")
        .body(body);
    let answer = within(path, request.send()).await.expect("the management API answers");
    assert!(answer.status().is_success(), "PUT {path}: {}", answer.status());
}

/// A client for plain HTTP on loopback.
pub fn http_client() -> reqwest::Client {
    // reqwest wants some provider even for plain HTTP; an error says that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .timeout(DEADLINE)
        .build()
        .expect("a client without options can be built")
}

#[tokio::test]
async fn every_backend_gives_each_test_a_corner_of_its_own() {
    let (first, second) = (postgres_url().await, postgres_url().await);
    for url in [&first, &second] {
        let mut connection = PgConnection::connect(url).await.expect("connects");
        connection
            .execute("create table one (id bigint)")
            .await
            .expect("the schema is empty and is the one that unqualified names go to");
    }

    let (first, second) = (redis_url().await, redis_url().await);
    assert_ne!(first, second);
    redis::cmd("SET")
        .arg("key")
        .arg("value")
        .query_async::<()>(&mut redis_connection(&first).await)
        .await
        .expect("Redis sets");
    let seen: Option<String> = redis::cmd("GET")
        .arg("key")
        .query_async(&mut redis_connection(&second).await)
        .await
        .expect("Redis gets");
    assert_eq!(seen, None);

    let url = amqp_url().await;
    let connection = lapin::Connection::connect(&url, lapin::ConnectionProperties::default())
        .await
        .expect("the vhost takes connections");
    connection.close(200, "done".into()).await.expect("closes");
}
