//! Running Postgres programs: as whom, from where, and how they end when we do.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use rustix::io::FdFlags;
use rustix::process::{Pid, Signal};
use tokio::sync::{oneshot, watch};

use super::cluster::Account;

/// `program -D directory`, run as `account`, in a session of its own, and told to end when the calling thread does.
///
/// A session of its own: Ctrl-C in a terminal reaches all of the terminal's process group, and Postgres must end after
/// us, not with us.
pub(super) fn command(program: &Path, directory: &Path, account: Option<&Account>) -> io::Result<Command> {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C").env_remove("PGDATA").env_remove("PGPORT").env_remove("PGOPTIONS");
    command.current_dir("/").stdin(Stdio::null());
    let mut handle = None;
    if let Some(account) = account {
        command.uid(account.uid).gid(account.gid);
    }
    if account.is_some() && cfg!(target_os = "linux") {
        // The account may search no parent of the directory: think of a project under /root. An open directory can be
        // entered through /proc all the same, as long as the account may search the directory itself.
        let open = File::open(directory)?;
        command.arg("-D").arg(format!("/proc/self/fd/{}", open.as_raw_fd()));
        handle = Some(open);
    } else {
        command.arg("-D").arg(directory);
    }
    let parent = rustix::process::getpid();
    let in_child = move || {
        rustix::process::setsid()?;
        if let Some(handle) = &handle {
            rustix::io::fcntl_setfd(handle, FdFlags::empty())?;
        }
        end_with_parent(parent)
    };
    // SAFETY: between fork and exec only async-signal-safe system calls are made, and nothing is allocated.
    #[expect(unsafe_code, reason = "a death signal and a session can only be set between fork and exec")]
    unsafe {
        command.pre_exec(in_child);
    }
    Ok(command)
}

/// SIGINT, Postgres' signal for a fast shutdown, when the *thread* that forked this process ends.
#[cfg(target_os = "linux")]
fn end_with_parent(parent: Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::INT))?;
    // It may have ended before the line above.
    if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::Interrupted.into()) }
}

/// Other systems have no such signal: the next start ends what a killed process left behind.
#[cfg(not(target_os = "linux"))]
fn end_with_parent(_: Pid) -> io::Result<()> {
    Ok(())
}

/// Sends `signal`; a process that is gone already needs none.
pub(super) fn signal(pid: Pid, signal: Signal) {
    if let Err(error) = rustix::process::kill_process(pid, signal) {
        tracing::debug!(pid = pid.as_raw_pid(), %error, "cannot signal PostgreSQL");
    }
}

/// The first process of a running Postgres; told to end when dropped.
#[derive(Debug)]
pub(super) struct Postmaster {
    pid: Pid,
    on_drop: Signal,
    exit: watch::Receiver<Option<ExitStatus>>,
}

impl Postmaster {
    /// Runs `command` on a thread that does nothing but wait for it: the death signal comes when that thread ends, so
    /// it must live as long as we do, which threads of the runtime need not.
    pub(super) async fn spawn(mut command: Command, on_drop: Signal) -> io::Result<Self> {
        let (started, start) = oneshot::channel();
        thread::Builder::new().name("postgres".to_owned()).spawn(move || {
            let mut child = match command.spawn() {
                Ok(child) => child,
                Err(error) => return drop(started.send(Err(error))),
            };
            let (exited, exit) = watch::channel(None);
            // When nobody waits for it any more, it comes back in the error and is told to end as that is dropped.
            let _ = started.send(Ok(Self { pid: Pid::from_child(&child), on_drop, exit }));
            let status = child.wait();
            tracing::debug!(?status, "PostgreSQL has ended");
            exited.send_replace(status.ok());
        })?;
        start.await.unwrap_or_else(|_| Err(io::Error::other("the thread that runs PostgreSQL panicked")))
    }

    /// Completes when the process has ended.
    pub(super) async fn exited(&self) -> Option<ExitStatus> {
        let mut exit = self.exit.clone();
        exit.wait_for(Option::is_some).await.ok().and_then(|status| *status)
    }

    pub(super) fn signal(&self, kind: Signal) {
        if self.exit.borrow().is_none() && self.exit.has_changed().is_ok() {
            signal(self.pid, kind);
        }
    }
}

impl Drop for Postmaster {
    fn drop(&mut self) {
        self.signal(self.on_drop);
    }
}
