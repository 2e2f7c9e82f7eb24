//! What became of entries: counted, and written to the outbox where that is switched on.
//!
//! Owns the shape of receipt events. It must be called in the transaction that made them true; the counting
//! follows the commit.

use sqlx::SqliteConnection;

use super::{SqliteInbox, rows};
use crate::domain::UnixMillis;
use crate::inbox::State;

/// An entry: its stream's number and its seq.
pub(super) type EntryKey = (i64, i64);

/// ?1 rows [stream, seq], ?2 the state's word, ?3 when. A body that is gone takes what there was to tell with it.
const TELL: &str = concat!(
    "insert into events (id, routing_key, json, created_at)
    select id, type, cast(case when is_own
        then json_object('id', id, 'type', type, 'notification', notification, 'publisher', publisher,
            'user', whom, 'device', device, 'at', ",
    time_text!("?3"),
    ")
        else json_object('id', id, 'type', type, 'notification', notification, 'publisher', publisher,
            'stream', whom, 'at', ",
    time_text!("?3"),
    ") end as blob), ?3
    from (
        select 'receipt.' || ?2 || '/' || notification || '/' || whom || coalesce('/' || device, '') as id,
            'receipt.' || ?2 as type, notification, publisher, is_own, whom, device
        from (
            select ",
    uuid_text!("entries.body"),
    " as notification, bodies.publisher,
                substr(streams.name, 1, 5) = 'user:' as is_own,
                case when substr(streams.name, 1, 5) = 'user:' then substr(streams.name, 6)
                    else streams.name end as whom,
                entries.device
            from json_each(?1) as asked
            cross join entries on entries.stream = asked.value ->> 0 and entries.seq = asked.value ->> 1
            join bodies on bodies.id = entries.body
            join streams on streams.id = entries.stream
        )
    )
    where true
    on conflict do nothing"
);

impl SqliteInbox {
    /// Tells that these entries came into `state` at `at`, if receipts are to be told.
    pub(super) async fn tell(
        &self,
        connection: &mut SqliteConnection,
        state: State,
        entries: Vec<EntryKey>,
        at: UnixMillis,
    ) -> Result<(), sqlx::Error> {
        if !self.receipt_events || entries.is_empty() {
            return Ok(());
        }
        sqlx::query(TELL)
            .bind(rows(entries))
            .bind(state.as_str())
            .bind(at.as_i64())
            .execute(connection)
            .await
            .map(drop)
    }

    /// Counts entries that came into `state`.
    pub(super) fn count_receipts(&self, state: State, entries: usize) {
        self.calls.metrics.count_receipts(state.as_str(), entries as u64);
    }
}
