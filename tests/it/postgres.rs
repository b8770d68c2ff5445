//! A Postgres of the test's own, which can be ended in every way, and started again.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use newcycle::database::embedded::{DATABASE, EmbeddedPostgres, Settings, USER};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::harness::in_memory;

pub struct Postgres {
    directory: TempDir,
    running: Option<EmbeddedPostgres>,
}

impl Postgres {
    pub async fn start() -> Self {
        Self::start_in(&in_memory()).await
    }

    /// With its files in a directory of its own there.
    pub async fn start_in(place: &Path) -> Self {
        let directory = tempfile::tempdir_in(place).expect("a directory");
        let mut postgres = Self { directory, running: None };
        postgres.start_again().await;
        postgres
    }

    /// A standby of it, which receives everything that it writes. It is stopped and started for that.
    pub async fn standby(&mut self) -> Self {
        self.end(Signal::INT).await;
        let directory = tempfile::tempdir_in(in_memory()).expect("a directory");
        let copied =
            Command::new("cp").args(["-a", "."]).arg(directory.path()).current_dir(self.directory.path()).status();
        assert!(copied.is_ok_and(|status| status.success()), "its files are copied");
        self.start_again().await;
        let cluster = directory.path().join("cluster");
        let mut settings = std::fs::read_to_string(cluster.join("postgresql.auto.conf")).expect("its settings");
        let primary = self.running.as_ref().expect("it runs").endpoint();
        settings += &format!(
            "primary_conninfo = 'host={} port={} user={USER} password={}'\n",
            primary.host(),
            primary.port(),
            primary.password()
        );
        std::fs::write(cluster.join("postgresql.auto.conf"), settings).expect("its settings");
        std::fs::write(cluster.join("standby.signal"), "").expect("a file");
        let mut standby = Self { directory, running: None };
        standby.start_again().await;
        standby
    }

    /// Starts it again, at the same address.
    pub async fn start_again(&mut self) {
        self.running = None;
        let running = EmbeddedPostgres::start(Settings::new(self.directory.path())).await.expect("it starts");
        self.running = Some(running);
    }

    /// Ends it by a signal: SIGINT for a fast shutdown, SIGQUIT for an immediate one, SIGKILL for none.
    pub async fn end(&mut self, signal: Signal) {
        let running = self.running.take().expect("it runs");
        let file = std::fs::read_to_string(self.directory.path().join("cluster/postmaster.pid")).expect("its file");
        let pid = file.lines().next().and_then(|line| line.parse().ok()).and_then(Pid::from_raw).expect("its process");
        kill_process(pid, signal).expect("it is told");
        running.exited().await;
    }

    /// Waits until it ends by itself.
    pub async fn exited(&self) {
        self.running.as_ref().expect("it runs").exited().await;
    }

    pub fn url(&self) -> String {
        self.running.as_ref().expect("it runs").endpoint().url(DATABASE)
    }

    /// Its host and port.
    pub fn address(&self) -> SocketAddr {
        let endpoint = self.running.as_ref().expect("it runs").endpoint();
        SocketAddr::from((endpoint.host(), endpoint.port()))
    }

    /// Where whoever uses it may keep files.
    pub fn files(&self) -> PathBuf {
        self.directory.path().join("files")
    }
}
