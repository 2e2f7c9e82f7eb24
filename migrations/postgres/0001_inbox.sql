-- The inbox: streams, their entries, and how far each device has gone.
-- Times are milliseconds since 1970; epochs are unsigned 32-bit numbers. Ids are collated "C":
-- they sort as bytes everywhere, so all statements lock rows in one order.

-- Which life of this database it is: a cursor of another life means nothing here.
create table store (
    one boolean not null default true,
    epoch bigint not null,
    constraint store_pkey primary key (one),
    constraint store_has_one_row check (one)
);
insert into store (epoch) values (floor(random() * 4294967296)::bigint);

-- The row's lock makes the order of seqs the order of commits. The fill factor leaves
-- room to update the counter within its page, which spares the indexes.
create table streams (
    id bigint generated always as identity,
    name text collate "C" not null,
    epoch bigint not null,
    last_seq bigint not null,
    floor_seq bigint not null default 0,
    constraint streams_pkey primary key (id),
    constraint streams_name_key unique (name)
) with (fillfactor = 70);

-- What clients get, once for all recipients. Bytes: jsonb refuses \u0000 and reorders keys.
create table bodies (
    id uuid not null,
    json bytea not null,
    created_at bigint not null,
    expires_at bigint,
    constraint bodies_pkey primary key (id)
);
-- For the sweep; what never expires costs nothing here.
create index bodies_expires_at_idx on bodies (expires_at) where expires_at is not null;

-- No foreign keys: one statement writes an entry with its stream and body, a stream is never
-- removed, and a body goes only when all its entries are out of date. Checking each row would
-- cost more than writing it.
create table entries (
    stream bigint not null,
    seq bigint not null,
    body uuid not null,
    device text collate "C",
    expires_at bigint,
    constraint entries_pkey primary key (stream, seq)
);
-- For the sweep; what never expires costs nothing here.
create index entries_expires_at_idx on entries (expires_at) where expires_at is not null;

-- The slot bounds how many devices a user has: of two that want the last one, the unique key
-- lets one in, without a lock that waits.
create table devices (
    user_id text collate "C" not null,
    device text collate "C" not null,
    slot integer not null,
    created_at bigint not null,
    last_used bigint not null,
    constraint devices_pkey primary key (user_id, device),
    constraint devices_slot_key unique (user_id, slot)
);

-- By the stream's name, as a device may follow a stream that nothing was sent to yet.
-- start_seq: where the device began, so that beginning late is not taken for an acknowledgement.
create table cursors (
    user_id text collate "C" not null,
    device text collate "C" not null,
    stream text collate "C" not null,
    epoch bigint not null,
    start_seq bigint not null,
    acked_seq bigint not null,
    constraint cursors_pkey primary key (user_id, device, stream)
) with (fillfactor = 70);

create table idempotency (
    publisher text collate "C" not null,
    key text collate "C" not null,
    hash bytea not null,
    body uuid not null,
    created_at bigint not null,
    answered boolean not null default false,
    online bigint,
    constraint idempotency_pkey primary key (publisher, key)
) with (fillfactor = 80);
-- For the sweep, which removes the oldest.
create index idempotency_created_at_idx on idempotency (created_at);

create table last_seen (
    user_id text collate "C" not null,
    at bigint not null,
    constraint last_seen_pkey primary key (user_id)
) with (fillfactor = 70);
