-- What became of notifications, what people have read, what is due later, and what is to be told to
-- backends. The same tables as migrations/postgres, where the reasons stand that hold for both.

alter table store add column version_base integer not null default 0;
-- The furthest that any erased stream, with its unread version, had come. New streams go on above it, so
-- a client of an erased person who comes back is never ahead of what is new; and it says of nobody who it was.
alter table store add column erased_seq integer not null default 0;
-- The store's erased_seq when the stream was made: its first entry is the next one.
alter table streams add column base_seq integer not null default 0;

alter table entries add column kind integer not null default 0;
alter table entries add column state integer not null default 0;
alter table entries add column collapse text;
alter table entries add column delivered_at integer;
alter table entries add column read_at integer;
alter table entries add column read_version integer;
alter table entries add column delivered_count integer not null default 0;
create index entries_body_idx on entries (body);
create index entries_collapse_idx on entries (stream, collapse, seq) where collapse is not null;
-- What a newer one of the same key has to mark: few, however many have been replaced.
create index entries_replaceable_idx on entries (stream, collapse) where collapse is not null and state = 0;
-- What expired, was acknowledged by nobody and was not noted yet.
create index entries_unexpired_idx on entries (expires_at)
where expires_at is not null and kind = 0 and state = 0
    and delivered_at is null and read_at is null and delivered_count = 0;

alter table bodies add column publisher text;
alter table bodies add column recipients integer;
alter table bodies add column cancelled_at integer;
create index bodies_created_at_idx on bodies (created_at);

create table user_state (
    user_id text not null,
    reads integer not null,
    constraint user_state_pkey primary key (user_id)
) strict, without rowid;

create table follows (
    user_id text not null,
    stream text not null,
    epoch integer not null,
    start_seq integer not null,
    read_seq integer not null default 0,
    read_version integer not null default 0,
    constraint follows_pkey primary key (user_id, stream)
) strict, without rowid;

-- What was followed before there was read state.
insert into follows (user_id, stream, epoch, start_seq)
select user_id, stream, min(epoch), min(start_seq)
from cursors
where stream not like 'user:%'
group by user_id, stream;

create table reads (
    user_id text not null,
    stream text not null,
    seq integer not null,
    read_version integer not null,
    constraint reads_pkey primary key (user_id, stream, seq)
) strict, without rowid;

create table scheduled (
    id blob not null,
    fire_at integer not null,
    publisher text not null,
    request blob not null,
    created_at integer not null,
    claimed_until integer not null default 0,
    constraint scheduled_pkey primary key (id)
) strict;
create index scheduled_fire_at_idx on scheduled (fire_at);

create table due (
    body blob not null,
    at integer not null,
    constraint due_pkey primary key (body)
) strict;
create index due_at_idx on due (at);

create table events (
    id text not null,
    routing_key text not null,
    json blob not null,
    created_at integer not null,
    claimed_until integer not null default 0,
    constraint events_pkey primary key (id)
) strict;

alter table last_seen add column online integer not null default 0;
alter table last_seen add column changes integer not null default 0;
create index last_seen_online_idx on last_seen (user_id) where online = 1;

create index devices_last_used_idx on devices (last_used);
