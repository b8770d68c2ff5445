//! Programs that end when we do.

use std::ffi::OsStr;
use std::io;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::Outcome;

/// What is asked to end has this long before it is killed.
const END_TIMEOUT: Duration = Duration::from_secs(15);

/// A program that is killed when it is dropped, and told to end when we are killed.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.kill_on_drop(true).stdin(Stdio::null());
    let in_child = || rustix::process::set_parent_process_death_signal(Some(Signal::TERM)).map_err(io::Error::from);
    // SAFETY: between fork and exec one async-signal-safe system call is made, and nothing is allocated.
    #[expect(unsafe_code, reason = "a death signal can only be set between fork and exec")]
    unsafe {
        command.pre_exec(in_child);
    }
    command
}

/// Asks it to end, and kills it if it does not.
pub(crate) async fn end(mut child: Child) -> Outcome<()> {
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)) {
        rustix::process::kill_process(pid, Signal::TERM)?;
    }
    if timeout(END_TIMEOUT, child.wait()).await.is_err() {
        child.kill().await?;
    }
    Ok(())
}

/// Runs a program to its end; what it printed.
pub(crate) async fn output(mut command: Command, patience: Duration) -> Outcome<String> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let child = command.spawn().map_err(|error| format!("cannot run {name}: {error}"))?;
    let Ok(output) = timeout(patience, child.wait_with_output()).await else {
        return Err(format!("{name} did not end within {} s", patience.as_secs()).into());
    };
    let output = output?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{name} failed: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
    }
}
