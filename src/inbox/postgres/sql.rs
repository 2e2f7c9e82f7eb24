//! Pieces that several statements are made of.
//!
//! Owns what an entry has to be to be delivered or unread, the word for what became of it, and how an event is
//! written. Macros, as statements are put together when the program is built.

/// That a newer entry of the same collapse key exists. The append marks what it replaces, but its snapshot may
/// miss an entry that was committed while it waited for the stream's lock: so reads look, too.
macro_rules! newer {
    ($entry:literal) => {
        concat!(
            "exists (select from entries as newer where newer.stream = ",
            $entry,
            ".stream and newer.collapse = ",
            $entry,
            ".collapse and newer.seq > ",
            $entry,
            ".seq and newer.device is not distinct from ",
            $entry,
            ".device)"
        )
    };
}

/// That an entry is neither superseded, cancelled, expired nor dropped.
macro_rules! alive {
    ($entry:literal, $now:literal) => {
        concat!(
            "(",
            $entry,
            ".state = 0 and (",
            $entry,
            ".expires_at is null or ",
            $entry,
            ".expires_at > ",
            $now,
            ") and (",
            $entry,
            ".collapse is null or not ",
            newer!($entry),
            "))"
        )
    };
}

/// The word for what became of `entries`, of the stream `streams`.
macro_rules! state {
    ($now:literal) => {
        concat!(
            "case when entries.read_at is not null then 'read'
            when entries.delivered_at is not null then 'delivered'
            when entries.state = 2 then 'cancelled'
            when entries.state = 1 or (entries.collapse is not null and ",
            newer!("entries"),
            ") then 'superseded'
            when entries.state = 3 or entries.expires_at <= ",
            $now,
            " then 'expired'
            when entries.state = 4 or entries.seq <= streams.floor_seq then 'dropped'
            else 'stored' end"
        )
    };
}

/// Whose an event about entries is: rows of `$marked` (stream, body, device) with the stream's name and the
/// publisher.
macro_rules! whose {
    ($marked:literal) => {
        concat!(
            "(select marked.body, marked.device, streams.name, bodies.publisher from ",
            $marked,
            " as marked join streams on streams.id = marked.stream
            left join bodies on bodies.id = marked.body)"
        )
    };
}

/// Writes the event `receipt.$word` for each of `$rows` (body, device, name, publisher), if `$on`. In order of
/// ids, as two statements may write the same one.
macro_rules! tell {
    ($word:literal, $rows:expr, $now:literal, $on:literal) => {
        tell!(@ concat!("receipt.", $word), $rows, $now, $on)
    };
    (@ $key:expr, $rows:expr, $now:literal, $on:literal) => {
        concat!(
            "insert into events (id, routing_key, json, created_at)
            select told.id, '",
            $key,
            "', convert_to(case when told.name like 'user:%'
                then json_build_object('id', told.id, 'type', '",
            $key,
            "', 'notification', told.body, 'publisher', told.publisher, 'user', substr(told.name, 6),
                    'device', told.device, 'at', told.at)
                else json_build_object('id', told.id, 'type', '",
            $key,
            "', 'notification', told.body, 'publisher', told.publisher, 'stream', told.name,
                    'at', told.at)
                end::text, 'UTF8'), ",
            $now,
            "
            from (
                select about.*, '",
            $key,
            "/' || about.body || '/'
                    || case when about.name like 'user:%' then substr(about.name, 6) else about.name end
                    || coalesce('/' || about.device, '') as id, ",
            at!($now),
            " as at
                from ",
            $rows,
            " as about
                where ",
            $on,
            "
            ) as told
            order by told.id collate \"C\"
            on conflict do nothing"
        )
    };
}

/// A time in milliseconds as RFC 3339.
macro_rules! at {
    ($millis:literal) => {
        concat!(
            "to_char(to_timestamp(",
            $millis,
            " / 1000.0) at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"
        )
    };
}

/// Marks what newer ones (`$newer`: stream, device, collapse, seq) replace, and tells whose it was: the CTEs
/// `older`, `superseded`, `replaced` (body, device, name, publisher; `$more` adds to it) and `told_superseded`.
/// An entry is locked in order first, and looked at again after a wait.
macro_rules! replace {
    ($newer:literal, $more:literal, $now:literal, $on:literal) => {
        concat!(
            "
older as materialized (
    select entries.stream, entries.seq
    from ",
            $newer,
            " as newer
    join entries on entries.stream = newer.stream and entries.collapse = newer.collapse
        and entries.device is not distinct from newer.device and entries.seq < newer.seq
    where entries.state = 0
    order by entries.stream, entries.seq
    for no key update of entries
),
superseded as (
    update entries set state = 1
    from older
    where entries.stream = older.stream and entries.seq = older.seq and entries.state = 0
    returning entries.stream, entries.body, entries.device,
        entries.delivered_at is null and entries.read_at is null as is_open
),
replaced as materialized (
    select superseded.body, superseded.device, streams.name, bodies.publisher
    from superseded
    join streams on streams.id = superseded.stream
    left join bodies on bodies.id = superseded.body
    where superseded.is_open",
            $more,
            "
),
told_superseded as (",
            tell!("superseded", "replaced", $now, $on),
            ")"
        )
    };
}

/// Whose last cursor in a topic is in `$gone` (user_id, stream) does not follow it any more, and what was read of it is
/// forgotten. Counts, as what is gone is still seen by its statement, and a join with many of them would look at each
/// for each.
macro_rules! leave {
    ($gone:literal) => {
        concat!(
            r#"left_behind as (
    delete from follows
    using (
        select user_id, stream, count(*) as cursors
        from "#,
            $gone,
            r#"
        where stream like 'topic:%'
        group by user_id, stream
    ) as topic
    where follows.user_id = topic.user_id and follows.stream = topic.stream and topic.cursors = (
        select count(*) from cursors where cursors.user_id = topic.user_id and cursors.stream = topic.stream
    )
    returning follows.user_id, follows.stream
),
forgotten as (
    delete from reads
    using left_behind
    where reads.user_id = left_behind.user_id and reads.stream = left_behind.stream
)"#
        )
    };
}
