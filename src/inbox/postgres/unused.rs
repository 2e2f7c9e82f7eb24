//! Cursors that nobody uses in PostgreSQL.
//!
//! Owns when cursors of those who are connected were last used, and the end of those of topics that a device has long
//! left: a device that is in use would gather them for ever. The user's own stream and everyone are one each and go with
//! the device.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::{PostgresInbox, count, parsed};
use crate::domain::{DeviceId, Stream, UnixMillis, UserId};
use crate::inbox::failure::Failure;
use crate::inbox::{CursorKey, Unused};

const TOUCH: &str = r#"
update cursors set used_at = $4
from (
    select user_id, device, stream
    from cursors
    join unnest($1::text[], $2::text[], $3::text[]) as asked (user_id, device, stream)
        using (user_id, device, stream)
    order by user_id, device, stream
    for update of cursors skip locked
) as used
where cursors.user_id = used.user_id and cursors.device = used.device and cursors.stream = used.stream
    and cursors.used_at < $4
"#;

/// $1, $2 and $3 the cursor to go on after, $4 how many are looked at, $5 used before (0: by a version that did not
/// know). One that is used meanwhile is looked at again by the lock, and stays.
const REMOVE: &str = concat!(
    r#"
with page as materialized (
    select user_id, device, stream, used_at
    from cursors
    where (user_id, device, stream) > ($1, $2, $3)
    order by user_id, device, stream
    limit $4
),
gone as (
    delete from cursors
    using (
        select cursors.user_id, cursors.device, cursors.stream
        from page
        join cursors on cursors.user_id = page.user_id and cursors.device = page.device
            and cursors.stream = page.stream
        where page.stream like 'topic:%' and cursors.used_at > 0 and cursors.used_at < $5
        order by cursors.user_id, cursors.device, cursors.stream
        for update of cursors skip locked
    ) as unused
    where cursors.user_id = unused.user_id and cursors.device = unused.device
        and cursors.stream = unused.stream
    returning cursors.user_id, cursors.device, cursors.stream
),
"#,
    leave!("gone"),
    r#"
select (select count(*) from page) as met, (select count(*) from gone) as removed, last.*
from (select 1) as one
left join (
    select user_id, device, stream from page order by user_id desc, device desc, stream desc limit 1
) as last on true
"#
);

impl PostgresInbox {
    pub(super) async fn touch_cursors(&self, cursors: &[CursorKey], now: UnixMillis) -> Result<(), Failure> {
        let users: Vec<&str> = cursors.iter().map(|(user, ..)| user.as_str()).collect();
        let devices: Vec<&str> = cursors.iter().map(|(_, device, _)| device.as_str()).collect();
        let streams: Vec<String> = cursors.iter().map(|(.., stream)| stream.to_string()).collect();
        let query = sqlx::query(TOUCH).bind(&users).bind(&devices).bind(&streams).bind(now.as_i64());
        self.written("touch_cursors", query).await.map(drop)
    }

    pub(super) async fn remove_unused(
        &self,
        after: Option<&CursorKey>,
        before: UnixMillis,
        limit: u32,
    ) -> Result<Unused, Failure> {
        let (user, device, stream) = match after {
            Some((user, device, stream)) => (user.as_str(), device.as_str(), stream.to_string()),
            None => ("", "", String::new()),
        };
        let query = sqlx::query(REMOVE)
            .bind(user)
            .bind(device)
            .bind(stream)
            .bind(i64::from(limit))
            .bind(before.as_i64());
        let row = self.row("remove_unused", query).await?;
        let (met, unused) = self.read_row(unused(&row))?;
        self.calls.metrics.swept.inc_by(unused.removed);
        Ok(if met < u64::from(limit) { Unused { next: None, ..unused } } else { unused })
    }
}

fn unused(row: &PgRow) -> Result<(u64, Unused), sqlx::Error> {
    let next = match row.try_get::<Option<String>, _>("stream")? {
        None => None,
        Some(stream) => {
            let user = parsed(UserId::new(row.try_get::<String, _>("user_id")?))?;
            let device = parsed(DeviceId::new(row.try_get::<String, _>("device")?))?;
            Some((user, device, parsed(Stream::parse(&stream))?))
        }
    };
    Ok((count(row, "met")?, Unused { removed: count(row, "removed")?, next }))
}
