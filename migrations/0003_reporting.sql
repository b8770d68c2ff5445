-- For people with psql: the same figures as the dashboard shows, and who owns what, now and at any moment.

create schema reporting;
comment on schema reporting is 'Views and functions for reports. Start with: select * from reporting.series(''transfers'', ''day'');';

-- Buckets by the clocks of a zone. The server has the same rules in src/statistics/calendar.rs, where they are told in
-- words; a test holds the two against each other.

create function statistics.zone_offset(zone text, moment timestamptz) returns interval
language sql stable parallel safe
return (moment at time zone zone) - (moment at time zone 'UTC');

-- The first second after `low`, up to `high`, in which the zone's offset is that of `high`: when the clocks changed.
create function statistics.clock_change(zone text, low timestamptz, high timestamptz) returns timestamptz
language plpgsql stable parallel safe
as $$
declare
    after interval := statistics.zone_offset(zone, high);
    first_second bigint := floor(extract(epoch from low));
    last_second bigint := floor(extract(epoch from high));
    middle bigint;
begin
    while last_second - first_second > 1 loop
        middle := first_second + (last_second - first_second) / 2;
        if statistics.zone_offset(zone, to_timestamp(middle)) = after then
            last_second := middle;
        else
            first_second := middle;
        end if;
    end loop;
    return to_timestamp(last_second);
end
$$;

-- The first moment at which the local clock reads this midnight or something later.
create function statistics.first_moment(zone text, midnight timestamp) returns timestamptz
language plpgsql stable parallel safe
as $$
declare
    as_if_utc timestamptz := midnight at time zone 'UTC';
    before interval := statistics.zone_offset(zone, as_if_utc - interval '26 hours');
    after interval := statistics.zone_offset(zone, as_if_utc + interval '26 hours');
    candidate timestamptz;
begin
    -- Midnight comes twice when the clocks are set back over it: the earlier one counts.
    foreach candidate in array array[as_if_utc - greatest(before, after), as_if_utc - least(before, after)] loop
        if candidate at time zone zone = midnight then
            return candidate;
        end if;
    end loop;
    -- The clocks jumped over midnight: the moment of the jump.
    return statistics.clock_change(zone, as_if_utc - interval '26 hours', as_if_utc - before);
end
$$;

create function statistics.check_resolution(resolution text) returns void
language plpgsql immutable parallel safe
as $$
begin
    if resolution not in ('millisecond', 'second', 'minute', 'hour', 'day', 'week', 'month', 'quarter', 'year') then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('unknown resolution "%s"', resolution),
            hint = 'There are millisecond, second, minute, hour, day, week, month, quarter and year.';
    end if;
end
$$;

create function statistics.bucket_end(resolution text, zone text, bucket_start timestamptz) returns timestamptz
language plpgsql stable parallel safe
as $$
declare
    local timestamp := bucket_start at time zone zone;
    step interval;
    bucket_end timestamptz;
begin
    if resolution in ('millisecond', 'second', 'minute') then
        return bucket_start + ('1 ' || resolution)::interval;
    elsif resolution = 'hour' then
        bucket_end := (date_trunc('hour', local) + interval '1 hour' - statistics.zone_offset(zone, bucket_start))
            at time zone 'UTC';
        if statistics.zone_offset(zone, bucket_end) <> statistics.zone_offset(zone, bucket_start) then
            return statistics.clock_change(zone, bucket_start, bucket_end);
        end if;
        return bucket_end;
    end if;
    step := case resolution when 'quarter' then interval '3 months' else ('1 ' || resolution)::interval end;
    local := date_trunc(resolution, local);
    -- A date that the zone skipped begins where the next one does: no bucket.
    loop
        local := local + step;
        bucket_end := statistics.first_moment(zone, local);
        exit when bucket_end > bucket_start;
    end loop;
    return bucket_end;
end
$$;

create function statistics.bucket_start(resolution text, zone text, moment timestamptz) returns timestamptz
language plpgsql stable parallel safe
as $$
declare
    local timestamp := moment at time zone zone;
    bucket_start timestamptz;
    bucket_end timestamptz;
begin
    perform statistics.check_resolution(resolution);
    if resolution in ('millisecond', 'second', 'minute') then
        return date_trunc(resolution || 's', moment, 'UTC');
    elsif resolution = 'hour' then
        bucket_start := (date_trunc('hour', local) - statistics.zone_offset(zone, moment)) at time zone 'UTC';
        if statistics.zone_offset(zone, bucket_start) <> statistics.zone_offset(zone, moment) then
            return statistics.clock_change(zone, bucket_start, moment);
        end if;
        return bucket_start;
    end if;
    bucket_start := statistics.first_moment(zone, date_trunc(resolution, local));
    -- The clocks may have been set back over midnight: then the next bucket has already begun.
    loop
        bucket_end := statistics.bucket_end(resolution, zone, bucket_start);
        exit when bucket_end > moment;
        bucket_start := bucket_end;
    end loop;
    return bucket_start;
end
$$;

create function reporting.series(
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
        select min(r.bucket) from statistics.rollups r
        where r.metric = of_metric and r.width = 'second' and r.base_item_id = coalesce(series.base_item_id, statistics.all_base_items())
        into "from";
        select least("from", min(u.bucket)) from statistics.unfolded u
        where u.metric = of_metric and (series.base_item_id is null or u.base_item_id = series.base_item_id)
        into "from";
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
            from statistics.latest(
                of_metric, (case resolution when 'minute' then 'minute' else 'second' end)::statistics.width,
                series.base_item_id, edge, range_end, 9223372036854775807
            ) c
            where resolution <> 'millisecond'
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
comment on function reporting.series(text, text, timestamptz, timestamptz, text, uuid, boolean) is
    'How many events per bucket, oldest first, empty buckets included unless fill is false. Metrics: item-creation, '
    'transfers, user-creation. Resolutions: millisecond, second, minute, hour, day, week, month, quarter, year. Whole '
    'buckets: all that overlap from "from" (the first event) up to "to" (now), by the clocks of the time zone (UTC).';

create view reporting.events as select metric::text as metric, moment, base_item_id from statistics.events;
comment on view reporting.events is 'Every event that is counted: metric, moment and base item (the nil id for users).';

create view reporting.totals as
select metric::text as metric, sum(count)::bigint as count
from (
    select metric, count from statistics.rollups where width = 'day' and base_item_id = statistics.all_base_items()
    union all
    select metric, count from statistics.unfolded
) as all_counts
group by metric;
comment on view reporting.totals is 'How many events of each metric there are in all.';

create view reporting.current_owners as
select distinct on (t.item_id) t.item_id, i.base_item_id, t.owner_id, t."timestamp" as since, t.id as transfer_id
from public.transfers t
join public.items i on i.id = t.item_id
order by t.item_id, t."timestamp" desc, t.id desc;
comment on view reporting.current_owners is 'Who owns each item that was ever transferred, since when, by which transfer.';

create function reporting.owner_at(item_id uuid, moment timestamptz default now())
returns table (owner_id uuid, since timestamptz, transfer_id uuid)
language sql stable parallel safe
as $$
    select t.owner_id, t."timestamp", t.id
    from public.transfers t
    where t.item_id = owner_at.item_id and t."timestamp" <= moment
    order by t."timestamp" desc, t.id desc
    limit 1
$$;
comment on function reporting.owner_at(uuid, timestamptz) is
    'Who owned an item at a moment (now): no row before its first transfer.';

create function reporting.holdings(user_id uuid, moment timestamptz default now())
returns table (item_id uuid, base_item_id uuid, since timestamptz, transfer_id uuid)
language sql stable parallel safe
as $$
    select i.id, i.base_item_id, o.since, o.transfer_id
    from public.items i
    cross join lateral reporting.owner_at(i.id, moment) o
    where i.id in (select t.item_id from public.transfers t where t.owner_id = user_id) and o.owner_id = user_id
    order by o.since desc, o.transfer_id desc
$$;
comment on function reporting.holdings(uuid, timestamptz) is 'What a user owned at a moment (now), newest first.';

-- Who reports needs no right to write. The role cannot log in itself: grant it to those who may read, as in
--     create role anna login password '…' in role newcycle_reader;
-- Roles belong to the whole cluster; whoever may not create them does without.
do $$
begin
    create role newcycle_reader nologin;
exception
    when duplicate_object then null;
    when insufficient_privilege then
        raise notice 'the role newcycle_reader was not created: this takes the right to create roles';
end
$$;
do $$
begin
    grant usage on schema public, statistics, reporting to newcycle_reader;
    grant select on all tables in schema public, statistics, reporting to newcycle_reader;
exception when undefined_object then null;
end
$$;
