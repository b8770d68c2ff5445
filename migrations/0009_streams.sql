-- Data streams: what is fetched from other companies' APIs on a schedule, batch by complete batch.
--
-- A stream has one job in the queue for as long as there is a stream, which is its schedule and its lease at the same time:
-- "due_at" is when its next run begins, or when the lease of the present one ends; it is infinite while the stream is
-- stopped. So no two runs of a stream are under way at once, whatever anybody does. Commands (start, stop, run) change
-- both rows in one transaction, and ring the bell.
--
-- A run fetches a batch, page by page. Each page is one transaction: its records, where to go on, and how many there are by
-- now. Readers see complete batches only; the last page, "complete", and the mark from which the next batch begins are one
-- transaction. Whoever takes over a run goes on after its last page.

alter table jobs.queue drop constraint queue_kind_is_known;
alter table jobs.queue add constraint queue_kind_is_known check (kind in ('export', 'stream', 'dead-letter', 'preview'));

-- Whether somebody works at it. A lease that was given back cannot be renewed any more: without this, a renewal that was on its
-- way would put off a job whose row stays, and have it done again.
alter table jobs.queue add column held boolean not null default false;

create table jobs.streams (
    id uuid not null default uuid_v7(),
    name text not null,

    -- What is fetched, without secrets; and these, of which kind they are, and sealed (see src/streams/seal.rs).
    source jsonb not null,
    auth text,
    secrets bytea,
    -- When: every so often, or by a cron expression in a time zone.
    interval_seconds bigint,
    cron text,
    timezone text not null default 'UTC',
    transform jsonb not null default '[]',
    destination jsonb,
    -- Whether a run fetches only what is new since the last one.
    is_incremental boolean not null default false,

    -- What is wanted of it, and what it does. See src/streams/state.rs for which state comes after which.
    desired text not null default 'stopped',
    state text not null default 'stopped',
    -- Counts changes, so that watchers know which they have seen.
    version bigint not null default 1,
    -- The scheduled moment of the next run: that of the one under way as long as there is one.
    next_run_at timestamptz,
    -- When it is tried again, if that is not as scheduled.
    retry_at timestamptz,
    -- Why it was stopped, failed the last time or is tried again; for people.
    last_error text,
    last_error_at timestamptz,
    last_run_at timestamptz,
    -- The newest batch that is complete, and of those since the first the number of records and of skipped runs.
    latest_batch bigint,
    batches bigint not null default 0,
    records bigint not null default 0,
    skipped_runs bigint not null default 0,
    -- The greatest value of the field by which only what is new is fetched.
    mark jsonb,
    created_at timestamptz not null default now(),

    constraint streams_pkey primary key (id),
    constraint streams_name_is_taken unique (name),
    constraint streams_name_length check (length(name) between 1 and 100),
    constraint streams_schedule_is_one check ((interval_seconds is null) <> (cron is null)),
    constraint streams_desired_is_known check (desired in ('stopped', 'running')),
    constraint streams_state_is_known check (state in ('stopped', 'waiting', 'running', 'stopping', 'failed'))
);
comment on table jobs.streams is 'Data streams: what is fetched from elsewhere, when, and how that goes.';

create index streams_created_at on jobs.streams (created_at, id);

create table jobs.batches (
    stream_id uuid not null,
    -- Counts from 1 within its stream.
    number bigint not null,
    state text not null default 'running',
    -- When it was to begin, and did. A run that somebody asked for was not scheduled.
    scheduled_at timestamptz,
    started_at timestamptz not null default now(),
    finished_at timestamptz,
    pages bigint not null default 0,
    records bigint not null default 0,
    rejected bigint not null default 0,
    bytes bigint not null default 0,
    -- Scheduled runs that did not take place because this one was under way, or nobody was there.
    skipped_runs bigint not null default 0,
    -- Where fetching goes on, and the greatest value of the field by which only what is new is fetched.
    position jsonb,
    mark jsonb,
    -- How often in a row it could not go on, for now; the same because the source wanted to be asked less often; how often it
    -- was begun since its last page, and how often it was read anew because the source changed meanwhile.
    failures integer not null default 0,
    waits integer not null default 0,
    beginnings integer not null default 0,
    restarts integer not null default 0,
    reason text,
    -- When its records went, because there are newer batches. Of streams that fetch what is new, those stay of which there is
    -- no newer version.
    removed_at timestamptz,
    -- Counts what is put into it after it was complete: what dead letters become.
    revision bigint not null default 0,

    constraint batches_pkey primary key (stream_id, number),
    constraint batches_stream_id_fkey foreign key (stream_id) references jobs.streams (id) on delete cascade,
    constraint batches_state_is_known check (state in ('running', 'complete', 'failed', 'cancelled')),
    constraint batches_finished_has_a_moment check ((finished_at is null) = (state = 'running'))
);
comment on table jobs.batches is 'Runs of data streams, and what they fetched.';

-- Those that are looked through every few seconds: of many thousands, a few of each stream.
create index batches_kept on jobs.batches (stream_id, number) where state = 'complete' and removed_at is null;
create index batches_finished_at on jobs.batches (finished_at);
-- One at a time.
create unique index batches_running on jobs.batches (stream_id) where state = 'running';

create table jobs.records (
    stream_id uuid not null,
    batch bigint not null,
    -- What identifies it in its source.
    key text collate "C" not null,
    record jsonb not null,

    constraint records_pkey primary key (stream_id, batch, key),
    constraint records_batch_fkey foreign key (stream_id, batch) references jobs.batches (stream_id, number) on delete cascade
);
-- Versions of a record.
create index records_key on jobs.records (stream_id, key, batch);
comment on table jobs.records is 'What was fetched, batch by batch; stream_records is what to read.';

-- Where fetching has been in the batch that is under way: a source that comes back to the same place would never end.
create table jobs.pages (
    stream_id uuid not null,
    batch bigint not null,
    position jsonb not null,

    constraint pages_batch_fkey foreign key (stream_id, batch) references jobs.batches (stream_id, number) on delete cascade
);
create unique index pages_position on jobs.pages (stream_id, batch, md5(position::text));

create table jobs.dead_letters (
    id uuid not null default uuid_v7(),
    stream_id uuid not null,
    batch bigint not null,
    key text collate "C" not null,
    record jsonb not null,
    reason text not null,
    -- How often it came and could not be processed.
    times bigint not null default 1,
    state text not null default 'dead',
    version bigint not null default 1,
    created_at timestamptz not null default now(),
    last_seen_at timestamptz not null default now(),

    constraint dead_letters_pkey primary key (id),
    constraint dead_letters_stream_id_fkey foreign key (stream_id) references jobs.streams (id) on delete cascade,
    -- A record that is bad is so every five minutes: once is enough.
    constraint dead_letters_key unique (stream_id, key),
    constraint dead_letters_state_is_known check (state in ('dead', 'retrying'))
);
comment on table jobs.dead_letters is 'Records that could not be processed, and why.';
create index dead_letters_created_at on jobs.dead_letters (created_at, id);

-- What a stream would make of records: asked for by a server, which waits, and answered by a worker.
create table jobs.previews (
    id uuid not null,
    -- What is wanted, sealed: secrets may be in it.
    wanted bytea not null,
    answer jsonb,
    created_at timestamptz not null default now(),

    constraint previews_pkey primary key (id)
);
create trigger ring after update on jobs.previews for each row execute function jobs.ring();

-- What analysts read: of a stream that fetches everything each time, its newest complete batch; of one that fetches what is
-- new, the newest version of each record.
create view stream_records as
select s.name as stream, r.key, r.record, r.batch, b.finished_at as fetched_at
from jobs.streams s
join jobs.records r on r.stream_id = s.id
join jobs.batches b on b.stream_id = r.stream_id and b.number = r.batch and b.state = 'complete'
where case
    when not s.is_incremental then r.batch = s.latest_batch
    else not exists (
        select from jobs.records later
        join jobs.batches c on c.stream_id = later.stream_id and c.number = later.batch and c.state = 'complete'
        where later.stream_id = r.stream_id and later.key = r.key and later.batch > r.batch
    )
end;
comment on view stream_records is 'The records of data streams as their sources had them last.';
do $$
begin
    grant select on stream_records to newcycle_reader;
exception when undefined_object then
    -- See 0003: it takes the right to create roles.
    null;
end
$$;

create trigger count_change before update on jobs.streams for each row execute function jobs.count_change();
create trigger ring after insert or update on jobs.streams for each row execute function jobs.ring();
-- Whoever watches a stream sees its pages come.
create function jobs.ring_stream() returns trigger
language plpgsql
as $$
begin
    perform pg_notify('newcycle_jobs', new.stream_id::text);
    return null;
end
$$;
create trigger ring after insert or update on jobs.batches for each row execute function jobs.ring_stream();
create trigger count_change before update on jobs.dead_letters for each row execute function jobs.count_change();
create trigger ring after insert or update on jobs.dead_letters for each row execute function jobs.ring();
