//! The server under test: the program, as people run it.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{sleep, timeout};

use crate::http::{self, Connection};
use crate::{Outcome, Run, child};

/// It answers within half a second; one that takes longer than this has failed.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How often it is asked whether it is ready.
const START_POLL: Duration = Duration::from_millis(10);

/// Each has a log of its own: two may run at a time.
static SERVERS: AtomicU32 = AtomicU32::new(1);

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    child: Child,
    log: PathBuf,
    /// Kept open: printing into a closed pipe would end the server.
    _output: BufReader<ChildStdout>,
}

impl Server {
    /// Starts it and waits until it is ready. Its settings are those that people get, but for the database.
    pub(crate) async fn start(run: &Run, database_url: &str) -> Outcome<Self> {
        Self::start_with(run, database_url, &[]).await
    }

    /// The same with these settings.
    pub(crate) async fn start_with(run: &Run, database_url: &str, settings: &[(&str, &str)]) -> Outcome<Self> {
        let log = run.directory.join(format!("server-{}.log", SERVERS.fetch_add(1, Ordering::Relaxed)));
        let mut command = command(run, database_url);
        command.arg("serve").env("SERVER_PORT", "0").env("SERVER_HOST", "127.0.0.1").envs(settings.iter().copied());
        command.stdout(Stdio::piped()).stderr(File::create(&log)?);
        let mut child = command.spawn()?;
        let mut output = BufReader::new(child.stdout.take().ok_or("no output")?);
        let Ok(Ok(address)) = timeout(START_TIMEOUT, ready_line(&mut output)).await else {
            return Err(format!("newcycle did not start: {}", std::fs::read_to_string(&log)?).into());
        };
        let server = Self { address, child, log, _output: output };
        let deadline = Instant::now() + START_TIMEOUT;
        while !server.is_ready().unwrap_or(false) {
            if Instant::now() > deadline {
                return Err(format!("newcycle is not ready: {}", server.log()).into());
            }
            sleep(START_POLL).await;
        }
        Ok(server)
    }

    fn is_ready(&self) -> Outcome<bool> {
        Ok(Connection::open(self.address)?.send(&http::get("/readyz"))?.status == 200)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Outcome<u32> {
        self.child.id().ok_or_else(|| format!("newcycle has ended: {}", self.log()).into())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Asks it to end and waits for that.
    pub(crate) async fn stop(self) -> Outcome<()> {
        child::end(self.child).await
    }
}

/// Makes a key, as people do. The server has it when it is started afterwards.
pub(crate) async fn create_key(run: &Run, database_url: &str, name: &str, scopes: &str) -> Outcome<String> {
    let mut command = command(run, database_url);
    command.args(["keys", "create", "--name", name, "--scopes", scopes]);
    Ok(child::output(command, START_TIMEOUT).await?.trim().to_owned())
}

/// The program, with none of the settings of whoever runs the bench.
fn command(run: &Run, database_url: &str) -> Command {
    let mut command = child::command(env!("CARGO_BIN_EXE_newcycle"));
    let is_setting = |name: &str| name.starts_with("NEWCYCLE_");
    let names = std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_str().is_some_and(is_setting));
    for variable in names.chain(["DASHBOARD_PORT", "LOG_LEVEL", "LOG_FORMAT"].map(Into::into)) {
        command.env_remove(variable);
    }
    command.env("DATABASE_URL", database_url).current_dir(&run.directory);
    command
}

/// `newcycle is ready`, then where.
async fn ready_line(output: &mut BufReader<ChildStdout>) -> Outcome<SocketAddr> {
    let mut line = String::new();
    while output.read_line(&mut line).await? > 0 {
        if let Some((_, address)) = line.split_once("API docs   http://") {
            return Ok(address.split('/').next().unwrap_or_default().parse()?);
        }
        line.clear();
    }
    Err("it ended".into())
}
