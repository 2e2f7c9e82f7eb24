//! A fresh corner of a real backend for one test.

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

/// A PostgreSQL URL whose connections live in a schema of their own, empty.
pub async fn postgres_url() -> String {
    let url = std::env::var("FANFARE_TEST_POSTGRES_URL").expect("run tests/run");
    let schema = format!("t{}", uuid::Uuid::now_v7().simple());
    let mut connection = PgConnection::connect(&url).await.expect("PostgreSQL");
    connection
        .execute(AssertSqlSafe(format!("create schema {schema}")))
        .await
        .expect("a superuser can create a schema");
    connection.close().await.expect("the connection closes");
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}options=-csearch_path%3D{schema}")
}
