-- A dump that was restored tells another story, too.
--
-- It goes on from the moment at which it began, in another cluster or another database, and transactions that readers have
-- counted since are not in it. So positions belong to the cluster and to the database as well: nobody has to renew the epoch
-- after a dump was restored.

create or replace function statistics.history() returns uuid
language sql stable
begin atomic
    select md5(concat_ws(
        '/',
        state.epoch,
        -- The first eight digits of a WAL file's name are the timeline's.
        left(pg_walfile_name(pg_current_wal_insert_lsn()), 8),
        (select system_identifier from pg_control_system()),
        (select oid from pg_database where datname = current_database())
    ))::uuid
    from statistics.state;
end;

comment on function statistics.history() is
    'The history that positions refer to: another one after statistics.rebuild(), after a standby took over, and where a dump was restored';
