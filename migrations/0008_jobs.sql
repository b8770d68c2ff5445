-- What takes longer than a request: a queue of jobs, and the exports that are made by them.
--
-- A worker takes a job by counting its attempt up and putting off when it is due again: the lease. While it works it puts
-- that off again and again. A worker that dies stops doing so, and another takes the job, with the next attempt. What a
-- worker writes, it writes in a transaction that locks the job's row with its own attempt (the fence): whoever lost a lease
-- changes nothing any more, however late they wake up. A job that is over is deleted, in the transaction that records what
-- came of it: so it is over once.
--
-- No transaction is held open while somebody works. Whoever locks rows of both tables locks the job's first.

create schema jobs;

create table jobs.queue (
    -- That of the export that is made.
    id uuid not null,
    kind text not null,
    -- From when on a worker may take it. Of one that somebody works at, this is the end of their lease.
    due_at timestamptz not null default now(),
    -- How often it was taken: the fence.
    attempt integer not null default 0,
    constraint queue_pkey primary key (id),
    constraint queue_kind_is_known check (kind in ('export'))
);
create index queue_due on jobs.queue (kind, due_at);

-- Rings on every server when there may be something to do. Bells are for speed alone: who missed one looks anyway, a little
-- later. The payload is the id of what changed.
create function jobs.ring() returns trigger
language plpgsql
as $$
begin
    perform pg_notify('newcycle_jobs', new.id::text);
    return null;
end
$$;

create trigger ring after insert on jobs.queue for each row execute function jobs.ring();

create table jobs.exports (
    id uuid not null default uuid_v7(),
    -- Who started it: a key or a subject. Null when nobody had to say who they are.
    owner text,

    -- What is wanted.
    dataset text not null,
    format text not null,
    compression text not null,
    -- The range: "from" is included, "to" is not.
    from_moment timestamptz,
    to_moment timestamptz,
    base_item_id uuid,
    resolution text,
    timezone text,

    -- How far it is. See src/exports/state.rs for which state comes after which.
    state text not null default 'created',
    -- Counts changes, so that watchers know which they have seen.
    version bigint not null default 1,
    rows_done bigint not null default 0,
    bytes_done bigint not null default 0,
    -- What Postgres expects the rows to be. An estimate.
    estimated_rows bigint,
    -- Why it failed, or why it is tried again; for people.
    reason text,
    created_at timestamptz not null default now(),
    started_at timestamptz,
    finished_at timestamptz,
    -- When the result goes.
    expires_at timestamptz,

    -- Of which moment it shows the ledger: that of the snapshot in which everything was read, and the snapshot itself.
    as_of timestamptz,
    snapshot pg_snapshot,
    -- Where the result lies in the store. Set before anything is written there, and null when nothing is there any more.
    object text,
    size bigint,
    sha256 bytea,

    constraint exports_pkey primary key (id),
    constraint exports_dataset_is_known check (
        dataset in ('base-items', 'users', 'items', 'transfers', 'ownership', 'statistics')
    ),
    constraint exports_format_is_known check (format in ('csv', 'ndjson', 'parquet')),
    constraint exports_compression_is_known check (compression in ('none', 'gzip', 'zstd')),
    constraint exports_state_is_known check (
        state in ('created', 'pending', 'running', 'cancelling', 'complete', 'cancelled', 'failed', 'expired')
    ),
    constraint exports_range_is_one check (from_moment < to_moment),
    constraint exports_complete_has_a_result check (
        state <> 'complete' or (object is not null and size is not null and sha256 is not null and expires_at is not null)
    ),
    constraint exports_finished_has_a_moment check (
        (finished_at is not null) = (state in ('complete', 'cancelled', 'failed', 'expired'))
    ),
    constraint exports_sha256_length check (octet_length(sha256) = 32)
);
comment on table jobs.exports is 'Exports: what was asked for by whom, how far it is, and where the result lies.';

-- Somebody's own, newest first; and everybody's.
create index exports_owner on jobs.exports (owner, created_at, id);
create index exports_created_at on jobs.exports (created_at, id);
-- Those that are not over: few, and counted for each new one.
create index exports_alive on jobs.exports (owner) where state in ('created', 'pending', 'running', 'cancelling');
-- What is to be cleaned up.
create index exports_with_object on jobs.exports (expires_at) where object is not null;

create function jobs.count_change() returns trigger
language plpgsql
as $$
begin
    new.version := old.version + 1;
    return new;
end
$$;

create trigger count_change before update on jobs.exports for each row execute function jobs.count_change();
create trigger ring after insert or update on jobs.exports for each row execute function jobs.ring();
