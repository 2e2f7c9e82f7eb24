//! Another life for a PostgreSQL store.

use sqlx::{Connection, PgConnection};

use super::connect;
use crate::domain::Epoch;
use crate::inbox::{OpenError, migrations};

/// Who writes to streams ends first, and who comes waits and then sees the new epoch: one that was half-way would make
/// a stream of the old one, unseen by what follows. The first lock, as those hold others. Reads go on.
const ALONE: &str = "lock table streams in share row exclusive mode";

/// Unread versions go on from now, in milliseconds: further than any that was told before, as long as fewer
/// things happened to a user than milliseconds passed.
const STORE: &str = r#"
update store
set epoch = $1, version_base = greatest(version_base + 1, (extract(epoch from clock_timestamp()) * 1000)::bigint)
"#;

/// Sorted as appends lock them.
const STREAMS: &str = r#"
update streams set epoch = $1
from (select id from streams order by name for no key update) as every
where streams.id = every.id
"#;

/// Read state is of the same restored store as the entries that it is about, so it holds on.
const FOLLOWS: &str = "update follows set epoch = $1";

/// As [`crate::inbox::new_epoch`] promises.
pub(in crate::inbox) async fn new_epoch(url: &str) -> Result<Epoch, OpenError> {
    let mut connection = connect::connect_to_migrate(url).await?;
    migrations::require_postgres(&mut connection).await?;
    let renewed = renew(&mut connection).await;
    // It is committed or it is not, however the connection ends.
    let _ = connection.close().await;
    renewed
        .map_err(|error| OpenError::Unreachable { place: "inbox.url".to_owned(), reason: error.to_string() })
}

/// One transaction: whoever uses the store meanwhile waits for it, and sees all of it or nothing.
async fn renew(connection: &mut PgConnection) -> Result<Epoch, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    sqlx::query(ALONE).execute(&mut *transaction).await?;
    let old: i64 =
        sqlx::query_scalar("select epoch from store for update").fetch_one(&mut *transaction).await?;
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
