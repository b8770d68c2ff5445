//! What tests break things with: servers that can be killed, tables that nobody gets at, disks that are full, and chance, which is the same in each run.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use sqlx::{Connection, Executor, PgConnection, PgPool};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::yield_now;

use crate::api::Api;
use crate::harness::{data_directory, eventually, in_memory, url};

/// Numbers that look random and are the same in each run.
pub struct Chance(pub u64);

impl Chance {
    pub fn below(&mut self, end: u64) -> u64 {
        // Source: Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014 (splitmix64).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    /// Lets others go on for a while.
    pub async fn pass(&mut self, most: u64) {
        for _ in 0..self.below(most) {
            yield_now().await;
        }
    }
}

/// A server in a process of its own, which can be killed.
pub struct Process {
    pub child: Child,
    pub api: Api,
}

impl Process {
    /// On a database, after these commands of a shell, with these settings.
    pub async fn start(name: &str, commands: &str, settings: &[(&str, &str)]) -> Self {
        Self::on(&url(name).await, &data_directory(name), commands, settings).await
    }

    /// On a database anywhere, with its files there.
    pub async fn on(url: &str, files: &Path, commands: &str, settings: &[(&str, &str)]) -> Self {
        // A soak is of the program as it is released.
        let binary = std::env::var("NEWCYCLE_BINARY");
        let binary = binary.as_deref().unwrap_or(env!("CARGO_BIN_EXE_newcycle"));
        let mut child = Command::new("sh")
            .args(["-c", &format!("{commands} exec \"$0\" serve"), binary])
            .env("DATABASE_URL", url)
            .env("SERVER_PORT", "0")
            .env("NEWCYCLE_EXPORT_STORE", files.join("exports"))
            .env("NEWCYCLE_DATA_DIR", files)
            // All tests share the connections that a cluster has.
            .env("NEWCYCLE_DATABASE_CONNECTIONS", "4")
            .env_remove("DASHBOARD_PORT")
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let address = loop {
            let line = lines.next_line().await.expect("text").expect("the address");
            if let Some(url) = line.trim().strip_prefix("dashboard") {
                break url.trim().trim_end_matches('/').to_owned();
            }
        };
        let api = Api::new(address);
        api.until_ready().await;
        Self { child, api }
    }
}

/// Somebody who keeps everybody from reading or writing a table, until this is dropped.
pub struct Obstacle(PgConnection);

impl Obstacle {
    /// Of a database of that name.
    pub async fn before(table: &str, name: &str) -> Self {
        let mut connection = PgConnection::connect(&url(name).await).await.expect("a connection");
        for statement in ["begin", &format!("lock table {table} in access exclusive mode")] {
            connection.execute(sqlx::AssertSqlSafe(statement)).await.expect(statement);
        }
        Self(connection)
    }

    /// Waits until somebody waits for it.
    pub async fn is_met(&self, pool: &PgPool) {
        eventually(|| async {
            let waiting: i64 = sqlx::query_scalar(
                "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
            )
            .fetch_one(pool)
            .await
            .map_err(|error| error.to_string())?;
            if waiting > 0 { Ok(()) } else { Err("nobody waits".to_owned()) }
        })
        .await;
    }

    pub async fn remove(self) {
        self.0.close().await.expect("it ends");
    }
}

/// A file system with room for so many megabytes, until this is dropped. Nothing where none can be made.
pub struct SmallDisk(TempDir);

impl SmallDisk {
    #[expect(clippy::print_stdout, reason = "a skipped test says so")]
    pub fn mount(megabytes: u32) -> Option<Self> {
        let directory = tempfile::tempdir_in(in_memory()).expect("a directory");
        let size = format!("size={megabytes}m");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "newcycle-test"])
            .arg(directory.path())
            .stderr(Stdio::null())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            Some(Self(directory))
        } else {
            println!("no file system can be mounted here: skipped");
            None
        }
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file until there is no room for more.
    pub fn fill(&self) -> PathBuf {
        let filler = self.path().join("filler");
        let mut file = File::create(&filler).expect("a file");
        while file.write_all(&[0; 1 << 16]).is_ok() {}
        filler
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}
