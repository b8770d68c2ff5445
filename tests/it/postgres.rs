//! A Postgres of the test's own, which can be ended in every way, and started again.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use newcycle::database::embedded::{DATABASE, EmbeddedPostgres, Settings, USER};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::fault_clocks::Clock;
use crate::harness::in_memory;

pub struct Postgres {
    directory: TempDir,
    /// Its programs, if not those that are found.
    programs: Option<PathBuf>,
    running: Option<EmbeddedPostgres>,
}

impl Postgres {
    pub async fn start() -> Self {
        Self::start_in(&in_memory()).await
    }

    /// With its files in a directory of its own there.
    pub async fn start_in(place: &Path) -> Self {
        let directory = tempfile::tempdir_in(place).expect("a directory");
        let mut postgres = Self { directory, programs: None, running: None };
        postgres.start_again().await;
        postgres
    }

    /// One that is nowhere yet: its files are put into its directory before it is started.
    pub fn nowhere() -> Self {
        let directory = tempfile::tempdir_in(in_memory()).expect("a directory");
        // Whoever runs Postgres is somebody else than who runs tests, if that is root.
        std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("it is open");
        Self { directory, programs: None, running: None }
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
        let mut standby = Self { directory, programs: None, running: None };
        standby.start_again().await;
        standby
    }

    /// Starts it again, by another clock.
    pub async fn go_by(&mut self, clock: &Clock) {
        let started = std::fs::read_to_string(self.directory.path().join("cluster/postmaster.opts")).expect("its file");
        let program = PathBuf::from(started.split_whitespace().next().expect("its program"));
        self.end(Signal::INT).await;
        let programs = self.directory.path().join("programs");
        std::fs::create_dir(&programs).expect("a directory");
        symlink(program.with_file_name("initdb"), programs.join("initdb")).expect("a link");
        let environment: String =
            clock.environment().iter().map(|(name, value)| format!("export {name}='{value}'\n")).collect();
        let script = format!("#!/bin/sh\n{environment}exec '{}' \"$@\"\n", program.display());
        std::fs::write(programs.join("postgres"), script).expect("a program");
        // Whoever runs Postgres is somebody else than who runs tests, if that is root.
        for path in [self.directory.path(), &programs, &programs.join("postgres"), clock.directory()] {
            std::fs::set_permissions(path, Permissions::from_mode(0o755)).expect("it is open");
        }
        self.programs = Some(programs);
        self.start_again().await;
    }

    /// Starts it again, at the same address.
    pub async fn start_again(&mut self) {
        self.running = None;
        let mut settings = Settings::new(self.directory.path());
        settings.binaries = self.programs.clone().or(settings.binaries);
        let running = EmbeddedPostgres::start(settings).await.expect("it starts");
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

    /// Where its files are, and its password.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where its data are.
    pub fn cluster(&self) -> PathBuf {
        self.directory.path().join("cluster")
    }

    /// Where whoever uses it may keep files.
    pub fn files(&self) -> PathBuf {
        self.directory.path().join("files")
    }
}
