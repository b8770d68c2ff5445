//! The embedded Postgres: it starts, keeps its data, is found by others, and ends with its parent.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use newcycle::database::Database;
use newcycle::database::embedded::{DATABASE, Durability, EmbeddedError, EmbeddedPostgres, Endpoint, Settings};
use tokio_postgres::{Client, NoTls};

use crate::harness::{self, eventually, new_database};

fn throwaway(data_dir: &Path) -> Settings {
    Settings { durability: Durability::Throwaway, ..Settings::new(data_dir) }
}

async fn connect(endpoint: &Endpoint) -> Client {
    let (client, connection) = endpoint.client_config(DATABASE).connect(NoTls).await.expect("connects");
    tokio::spawn(connection);
    client
}

async fn count(endpoint: &Endpoint, table: &str) -> i64 {
    let row = connect(endpoint).await.query_one(&format!("select count(*) from {table}"), &[]).await;
    row.expect("the table is there").get(0)
}

/// What Postgres said since it was started the last time.
fn last_log(data_dir: &Path) -> String {
    let log = fs::read_to_string(data_dir.join("postgres.log")).expect("there is a log");
    log.rsplit_once("starting PostgreSQL").expect("it was started").1.to_owned()
}

#[tokio::test]
async fn data_and_port_survive_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let postgres = EmbeddedPostgres::start(Settings::new(root.path())).await.unwrap();
    let port = postgres.endpoint().port();
    connect(postgres.endpoint())
        .await
        .batch_execute("create table kept as select generate_series(1, 7)")
        .await
        .unwrap();
    postgres.stop().await;

    let postgres = EmbeddedPostgres::start(Settings::new(root.path())).await.unwrap();
    assert_eq!(postgres.endpoint().port(), port);
    assert_eq!(count(postgres.endpoint(), "kept").await, 7);
    let log = last_log(root.path());
    assert!(log.contains("database system was shut down at"), "{log}");
    postgres.stop().await;
}

#[tokio::test]
async fn the_cluster_speaks_utf8_and_utc_and_asks_for_a_password() {
    let root = tempfile::tempdir().unwrap();
    let postgres = EmbeddedPostgres::start(throwaway(root.path())).await.unwrap();
    let client = connect(postgres.endpoint()).await;
    for (setting, value) in [("server_encoding", "UTF8"), ("timezone", "UTC"), ("password_encryption", "scram-sha-256")]
    {
        let row = client.query_one("select current_setting($1)", &[&setting]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), value, "{setting}");
    }
    let row = client.query_one("select lower('ÄÖ'), upper('ñ')", &[]).await.unwrap();
    assert_eq!((row.get(0), row.get(1)), ("äö", "Ñ"));

    let url = postgres.endpoint().url(DATABASE);
    assert!(tokio_postgres::connect(&url, NoTls).await.is_ok());
    let wrong = url.replace(postgres.endpoint().password(), "guess");
    assert!(tokio_postgres::connect(&wrong, NoTls).await.is_err());
    postgres.stop().await;
}

#[tokio::test]
async fn a_pool_connects_over_the_socket_and_over_tcp() {
    use sqlx::ConnectOptions as _;

    let root = tempfile::tempdir().unwrap();
    let long = root.path().join("a-directory-whose-name-is-long".repeat(4));
    for (data_dir, has_socket) in [(root.path(), true), (&long, false)] {
        let postgres = EmbeddedPostgres::start(throwaway(data_dir)).await.unwrap();
        assert_eq!(postgres.endpoint().socket_dir().is_some(), has_socket);
        let mut connection = postgres.endpoint().connect_options(DATABASE).connect().await.unwrap();
        let over_tcp: bool =
            sqlx::query_scalar("select inet_client_addr() is not null").fetch_one(&mut connection).await.unwrap();
        assert_eq!(over_tcp, !has_socket);
        drop(connection);
        postgres.stop().await;
    }
}

#[tokio::test]
async fn options_in_a_url_are_those_of_all_connections() {
    let url = harness::url(&new_database().await).await;
    let target = format!("{url}&options=-c%20statement_timeout%3D47s%20-c%20timezone%3DAsia/Tokyo");
    let database = Database::connect(target.parse().unwrap(), 1).await.unwrap();
    let settings = "select current_setting('statement_timeout'), current_setting('timezone')";
    let (timeout, zone): (String, String) = sqlx::query_as(settings).fetch_one(&database.pool).await.unwrap();
    // Where the server relies on one, it is its own.
    assert_eq!((&*timeout, &*zone), ("47s", "UTC"));
    let (client, connection) = database.primary.connector().connect().await.unwrap();
    let told = async { client.query_one(settings, &[]).await.unwrap().get::<_, String>(0) };
    let timeout = tokio::select! {
        timeout = told => timeout,
        ended = connection => panic!("{ended:?}"),
    };
    assert_eq!(timeout, "47s");
}

#[tokio::test]
async fn the_psql_command_works_when_pasted_into_a_shell() {
    let root = tempfile::tempdir().unwrap();
    let data_dir = root.path().join("it's here");
    let postgres = EmbeddedPostgres::start(throwaway(&data_dir)).await.unwrap();
    let command = postgres.endpoint().psql_command();
    assert!(!command.contains(postgres.endpoint().password()), "{command}");
    let shell = format!("{command} -XAtc 'select 40 + 2'");
    let Output { status, stdout, stderr } = Command::new("sh").args(["-c", &shell]).output().unwrap();
    // Some installations have no psql: the shell's 127 says that there is none.
    if status.code() != Some(127) {
        assert_eq!(
            (String::from_utf8_lossy(&stdout).trim(), status.success()),
            ("42", true),
            "{}",
            String::from_utf8_lossy(&stderr)
        );
    }
    postgres.stop().await;
}

#[tokio::test]
async fn a_second_start_is_refused_and_can_attach() {
    let root = tempfile::tempdir().unwrap();
    assert!(EmbeddedPostgres::attach(&root.path().join("nothing here")).await.unwrap().is_none());
    let postgres = EmbeddedPostgres::start(throwaway(root.path())).await.unwrap();
    let second = EmbeddedPostgres::start(throwaway(root.path())).await;
    assert!(matches!(second, Err(EmbeddedError::InUse { .. })), "{second:?}");

    let attached = EmbeddedPostgres::attach(root.path()).await.unwrap().expect("it is running");
    assert_eq!(attached.url(DATABASE), postgres.endpoint().url(DATABASE));
    assert_eq!(attached.psql_command(), postgres.endpoint().psql_command());
    connect(&attached).await;

    postgres.stop().await;
    assert!(EmbeddedPostgres::attach(root.path()).await.unwrap().is_none());
}

#[tokio::test]
async fn programs_that_cannot_be_used_are_named() {
    let root = tempfile::tempdir().unwrap();
    let settings = Settings { binaries: Some(root.path().join("bin")), ..throwaway(root.path()) };
    let error = EmbeddedPostgres::start(settings).await.unwrap_err();
    assert!(matches!(error, EmbeddedError::UnusableBinaries { .. }), "{error:?}");
    assert!(error.to_string().contains("there is no postgres"), "{error}");
}

#[tokio::test]
async fn data_of_another_version_are_not_touched() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("cluster")).unwrap();
    fs::write(root.path().join("cluster/PG_VERSION"), "13\n").unwrap();
    let error = EmbeddedPostgres::start(throwaway(root.path())).await.unwrap_err();
    assert!(matches!(error, EmbeddedError::OtherVersion { needed: 13, .. }), "{error:?}");
}

#[tokio::test]
async fn a_taken_port_is_an_error_only_when_asked_for() {
    let root = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = EmbeddedPostgres::start(Settings { port: Some(port), ..throwaway(root.path()) }).await.unwrap_err();
    assert!(matches!(error, EmbeddedError::Port { port: named, .. } if named == port), "{error:?}");

    fs::write(root.path().join("port"), port.to_string()).unwrap();
    let postgres = EmbeddedPostgres::start(throwaway(root.path())).await.unwrap();
    assert_ne!(postgres.endpoint().port(), port);
    postgres.stop().await;
}

#[tokio::test]
async fn a_failed_start_shows_what_postgres_said() {
    let root = tempfile::tempdir().unwrap();
    EmbeddedPostgres::start(throwaway(root.path())).await.unwrap().stop().await;
    fs::write(root.path().join("cluster/postgresql.conf"), "nonsense = yes\n").unwrap();
    let error = EmbeddedPostgres::start(throwaway(root.path())).await.unwrap_err();
    assert!(error.to_string().contains("nonsense"), "{error}");
}

#[tokio::test]
async fn an_interrupted_first_start_is_begun_again() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("cluster.unfinished/base")).unwrap();
    fs::write(root.path().join("pgpass"), "*:*:*:newcycle:old").unwrap();
    let postgres = EmbeddedPostgres::start(throwaway(root.path())).await.unwrap();
    connect(postgres.endpoint()).await;
    postgres.stop().await;
}

#[tokio::test]
async fn a_dropped_postgres_ends() {
    let root = tempfile::tempdir().unwrap();
    let postgres = EmbeddedPostgres::start(Settings::new(root.path())).await.unwrap();
    connect(postgres.endpoint())
        .await
        .batch_execute("create table kept as select generate_series(1, 7)")
        .await
        .unwrap();
    drop(postgres);
    // A start waits for the one that is ending.
    let postgres = EmbeddedPostgres::start(Settings::new(root.path())).await.unwrap();
    assert_eq!(count(postgres.endpoint(), "kept").await, 7);
    postgres.stop().await;
}

#[tokio::test]
async fn a_killed_server_leaves_a_clean_cluster() {
    let root = tempfile::tempdir().unwrap();
    let mut server = Command::new(env!("CARGO_BIN_EXE_newcycle"))
        .arg("serve")
        .env("NEWCYCLE_DATA_DIR", root.path())
        .envs([("SERVER_PORT", "0"), ("DASHBOARD_PORT", "0")])
        .env_remove("DATABASE_URL")
        .env_remove("PGHOST")
        .env_remove("PGPORT")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let endpoint = eventually(|| async {
        // While it is being made, the directory has moments in which files are missing.
        match EmbeddedPostgres::attach(root.path()).await {
            Ok(Some(endpoint)) => Ok(endpoint),
            other => Err(format!("the server's Postgres does not answer: {other:?}")),
        }
    })
    .await;
    connect(&endpoint).await.batch_execute("create table kept as select generate_series(1, 7)").await.unwrap();
    server.kill().unwrap();
    server.wait().unwrap();

    let postgres = EmbeddedPostgres::start(Settings::new(root.path())).await.unwrap();
    assert_eq!(count(postgres.endpoint(), "kept").await, 7);
    let log = last_log(root.path());
    assert!(log.contains("database system was shut down at"), "{log}");
    postgres.stop().await;
}
