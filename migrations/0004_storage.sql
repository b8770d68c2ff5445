-- The same ledger and the same figures, faster. Nothing here changes what is stored or told, or who is refused what.
--
-- Figures are CPU time on one of two busy cores, PostgreSQL 15, before and after measured in one run. More of them, and
-- what was tried and not done, are in ARCHITECTURE.md.

-- Parents.
--
-- A foreign key looks up and locks the parent of each row, one row at a time. The lock is against whoever might remove
-- the parent meanwhile, and here nobody can: rows are never changed or removed. So nothing is left of it but its price: a
-- write to the parent's page, and to a log of lock holders when several insert children of one parent at the same time.
-- In its place, the trigger that counts a statement's rows looks their parents up, which it did for transfers already.
-- COPY of 300,000 transfers: 11 s before, 6 s after; a transfer in a statement of 50: 27 µs before, 16 after.
--
-- The error is that of a foreign key, to the letter: SQLSTATE 23503, constraint, table, message and detail. So is what
-- counts as a parent:
-- - Parents and children may come in one statement (a CTE): it is checked when all of it has been done.
-- - A parent that another transaction has inserted and not committed is none yet. The child is refused rather than kept
--   waiting; whoever inserted the parent may tell others of it once it is committed.
-- - Under "repeatable read" and "serializable" parents committed since the transaction's snapshot are none either.
-- - Who disables triggers (a superuser, `session_replication_role = replica`, pg_dump's `--disable-triggers`) answers for
--   the parents, and then calls statistics.rebuild().
-- Two things differ. `alter table … disable trigger user` now includes this check, as it did the counts. And pg_dump no
-- longer knows which table to fill first: a dump of everything restores as ever, since triggers come after the data, but
-- one made with --data-only needs --disable-triggers.
alter table items drop constraint items_base_item_id_fkey;
alter table transfers drop constraint transfers_owner_id_fkey, drop constraint transfers_item_id_fkey;

comment on column items.base_item_id is
    'References base_items (id). Checked by the trigger "count", which refuses as a foreign key items_base_item_id_fkey.';
comment on column transfers.owner_id is
    'References users (id). Checked by the trigger "count", which refuses as a foreign key transfers_owner_id_fkey.';
comment on column transfers.item_id is
    'References items (id). Checked by the trigger "count", which refuses as a foreign key transfers_item_id_fkey.';

-- Raises what a foreign key raises. It has the type of a key, to stand where the missing one would.
create function statistics.refuse_orphan("table" text, "column" text, parent text, id uuid) returns uuid
language plpgsql
as $$
declare
    violated constant text := format('%s_%s_fkey', "table", "column");
begin
    raise exception using
        errcode = 'foreign_key_violation',
        schema = 'public', table = "table", constraint = violated,
        message = format('insert or update on table "%s" violates foreign key constraint "%s"', "table", violated),
        detail = format('Key (%s)=(%s) is not present in table "%s".', "column", id, parent);
end
$$;

-- The future.
--
-- What lies in the past stays there: a constraint on the clock, once kept, is kept for ever, so it can be a constraint
-- and need not be a query of the trigger. Not validated, since the trigger saw to the rows that are there; and pg_dump
-- restores such constraints after the data, so that a dump can be restored where the clock is slow.
alter table items add constraint items_created_at_not_in_future
    check (created_at <= clock_timestamp() + interval '5 minutes') not valid;
alter table users add constraint users_created_at_not_in_future
    check (created_at <= clock_timestamp() + interval '5 minutes') not valid;
alter table transfers add constraint transfers_timestamp_not_in_future
    check ("timestamp" <= clock_timestamp() + interval '5 minutes') not valid;

-- Counting and telling: one statement a trigger.
--
-- Parents are looked up by a subquery for each row, where a join would be less to write. Postgres plans a trigger's
-- statement once a session, for as many rows as there happen to be then: a join planned for a COPY would read all users
-- for each single transfer that follows. An index look-up is right for one row and not far off for millions.
--
-- A commit that notifies holds a lock of the whole cluster until it is on disk, so that commits which could share a flush
-- queue up: 370 a second where a flush takes 2.7 ms, however many connections. Hence the *bells*, three advisory locks:
-- only a transaction that holds one notifies, and the others that run at the same time keep quiet. Whoever hears a bell
-- looks for their deltas, too (src/listener.rs). One bell would do, but for transactions that stay open with it (a long
-- load, a psql session whose owner is at lunch): while those have all three, news comes with the sweep, each second.
-- 1,000 one-row inserts a second from 16 connections: p99 was over 5 s, and is now two or three times that of a table
-- without any trigger. While nobody else writes, every statement is told, as ever.
create function statistics.tell(channel text, amount bigint, deltas text) returns boolean
language plpgsql
as $$
begin
    if amount = 0 or current_setting('newcycle.notify', true) = 'off'
        -- "newc" in ASCII, and the number of the bell.
        or not (
            pg_try_advisory_xact_lock(1852143459, 1) or pg_try_advisory_xact_lock(1852143459, 2)
            or pg_try_advisory_xact_lock(1852143459, 3)
        )
    then
        return false;
    end if;
    perform pg_notify(channel, format('{"xid":"%s",%s}', pg_current_xact_id(), case
        when amount > 120 or octet_length(deltas) > 7850 then '"resync":true'
        else format('"deltas":[%s]', deltas)
    end));
    return true;
end
$$;

-- A delta as notifications carry it.
create function statistics.told(id bigint, bucket timestamptz, base_item_id uuid, count bigint) returns text
language sql stable parallel safe
return format('[%s,%s,"%s",%s]', id, (date_part('epoch', bucket) * 1000)::bigint, base_item_id, count);

create or replace function statistics.count_items() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    told boolean;
begin
    with added as (
        insert into statistics.deltas (metric, base_item_id, bucket, count)
        select
            'item-creation',
            coalesce(
                (select b.id from public.base_items b where b.id = i.base_item_id),
                statistics.refuse_orphan('items', 'base_item_id', 'base_items', i.base_item_id)
            ),
            bucket, count
        from (
            select base_item_id, date_trunc('milliseconds', created_at) as bucket, count(*) as count
            from new_rows
            group by 1, 2
        ) as i
        returning id, bucket, base_item_id, count
    )
    select statistics.tell('item_creation', count(*), string_agg(statistics.told(id, bucket, base_item_id, count), ','))
    -- One more than a notification has room for; all are inserted.
    from (select * from added limit 121) as first_ones
    into told;
    return null;
end
$$;

create or replace function statistics.count_transfers() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    told boolean;
begin
    with added as (
        insert into statistics.deltas (metric, base_item_id, bucket, count)
        select 'transfers', base_item_id, bucket, count(*)
        from (
            select
                case
                    when (select u.id from public.users u where u.id = t.owner_id) is null
                        then statistics.refuse_orphan('transfers', 'owner_id', 'users', t.owner_id)
                    else coalesce(
                        (select i.base_item_id from public.items i where i.id = t.item_id),
                        statistics.refuse_orphan('transfers', 'item_id', 'items', t.item_id)
                    )
                end as base_item_id,
                date_trunc('milliseconds', t."timestamp") as bucket
            from new_rows t
        ) as t
        group by 2, 3
        returning id, bucket, base_item_id, count
    )
    select statistics.tell('item_transfer', count(*), string_agg(statistics.told(id, bucket, base_item_id, count), ','))
    from (select * from added limit 121) as first_ones
    into told;
    return null;
end
$$;

create or replace function statistics.count_users() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    told boolean;
begin
    with added as (
        insert into statistics.deltas (metric, base_item_id, bucket, count)
        select 'user-creation', statistics.all_base_items(), date_trunc('milliseconds', created_at), count(*)
        from new_rows
        group by 3
        returning id, bucket, base_item_id, count
    )
    select statistics.tell('user_creation', count(*), string_agg(statistics.told(id, bucket, base_item_id, count), ','))
    from (select * from added limit 121) as first_ones
    into told;
    return null;
end
$$;

drop function statistics.notify(text, json, bigint);
drop function statistics.refuse_future(timestamptz, text, text);

-- Rollups that stay lean.
--
-- Of events that are further apart than a second, the rollup of seconds was as large as the ledger, twice (a base item's
-- and all together). Seconds are now kept for a day, for which people look at them, and in a table of their own, so that
-- what comes and goes does not lie between what stays. Older seconds are counted from the ledger, as milliseconds are:
-- the finest rollup there is says where to look.
create table statistics.seconds (
    metric statistics.metric not null,
    base_item_id uuid not null,
    bucket timestamptz not null,
    count bigint not null,
    constraint seconds_pkey primary key (metric, base_item_id, bucket)
) with (fillfactor = 85);
create index seconds_bucket on statistics.seconds (bucket);
comment on index statistics.seconds_bucket is 'What has aged, for statistics.prune_seconds(). Costs folds, not writers.';

-- Seconds from this moment on, the start of a minute, are kept; earlier ones that may still be there count for nothing.
alter table statistics.state add column seconds_from timestamptz not null
    default statistics.floor('minute', now() - interval '1 day');
insert into statistics.seconds (metric, base_item_id, bucket, count)
select r.metric, r.base_item_id, r.bucket, r.count
from statistics.rollups r, statistics.state s
where r.width = 'second' and r.bucket >= s.seconds_from
order by 1, 2, 3;

-- Written anew rather than deleted from: most of it goes. The view that reads it comes back below.
drop view reporting.totals;
alter table statistics.rollups rename to old_rollups;
alter table statistics.old_rollups rename constraint rollups_pkey to old_rollups_pkey;
create table statistics.rollups (
    metric statistics.metric not null,
    width statistics.width not null,
    base_item_id uuid not null,
    bucket timestamptz not null,
    count bigint not null,
    -- With the count in the index, a window of 1,000 hours is 10 pages of the index rather than 1,000 pages of a table in
    -- which each hour lies where it began. This takes a table that is vacuumed more often than by a share of its size.
    constraint rollups_pkey primary key (metric, width, base_item_id, bucket) include (count),
    constraint rollups_width check (width > 'second')
) with (
    fillfactor = 85,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 50000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 50000
);
insert into statistics.rollups select * from statistics.old_rollups where width > 'second' order by 1, 2, 3, 4;
drop table statistics.old_rollups;

create view reporting.totals as
select metric::text as metric, sum(count)::bigint as count
from (
    select metric, count from statistics.rollups where width = 'day' and base_item_id = statistics.all_base_items()
    union all
    select metric, count from statistics.unfolded
) as all_counts
group by metric;
comment on view reporting.totals is 'How many events of each metric there are in all.';

do $$
begin
    grant select on statistics.seconds, statistics.rollups, reporting.totals to newcycle_reader;
exception when undefined_object then null;
end
$$;

-- Almost all of the unfolded deltas are of transactions that began after the fold, which is quicker to see than what
-- else is not in its snapshot.
create or replace view statistics.unfolded as
select d.*
from statistics.deltas d
where d.xid >= (select pg_snapshot_xmin(folded) from statistics.state)
    and (
        d.xid >= (select pg_snapshot_xmax(folded) from statistics.state)
        or not pg_visible_in_snapshot(d.xid, (select folded from statistics.state))
    );

-- Each width is the sum of the one before, and all base items together count as one more of them from the minute on: so
-- the work shrinks at each step as the rollups do, rather than being ten rows for every delta.
create or replace function statistics.fold() returns bigint
language plpgsql
as $$
declare
    amount bigint;
begin
    -- Nothing to do is what happens most often: then nothing is written, not even a lock.
    if not exists (select from statistics.unfolded) then
        return 0;
    end if;
    perform from statistics.state for update;
    -- From here on everything happens in one statement, so in one snapshot, and that snapshot is what gets recorded.
    -- Deltas of this very transaction are seen by it but not visible in the snapshot: they wait for the next fold.
    with fresh as materialized (
        select metric, base_item_id, bucket, count
        from statistics.unfolded
        where pg_visible_in_snapshot(xid, pg_current_snapshot())
    ), base_seconds as materialized (
        select metric, base_item_id, statistics.floor('second', bucket) as bucket, sum(count)::bigint as count
        from fresh
        where bucket >= (select seconds_from from statistics.state)
        group by 1, 2, 3
    ), base_minutes as materialized (
        select metric, base_item_id, statistics.floor('minute', bucket) as bucket, sum(count)::bigint as count
        from fresh
        group by 1, 2, 3
    ), minutes as materialized (
        select metric, base_item_id, bucket, count from base_minutes
        where base_item_id <> statistics.all_base_items()
        union all
        select metric, statistics.all_base_items(), bucket, sum(count)::bigint from base_minutes group by metric, bucket
    ), quarters as materialized (
        select metric, base_item_id, statistics.floor('quarter-hour', bucket) as bucket, sum(count)::bigint as count
        from minutes
        group by 1, 2, 3
    ), hours as materialized (
        select metric, base_item_id, statistics.floor('hour', bucket) as bucket, sum(count)::bigint as count
        from quarters
        group by 1, 2, 3
    ), added_seconds as (
        insert into statistics.seconds as s (metric, base_item_id, bucket, count)
        select metric, base_item_id, bucket, count from base_seconds
        where base_item_id <> statistics.all_base_items()
        union all
        select metric, statistics.all_base_items(), bucket, sum(count)::bigint from base_seconds group by metric, bucket
        order by 1, 2, 3
        on conflict (metric, base_item_id, bucket) do update set count = s.count + excluded.count
    ), added as (
        insert into statistics.rollups as r (metric, width, base_item_id, bucket, count)
        select metric, 'minute'::statistics.width, base_item_id, bucket, count from minutes
        union all
        select metric, 'quarter-hour', base_item_id, bucket, count from quarters
        union all
        select metric, 'hour', base_item_id, bucket, count from hours
        union all
        select metric, 'day', base_item_id, statistics.floor('day', bucket), sum(count)::bigint
        from hours
        group by 1, 3, 4
        order by 1, 2, 3, 4
        on conflict (metric, width, base_item_id, bucket) do update set count = r.count + excluded.count
    ), recorded as (
        update statistics.state set folded = pg_current_snapshot()
        where exists (select from fresh)
    )
    select count(*) from fresh into amount;
    return amount;
end
$$;

-- Moves the moment from which seconds are kept, every five minutes, and drops some of those before it: few enough at a
-- time that nobody notices. Folds do not write there, and queries do not look there, so it need not be done at once.
create function statistics.prune_seconds(kept interval default interval '1 day') returns bigint
language plpgsql
as $$
declare
    amount bigint;
begin
    update statistics.state
    set seconds_from = statistics.floor('minute', now() - kept)
    where seconds_from < statistics.floor('minute', now() - kept) - interval '5 minutes';
    delete from statistics.seconds
    where ctid = any (array(
        select s.ctid from statistics.seconds s
        where s.bucket < (select seconds_from from statistics.state)
        order by s.bucket
        limit 10000
    ));
    get diagnostics amount = row_count;
    return amount;
end
$$;
comment on function statistics.prune_seconds(interval) is
    'Drops some of the seconds that are older than the given interval; how many.';

-- The ledger's minutes, per base item and for all together: what the rollups of minutes should say.
create function statistics.recount()
returns table (metric statistics.metric, base_item_id uuid, bucket timestamptz, count bigint)
language sql stable
as $$
    with base_minutes as materialized (
        select e.metric, e.base_item_id, statistics.floor('minute', e.moment) as bucket, count(*) as count
        from statistics.events e
        group by 1, 2, 3
    )
    select metric, base_item_id, bucket, count from base_minutes where base_item_id <> statistics.all_base_items()
    union all
    select metric, statistics.all_base_items(), bucket, sum(count)::bigint from base_minutes group by metric, bucket
$$;

-- The same of the seconds that are kept.
create function statistics.recount_seconds()
returns table (metric statistics.metric, base_item_id uuid, bucket timestamptz, count bigint)
language sql stable
as $$
    with base_seconds as materialized (
        select e.metric, e.base_item_id, statistics.floor('second', e.moment) as bucket, count(*) as count
        from statistics.events e
        where e.moment >= (select seconds_from from statistics.state)
        group by 1, 2, 3
    )
    select metric, base_item_id, bucket, count from base_seconds where base_item_id <> statistics.all_base_items()
    union all
    select metric, statistics.all_base_items(), bucket, sum(count)::bigint from base_seconds group by metric, bucket
$$;

create or replace function statistics.differences()
returns table (
    metric statistics.metric, width statistics.width, base_item_id uuid, bucket timestamptz,
    ledger bigint, statistics bigint
)
language sql stable
set work_mem = '64MB'
as $$
    with widths as (
        select w.width from unnest(enum_range(null::statistics.width)) as w (width) where w.width > 'second'
    ), unfolded as (
        select u.metric, b.id, u.bucket, u.count
        from statistics.unfolded u
        cross join lateral (select u.base_item_id union select statistics.all_base_items()) as b (id)
    ), counted as (
        select r.metric, w.width, r.base_item_id as id, statistics.floor(w.width, r.bucket) as bucket,
            sum(r.count)::bigint as count
        from statistics.recount() r
        cross join widths w
        group by 1, 2, 3, 4
        union all
        select metric, 'second', base_item_id, bucket, count from statistics.recount_seconds()
    ), stated as (
        select metric, width, id, bucket, sum(count)::bigint as count
        from (
            select r.metric, r.width, r.base_item_id, r.bucket, r.count from statistics.rollups r
            union all
            select u.metric, w.width, u.id, statistics.floor(w.width, u.bucket), u.count from unfolded u cross join widths w
            union all
            select s.metric, 'second', s.base_item_id, s.bucket, s.count from statistics.seconds s
            where s.bucket >= (select seconds_from from statistics.state)
            union all
            select u.metric, 'second', u.id, statistics.floor('second', u.bucket), u.count from unfolded u
            where u.bucket >= (select seconds_from from statistics.state)
        ) as all_sources (metric, width, id, bucket, count)
        group by 1, 2, 3, 4
    )
    select metric, width, id, bucket, coalesce(c.count, 0), coalesce(s.count, 0)
    from counted c
    full join stated s using (metric, width, id, bucket)
    where c.count is distinct from s.count
$$;

-- Each width from the one before.
create or replace function statistics.rebuild() returns void
language plpgsql
set work_mem = '64MB'
as $$
declare
    finer statistics.width := 'minute';
    wider statistics.width;
begin
    -- Whoever wrote deltas holds a lock until their end, so this waits for them, and new writers wait for this.
    lock table statistics.deltas in share row exclusive mode;
    perform from statistics.state for update;
    delete from statistics.rollups;
    delete from statistics.seconds;
    delete from statistics.deltas;
    update statistics.state
    set epoch = gen_random_uuid(), folded = s, pruned_at = now(),
        pruned_below = pg_current_xact_id(), prune_next = pg_current_xact_id(),
        seconds_from = statistics.floor('minute', now() - interval '1 day')
    from pg_current_snapshot() s;
    insert into statistics.seconds (metric, base_item_id, bucket, count)
    select metric, base_item_id, bucket, count from statistics.recount_seconds() order by 1, 2, 3;
    insert into statistics.rollups (metric, width, base_item_id, bucket, count)
    select metric, 'minute', base_item_id, bucket, count from statistics.recount() order by 1, 3, 4;
    foreach wider in array array['quarter-hour', 'hour', 'day']::statistics.width[] loop
        insert into statistics.rollups (metric, width, base_item_id, bucket, count)
        select metric, wider, base_item_id, statistics.floor(wider, bucket), sum(count)
        from statistics.rollups
        where width = finer
        group by 1, 3, 4
        order by 1, 3, 4;
        finer := wider;
    end loop;
end
$$;

-- Reading.

-- When the events of a metric within [from, to) happened, from the ledger. Every branch that is not asked for costs
-- nothing; items are looked up only where a base item's transfers are.
create function statistics.moments(
    of_metric statistics.metric, of_base_item uuid, from_moment timestamptz, to_moment timestamptz
) returns table (moment timestamptz)
language sql stable parallel safe
as $$
    select i.created_at
    from public.items i
    where of_metric = 'item-creation' and (of_base_item is null or i.base_item_id = of_base_item)
        and i.created_at >= from_moment and i.created_at < to_moment
    union all
    select t."timestamp"
    from public.transfers t
    where of_metric = 'transfers' and of_base_item is null
        and t."timestamp" >= from_moment and t."timestamp" < to_moment
    union all
    select t."timestamp"
    from public.transfers t
    where of_metric = 'transfers' and of_base_item is not null
        and (select i.base_item_id from public.items i where i.id = t.item_id) = of_base_item
        and t."timestamp" >= from_moment and t."timestamp" < to_moment
    union all
    select u.created_at
    from public.users u
    where of_metric = 'user-creation' and u.created_at >= from_moment and u.created_at < to_moment
$$;

-- The newest non-empty seconds that are kept: as statistics.latest(), which is for the wider ones.
create function statistics.latest_kept(
    of_metric statistics.metric, of_base_item uuid,
    from_moment timestamptz, to_moment timestamptz, max_buckets bigint
) returns table (bucket timestamptz, count bigint)
language sql stable parallel safe
as $$
    with kept as (
        select greatest(from_moment, s.seconds_from) as from_moment from statistics.state s
    )
    select bucket, sum(count)::bigint
    from (
        (
            select s.bucket, s.count
            from statistics.seconds s
            where s.metric = of_metric
                and s.base_item_id = coalesce(of_base_item, '00000000-0000-0000-0000-000000000000')
                and s.bucket >= (select k.from_moment from kept k) and s.bucket < to_moment
            order by s.bucket desc
            limit max_buckets
        )
        union all
        (
            select statistics.floor('second', u.bucket), sum(u.count)
            from statistics.unfolded u
            where u.metric = of_metric
                and (of_base_item is null or u.base_item_id = of_base_item)
                and u.bucket >= (select k.from_moment from kept k) and u.bucket < to_moment
            group by 1
            order by 1 desc
            limit max_buckets
        )
    ) as both_sources (bucket, count)
    group by bucket
    order by bucket desc
    limit max_buckets
$$;

-- The newest non-empty buckets of a unit within [from, to), newest first, counted from the ledger: in spans of it that
-- are not empty, newest first, for as long as more are wanted.
create function statistics.latest_within(
    of_metric statistics.metric, of_base_item uuid, unit text, spans timestamptz[], span interval,
    from_moment timestamptz, to_moment timestamptz, max_buckets bigint
) returns table (bucket timestamptz, count bigint)
language plpgsql stable
set plan_cache_mode = force_generic_plan
as $$
declare
    span_start timestamptz;
    amount bigint;
begin
    foreach span_start in array spans loop
        return query
        select date_trunc(unit, m.moment), count(*)
        from statistics.moments(
            of_metric, of_base_item, greatest(span_start, from_moment), least(span_start + span, to_moment)
        ) m
        group by 1
        order by 1 desc
        limit max_buckets;
        get diagnostics amount = row_count;
        max_buckets := max_buckets - amount;
        exit when max_buckets <= 0;
    end loop;
end
$$;

-- The part of such an answer that lies before the seconds that are kept: the minutes say where to look.
create function statistics.latest_aged(
    of_metric statistics.metric, of_base_item uuid, unit text,
    from_moment timestamptz, to_moment timestamptz, max_buckets bigint
) returns table (bucket timestamptz, count bigint)
language plpgsql stable
set plan_cache_mode = force_generic_plan
as $$
declare
    kept_from timestamptz := (select s.seconds_from from statistics.state s);
begin
    if max_buckets <= 0 or from_moment >= kept_from then
        return;
    end if;
    return query
    select w.bucket, w.count
    from statistics.latest_within(
        of_metric, of_base_item, unit,
        array(
            select m.bucket
            from statistics.latest(
                of_metric, 'minute', of_base_item, statistics.floor('minute', from_moment), least(to_moment, kept_from),
                -- One more, as the minute in which the range ends may have its events after that end.
                least(max_buckets, 9223372036854775806) + 1
            ) m
        ),
        interval '1 minute', from_moment, least(to_moment, kept_from), max_buckets
    ) w;
end
$$;

create function statistics.latest_seconds(
    of_metric statistics.metric, of_base_item uuid,
    from_moment timestamptz, to_moment timestamptz, max_buckets bigint
) returns table (bucket timestamptz, count bigint)
language plpgsql stable
set plan_cache_mode = force_generic_plan
as $$
declare
    amount bigint;
begin
    return query
    select k.bucket, k.count from statistics.latest_kept(of_metric, of_base_item, from_moment, to_moment, max_buckets) k;
    get diagnostics amount = row_count;
    return query
    select a.bucket, a.count
    from statistics.latest_aged(of_metric, of_base_item, 'second', from_moment, to_moment, max_buckets - amount) a;
end
$$;

create or replace function statistics.latest_milliseconds(
    of_metric statistics.metric, of_base_item uuid,
    from_moment timestamptz, to_moment timestamptz, max_buckets bigint
) returns table (bucket timestamptz, count bigint)
language plpgsql stable
set plan_cache_mode = force_generic_plan
as $$
declare
    amount bigint;
begin
    return query
    select w.bucket, w.count
    from statistics.latest_within(
        of_metric, of_base_item, 'milliseconds',
        array(
            select k.bucket
            from statistics.latest_kept(
                of_metric, of_base_item, statistics.floor('second', from_moment), to_moment,
                -- One more, as the second in which the range ends may have its events after that end.
                least(max_buckets, 9223372036854775806) + 1
            ) k
        ),
        interval '1 second', from_moment, to_moment, max_buckets
    ) w;
    get diagnostics amount = row_count;
    return query
    select a.bucket, a.count
    from statistics.latest_aged(of_metric, of_base_item, 'milliseconds', from_moment, to_moment, max_buckets - amount) a;
end
$$;

-- The start of the second of the first event: nothing if there is none.
create function statistics.earliest(of_metric statistics.metric, of_base_item uuid) returns timestamptz
language plpgsql stable
as $$
declare
    first_minute timestamptz := (
        select least(
            (
                select min(r.bucket) from statistics.rollups r
                where r.metric = of_metric and r.width = 'minute'
                    and r.base_item_id = coalesce(of_base_item, statistics.all_base_items())
            ),
            (
                select statistics.floor('minute', min(u.bucket)) from statistics.unfolded u
                where u.metric = of_metric and (of_base_item is null or u.base_item_id = of_base_item)
            )
        )
    );
begin
    return (
        select date_trunc('second', min(m.moment))
        from statistics.moments(of_metric, of_base_item, first_minute, first_minute + interval '1 minute') m
    );
end
$$;

-- Sums between consecutive edges: edges[1] up to edges[2], and so on; empty ones are left out. Works for any edges, so
-- for days of 23 and 25 hours.
--
-- Each edge is moved to the nearest midnight (UTC), and between midnights whole days are read. What lies between an edge
-- and its midnight is added on one side and taken away on the other, from the widest rollup that the edge does not cut,
-- and from the ledger where clocks once went by the sun. So a day in Berlin takes a day and an hour or two, and one in
-- Kathmandu a day and 23 quarters of an hour, which were 24 hours and 96 quarters. Buckets shorter than days start from
-- the widest rollup that fits all edges, or else from hours.
create or replace function statistics.sums(
    of_metric statistics.metric, of_base_item uuid, edges timestamptz[]
) returns table (bucket timestamptz, count bigint)
language plpgsql stable parallel safe
-- Planned once a connection: that takes longer than the query, and whatever the arguments, the plan is the same.
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    series_id constant uuid := coalesce(of_base_item, statistics.all_base_items());
    first_edge constant timestamptz := edges[1];
    last_edge constant timestamptz := edges[cardinality(edges)];
    coarse statistics.width := 'day';
    half interval;
    anchors timestamptz[];
    -- Before the first day and after the last one there is nothing to read.
    first_day timestamptz;
    end_of_last_day timestamptz;
begin
    if last_edge - first_edge < (cardinality(edges) - 1) * interval '20 hours' then
        coarse := coalesce(
            (
                select max(w.width)
                from unnest(array['quarter-hour', 'hour']::statistics.width[]) as w (width)
                where not exists (select from unnest(edges) as edge where edge <> statistics.floor(w.width, edge))
            ),
            'hour'
        );
    end if;
    half := statistics.step(coarse) / 2;
    anchors := array(
        select statistics.floor(coarse, edge + half) from unnest(edges) with ordinality as e (edge, n) order by n
    );
    select min(r.bucket), max(r.bucket) + interval '1 day'
    from statistics.rollups r
    where r.metric = of_metric and r.width = 'day' and r.base_item_id = series_id
    into first_day, end_of_last_day;

    -- Arrays come as subqueries where each row needs them: variables would be copied for each row.
    return query
    with cut as materialized (
        select e.n, e.edge, e.anchor, statistics.floor('minute', e.edge) as minute
        from unnest(edges, anchors) with ordinality as e (edge, anchor, n)
        where e.edge <> e.anchor and e.edge > first_day - interval '1 day' and e.edge < end_of_last_day + interval '1 day'
    ), spans as materialized (
        select c.n, least(c.anchor, c.minute) as low, greatest(c.anchor, c.minute) as high,
            case when c.anchor < c.minute then 1 else -1 end as sign,
            case c.minute
                when statistics.floor('hour', c.minute) then 'hour'
                when statistics.floor('quarter-hour', c.minute) then 'quarter-hour'
                else 'minute'
            end::statistics.width as width
        from cut c
        where c.anchor <> c.minute
        union all
        select c.n, c.minute, c.edge, 1, 'second' from cut c where c.minute <> c.edge
    ), corrections as materialized (
        select s.n, s.sign * case
            when s.width > 'second' then (
                select coalesce(sum(r.count), 0)::bigint
                from statistics.rollups r
                where r.metric = of_metric and r.width = s.width and r.base_item_id = series_id
                    and r.bucket >= s.low and r.bucket < s.high
            )
            -- What is folded is what is in the ledger and not unfolded.
            else (
                select count(*) from statistics.moments(of_metric, of_base_item, s.low, s.high)
            ) - (
                select coalesce(sum(u.count), 0)::bigint
                from statistics.unfolded u
                where u.metric = of_metric and (of_base_item is null or u.base_item_id = of_base_item)
                    and u.bucket >= s.low and u.bucket < s.high
            )
        end as count
        from spans s
    ), counted as (
        select c.n - 1 as n, c.count from corrections c
        union all
        select c.n, -c.count from corrections c
        union all
        select width_bucket(r.bucket, (select anchors)), r.count
        from statistics.rollups r
        where r.metric = of_metric and r.width = coarse and r.base_item_id = series_id
            and r.bucket >= anchors[1] and r.bucket < anchors[cardinality(anchors)]
        union all
        select width_bucket(u.bucket, (select edges)), sum(u.count)::bigint
        from statistics.unfolded u
        where u.metric = of_metric and (of_base_item is null or u.base_item_id = of_base_item)
            and u.bucket >= first_edge and u.bucket < last_edge
        group by 1
    )
    select edges[n], sum(counted.count)::bigint
    from counted
    where n between 1 and cardinality(edges) - 1
    group by n
    having sum(counted.count) <> 0
    order by n desc;
end
$$;

create or replace function reporting.series(
    metric text,
    resolution text,
    "from" timestamptz default null,
    "to" timestamptz default now(),
    timezone text default 'UTC',
    base_item_id uuid default null,
    fill boolean default true
) returns table (bucket timestamptz, count bigint)
language plpgsql stable
as $$
#variable_conflict use_column
declare
    of_metric statistics.metric;
    edges timestamptz[];
    edge timestamptz;
    range_end timestamptz;
begin
    perform statistics.check_resolution(resolution);
    begin
        of_metric := metric;
    exception when invalid_text_representation then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('unknown metric "%s"', metric),
            hint = 'There are item-creation, transfers and user-creation.';
    end;
    if "from" is null then
        "from" := statistics.earliest(of_metric, series.base_item_id);
    end if;
    if "from" is null or "to" is null or "from" >= "to" then
        return;
    end if;
    edge := statistics.bucket_start(resolution, timezone, "from");
    if resolution in ('millisecond', 'second', 'minute') then
        range_end := statistics.bucket_start(resolution, timezone, "to");
        if range_end < "to" then
            range_end := statistics.bucket_end(resolution, timezone, range_end);
        end if;
        return query
        with counted as (
            select c.bucket, c.count
            from statistics.latest_milliseconds(of_metric, series.base_item_id, edge, range_end, 9223372036854775807) c
            where resolution = 'millisecond'
            union all
            select c.bucket, c.count
            from statistics.latest_seconds(of_metric, series.base_item_id, edge, range_end, 9223372036854775807) c
            where resolution = 'second'
            union all
            select c.bucket, c.count
            from statistics.latest(of_metric, 'minute', series.base_item_id, edge, range_end, 9223372036854775807) c
            where resolution = 'minute'
        )
        select bucket, coalesce(c.count, 0)
        from generate_series(edge, range_end - interval '1 microsecond', ('1 ' || resolution)::interval) as bucket
        left join counted c using (bucket)
        where fill
        union all
        select c.bucket, c.count from counted c where not fill
        order by 1;
        return;
    end if;
    edges := array[edge];
    while edge < "to" loop
        edge := statistics.bucket_end(resolution, timezone, edge);
        edges := edges || edge;
    end loop;
    return query
    select bucket, coalesce(s.count, 0)
    from unnest(edges[:cardinality(edges) - 1]) as bucket
    left join statistics.sums(of_metric, series.base_item_id, edges) s using (bucket)
    where fill or s.count is not null
    order by 1;
end
$$;

-- What each index is for, and what it costs: CPU of a row in a COPY of 300,000 transfers (13.5 µs a row in all), and in an
-- insert of 50 items (10 µs an item). A one-row insert takes 55 µs, of which no index is more than 2.
comment on index items_created_at is
    'Lists of items, newest first, by page; milliseconds and old seconds of item-creation. 1.5 µs an item, 15 %.';
comment on index users_created_at is
    'Lists of users, newest first, by page; milliseconds and old seconds of user-creation. Costs as items_created_at.';
comment on index base_items_created_at is 'Lists of base items, newest first, by page.';
comment on index transfers_timestamp is
    'Lists of transfers, newest first, by page; milliseconds and old seconds of transfers. 1.1 µs a transfer, 8 %.';
comment on index transfers_item is
    'The owner of an item now or then, and its history, in one step. 2.5 µs a transfer, 18 %.';
comment on index transfers_owner is
    'What a user ever received: the candidates of their holdings, which would be a scan of all transfers. 2.4 µs a '
    'transfer, 18 %.';
comment on index statistics.deltas_xid is
    'Everything since a snapshot: unfolded deltas, sweeps, readers that resume, pruning. 0.3 µs a delta, 2 %.';
comment on index statistics.rollups_pkey is
    'Every series of minutes and more, read from the index alone; the target of folds. No writer of the ledger waits for it.';
comment on index statistics.seconds_pkey is 'Every series of seconds; the target of folds.';
