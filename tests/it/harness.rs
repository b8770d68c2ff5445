//! A cluster for the run, a database for each test, a server on a port of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use newcycle::auth::{self, Authority};
use newcycle::database::Database;
use newcycle::database::embedded::{Durability, EmbeddedPostgres, Endpoint, Settings};
use newcycle::exports::Depot;
use newcycle::server;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::Api;

/// A condition that takes longer than this to come true will not. Generous, because machines are shared.
pub const PATIENCE: Duration = Duration::from_secs(60);
const TEMPLATE: &str = "newcycle_template";

static CLUSTER: OnceCell<Endpoint> = OnceCell::const_new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// The cluster of this run. It lives in memory where there is such a file system, and dies with the process: the kernel
/// tells Postgres, and what lies in the directory is removed at the start of the next run.
async fn cluster() -> &'static Endpoint {
    CLUSTER
        .get_or_init(|| async {
            sweep_directories();
            let directory = run_directory();
            let mut settings = Settings::new(&directory);
            settings.durability = Durability::Throwaway;
            let postgres = EmbeddedPostgres::start(settings).await.expect("the test cluster starts");
            let endpoint = postgres.endpoint().clone();
            // The process ends without running destructors: the kernel's death signal stops this Postgres.
            std::mem::forget(postgres);
            execute(&endpoint, "postgres", &format!("create database {TEMPLATE}")).await;
            let template = Database::connect(endpoint.client_config(TEMPLATE).into(), 2).await.expect("template");
            template.migrate().await.expect("the schema is created");
            template.close().await;
            endpoint
        })
        .await
}

/// A directory whose files are in memory, where there is one.
pub fn in_memory() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
}

fn run_directory() -> PathBuf {
    in_memory().join(format!("newcycle-test-{}", std::process::id()))
}

/// Removes what is left over from runs that are no more.
fn sweep_directories() {
    for entry in run_directory().parent().and_then(|base| base.read_dir().ok()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix("newcycle-test-"));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

async fn execute(endpoint: &Endpoint, database: &str, statement: &str) {
    let (client, connection) =
        endpoint.client_config(database).connect(tokio_postgres::NoTls).await.expect("the cluster answers");
    let driver = tokio::spawn(connection);
    client.batch_execute(statement).await.expect(statement);
    drop(client);
    let _ = driver.await;
}

/// A database of the test's own, migrated.
pub async fn database() -> Database {
    connect(&new_database().await).await
}

/// Another pool to a database.
pub async fn connect(name: &str) -> Database {
    Database::connect(cluster().await.client_config(name).into(), 16).await.expect("the database answers")
}

/// Makes a migrated database; its name.
pub async fn new_database() -> String {
    let endpoint = cluster().await;
    let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    execute(endpoint, "postgres", &format!("create database {name} template {TEMPLATE} strategy file_copy")).await;
    name
}

/// Makes a database without anything in it; its name.
pub async fn empty_database() -> String {
    let endpoint = cluster().await;
    let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    execute(endpoint, "postgres", &format!("create database {name} template template0")).await;
    name
}

/// A URL of a database, for programs.
pub async fn url(name: &str) -> String {
    cluster().await.url(name)
}

/// Runs psql on a database, as an analyst would: with the command that `make run` prints. Nothing where there is none
/// (the npm package of Postgres comes without).
pub async fn psql(name: &str, arguments: &[&str], input: &str) -> Option<String> {
    let arguments: Vec<_> = ["-v", "ON_ERROR_STOP=1"].iter().chain(arguments).copied().collect();
    program("psql", name, &arguments, input).await
}

/// Dumps a database with `pg_dump`. Nothing where there is none.
pub async fn dump(name: &str, arguments: &[&str]) -> Option<String> {
    program("pg_dump", name, arguments, "").await
}

#[expect(clippy::print_stdout, reason = "a skipped test says so")]
async fn program(program: &str, name: &str, arguments: &[&str], input: &str) -> Option<String> {
    let command = format!(
        "exec {} -d \"$0\" \"$@\"",
        cluster().await.psql_command().replacen("PGPASSFILE", "env PGPASSFILE", 1).replacen(
            "psql -h",
            &format!("{program} -h"),
            1
        )
    );
    let mut child = Command::new("sh")
        .args(["-c", &command, name])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a shell");
    let mut stdin = child.stdin.take().expect("its input");
    let input = input.to_owned();
    let writing = tokio::spawn(async move { stdin.write_all(input.as_bytes()).await });
    let output = child.wait_with_output().await.expect("it ends");
    if output.status.code() == Some(127) {
        println!("there is no {program} here: skipped");
        return None;
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    writing.await.expect("no panic").expect("it reads");
    Some(String::from_utf8(output.stdout).expect("UTF-8"))
}

/// Where the servers of a database keep their files.
pub fn data_directory(name: &str) -> PathBuf {
    run_directory().join("data").join(name)
}

/// A running server, stopped when dropped.
pub struct Server {
    pub name: String,
    pub database: Database,
    pub api: Api,
    pub address: SocketAddr,
    shutdown: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Server {
    /// With a database of its own.
    pub async fn start() -> Self {
        let name = new_database().await;
        Self::on(&name).await
    }

    /// With a database of its own, and not as one is by default.
    pub async fn with_settings(settings: server::Settings) -> Self {
        let name = new_database().await;
        Self::limited(&name, auth::Settings::default(), settings).await
    }

    /// One more on an existing database.
    pub async fn on(name: &str) -> Self {
        let database = connect(name).await;
        Self::with(name, database).await
    }

    /// One that reaches the database in its own way.
    pub async fn with(name: &str, database: Database) -> Self {
        Self::serve(name, database, auth::Settings::default(), server::Settings::default()).await
    }

    /// One that lets in whom these settings say.
    pub async fn guarded(name: &str, auth: auth::Settings) -> Self {
        Self::limited(name, auth, server::Settings::default()).await
    }

    /// One that also gives no more than these settings say.
    pub async fn limited(name: &str, auth: auth::Settings, settings: server::Settings) -> Self {
        Self::serve(name, connect(name).await, auth, settings).await
    }

    async fn serve(name: &str, database: Database, auth: auth::Settings, mut settings: server::Settings) -> Self {
        let scheme = if settings.tls.is_some() { "https" } else { "http" };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let data_directory = data_directory(name);
        settings.data_dir.clone_from(&data_directory);
        let task = tokio::spawn(async move {
            let authority = Authority::load(database.own_pool.clone(), auth).await.expect("the keys can be read");
            let depot = Depot::open(&settings.exports.export_store, &data_directory).expect("a store");
            server::run(&database, vec![listener], authority, depot, settings, token).await.expect("the server runs");
            database.close().await;
        });
        let server = Self {
            name: name.to_owned(),
            database: connect(name).await,
            api: Api::new(format!("{scheme}://{address}")),
            address,
            shutdown,
            task: Some(task),
        };
        server.api.until_ready().await;
        server
    }

    /// Something that streams tell: one more user.
    pub async fn happen(&self) {
        sqlx::query("insert into users default values").execute(&self.database.pool).await.expect("a user");
    }

    /// How many base items, users, items and transfers the ledger has.
    pub async fn rows(&self) -> [i64; 4] {
        let (base_items, users, items, transfers) = sqlx::query_as(
            "select (select count(*) from base_items), (select count(*) from users),
                (select count(*) from items), (select count(*) from transfers)",
        )
        .fetch_one(&self.database.pool)
        .await
        .expect("the tables can be counted");
        [base_items, users, items, transfers]
    }

    /// In how many buckets the statistics differ from a recount of the ledger.
    pub async fn differences(&self) -> i64 {
        sqlx::query_scalar("select count(*) from statistics.differences()")
            .fetch_one(&self.database.pool)
            .await
            .expect("a number")
    }

    /// Stops the server in order.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        if let Some(task) = self.task.take() {
            task.await.expect("the server stops");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Waits until the condition holds, asking again and again.
pub async fn eventually<F: Future<Output = Result<T, String>>, T>(mut condition: impl FnMut() -> F) -> T {
    let mut last = String::from("never asked");
    let asking = async {
        loop {
            match condition().await {
                Ok(value) => return value,
                Err(reason) => last = reason,
            }
            tokio::task::yield_now().await;
        }
    };
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain: {last}"),
    }
}
