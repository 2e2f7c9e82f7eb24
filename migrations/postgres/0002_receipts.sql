-- What became of notifications, what people have read, what is due later, and what is to be told to
-- backends. Everything added has a default, so that nodes of the version before go on working.

-- Unread versions start here after a restore, so that they never go back.
alter table store add column version_base bigint not null default 0;
-- The furthest that any erased stream, with its unread version, had come. New streams go on above it, so
-- a client of an erased person who comes back is never ahead of what is new; and it says of nobody who it was.
alter table store add column erased_seq bigint not null default 0;
-- The store's erased_seq when the stream was made: its first entry is the next one.
alter table streams add column base_seq bigint not null default 0;

-- kind: 0 a notification, 1 a cancellation (whose body is the id of what it cancels).
-- state: 0 stored, 1 superseded, 2 cancelled, 3 expired, 4 dropped. What was delivered or read keeps its
-- time whatever came later.
alter table entries
    add column kind smallint not null default 0,
    add column state smallint not null default 0,
    add column collapse text collate "C",
    add column delivered_at bigint,
    add column read_at bigint,
    add column read_version bigint,
    add column delivered_count bigint not null default 0;
-- Room to mark an entry within its page.
alter table entries set (fillfactor = 85);
-- All recipients of a notification. Ids grow with time, so this index grows at its end.
create index entries_body_idx on entries (body);
-- What a newer one of the same key replaces; what has no key costs nothing here.
create index entries_collapse_idx on entries (stream, collapse, seq) where collapse is not null;
-- What expired and was not noted yet.
create index entries_unexpired_idx on entries (expires_at) where expires_at is not null and state = 0;

-- cancelled_at is set by the one statement that cancels: whoever comes second finds it set after the wait
-- for the row, and makes no cancellations.
alter table bodies
    add column publisher text collate "C",
    add column recipients bigint,
    add column cancelled_at bigint;
-- Bodies lie in order of time, so a tiny index finds the old ones.
create index bodies_created_at_idx on bodies using brin (created_at);

-- How often a user's read state was changed.
create table user_state (
    user_id text collate "C" not null,
    reads bigint not null,
    constraint user_state_pkey primary key (user_id)
) with (fillfactor = 70);

-- From where on a user's unread entries of a shared stream count.
create table follows (
    user_id text collate "C" not null,
    stream text collate "C" not null,
    epoch bigint not null,
    start_seq bigint not null,
    read_seq bigint not null default 0,
    read_version bigint not null default 0,
    constraint follows_pkey primary key (user_id, stream)
);

-- What was followed before there was read state.
insert into follows (user_id, stream, epoch, start_seq)
select user_id, stream, min(epoch), min(start_seq)
from cursors
where stream not like 'user:%'
group by user_id, stream;

-- Single entries of shared streams that a user has read, above follows.read_seq.
create table reads (
    user_id text collate "C" not null,
    stream text collate "C" not null,
    seq bigint not null,
    read_version bigint not null,
    constraint reads_pkey primary key (user_id, stream, seq)
);

-- What is to be published later; the row goes with the statement that appends it.
create table scheduled (
    id uuid not null,
    fire_at bigint not null,
    publisher text collate "C" not null,
    request bytea not null,
    created_at bigint not null,
    claimed_until bigint not null default 0,
    constraint scheduled_pkey primary key (id)
);
create index scheduled_fire_at_idx on scheduled (fire_at);

-- Notifications to be looked at then: has anybody acknowledged them?
create table due (
    body uuid not null,
    at bigint not null,
    constraint due_pkey primary key (body)
);
create index due_at_idx on due (at);

-- What is to be told to backends, until the broker has confirmed it. The id says what it is about, so it
-- stays the same however often it is told.
create table events (
    id text collate "C" not null,
    routing_key text not null,
    json bytea not null,
    created_at bigint not null,
    claimed_until bigint not null default 0,
    constraint events_pkey primary key (id)
);
create index events_created_at_idx on events (created_at);

-- What backends were told of a user: one change, one event.
alter table last_seen
    add column online boolean not null default false,
    add column changes bigint not null default 0;
create index last_seen_online_idx on last_seen (user_id) where online;

create index devices_last_used_idx on devices (last_used);
