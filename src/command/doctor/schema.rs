//! The schema: whether it is this program's, whole, and open to the role.

use std::collections::BTreeMap;

use super::finding::Finding;
use super::questions::{Questions, Unanswered};
use crate::database::MIGRATIONS;

/// All that newcycle makes.
const SCHEMAS: &str = "('public', 'statistics', 'reporting', 'access', 'jobs')";
/// The triggers without which something is not refused, counted, counted up or told. A test compares them with the schema.
const TRIGGERS: [(&str, &str); 18] = [
    ("access.keys", "note_change"),
    ("access.sessions", "note_change"),
    ("jobs.batches", "ring"),
    ("jobs.dead_letters", "count_change"),
    ("jobs.dead_letters", "ring"),
    ("jobs.exports", "count_change"),
    ("jobs.exports", "ring"),
    ("jobs.previews", "ring"),
    ("jobs.queue", "ring"),
    ("jobs.streams", "count_change"),
    ("jobs.streams", "ring"),
    ("public.base_items", "append_only"),
    ("public.items", "append_only"),
    ("public.items", "count"),
    ("public.transfers", "append_only"),
    ("public.transfers", "count"),
    ("public.users", "append_only"),
    ("public.users", "count"),
];

/// Whether the migrations of this program, and no others, were applied, and are what they were.
pub(super) async fn migrations(questions: &Questions) -> Result<Vec<Finding>, Unanswered> {
    let applied = questions.ask("select version, checksum, success from _sqlx_migrations order by version").await;
    let applied = match applied {
        Ok(applied) => applied,
        Err(Unanswered::Missing) => {
            return Ok(vec![Finding::problem(
                "there is no schema: this database is empty, or another one",
                "is PGDATABASE or DATABASE_URL right? then `newcycle migrate`, or start the server",
            )]);
        }
        Err(Unanswered::Denied(reason)) => {
            let remedy =
                "use the role that owns the schema (PGUSER, DATABASE_URL), or: grant select on _sqlx_migrations to …";
            return Ok(vec![Finding::problem(reason, remedy)]);
        }
        Err(other) => return Err(other),
    };
    let mut known: BTreeMap<i64, _> = MIGRATIONS.iter().map(|migration| (migration.version, migration)).collect();
    let mut findings = Vec::new();
    for row in &applied {
        let (version, checksum, success): (i64, Vec<u8>, bool) = (row.get(0), row.get(1), row.get(2));
        match known.remove(&version) {
            None => findings.push(Finding::problem(
                format!("the database has migration {version}, which this program does not know: a newer one was here"),
                "run that version of newcycle, or restore the backup from before the upgrade (docs/operations.md, Upgrade)",
            )),
            Some(migration) if migration.checksum.as_ref() != checksum.as_slice() => findings.push(Finding::problem(
                format!("migration {version} ({}) is not the one that this program has", migration.description),
                "run the version of newcycle that made this database; servers of this one do not start",
            )),
            Some(migration) if !success => findings.push(Finding::problem(
                format!("migration {version} ({}) was begun and did not end", migration.description),
                "restore the backup from before the upgrade",
            )),
            Some(_) => {}
        }
    }
    if let Some((first, migration)) = known.first_key_value() {
        findings.push(Finding::problem(
            format!("migrations that are missing: {}, from {first} ({}) on", known.len(), migration.description),
            "newcycle migrate (a server does so when it starts)",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(format!("all {} migrations are applied", applied.len())));
    }
    Ok(findings)
}

/// What a server does: read and write tables, call functions, make temporary tables, look after its migrations.
pub(super) async fn rights(questions: &Questions) -> Result<Vec<Finding>, Unanswered> {
    let missing = questions
        .ask(&format!(
            "with ours as (
                select c.oid, n.nspname || '.' || c.relname as name, n.nspname as schema, c.relkind
                from pg_class c join pg_namespace n on n.oid = c.relnamespace
                where n.nspname in {SCHEMAS} and c.relkind in ('r', 'v', 'S')
            ), wanted as (
                select name, right_name from ours, unnest(array['select', 'insert', 'update', 'delete']) as right_name
                where relkind = 'r' and schema in ('statistics', 'access', 'jobs')
                    and not has_table_privilege(oid, right_name)
                union all
                select name, right_name from ours, unnest(array['select', 'insert']) as right_name
                where relkind = 'r' and schema = 'public' and name <> 'public._sqlx_migrations'
                    and not has_table_privilege(oid, right_name)
                union all
                select name, 'select' from ours where relkind = 'v' and not has_table_privilege(oid, 'select')
                union all
                select name, 'usage' from ours where case relkind when 'S' then not has_sequence_privilege(oid, 'usage') else false end
                union all
                select p.oid::regprocedure::text, 'execute'
                from pg_proc p join pg_namespace n on n.oid = p.pronamespace
                where n.nspname in {SCHEMAS} and not has_function_privilege(p.oid, 'execute')
                union all
                select 'schema ' || nspname, 'usage' from pg_namespace
                where nspname in {SCHEMAS} and not has_schema_privilege(oid, 'usage')
                union all
                select 'schema public', 'create' where not has_schema_privilege('public', 'create')
                union all
                select 'database ' || current_database(), 'temporary'
                where not has_database_privilege(current_database(), 'temporary')
            )
            select name, string_agg(right_name, ', ') from wanted group by name order by name"
        ))
        .await?;
    let role: String = questions.ask_one("select current_user::text").await?.get(0);
    let rights: Vec<String> =
        missing.iter().map(|row| format!("{} ({})", row.get::<_, String>(0), row.get::<_, String>(1))).collect();
    if rights.is_empty() {
        return Ok(Vec::new());
    }
    let shown = rights[..rights.len().min(6)].join(", ");
    let more = if rights.len() > 6 { format!(" and {} more", rights.len() - 6) } else { String::new() };
    Ok(vec![Finding::problem(
        format!("the role {role} lacks rights on {shown}{more}"),
        format!(
            "the role that owns the schema is the simplest to use (PGUSER, DATABASE_URL); or, as that one: grant OWNER to \
            {role}"
        ),
    )])
}

/// Triggers refuse, count and tell. A restore with --disable-triggers that broke off, or somebody in a hurry, leaves them off.
pub(super) async fn triggers(questions: &Questions) -> Result<Vec<Finding>, Unanswered> {
    let rows = questions
        .ask(&format!(
            "select n.nspname || '.' || c.relname, t.tgname::text, t.tgenabled::text
            from pg_trigger t
            join pg_class c on c.oid = t.tgrelid
            join pg_namespace n on n.oid = c.relnamespace
            where n.nspname in {SCHEMAS} and not t.tgisinternal"
        ))
        .await?;
    let found: BTreeMap<(String, String), String> =
        rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect();
    if found.is_empty() {
        return Err(Unanswered::Missing);
    }
    let mut findings = Vec::new();
    for (table, trigger) in TRIGGERS {
        let then = if trigger == "count" { "; then select statistics.rebuild(), as rows were not counted" } else { "" };
        match found.get(&(table.to_owned(), trigger.to_owned())).map(String::as_str) {
            Some("O" | "A") => {}
            Some(_) => findings.push(Finding::problem(
                format!("the trigger {trigger} of {table} is off"),
                format!("alter table {table} enable trigger {trigger}{then}"),
            )),
            None => findings.push(Finding::problem(
                format!("the trigger {trigger} of {table} is not there"),
                "restore the schema from a dump: pg_restore --section=post-data",
            )),
        }
    }
    Ok(findings)
}

/// Constraints that were not checked for the rows that are there, and indexes that were not built to their end. The three
/// about the future are so by design: what lies in the past stays there.
pub(super) async fn constraints(questions: &Questions) -> Result<Vec<Finding>, Unanswered> {
    let rows = questions
        .ask(&format!(
            "select 'constraint', c.conname::text, c.conrelid::regclass::text
            from pg_constraint c join pg_namespace n on n.oid = c.connamespace
            where n.nspname in {SCHEMAS} and not c.convalidated and c.conname not like '%\\_not\\_in\\_future'
            union all
            select 'index', i.indexrelid::regclass::text, i.indrelid::regclass::text
            from pg_index i join pg_class c on c.oid = i.indexrelid join pg_namespace n on n.oid = c.relnamespace
            where n.nspname in {SCHEMAS} and not i.indisvalid"
        ))
        .await?;
    let finding = |row: &tokio_postgres::Row| {
        let (kind, name, table): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        if kind == "index" {
            Finding::problem(
                format!("the index {name} of {table} is not used: it was not built to its end"),
                format!("reindex index concurrently {name}"),
            )
        } else {
            Finding::problem(
                format!("the constraint {name} of {table} was not checked for all rows"),
                format!("alter table {table} validate constraint {name}"),
            )
        }
    };
    Ok(rows.iter().map(finding).collect())
}
