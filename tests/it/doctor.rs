//! `newcycle doctor`: of what is well it says so, of what is wrong it says what, and it changes nothing.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command as Program;

use chrono::{Datelike, Utc};
use newcycle::database::Database;
use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tempfile::TempDir;
use tokio::process::Command;

use crate::faults::{Process, SmallDisk};
use crate::harness::eventually;
use crate::postgres::Postgres;

/// What it said.
pub struct Report {
    pub code: Option<i32>,
    document: Value,
    pub text: String,
}

impl Report {
    /// What is wrong according to a check, with what is to be done about it.
    pub fn problem(&self, check: &str) -> String {
        let said = self.said(check, "problem");
        assert!(said.is_some(), "no problem of {check}: {}", self.text);
        assert_eq!(self.code, Some(1), "{}", self.text);
        said.unwrap_or_default()
    }

    pub fn said(&self, check: &str, mark: &str) -> Option<String> {
        let mut findings = self.document["findings"].as_array()?.iter();
        let finding = findings.find(|finding| finding["check"] == check && finding["mark"] == mark)?;
        Some(format!("{} {}", finding["found"].as_str()?, finding["remedy"].as_str().unwrap_or_default()))
    }

    /// Nothing is wrong, but perhaps with the disk that the tests have.
    pub fn is_fine(&self) {
        let findings = self.document["findings"].as_array().expect("findings");
        let wrong: Vec<_> = findings
            .iter()
            .filter(|finding| ["warning", "problem"].contains(&finding["mark"].as_str().expect("a mark")))
            .filter(|finding| finding["check"] != "disk")
            .collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        assert_eq!(self.code, Some(self.said("disk", "problem").is_some().into()), "{}", self.text);
    }
}

/// What it says of the database at that URL.
pub async fn doctor(url: &str, settings: &[(&str, &str)], arguments: &[&str]) -> Report {
    let files = TempDir::new().expect("a directory");
    let report = doctor_in(url, files.path(), settings, arguments).await;
    assert_eq!(files.path().read_dir().expect("it").count(), 0, "it makes no files");
    report
}

async fn doctor_in(url: &str, files: &Path, settings: &[(&str, &str)], arguments: &[&str]) -> Report {
    let output = Command::new(env!("CARGO_BIN_EXE_newcycle"))
        .args(["doctor", "--json"])
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap_or_default())
        .env("DATABASE_URL", url)
        .env("NEWCYCLE_DATA_DIR", files)
        .env("SERVER_PORT", "0")
        .envs(settings.iter().copied())
        .output()
        .await
        .expect("it runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let document = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{:?}", output.stderr));
    Report { code: output.status.code(), document, text }
}

/// A Postgres with a ledger in it.
pub async fn healthy() -> Postgres {
    let postgres = Postgres::start().await;
    let database = open(&postgres).await;
    database.migrate().await.expect("the schema is made");
    database
        .pool
        .execute(
            "insert into base_items (description) values ('bike');
            insert into users select from generate_series(1, 30);
            insert into items (base_item_id) select id from base_items, generate_series(1, 20);
            insert into transfers (item_id, owner_id) select i.id, u.id from items i, users u",
        )
        .await
        .expect("a ledger");
    sqlx::query("select statistics.fold()").execute(&database.pool).await.expect("a fold");
    database.close().await;
    postgres
}

async fn open(postgres: &Postgres) -> Database {
    Database::connect(postgres.url().parse().expect("a URL"), 2).await.expect("it answers")
}

async fn connect(postgres: &Postgres) -> PgConnection {
    PgConnection::connect(&postgres.url()).await.expect("it answers")
}

pub async fn tell(postgres: &Postgres, statements: &[&str]) {
    let mut connection = connect(postgres).await;
    for statement in statements {
        connection.execute(AssertSqlSafe(*statement)).await.expect(statement);
    }
}

/// Everything that a program could have changed: rows, tables, functions, triggers, settings of roles.
async fn contents(postgres: &Postgres) -> String {
    let mut connection = connect(postgres).await;
    let tables: Vec<String> = sqlx::query_scalar(
        "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.relkind = 'r' and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast') order by 1",
    )
    .fetch_all(&mut connection)
    .await
    .expect("tables");
    let mut contents = String::new();
    for table in tables.iter().map(String::as_str).chain(["pg_class", "pg_proc", "pg_trigger", "pg_authid", "pg_type"])
    {
        // Autovacuum writes of pg_class how large tables are.
        let row = if table == "pg_class" { "t.oid::text || t.relname || t.relkind::text" } else { "t::text" };
        let digest: Option<String> = sqlx::query_scalar(AssertSqlSafe(format!(
            "select md5(string_agg(row, '' order by row)) from (select {row} as row from {table} t) as rows"
        )))
        .fetch_one(&mut connection)
        .await
        .expect("rows");
        contents += &format!("{table} {digest:?}\n");
    }
    contents
}

#[tokio::test]
async fn nothing_is_wrong_with_a_healthy_database_and_its_server() {
    let postgres = healthy().await;
    doctor(&postgres.url(), &[], &["--deep"]).await.is_fine();
    let server = Process::on(&postgres.url(), &postgres.files(), "", &[]).await;
    let port = server.api.url.rsplit(':').next().expect("a port").to_owned();
    let report = doctor_in(&postgres.url(), &postgres.files(), &[("SERVER_PORT", &port)], &[]).await;
    report.is_fine();
    assert!(report.said("server", "ok").is_some_and(|said| said.contains("is ready")), "{}", report.text);
    assert!(report.said("capacity", "ok").is_some_and(|said| said.contains("servers that run: 1;")), "{}", report.text);
}

#[tokio::test]
async fn it_changes_nothing_whatever_is_wrong() {
    let postgres = healthy().await;
    tell(
        &postgres,
        &[
            "delete from _sqlx_migrations where version = 11",
            "alter table transfers disable trigger count",
            "update statistics.rollups set count = count + 1",
        ],
    )
    .await;
    let before = contents(&postgres).await;
    for arguments in [&[][..], &["--deep"]] {
        let report = doctor(&postgres.url(), &[], arguments).await;
        assert!(report.document["problems"].as_i64() >= Some(3), "{}", report.text);
    }
    assert_eq!(contents(&postgres).await, before);

    let empty = Postgres::start().await;
    let before = contents(&empty).await;
    assert!(doctor(&empty.url(), &[], &[]).await.problem("migrations").contains("newcycle migrate"));
    assert_eq!(contents(&empty).await, before);
}

#[tokio::test]
async fn people_read_what_is_wrong_and_what_to_do() {
    let files = TempDir::new().expect("a directory");
    let output = Program::new(env!("CARGO_BIN_EXE_newcycle"))
        .arg("doctor")
        .env_clear()
        .env("NEWCYCLE_DATA_DIR", files.path())
        .env("SERVER_PORT", "0")
        .output()
        .expect("it runs");
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("PROBLEM  database       neither DATABASE_URL nor PGHOST is set"), "{text}");
    assert!(text.contains("-> start the server"), "{text}");
    // The disk that the tests have may be nearly full.
    let problems = |line: &&str| line.starts_with("PROBLEM") && !line.contains(" disk ");
    assert_eq!(text.lines().filter(problems).count(), 1, "{text}");
    assert!(text.lines().last().is_some_and(|sum| sum.contains(" problem")), "{text}");
    assert_eq!(files.path().read_dir().expect("it").count(), 0, "no Postgres is made");
}

#[tokio::test]
async fn an_embedded_postgres_is_looked_at_if_it_runs_and_not_started_if_it_does_not() {
    use newcycle::database::embedded::{EmbeddedPostgres, Settings};
    let files = TempDir::new().expect("a directory");
    std::fs::set_permissions(files.path(), Permissions::from_mode(0o755)).expect("it is open");
    let postgres = EmbeddedPostgres::start(Settings::new(files.path())).await.expect("it starts");
    let report = doctor_in("", files.path(), &[], &[]).await;
    assert!(report.said("primary", "ok").is_some(), "{}", report.text);
    postgres.stop().await;
    let report = doctor_in("", files.path(), &[], &[]).await;
    assert!(report.problem("database").contains("does not run"));
    assert!(EmbeddedPostgres::attach(files.path()).await.expect("it").is_none());
}

#[tokio::test]
async fn a_disk_that_fills_up_is_told() {
    let Some(disk) = SmallDisk::mount(32) else { return };
    let postgres = healthy().await;
    let disk_of = async || doctor_in(&postgres.url(), disk.path(), &[], &[]).await;
    assert!(disk_of().await.said("disk", "ok").is_some_and(|said| said.contains("(100 %) are free")));
    std::fs::write(disk.path().join("files"), vec![0; 30 << 20]).expect("there is room");
    let report = disk_of().await;
    assert!(report.said("disk", "warning").is_some_and(|said| said.contains("(6 %)")), "{}", report.text);
    disk.fill();
    assert!(disk_of().await.problem("disk").contains("only 0.0 GB (0 %) are free"));
}

#[tokio::test]
async fn a_schema_that_is_not_this_programs_is_told() {
    let postgres = healthy().await;
    let last: i64 = sqlx::query_scalar("select max(version) from _sqlx_migrations")
        .fetch_one(&mut connect(&postgres).await)
        .await
        .expect("a version");
    let faults = [
        (format!("update _sqlx_migrations set checksum = '\\x00' where version = {last}"), "is not the one"),
        (format!("update _sqlx_migrations set version = 9999 where version = {last}"), "a newer one was here"),
        ("delete from _sqlx_migrations where version = 9999".to_owned(), "migrations that are missing: 1"),
    ];
    for (fault, expected) in faults {
        tell(&postgres, &[&fault]).await;
        let said = doctor(&postgres.url(), &[], &[]).await.problem("migrations");
        assert!(said.contains(expected), "{said}");
    }
}

#[tokio::test]
async fn triggers_and_constraints_that_somebody_left_off_are_told_with_what_turns_them_on() {
    let postgres = healthy().await;
    tell(&postgres, &["alter table transfers disable trigger count"]).await;
    let said = doctor(&postgres.url(), &[], &[]).await.problem("triggers");
    assert!(said.contains("alter table public.transfers enable trigger count") && said.contains("rebuild()"), "{said}");
    tell(&postgres, &["alter table public.transfers enable trigger count", "drop trigger append_only on users"]).await;
    let said = doctor(&postgres.url(), &[], &[]).await.problem("triggers");
    assert!(said.contains("append_only of public.users is not there"), "{said}");
    tell(&postgres, &["alter table users add constraint recent check (created_at > '1900-01-01') not valid"]).await;
    let said = doctor(&postgres.url(), &[], &[]).await.problem("constraints");
    assert!(said.contains("alter table users validate constraint recent"), "{said}");
}

#[tokio::test]
async fn all_triggers_of_the_schema_are_looked_at() {
    let postgres = healthy().await;
    let triggers: Vec<(String, String)> = sqlx::query_as(
        "select tgrelid::regclass::text, tgname::text from pg_trigger where not tgisinternal order by 1, 2",
    )
    .fetch_all(&mut connect(&postgres).await)
    .await
    .expect("triggers");
    let off: String =
        triggers.iter().map(|(table, trigger)| format!("alter table {table} disable trigger {trigger};")).collect();
    tell(&postgres, &[&off]).await;
    let report = doctor(&postgres.url(), &[], &[]).await;
    let findings = report.document["findings"].as_array().expect("findings");
    let told = findings.iter().filter(|finding| finding["check"] == "triggers" && finding["mark"] == "problem").count();
    assert_eq!(told, triggers.len(), "{}", report.text);
}

#[tokio::test]
async fn a_forgotten_transaction_that_keeps_others_out_is_named_with_what_ends_it() {
    let postgres = healthy().await;
    let mut forgetful = connect(&postgres).await;
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut forgetful).await.expect("a number");
    forgetful.execute("begin; lock table items in share mode").await.expect("a lock");
    // It may take a moment until it counts as forgotten.
    let said = eventually(|| async {
        let report = doctor(&postgres.url(), &[], &[]).await;
        report.said("sessions", "problem").ok_or(report.text)
    })
    .await;
    assert!(said.contains("items (ShareLock)"), "{said}");
    let mut waiting = connect(&postgres).await;
    let waiting = tokio::spawn(async move {
        waiting.execute("insert into items (base_item_id) select id from base_items").await.expect("an item");
    });
    let for_whom = format!("wait for a lock of pid {pid} ");
    eventually(|| async {
        let report = doctor(&postgres.url(), &[], &[]).await;
        if report.text.contains(&for_whom) { Ok(()) } else { Err(report.text) }
    })
    .await;
    tell(&postgres, &[&format!("select pg_terminate_backend({pid})")]).await;
    assert!(said.contains(&format!("select pg_terminate_backend({pid})")), "{said}");
    waiting.await.expect("it goes on");
    doctor(&postgres.url(), &[], &[]).await.is_fine();
}

#[tokio::test]
async fn a_role_that_may_not_do_what_the_server_does_is_told() {
    let postgres = healthy().await;
    tell(&postgres, &["create role clerk login password 'clerk'", "grant select on _sqlx_migrations to clerk"]).await;
    let mut url: url::Url = postgres.url().parse().expect("a URL");
    url.set_username("clerk").expect("a name");
    url.set_password(Some("clerk")).expect("a password");
    let said = doctor(url.as_str(), &[], &[]).await.problem("rights");
    assert!(said.contains("clerk lacks rights on") && said.contains("access.keys"), "{said}");
    tell(&postgres, &["grant newcycle to clerk"]).await;
    assert_eq!(doctor(url.as_str(), &[], &[]).await.said("rights", "problem"), None);
}

#[tokio::test]
async fn settings_that_lose_data_are_told() {
    let postgres = healthy().await;
    for (setting, value) in [
        ("synchronous_commit", "off"),
        ("session_replication_role", "replica"),
        ("default_transaction_read_only", "on"),
    ] {
        tell(&postgres, &[&format!("alter role newcycle set {setting} = '{value}'")]).await;
        let said = doctor(&postgres.url(), &[], &[]).await.problem("settings");
        assert!(said.contains(&format!("{setting} is {value}")), "{said}");
        // Whoever comes in now may be unable to write.
        tell(&postgres, &["set default_transaction_read_only = off", "alter role newcycle reset all"]).await;
    }
    doctor(&postgres.url(), &[], &[]).await.is_fine();
}

#[tokio::test]
async fn statistics_that_differ_from_the_ledger_are_told() {
    let postgres = healthy().await;
    tell(&postgres, &["update statistics.rollups set count = count + 7 where metric = 'transfers' and width = 'day'"])
        .await;
    // Days are not in the sample.
    doctor(&postgres.url(), &[], &[]).await.is_fine();
    let said = doctor(&postgres.url(), &[], &["--deep"]).await.problem("statistics");
    assert!(said.contains("607 and the ledger has 600") && said.contains("statistics.rebuild()"), "{said}");

    tell(
        &postgres,
        &["update statistics.rollups set count = count + 7 where metric = 'transfers' and width = 'minute'"],
    )
    .await;
    let said = doctor(&postgres.url(), &[], &[]).await.problem("statistics");
    assert!(said.contains("607 and the ledger has 600"), "{said}");
    tell(&postgres, &["select statistics.rebuild()"]).await;
    doctor(&postgres.url(), &[], &["--deep"]).await.is_fine();
}

#[tokio::test]
async fn connections_that_do_not_suffice_are_told() {
    let postgres = healthy().await;
    let said = doctor(&postgres.url(), &[("NEWCYCLE_DATABASE_CONNECTIONS", "500")], &[]).await.problem("capacity");
    assert!(said.contains("510 connections") && said.contains("alter system set max_connections"), "{said}");
    tell(&postgres, &["alter role newcycle connection limit 5"]).await;
    assert!(doctor(&postgres.url(), &[], &[]).await.problem("capacity").contains("the role leaves room for 5"));
}

#[tokio::test]
async fn work_that_nobody_does_is_told() {
    let postgres = healthy().await;
    tell(
        &postgres,
        &[
            "insert into jobs.queue (id, kind, due_at) values (gen_random_uuid(), 'export', now() - interval '1 hour')",
            "insert into jobs.streams (name, source, interval_seconds, state, desired, last_error, secrets)
            values ('crm', '{}', 60, 'failed', 'running', '401: the key is wrong', '\\x00')",
            "insert into jobs.dead_letters (stream_id, batch, key, record, reason)
            select id, 1, 'k', '{}', 'it has no name' from jobs.streams",
        ],
    )
    .await;
    let report = doctor(&postgres.url(), &[], &[]).await;
    assert!(report.problem("jobs").contains("NEWCYCLE_EXPORT_WORKERS"));
    assert!(report.problem("streams").contains("401: the key is wrong"));
    assert!(report.problem("secrets").contains("encryption.key"));
    assert!(report.said("dead letters", "warning").is_some_and(|said| said.contains("it has no name")));
    let key = "00".repeat(32);
    let report = doctor(&postgres.url(), &[("NEWCYCLE_ENCRYPTION_KEY", &key)], &[]).await;
    assert!(report.problem("secrets").contains("another key"));
}

#[tokio::test]
async fn an_archive_of_the_log_that_fails_is_told() {
    let mut postgres = healthy().await;
    tell(&postgres, &["alter system set archive_mode = on", "alter system set archive_command = 'false'"]).await;
    postgres.end(rustix::process::Signal::INT).await;
    postgres.start_again().await;
    tell(&postgres, &["insert into users default values", "select pg_switch_wal()"]).await;
    let said = eventually(|| async {
        let report = doctor(&postgres.url(), &[], &[]).await;
        report.said("wal", "problem").ok_or(report.text)
    })
    .await;
    assert!(said.contains("archive_command"), "{said}");
}

#[tokio::test]
async fn files_that_are_wrong_are_told() {
    let postgres = healthy().await;
    let files = TempDir::new().expect("a directory");
    let (certificate, key) = (files.path().join("tls.crt"), files.path().join("tls.key"));
    let pair = KeyPair::generate().expect("a key");
    let mut parameters = CertificateParams::new(vec!["localhost".to_owned()]).expect("names");
    parameters.not_after = rcgen::date_time_ymd(Utc::now().year() - 1, 1, 1);
    parameters.not_before = rcgen::date_time_ymd(Utc::now().year() - 2, 1, 1);
    std::fs::write(&certificate, parameters.self_signed(&pair).expect("a certificate").pem()).expect("a file");
    std::fs::write(&key, pair.serialize_pem()).expect("a file");
    let settings = |certificate: &Path| {
        [
            ("NEWCYCLE_TLS_CERTIFICATE", certificate.to_str().expect("text").to_owned()),
            ("NEWCYCLE_TLS_KEY", key.to_str().expect("text").to_owned()),
        ]
    };
    let look = async |certificate: &Path| {
        let settings = settings(certificate);
        let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
        doctor(&postgres.url(), &settings, &[]).await
    };
    assert!(look(&certificate).await.problem("tls").contains("has expired on"));
    assert!(look(&files.path().join("nothing")).await.problem("tls").contains("cannot read"));

    std::fs::write(files.path().join("encryption.key"), "00".repeat(32)).expect("a file");
    std::fs::set_permissions(files.path().join("encryption.key"), Permissions::from_mode(0o644)).expect("it is open");
    let report = doctor_in(&postgres.url(), files.path(), &[], &[]).await;
    assert!(report.said("encryption", "warning").is_some_and(|said| said.contains("chmod 600")), "{}", report.text);

    // Nothing can be made in a file, not even by root.
    let store = key.join("exports");
    let settings = [("NEWCYCLE_EXPORT_STORE", store.to_str().expect("text"))];
    assert!(doctor(&postgres.url(), &settings, &[]).await.problem("store").contains("tls.key"));
    let settings =
        [("NEWCYCLE_JWT_JWKS", "/nowhere.json"), ("NEWCYCLE_JWT_ISSUER", "i"), ("NEWCYCLE_JWT_AUDIENCE", "a")];
    assert!(doctor(&postgres.url(), &settings, &[]).await.problem("tokens").contains("cannot be had"));
    let settings = [("NEWCYCLE_JWT_ISSUER", "i")];
    assert!(doctor(&postgres.url(), &settings, &[]).await.problem("tokens").contains("NEWCYCLE_JWT_JWKS"));
}

#[tokio::test]
async fn a_server_that_others_reach_needs_a_key() {
    let postgres = healthy().await;
    let open = [("SERVER_HOST", "0.0.0.0")];
    let report = doctor(&postgres.url(), &open, &[]).await;
    assert!(report.problem("access").contains("newcycle keys create"));
    assert!(report.said("tls", "warning").is_some_and(|said| said.contains("in the clear")), "{}", report.text);
    let report = doctor(&postgres.url(), &[open[0], ("NEWCYCLE_AUTHENTICATION", "off")], &[]).await;
    assert_eq!(report.code, Some(0), "{}", report.text);
    assert!(report.said("access", "warning").is_some_and(|said| said.contains("everybody")), "{}", report.text);
}
