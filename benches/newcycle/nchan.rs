//! The peer for streams: nginx with nchan, a server in C that does nothing else.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::Child;
use tokio::time::sleep;

use crate::http::{self, Connection};
use crate::{Outcome, Run, child, machine};

/// Where Debian puts it, and where it is when it was compiled in by hand.
const PROGRAMS: [&str; 3] = ["/usr/sbin/nginx", "/usr/local/nginx/sbin/nginx", "/usr/local/sbin/nginx"];
const MODULES: [&str; 3] = [
    "/usr/lib/nginx/modules/ngx_nchan_module.so",
    "/usr/lib64/nginx/modules/ngx_nchan_module.so",
    "/usr/local/nginx/modules/ngx_nchan_module.so",
];
/// It starts in a tenth of a second.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is asked.
const START_POLL: Duration = Duration::from_millis(10);

/// Where nginx and the module are.
#[derive(Clone, Debug)]
pub(crate) struct Installation {
    program: PathBuf,
    module: PathBuf,
}

impl Installation {
    pub(crate) fn find() -> Option<Self> {
        let existing = |paths: [&str; 3]| paths.into_iter().map(PathBuf::from).find(|path| path.is_file());
        Some(Self { program: existing(PROGRAMS)?, module: existing(MODULES)? })
    }

    pub(crate) fn version(&self) -> String {
        let nginx = machine::said(&self.program.to_string_lossy(), &["-v"]).unwrap_or_default();
        let package = machine::said("dpkg-query", &["-W", "-f=${Version}", "libnginx-mod-nchan"]);
        let nchan = package.map(|version| format!(", nchan {version}")).unwrap_or_default();
        format!("{}{nchan}", nginx.trim_start_matches("nginx version: "))
    }
}

/// A running nginx with one channel.
#[derive(Debug)]
pub(crate) struct Nchan {
    pub(crate) address: SocketAddr,
    child: Child,
    directory: PathBuf,
}

impl Nchan {
    pub(crate) const SUBSCRIBE: &'static str = "/subscribe";
    pub(crate) const PUBLISH: &'static str = "/publish";

    pub(crate) async fn start(run: &Run, installation: &Installation) -> Outcome<Self> {
        let directory = run.directory.join("nginx");
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory)?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let configuration = directory.join("nginx.conf");
        fs::write(&configuration, configured(installation, &directory, address)?)?;
        let mut command = child::command(&installation.program);
        command.arg("-p").arg(&directory).arg("-c").arg(&configuration).arg("-e").arg(directory.join("error.log"));
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let nchan = Self { address, child, directory };
        let deadline = Instant::now() + START_TIMEOUT;
        while !nchan.answers() {
            if Instant::now() > deadline {
                let log = fs::read_to_string(nchan.directory.join("error.log")).unwrap_or_default();
                return Err(format!("nginx does not start: {log}").into());
            }
            sleep(START_POLL).await;
        }
        Ok(nchan)
    }

    fn answers(&self) -> bool {
        // A channel without messages and subscribers does not exist yet, which is an answer as well.
        Connection::open(self.address).and_then(|mut connection| connection.send(&http::get(Self::PUBLISH))).is_ok()
    }

    /// The memory of all its processes, in bytes. What they share is counted once for each that touched it.
    pub(crate) fn resident(&self) -> Outcome<u64> {
        let master = self.child.id().ok_or("nginx has ended")?;
        let children = fs::read_to_string(format!("/proc/{master}/task/{master}/children"))?;
        let workers = children.split_whitespace().map(str::parse::<u32>);
        let mut sum = machine::resident(master)?;
        for worker in workers {
            sum += machine::resident(worker?)?;
        }
        Ok(sum)
    }

    pub(crate) async fn stop(self) -> Outcome<()> {
        child::end(self.child).await
    }
}

/// As many workers as cores, and nothing logged. With fewer messages kept it loses some when the machine is busy.
fn configured(installation: &Installation, directory: &Path, address: SocketAddr) -> Outcome<String> {
    let workers = std::thread::available_parallelism()?;
    let module = installation.module.display();
    let directory = directory.display();
    let files = crate::OPEN_FILES;
    let (publish, subscribe) = (Nchan::PUBLISH, Nchan::SUBSCRIBE);
    Ok(format!(
        "load_module {module};
daemon off;
worker_processes {workers};
worker_rlimit_nofile {files};
pid {directory}/nginx.pid;
error_log {directory}/error.log error;
events {{ worker_connections {files}; multi_accept on; }}
http {{
    access_log off;
    tcp_nodelay on;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    nchan_shared_memory_size 128m;
    keepalive_requests 1000000;
    server {{
        listen {address} backlog=4096;
        location = {publish} {{
            nchan_publisher;
            nchan_channel_id bench;
            nchan_message_buffer_length 1000;
        }}
        location = {subscribe} {{
            nchan_subscriber eventsource;
            nchan_channel_id bench;
            nchan_subscriber_first_message newest;
        }}
    }}
}}
"
    ))
}
