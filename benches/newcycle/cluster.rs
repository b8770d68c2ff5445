//! A Postgres for one measurement, with fsync on, as newcycle itself runs it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use newcycle::database::Database;
use newcycle::database::embedded::{EmbeddedPostgres, Endpoint, Settings, USER};
use tokio_postgres::{Client, NoTls, types::FromSqlOwned};

use crate::{Outcome, Run, child};

/// The database that the others are copies of: the schema, and [`BASE_ITEMS`] base items.
pub(crate) const TEMPLATE: &str = "prepared";
/// So many kinds of items, taken in turns. More than one, since all writers of one would lock the same row.
pub(crate) const BASE_ITEMS: usize = 16;

/// Each has a directory of its own: an earlier one that was given up may not have ended yet.
static CLUSTERS: AtomicU32 = AtomicU32::new(1);

/// A running Postgres.
#[derive(Debug)]
pub(crate) struct Cluster {
    endpoint: Endpoint,
    /// Where psql and pgbench are, if they are there.
    programs: PathBuf,
}

impl Cluster {
    /// Does something with a new Postgres, which is gone afterwards. The settings are those of `alter system`.
    pub(crate) async fn with<T>(
        run: &Run,
        settings: &[(&str, &str)],
        work: impl AsyncFnOnce(&Self) -> Outcome<T>,
    ) -> Outcome<T> {
        let directory = run.directory.join(format!("postgres-{}", CLUSTERS.fetch_add(1, Ordering::Relaxed)));
        let mut postgres = EmbeddedPostgres::start(Settings::new(&directory)).await?;
        if !settings.is_empty() {
            for (name, value) in settings {
                execute(postgres.endpoint(), "postgres", &format!("alter system set {name} = '{value}'")).await?;
            }
            postgres.stop().await;
            postgres = EmbeddedPostgres::start(Settings::new(&directory)).await?;
        }
        let outcome = async {
            let cluster = Self::prepare(postgres.endpoint().clone()).await?;
            work(&cluster).await
        }
        .await;
        postgres.stop().await;
        std::fs::remove_dir_all(directory)?;
        outcome
    }

    async fn prepare(endpoint: Endpoint) -> Outcome<Self> {
        execute(&endpoint, "postgres", &format!("create database {TEMPLATE}")).await?;
        let database = Database::connect(endpoint.client_config(TEMPLATE).into(), 2).await?;
        let migrated = database.migrate().await;
        database.close().await;
        migrated?;
        let values: Vec<_> = (0..BASE_ITEMS).map(|n| format!("('{}', 'kind {n}')", base_item(n))).collect();
        let seed = format!("insert into base_items (id, description) values {}", values.join(", "));
        execute(&endpoint, TEMPLATE, &seed).await?;
        let programs = query(&endpoint, TEMPLATE, "select setting from pg_config where name = 'BINDIR'").await?;
        Ok(Self { endpoint, programs: PathBuf::from(only::<String>(&programs)) })
    }

    /// A new copy of the template, in the place of an earlier one of that name.
    pub(crate) async fn fresh(&self, name: &str) -> Outcome<()> {
        self.copy(TEMPLATE, name).await
    }

    /// A new copy of a database that nobody is connected to.
    pub(crate) async fn copy(&self, template: &str, name: &str) -> Outcome<()> {
        self.execute("postgres", &format!("drop database if exists {name} with (force)")).await?;
        self.execute("postgres", &format!("create database {name} template {template}")).await
    }

    /// What was written before should not be written to the disk while the next thing is measured.
    pub(crate) async fn settle(&self) -> Outcome<()> {
        self.execute("postgres", "checkpoint").await
    }

    /// A connection of one's own.
    pub(crate) async fn connect(&self, database: &str) -> Outcome<Client> {
        connect(&self.endpoint, database).await
    }

    pub(crate) async fn execute(&self, database: &str, statements: &str) -> Outcome<()> {
        execute(&self.endpoint, database, statements).await
    }

    /// The first column of the only row.
    pub(crate) async fn value<T: FromSqlOwned>(&self, database: &str, statement: &str) -> Outcome<T> {
        Ok(only(&query(&self.endpoint, database, statement).await?))
    }

    /// All rows.
    pub(crate) async fn rows(&self, database: &str, statement: &str) -> Outcome<Vec<tokio_postgres::Row>> {
        query(&self.endpoint, database, statement).await
    }

    /// For newcycle: over TCP, like pgbench.
    pub(crate) fn url(&self, database: &str) -> String {
        self.endpoint.url(database)
    }

    /// A client program of this installation with the connection's parameters, if it is there.
    pub(crate) fn program(&self, name: &str, database: &str) -> Option<tokio::process::Command> {
        let program = self.programs.join(name);
        if !program.is_file() {
            return None;
        }
        let mut command = child::command(program);
        command
            .env("PGHOST", self.endpoint.host().to_string())
            .env("PGPORT", self.endpoint.port().to_string())
            .env("PGUSER", USER)
            .env("PGPASSWORD", self.endpoint.password())
            .env("PGDATABASE", database)
            .env("PGSSLMODE", "disable")
            .env_remove("PGOPTIONS");
        Some(command)
    }

    /// The version of this Postgres.
    pub(crate) async fn version(&self) -> Outcome<String> {
        self.value("postgres", "show server_version").await
    }

    /// Fails unless the ledger has exactly so many items and the statistics agree with it.
    pub(crate) async fn check_items(&self, database: &str, acknowledged: u64) -> Outcome<()> {
        let items: i64 = self.value(database, "select count(*) from items").await?;
        if u64::try_from(items)? != acknowledged {
            return Err(
                format!("NOT EXACT: {acknowledged} inserts were acknowledged, the ledger has {items} items").into()
            );
        }
        self.check_statistics(database).await
    }

    /// Fails unless the statistics agree with a recount of the ledger.
    pub(crate) async fn check_statistics(&self, database: &str) -> Outcome<()> {
        let differences: i64 = self.value(database, "select count(*) from statistics.differences()").await?;
        if differences != 0 {
            return Err(format!("NOT EXACT: {differences} counts differ from a recount of the ledger").into());
        }
        Ok(())
    }
}

/// The id of a base item of the template.
pub(crate) fn base_item(number: usize) -> String {
    format!("00000000-0000-7000-8000-{:012}", number % BASE_ITEMS + 1)
}

async fn connect(endpoint: &Endpoint, database: &str) -> Outcome<Client> {
    let (client, connection) = endpoint.client_config(database).connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn execute(endpoint: &Endpoint, database: &str, statements: &str) -> Outcome<()> {
    let result = connect(endpoint, database).await?.batch_execute(statements).await;
    result.map_err(|error| described(&error, statements))
}

async fn query(endpoint: &Endpoint, database: &str, statement: &str) -> Outcome<Vec<tokio_postgres::Row>> {
    let result = connect(endpoint, database).await?.query(statement, &[]).await;
    result.map_err(|error| described(&error, statement))
}

fn only<T: FromSqlOwned>(rows: &[tokio_postgres::Row]) -> T {
    rows[0].get(0)
}

fn described(error: &tokio_postgres::Error, statement: &str) -> Box<dyn std::error::Error + Send + Sync> {
    let reason = error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string);
    format!("{reason}, of: {}", statement.chars().take(200).collect::<String>()).into()
}
