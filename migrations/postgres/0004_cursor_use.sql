-- When a device last followed a stream or moved its cursor there: those of topics that it has not used for long go.
-- Nodes of the version before go on working: what they make counts as used then. No index, as every acknowledgement
-- writes it; the sweep walks along the primary key.
alter table cursors
    add column used_at bigint not null default (extract(epoch from now()) * 1000)::bigint;
