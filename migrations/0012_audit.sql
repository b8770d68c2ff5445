-- Who wrote what through which key.
--
-- Rows of the ledger do not say who wrote them: they are the same whoever did. This table says it, in the transaction that
-- writes the rows, so that there is no row without its entry and no entry without its row. An entry is about many rows where
-- one statement wrote many; a busy server has some hundred entries a second, of sixteen bytes a row.
--
-- Commands, about exports and data streams, have an entry before they are done, and their status afterwards: one that has none
-- was interrupted.
--
-- Nothing is noted of requests where nobody has to say who they are, nor of what is written with SQL: that is for Postgres' own
-- log.

create table access.audit (
    id bigint generated always as identity,
    at timestamptz not null default now(),
    -- Of a key its id, of a token its subject, of a data stream its id; and what people call them.
    author text not null,
    author_name text not null,
    through text not null,
    -- "insert into transfers", or "DELETE /streams/…".
    action text not null,
    -- Of rows of the ledger.
    ids uuid[],
    -- Of a command.
    request_id text,
    status smallint,
    constraint audit_pkey primary key (id),
    constraint audit_through_is_known check (through in ('key', 'session', 'token', 'stream'))
);

-- Ids do not compress, and it would be tried.
alter table access.audit alter column ids set storage external;
-- Entries come in the order of their time.
create index audit_at on access.audit using brin (at);

comment on table access.audit is 'Who wrote what through which key: rows of the ledger, and commands';
comment on column access.audit.ids is 'The rows that were inserted';
comment on column access.audit.status is 'How a command was answered; null if that was interrupted';
comment on index access.audit_at is 'For entries of a time, and for forgetting old ones';
