-- The ledger: what exists, who there is, and who came to own what, when.
--
-- Rows are only ever inserted. That is what makes everything else simple: a count never has to be taken back, a parent
-- never disappears under a child, and the owner of an item at any moment is the newest transfer up to that moment.

-- Time-ordered ids (RFC 9562, version 7): 48 bits of Unix milliseconds, then random bits. Inserts of a growing ledger
-- touch only the right edge of each primary key, which stays in cache; random ids would touch a page each.
-- PostgreSQL 18 has uuidv7(); this one serves 15 to 17 as well.
create function uuid_v7() returns uuid
language sql volatile parallel safe
as $$
    select encode(
        set_bit(set_bit(
            overlay(uuid_send(gen_random_uuid())
                placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
                from 1 for 6),
            52, 1), 53, 1),
        'hex')::uuid
$$;
comment on function uuid_v7() is 'A new time-ordered id (RFC 9562 version 7).';

create table base_items (
    id uuid default uuid_v7() constraint base_items_pkey primary key,
    description text not null,
    created_at timestamptz not null default now(),
    -- The nil id stands for "all base items" in the statistics.
    constraint base_items_id_not_nil check (id <> '00000000-0000-0000-0000-000000000000'),
    constraint base_items_description_length check (char_length(description) between 1 and 10000),
    constraint base_items_created_at_range check (created_at >= '0001-01-01T00:00:00Z')
);
comment on table base_items is 'Kinds of things, of which items are the single pieces.';

create table users (
    id uuid default uuid_v7() constraint users_pkey primary key,
    created_at timestamptz not null default now(),
    constraint users_created_at_range check (created_at >= '0001-01-01T00:00:00Z')
);
comment on table users is 'Those who can own items.';

create table items (
    id uuid default uuid_v7() constraint items_pkey primary key,
    base_item_id uuid not null constraint items_base_item_id_fkey references base_items,
    created_at timestamptz not null default now(),
    constraint items_created_at_range check (created_at >= '0001-01-01T00:00:00Z')
);
comment on table items is 'Single pieces, each of one base item, that change hands.';

create table transfers (
    id uuid default uuid_v7() constraint transfers_pkey primary key,
    "timestamp" timestamptz not null default now(),
    owner_id uuid not null constraint transfers_owner_id_fkey references users,
    item_id uuid not null constraint transfers_item_id_fkey references items,
    constraint transfers_timestamp_range check ("timestamp" >= '0001-01-01T00:00:00Z')
);
comment on table transfers is
    'Changes of ownership. The owner of an item is the owner_id of its latest transfer by (timestamp, id): of two '
    'transfers in the same microsecond the one with the greater id counts.';

-- Lists, newest first, a page at a time, and the ledger's own statistics by the millisecond.
create index base_items_created_at on base_items (created_at, id);
create index users_created_at on users (created_at, id);
create index items_created_at on items (created_at, id);
create index transfers_timestamp on transfers ("timestamp", id);
-- The owner of an item now or then, and its history: one step into the index.
create index transfers_item on transfers (item_id, "timestamp", id);
-- What a user ever received: the candidates of their holdings.
create index transfers_owner on transfers (owner_id, item_id);

-- Append-only, whoever connects. The triggers fire once a statement, so they also speak up when no row matches.
create function refuse_change() returns trigger
language plpgsql
as $$
begin
    raise exception using
        errcode = 'restrict_violation',
        message = format('%s refused: "%s" is append-only', tg_op, tg_table_name),
        detail = 'The ledger is a record of what happened; rows are never changed or removed.',
        hint = 'Insert a new row instead: a new transfer says who owns an item from then on.';
end
$$;

create trigger append_only before update or delete or truncate on base_items
    for each statement execute function refuse_change();
create trigger append_only before update or delete or truncate on users
    for each statement execute function refuse_change();
create trigger append_only before update or delete or truncate on items
    for each statement execute function refuse_change();
create trigger append_only before update or delete or truncate on transfers
    for each statement execute function refuse_change();
