-- Which tokens are refused although they have not run out. Nodes of the version before go on working: they do not
-- know of it.

-- kind: 0 the token of this id, 1 tokens of this user, 2 everybody's (subject is empty then). issued_before: only
-- those issued earlier; the highest number means all.
create table revocations (
    kind smallint not null,
    subject text collate "C" not null,
    issued_before bigint not null,
    created_at bigint not null,
    lapses_at bigint not null,
    constraint revocations_pkey primary key (kind, subject)
);
create index revocations_lapses_at_idx on revocations (lapses_at);

-- How often they were changed: nodes look at this number to know whether to read them anew.
alter table store add column revocations bigint not null default 0;
