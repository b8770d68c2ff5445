-- A database that goes on from an earlier moment tells another story.
--
-- When a standby takes over that had not received everything, transactions that readers have counted never happened, and their
-- ids are given to others. Positions in the stream of changes therefore belong to a timeline of Postgres as well as to an epoch
-- of ours: both change when history may have, and whoever comes with a position of another one is told everything anew.

create function statistics.history() returns uuid
language sql stable
begin atomic
    -- The first eight digits of a WAL file's name are the timeline's.
    select md5(epoch::text || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::uuid from statistics.state;
end;

comment on function statistics.history() is
    'The history that positions refer to: another one after statistics.rebuild(), and after a standby took over';
