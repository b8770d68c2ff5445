-- Who may do what: API keys, and the sessions of browsers that signed in with one.
--
-- Each server keeps a copy of these tables in memory, so that no request asks the database who it is from, and looks once a
-- second whether `access.state` says that something changed.

create schema access;

-- A key is `nck_<id>_<secret>`. Its secret is 260 random bits, so a plain SHA-256 is as good here as a slow hash, which is
-- for passwords, that can be guessed. Who reads this table cannot use a key.
--
-- A key stays who it is when its secret is replaced: what belongs to it still does. The secret before holds on until
-- `previous_expires_at`, so that services can go over to the new one.
--
-- Keys are revoked, never deleted: the list of them says what was once allowed.
create table access.keys (
    id text not null,
    name text not null,
    scopes text[] not null,
    secret_hash bytea not null,
    previous_secret_hash bytea,
    previous_expires_at timestamptz,
    created_at timestamptz not null default now(),
    rotated_at timestamptz,
    expires_at timestamptz,
    revoked_at timestamptz,
    -- To the minute, for whoever wonders which keys are still needed.
    last_used_at timestamptz,
    constraint keys_pkey primary key (id),
    constraint keys_name_is_not_empty check (name <> ''),
    constraint keys_scopes_are_some check (cardinality(scopes) > 0),
    constraint keys_scopes_are_known check (
        scopes <@ array ['ledger:write', 'ledger:read', 'statistics:read', 'exports', 'streams:manage', 'admin']
    ),
    constraint keys_secret_hash_is_sha256 check (octet_length(secret_hash) = 32),
    constraint keys_previous_secret_has_an_end check ((previous_secret_hash is null) = (previous_expires_at is null))
);

-- A session ends with the secret that it was signed in with: a key that leaked and is rotated takes the sessions along
-- that a thief may have.
create table access.sessions (
    id text not null,
    secret_hash bytea not null,
    key_id text not null,
    key_secret_hash bytea not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    constraint sessions_pkey primary key (id),
    constraint sessions_key_id_fkey foreign key (key_id) references access.keys (id),
    constraint sessions_secret_hash_is_sha256 check (octet_length(secret_hash) = 32)
);
create index sessions_key_id_idx on access.sessions (key_id, created_at);

-- Counts changes of both tables. Whoever changes one of them holds this row until the commit, so a higher number includes
-- everything that a lower one did.
create table access.state (
    one_row boolean not null default true,
    version bigint not null,
    constraint state_pkey primary key (one_row),
    constraint state_has_one_row check (one_row)
);
insert into access.state (version) values (1);

create function access.note_change() returns trigger
language plpgsql
as $$
begin
    update access.state set version = version + 1;
    return null;
end
$$;

-- Not for `last_used_at`, which servers write and nobody has to know of.
create trigger note_change
after insert or delete or truncate
or update of name, scopes, secret_hash, previous_secret_hash, previous_expires_at, expires_at, revoked_at
on access.keys
for each statement execute function access.note_change();

create trigger note_change
after insert or delete or truncate or update
on access.sessions
for each statement execute function access.note_change();

-- Those who report have no business here.
revoke all on schema access from public;
