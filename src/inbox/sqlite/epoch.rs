//! Another life for a SQLite file.

use sqlx::{Connection, SqliteConnection};

use super::connect;
use crate::domain::Epoch;
use crate::inbox::{OpenError, migrations};

/// Unread versions go on from now, in milliseconds: further than any that was told before, as long as fewer
/// things happened to a user than milliseconds passed. Nodes that have the file open read all of this anew
/// with each statement.
const STORE: &str = r#"
update store
set epoch = ?1, version_base = max(version_base + 1, cast(unixepoch('subsec') * 1000 as integer))
"#;

const STREAMS: &str = "update streams set epoch = ?1";

/// Read state is of the same restored file as the entries that it is about, so it holds on.
const FOLLOWS: &str = "update follows set epoch = ?1";

/// As [`crate::inbox::new_epoch`] promises.
pub(in crate::inbox) async fn new_epoch(url: &str) -> Result<Epoch, OpenError> {
    let mut connection = connect::connect_existing(url).await?;
    migrations::require_sqlite(&mut connection).await?;
    let renewed = renew(&mut connection).await.map_err(|error| connect::unusable_at(url, &error));
    // It is committed or it is not, however the connection ends.
    let _ = connection.close().await;
    renewed
}

async fn renew(connection: &mut SqliteConnection) -> Result<Epoch, sqlx::Error> {
    let mut transaction = connection.begin_with("begin immediate").await?;
    let old: i64 = sqlx::query_scalar("select epoch from store").fetch_one(&mut *transaction).await?;
    let epoch = loop {
        let epoch = rand::random::<u32>();
        if i64::from(epoch) != old {
            break epoch;
        }
    };
    for statement in [STORE, STREAMS, FOLLOWS] {
        sqlx::query(statement).bind(i64::from(epoch)).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(Epoch(epoch))
}
