-- The inbox: streams, their entries, and how far each device has gone.
-- Times are milliseconds since 1970; epochs are unsigned 32-bit numbers. The same tables as
-- migrations/postgres, where the reasons stand that hold for both.

-- Which life of this database it is: a cursor of another life means nothing here.
create table store (
    one integer not null default 1,
    epoch integer not null,
    constraint store_pkey primary key (one),
    constraint store_has_one_row check (one = 1)
) strict;
insert into store (epoch) values (random() & 4294967295);

create table streams (
    id integer not null,
    name text not null,
    epoch integer not null,
    last_seq integer not null,
    floor_seq integer not null default 0,
    constraint streams_pkey primary key (id),
    constraint streams_name_key unique (name)
) strict;

-- What clients get, once for all recipients.
create table bodies (
    id blob not null,
    json blob not null,
    created_at integer not null,
    expires_at integer,
    constraint bodies_pkey primary key (id)
) strict;
-- For the sweep; what never expires costs nothing here.
create index bodies_expires_at_idx on bodies (expires_at) where expires_at is not null;

create table entries (
    stream integer not null,
    seq integer not null,
    body blob not null,
    device text,
    expires_at integer,
    constraint entries_pkey primary key (stream, seq)
) strict, without rowid;
-- For the sweep; what never expires costs nothing here.
create index entries_expires_at_idx on entries (expires_at) where expires_at is not null;

create table devices (
    user_id text not null,
    device text not null,
    slot integer not null,
    created_at integer not null,
    last_used integer not null,
    constraint devices_pkey primary key (user_id, device),
    constraint devices_slot_key unique (user_id, slot)
) strict, without rowid;

create table cursors (
    user_id text not null,
    device text not null,
    stream text not null,
    epoch integer not null,
    start_seq integer not null,
    acked_seq integer not null,
    constraint cursors_pkey primary key (user_id, device, stream)
) strict, without rowid;

create table idempotency (
    publisher text not null,
    key text not null,
    hash blob not null,
    body blob not null,
    created_at integer not null,
    answered integer not null default 0,
    online integer,
    constraint idempotency_pkey primary key (publisher, key)
) strict, without rowid;
-- For the sweep, which removes the oldest.
create index idempotency_created_at_idx on idempotency (created_at);

create table last_seen (
    user_id text not null,
    at integer not null,
    constraint last_seen_pkey primary key (user_id)
) strict, without rowid;
