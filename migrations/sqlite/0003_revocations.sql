-- Which tokens are refused although they have not run out. The same table as in migrations/postgres, where the
-- reasons stand.

create table revocations (
    kind integer not null,
    subject text not null,
    issued_before integer not null,
    created_at integer not null,
    lapses_at integer not null,
    constraint revocations_pkey primary key (kind, subject)
) strict, without rowid;
create index revocations_lapses_at_idx on revocations (lapses_at);

alter table store add column revocations integer not null default 0;
