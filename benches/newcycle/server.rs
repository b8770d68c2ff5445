//! The server under test: the program, as people run it.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout};
use tokio::time::{sleep, timeout};

use crate::http::{self, Connection};
use crate::{Outcome, Run, child};

/// It answers within half a second; one that takes longer than this has failed.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How often it is asked whether it is ready.
const START_POLL: Duration = Duration::from_millis(10);

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
        let log = run.directory.join("server.log");
        let mut command = child::command(env!("CARGO_BIN_EXE_newcycle"));
        command.arg("serve").env("DATABASE_URL", database_url).env("SERVER_PORT", "0").env("SERVER_HOST", "127.0.0.1");
        for variable in ["DASHBOARD_PORT", "NEWCYCLE_DATABASE_CONNECTIONS", "LOG_LEVEL", "LOG_FORMAT"] {
            command.env_remove(variable);
        }
        command.current_dir(&run.directory).stdout(Stdio::piped()).stderr(File::create(&log)?);
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
