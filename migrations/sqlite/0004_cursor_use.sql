-- When a device last used a cursor (0: a version that did not know wrote it). The same column as in
-- migrations/postgres, where the reasons stand.
alter table cursors add column used_at integer not null default 0;
update cursors set used_at = unixepoch() * 1000;
