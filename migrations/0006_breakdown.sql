-- The counts of a range by base item.

-- How many events of a metric there are within [from, to), by base item; base items without any are left out.
--
-- The middle of the range is read as whole days, what is left on both sides of it as whole hours, quarters of hours and
-- minutes, and what is left of those (two minutes at most) from the ledger. A base item in which nothing happened on any
-- of these days takes one look into the index.
create function statistics.breakdown(of_metric statistics.metric, from_moment timestamptz, to_moment timestamptz)
returns table (base_item_id uuid, count bigint)
language plpgsql stable
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    -- The moments that the ledger accepts lie between these.
    first_moment constant timestamptz := greatest(from_moment, '0001-01-01T00:00:00Z');
    last_moment constant timestamptz := greatest(least(to_moment, '10000-01-01T00:00:00Z'), first_moment);
    -- Between these are whole minutes.
    inner_low timestamptz := statistics.floor('minute', first_moment + interval '1 minute' - interval '1 microsecond');
    inner_high timestamptz := greatest(statistics.floor('minute', last_moment), inner_low);
    widths statistics.width[] := '{}';
    lows timestamptz[] := '{}';
    highs timestamptz[] := '{}';
    width statistics.width := 'minute';
    wider statistics.width;
    low timestamptz := inner_low;
    high timestamptz := inner_high;
    wider_low timestamptz;
    wider_high timestamptz;
begin
    if inner_low >= last_moment then
        -- No minute fits: all of it is read from the ledger.
        inner_low := last_moment;
        inner_high := last_moment;
        low := inner_low;
        high := inner_high;
    end if;
    foreach wider in array array['quarter-hour', 'hour', 'day']::statistics.width[] loop
        wider_low := statistics.floor(wider, low + statistics.step(wider) - interval '1 microsecond');
        wider_high := statistics.floor(wider, high);
        exit when wider_low >= wider_high;
        widths := widths || width || width;
        lows := lows || low || wider_high;
        highs := highs || wider_low || high;
        width := wider;
        low := wider_low;
        high := wider_high;
    end loop;
    widths := widths || width;
    lows := lows || low;
    highs := highs || high;

    return query
    with spans as materialized (
        select s.width, s.low, s.high from unnest(widths, lows, highs) as s (width, low, high) where s.low < s.high
    ), active as materialized (
        select b.id
        from public.base_items b
        where exists (
            select from statistics.rollups r
            where r.metric = of_metric and r.width = 'day' and r.base_item_id = b.id
                and r.bucket >= statistics.floor('day', inner_low) and r.bucket < inner_high
        )
    ), counted (id, count) as (
        select a.id, r.count
        from active a
        cross join spans s
        cross join lateral (
            select sum(r.count)::bigint as count
            from statistics.rollups r
            where r.metric = of_metric and r.width = s.width and r.base_item_id = a.id
                and r.bucket >= s.low and r.bucket < s.high
        ) r
        union all
        select u.base_item_id, u.count
        from statistics.unfolded u
        where u.metric = of_metric and u.bucket >= inner_low and u.bucket < inner_high
        union all
        select e.base_item_id, 1
        from statistics.events e
        where e.metric = of_metric and e.moment >= first_moment and e.moment < inner_low
        union all
        select e.base_item_id, 1
        from statistics.events e
        where e.metric = of_metric and e.moment >= inner_high and e.moment < last_moment
    )
    select id, sum(counted.count)::bigint
    from counted
    group by id
    having sum(counted.count) <> 0;
end
$$;

create function reporting.breakdown(
    metric text, "from" timestamptz default '-infinity', "to" timestamptz default 'infinity'
) returns table (base_item_id uuid, description text, count bigint)
language plpgsql stable
as $$
#variable_conflict use_column
begin
    if metric not in ('item-creation', 'transfers') then
        raise exception 'cannot count "%" by base item', metric
            using hint = 'One of item-creation, transfers.', errcode = 'invalid_parameter_value';
    end if;
    return query
    select b.id, b.description, c.count
    from statistics.breakdown(metric::statistics.metric, "from", "to") c
    join public.base_items b on b.id = c.base_item_id
    order by c.count desc, b.id;
end
$$;
comment on function reporting.breakdown(text, timestamptz, timestamptz) is
    'How many events of a metric (item-creation, transfers) there are in a range, by base item, most first. From "from" '
    '(the first event) on, before "to" (no end).';
