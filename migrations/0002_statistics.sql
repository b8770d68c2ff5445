-- Exact counts of what the ledger received: how many items and users were created and how many items changed hands,
-- at any moment, at any resolution, while thousands of transactions write at once.
--
-- Three tables and one idea. Every statement that inserts into the ledger also inserts what it adds to the counts into
-- `deltas`, in the same transaction: rows of its own, so that writers never wait for each other. Now and then `fold()`
-- adds the deltas into `rollups`, which queries read instead of millions of deltas. Which deltas are in the rollups is
-- said by a *snapshot* (`state.folded`): the transactions visible in it are folded, all others are not. So every
-- snapshot of the database sees each event once, either in a rollup or in an unfolded delta, whatever runs at the time.
--
-- Folded deltas stay a few minutes longer. They are the log from which a server that missed notifications, or a reader
-- that comes back, learns what changed since the snapshot it knows.

create schema statistics;
comment on schema statistics is 'Bookkeeping of exact counts. For reports see the schema "reporting".';

create type statistics.metric as enum ('item-creation', 'transfers', 'user-creation');
-- Widths of the rollups, each dividing the next. A quarter of an hour divides the offset of every time zone in use
-- today, so that hours, days and longer can be built for any zone; the day is there so that a month does not add up
-- 2,900 quarters of an hour.
create type statistics.width as enum ('second', 'minute', 'quarter-hour', 'hour', 'day');

create function statistics.step(width statistics.width) returns interval
language sql immutable parallel safe
return case width
    when 'second' then interval '1 second'
    when 'minute' then interval '1 minute'
    when 'quarter-hour' then interval '15 minutes'
    when 'hour' then interval '1 hour'
    when 'day' then interval '1 day'
end;

-- The start of the bucket of this width. The origin lies before every moment that the ledger accepts.
create function statistics.floor(width statistics.width, moment timestamptz) returns timestamptz
language sql immutable parallel safe
return date_bin(statistics.step(width), moment, timestamptz '0001-01-01T00:00:00Z');

create function statistics.all_base_items() returns uuid
language sql immutable parallel safe
return uuid '00000000-0000-0000-0000-000000000000';
comment on function statistics.all_base_items() is
    'The id that stands for all base items together, and for metrics that know none.';

-- What each ledger-writing statement adds, by the millisecond and base item.
create table statistics.deltas (
    id bigint generated always as identity,
    xid xid8 not null default pg_current_xact_id(),
    metric statistics.metric not null,
    base_item_id uuid not null,
    bucket timestamptz not null,
    count bigint not null
);
-- "Everything since this snapshot" is a range of transaction ids; the newest are at the index's right edge.
create index deltas_xid on statistics.deltas (xid);
-- A log that is appended to and cut off at the other end: vacuum by rows, not by a share of a table that varies.
alter table statistics.deltas set (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 100000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 200000,
    autovacuum_analyze_scale_factor = 0.5
);

-- The sums of folded deltas: per base item, and for all of them together under the nil id.
create table statistics.rollups (
    metric statistics.metric not null,
    width statistics.width not null,
    base_item_id uuid not null,
    bucket timestamptz not null,
    count bigint not null,
    constraint rollups_pkey primary key (metric, width, base_item_id, bucket)
-- The newest bucket of each width is updated at every fold; room on its page keeps that away from the index.
) with (fillfactor = 85);

create table statistics.state (
    only_row boolean default true constraint state_pkey primary key,
    constraint state_only_row check (only_row),
    -- Changes when the history of the statistics is rewritten; positions of another epoch mean nothing.
    epoch uuid not null default gen_random_uuid(),
    -- The transactions whose deltas are in the rollups.
    folded pg_snapshot not null,
    -- Deltas of transactions below this one may be gone.
    pruned_below xid8 not null,
    -- Those below this one go at the next pruning.
    prune_next xid8 not null,
    pruned_at timestamptz not null default now()
);
insert into statistics.state (folded, pruned_below, prune_next)
select s, pg_snapshot_xmin(s), pg_snapshot_xmin(s) from pg_current_snapshot() s;

-- The state comes in as constants of the query, so that the index on xid is used whatever the planner thinks of it.
create view statistics.unfolded as
select d.*
from statistics.deltas d
where d.xid >= (select pg_snapshot_xmin(folded) from statistics.state)
    and not pg_visible_in_snapshot(d.xid, (select folded from statistics.state));
comment on view statistics.unfolded is 'Deltas that are not in the rollups yet.';

-- Counting. One trigger a statement, however many rows it inserts.
--
-- Notifications are part of the transaction: none without the rows, no rows without it. Each carries the transaction's
-- id and its deltas as [id, Unix milliseconds, base item, count]. The delta's id also keeps two statements of one
-- transaction apart that count the same: Postgres delivers identical payloads of a transaction once. A payload must stay
-- below 8,000 bytes; what does not fit becomes {"xid", "resync"}: read the statistics again.
--
-- A bulk writer that does not want to wait for the cluster-wide lock which a commit with notifications takes can say
-- `set newcycle.notify = off`: its deltas are found by the next sweep, within about a second.
create function statistics.notify(channel text, deltas json, amount bigint) returns void
language plpgsql
as $$
declare
    payload text;
begin
    if amount = 0 or current_setting('newcycle.notify', true) = 'off' then
        return;
    end if;
    payload := json_build_object('xid', pg_current_xact_id()::text, 'deltas', deltas)::text;
    if amount > 120 or octet_length(payload) > 7900 then
        payload := json_build_object('xid', pg_current_xact_id()::text, 'resync', true)::text;
    end if;
    perform pg_notify(channel, payload);
end
$$;

-- A timestamp far in the future would win over every later transfer. A few minutes are allowed for clocks that differ.
create function statistics.refuse_future(newest timestamptz, relation text, "column" text) returns void
language plpgsql
as $$
begin
    if newest > clock_timestamp() + interval '5 minutes' then
        raise exception using
            errcode = 'check_violation',
            schema = 'public', table = relation, column = "column",
            constraint = format('%s_%s_not_in_future', relation, "column"),
            message = format('"%s" of "%s" lies more than five minutes in the future: %s', "column", relation, newest);
    end if;
end
$$;

create function statistics.count_items() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    deltas json;
    amount bigint;
begin
    perform statistics.refuse_future((select max(created_at) from new_rows), 'items', 'created_at');
    with added as (
        insert into statistics.deltas (metric, base_item_id, bucket, count)
        select 'item-creation', base_item_id, date_trunc('milliseconds', created_at), count(*)
        from new_rows group by base_item_id, date_trunc('milliseconds', created_at)
        returning id, base_item_id, bucket, count
    ), numbered as (
        select *, row_number() over () as n from added
    )
    select
        json_agg(json_build_array(id, (extract(epoch from bucket) * 1000)::bigint, base_item_id, count))
            filter (where n <= 120),
        count(*)
    from numbered
    into deltas, amount;
    perform statistics.notify('item_creation', deltas, amount);
    return null;
end
$$;

create function statistics.count_transfers() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    deltas json;
    amount bigint;
begin
    perform statistics.refuse_future((select max("timestamp") from new_rows), 'transfers', 'timestamp');
    with added as (
        insert into statistics.deltas (metric, base_item_id, bucket, count)
        select 'transfers', i.base_item_id, date_trunc('milliseconds', t."timestamp"), count(*)
        from new_rows t
        join public.items i on i.id = t.item_id
        group by i.base_item_id, date_trunc('milliseconds', t."timestamp")
        returning id, base_item_id, bucket, count
    ), numbered as (
        select *, row_number() over () as n from added
    )
    select
        json_agg(json_build_array(id, (extract(epoch from bucket) * 1000)::bigint, base_item_id, count))
            filter (where n <= 120),
        count(*)
    from numbered
    into deltas, amount;
    perform statistics.notify('item_transfer', deltas, amount);
    return null;
end
$$;

create function statistics.count_users() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    deltas json;
    amount bigint;
begin
    perform statistics.refuse_future((select max(created_at) from new_rows), 'users', 'created_at');
    with added as (
        insert into statistics.deltas (metric, base_item_id, bucket, count)
        select 'user-creation', statistics.all_base_items(), date_trunc('milliseconds', created_at), count(*)
        from new_rows group by date_trunc('milliseconds', created_at)
        returning id, base_item_id, bucket, count
    ), numbered as (
        select *, row_number() over () as n from added
    )
    select
        json_agg(json_build_array(id, (extract(epoch from bucket) * 1000)::bigint, base_item_id, count))
            filter (where n <= 120),
        count(*)
    from numbered
    into deltas, amount;
    perform statistics.notify('user_creation', deltas, amount);
    return null;
end
$$;

create trigger count after insert on items referencing new table as new_rows
    for each statement execute function statistics.count_items();
create trigger count after insert on transfers referencing new table as new_rows
    for each statement execute function statistics.count_transfers();
create trigger count after insert on users referencing new table as new_rows
    for each statement execute function statistics.count_users();

-- Adds all committed deltas that are not in the rollups into them, and says so in the state. Takes turns with itself.
create function statistics.fold() returns bigint
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
    ), added as (
        insert into statistics.rollups as r (metric, width, base_item_id, bucket, count)
        select f.metric, w.width, b.base_item_id, statistics.floor(w.width, f.bucket), sum(f.count)
        from fresh f
        cross join unnest(enum_range(null::statistics.width)) as w (width)
        cross join lateral (
            select f.base_item_id union select statistics.all_base_items()
        ) as b (base_item_id)
        group by 1, 2, 3, 4
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
comment on function statistics.fold() is 'Adds committed deltas to the rollups; how many.';

-- Drops deltas that were folded two prunings ago, so that those of at least one whole interval remain readable.
create function statistics.prune(retention interval default interval '5 minutes') returns bigint
language plpgsql
as $$
declare
    state statistics.state;
    amount bigint := 0;
begin
    select * from statistics.state where pruned_at <= now() - retention for update into state;
    if not found then
        return 0;
    end if;
    delete from statistics.deltas where xid < state.prune_next;
    get diagnostics amount = row_count;
    update statistics.state
    set pruned_below = prune_next, prune_next = pg_snapshot_xmin(folded), pruned_at = now();
    return amount;
end
$$;
comment on function statistics.prune(interval) is 'Drops deltas that have been in the rollups for at least the retention; how many.';

-- Every event of the ledger with its metric and base item. For transfers the join disappears from the plan when the
-- base item is not asked for (an outer join on a unique key whose columns are unused).
create view statistics.events as
select 'item-creation'::statistics.metric as metric, base_item_id, created_at as moment from public.items
union all
select 'transfers', i.base_item_id, t."timestamp"
from public.transfers t left join public.items i on i.id = t.item_id
union all
select 'user-creation', statistics.all_base_items(), created_at from public.users;

-- The newest non-empty buckets of one rollup width within [from, to), newest first. Both sources are cut to the limit
-- before they are added: a bucket among the newest of the sum is among the newest of each source that has it.
create function statistics.latest(
    of_metric statistics.metric, of_width statistics.width, of_base_item uuid,
    from_moment timestamptz, to_moment timestamptz, max_buckets bigint
) returns table (bucket timestamptz, count bigint)
language sql stable parallel safe
as $$
    select bucket, sum(count)::bigint
    from (
        (
            select r.bucket, r.count
            from statistics.rollups r
            where r.metric = of_metric and r.width = of_width
                and r.base_item_id = coalesce(of_base_item, '00000000-0000-0000-0000-000000000000')
                and r.bucket >= from_moment and r.bucket < to_moment
            order by r.bucket desc
            limit max_buckets
        )
        union all
        (
            select statistics.floor(of_width, u.bucket), sum(u.count)
            from statistics.unfolded u
            where u.metric = of_metric
                and (of_base_item is null or u.base_item_id = of_base_item)
                and u.bucket >= from_moment and u.bucket < to_moment
            group by 1
            order by 1 desc
            limit max_buckets
        )
    ) as both_sources (bucket, count)
    group by bucket
    order by bucket desc
    limit max_buckets
$$;

-- The newest non-empty milliseconds, from the ledger itself: a rollup of milliseconds would be as large as the ledger.
-- The rollup of seconds says where to look.
create function statistics.latest_milliseconds(
    of_metric statistics.metric, of_base_item uuid,
    from_moment timestamptz, to_moment timestamptz, max_buckets bigint
) returns table (bucket timestamptz, count bigint)
language sql stable parallel safe
as $$
    select m.bucket, m.count
    from statistics.latest(
        of_metric, 'second', of_base_item,
        -- One more, as the second in which the range ends may have its events after that end.
        statistics.floor('second', from_moment), to_moment, least(max_buckets, 9223372036854775806) + 1
    ) as s
    cross join lateral (
        select date_trunc('milliseconds', e.moment) as bucket, count(*) as count
        from statistics.events e
        where e.metric = of_metric
            and (of_base_item is null or e.base_item_id = of_base_item)
            and e.moment >= greatest(s.bucket, from_moment)
            and e.moment < least(s.bucket + interval '1 second', to_moment)
        group by 1
    ) as m
    order by m.bucket desc
    limit max_buckets
$$;

-- Sums between consecutive edges: edges[1] up to edges[2], and so on; empty ones are left out. Works for any edges, so
-- for days of 23 and 25 hours: whole UTC days come from the day rollup, and only days that an edge cuts are read at
-- the widest width that divides all edges.
create function statistics.sums(
    of_metric statistics.metric, of_base_item uuid, edges timestamptz[]
) returns table (bucket timestamptz, count bigint)
language sql stable parallel safe
as $$
    with fine as (
        select max(w.width) as width
        from unnest(enum_range(null::statistics.width)) as w (width)
        where not exists (select from unnest(edges) as edge where edge <> statistics.floor(w.width, edge))
    ), cut_days as materialized (
        select distinct statistics.floor('day', edge) as day
        from unnest(edges) as edge
        where edge <> statistics.floor('day', edge)
    ), cut_spans as (
        -- Neighbouring cut days as one span, so that a year of cut days is one range of the index.
        select min(day) as first_day, max(day) as last_day
        from (select day, day - row_number() over (order by day) * interval '1 day' as island from cut_days) as islands
        group by island
    ), counted as (
        select r.bucket, r.count
        from statistics.rollups r
        where r.metric = of_metric and r.width = 'day'
            and r.base_item_id = coalesce(of_base_item, '00000000-0000-0000-0000-000000000000')
            and r.bucket >= edges[1] and r.bucket < edges[cardinality(edges)]
            and r.bucket not in (select day from cut_days)
        union all
        select r.bucket, r.count
        from cut_spans
        cross join lateral (
            select r.bucket, r.count
            from statistics.rollups r
            where r.metric = of_metric and r.width = (select width from fine)
                and r.base_item_id = coalesce(of_base_item, '00000000-0000-0000-0000-000000000000')
                and r.bucket >= greatest(first_day, edges[1])
                and r.bucket < least(last_day + interval '1 day', edges[cardinality(edges)])
            offset 0 -- one index scan a span, never a join over the whole range
        ) as r
        union all
        select u.bucket, u.count
        from statistics.unfolded u
        where u.metric = of_metric and (of_base_item is null or u.base_item_id = of_base_item)
            and u.bucket >= edges[1] and u.bucket < edges[cardinality(edges)]
    )
    select edges[width_bucket(counted.bucket, edges)], sum(counted.count)::bigint
    from counted
    group by 1
    order by 1 desc
$$;

-- Where the statistics differ from a recount of the ledger: no row if all is well. One statement, so one snapshot.
create function statistics.differences()
returns table (
    metric statistics.metric, width statistics.width, base_item_id uuid, bucket timestamptz,
    ledger bigint, statistics bigint
)
language sql stable
as $$
    with keys as (
        select w.width from unnest(enum_range(null::statistics.width)) as w (width)
    ), recount as (
        select e.metric, k.width, b.id, statistics.floor(k.width, e.moment) as bucket, count(*) as count
        from statistics.events e
        cross join keys k
        cross join lateral (select e.base_item_id union select statistics.all_base_items()) as b (id)
        group by 1, 2, 3, 4
    ), stated as (
        select metric, width, id, bucket, sum(count)::bigint as count
        from (
            select r.metric, r.width, r.base_item_id, r.bucket, r.count from statistics.rollups r
            union all
            select u.metric, k.width, b.id, statistics.floor(k.width, u.bucket), u.count
            from statistics.unfolded u
            cross join keys k
            cross join lateral (select u.base_item_id union select statistics.all_base_items()) as b (id)
        ) as all_sources (metric, width, id, bucket, count)
        group by 1, 2, 3, 4
    )
    select metric, width, id, bucket, coalesce(r.count, 0), coalesce(s.count, 0)
    from recount r
    full join stated s using (metric, width, id, bucket)
    where r.count is distinct from s.count
$$;
comment on function statistics.differences() is 'Where the statistics differ from a recount of the ledger; empty if all is well.';

-- Counts the ledger anew. Writers wait meanwhile. Needed after a dump was restored into another cluster (transaction
-- ids start over there; the server notices and calls this), or after writes with triggers disabled.
create function statistics.rebuild() returns void
language plpgsql
as $$
begin
    -- Whoever wrote deltas holds a lock until their end, so this waits for them, and new writers wait for this.
    lock table statistics.deltas in share row exclusive mode;
    perform from statistics.state for update;
    delete from statistics.rollups;
    delete from statistics.deltas;
    insert into statistics.rollups (metric, width, base_item_id, bucket, count)
    select e.metric, w.width, b.id, statistics.floor(w.width, e.moment), count(*)
    from statistics.events e
    cross join unnest(enum_range(null::statistics.width)) as w (width)
    cross join lateral (select e.base_item_id union select statistics.all_base_items()) as b (id)
    group by 1, 2, 3, 4;
    update statistics.state
    set epoch = gen_random_uuid(), folded = s, pruned_at = now(),
        pruned_below = pg_current_xact_id(), prune_next = pg_current_xact_id()
    from pg_current_snapshot() s;
end
$$;
comment on function statistics.rebuild() is 'Counts the ledger anew; writers wait meanwhile.';
