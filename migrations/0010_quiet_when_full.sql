-- What nobody hears must not keep anybody from writing.
--
-- Notifications of all databases of a cluster wait in one queue until every session that listens has read them. One such
-- session that idles in a transaction, of whatever program, holds all of them up; when the queue is full, each commit that
-- notifies fails. Ours would rather be silent: from half of the queue on (4 GB, unless it was set smaller) nothing is told,
-- and what was not told is found by the next sweep, within a second, and by whoever waits for jobs when they look.
--
-- Only who holds a bell asks how full it is.

create function statistics.may_notify() returns boolean
language sql volatile parallel unsafe
begin atomic
    select pg_notification_queue_usage() <= 0.5;
end;

comment on function statistics.may_notify() is
    'Whether the queue of notifications has room: from half of it on, nothing is told but by sweeps';

create or replace function statistics.tell(channel text, amount bigint, deltas text) returns boolean
language plpgsql
as $$
begin
    if amount = 0 or current_setting('newcycle.notify', true) = 'off'
        -- "newc" in ASCII, and the number of the bell.
        or not (
            pg_try_advisory_xact_lock(1852143459, 1) or pg_try_advisory_xact_lock(1852143459, 2)
            or pg_try_advisory_xact_lock(1852143459, 3)
        )
        or not statistics.may_notify()
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

create or replace function jobs.ring() returns trigger
language plpgsql
as $$
begin
    if statistics.may_notify() then
        perform pg_notify('newcycle_jobs', new.id::text);
    end if;
    return null;
end
$$;

create or replace function jobs.ring_stream() returns trigger
language plpgsql
as $$
begin
    if statistics.may_notify() then
        perform pg_notify('newcycle_jobs', new.stream_id::text);
    end if;
    return null;
end
$$;
