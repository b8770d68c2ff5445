//! What is around the server: its disks, its store, and whether it runs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Client;
use rustix::fs::{Access, access, statvfs};
use rustix::io::Errno;
use tokio::time::timeout;

use super::ServeSettings;
use super::finding::{Finding, Report};
use crate::database::DatabaseSettings;
use crate::exports::{Depot, Store};

/// A server that is not ready says so within two seconds.
const SERVER_TIMEOUT: Duration = Duration::from_secs(5);
/// A store that is elsewhere answers within a second.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);
/// Of a disk, so much should be free; below the second number it is full at the next load.
const LITTLE_SPACE: f64 = 0.10;
const NO_SPACE: f64 = 0.02;
/// Of large disks a tenth is much: above this there is no hurry.
const MUCH_SPACE: u64 = 20 << 30;

pub(super) async fn check(serve: &ServeSettings, database: &DatabaseSettings, report: &mut Report) {
    report.add("store", [store(&serve.exports.export_store, &database.data_dir).await]);
    let mut places = Vec::new();
    if let Some(directory) = serve.exports.export_store.directory(&database.data_dir) {
        places.push(directory);
    }
    if database.data_dir.join("cluster").is_dir() {
        places.push(database.data_dir.clone());
    }
    report.add("disk", places.iter().filter_map(|place| disk(place)));
    report.add("server", [server(serve).await]);
}

/// Whether files of exports can be kept. Nothing is written to see it.
async fn store(store: &Store, data_dir: &Path) -> Finding {
    if let Some(directory) = store.directory(data_dir) {
        let existing = existing(&directory);
        let rights = access(&existing, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK);
        return match rights.and(if existing.is_dir() { Ok(()) } else { Err(Errno::NOTDIR) }) {
            Ok(()) => Finding::ok(format!("files of exports go to {}", directory.display())),
            Err(error) => Finding::problem(
                format!("{} cannot be written, where files of exports go: {error}", existing.display()),
                format!("chown newcycle {}, or another NEWCYCLE_EXPORT_STORE", existing.display()),
            ),
        };
    }
    let remedy = "NEWCYCLE_EXPORT_STORE, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT";
    match Depot::open(store, data_dir) {
        Err(error) => Finding::problem(error.to_string(), remedy),
        Ok(depot) => match timeout(STORE_TIMEOUT, depot.answers()).await {
            Ok(Ok(())) => Finding::ok("the store for exports answers (whether it can be written is seen by an export)"),
            Ok(Err(reason)) => Finding::problem(reason, remedy),
            Err(_) => Finding::problem("the store for exports does not answer", remedy),
        },
    }
}

/// The directory, or the nearest above it that is there, in which it would be made.
fn existing(directory: &Path) -> PathBuf {
    let absolute = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
    absolute.ancestors().find(|path| path.exists()).map_or(absolute.clone(), Path::to_owned)
}

fn disk(directory: &Path) -> Option<Finding> {
    let existing = existing(directory);
    let disk = statvfs(&existing).ok().filter(|disk| disk.f_blocks > 0)?;
    let free = disk.f_bavail * disk.f_frsize;
    let share = disk.f_bavail as f64 / disk.f_blocks as f64;
    let found = format!("{:.1} GB ({:.0} %) are free at {}", free as f64 / 1e9, share * 100.0, directory.display());
    let remedy = "make room or enlarge it; `du -xh --max-depth=2 DIRECTORY | sort -h` says what takes it";
    Some(if free > MUCH_SPACE || share > LITTLE_SPACE {
        Finding::ok(found)
    } else if share > NO_SPACE {
        Finding::warning(format!("only {found}"), remedy)
    } else {
        Finding::problem(format!("only {found}"), remedy)
    })
}

/// Whether the server, if it runs, can do its work.
async fn server(serve: &ServeSettings) -> Finding {
    if serve.server_port == 0 {
        return Finding::skipped("its port is any free one");
    }
    let host = match serve.server_host {
        host if !host.is_unspecified() => host,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let scheme = if serve.tls.named_pair().is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}/readyz", SocketAddr::new(host, serve.server_port));
    // Its certificate is for its name, not for this address; and nothing is sent.
    let client = Client::builder().tls_danger_accept_invalid_certs(true).timeout(SERVER_TIMEOUT).build();
    let answer = match client {
        Ok(client) => client.get(&url).send().await,
        Err(error) => Err(error),
    };
    match answer {
        Ok(answer) if answer.status().is_success() => Finding::ok(format!("{url} answers that it is ready")),
        Ok(answer) => {
            let status = answer.status();
            let text = answer.text().await.unwrap_or_default();
            Finding::problem(
                format!("{url} answers {status}: {}", text.chars().take(200).collect::<String>()),
                "if that is newcycle, see what else is wrong here, and its log: journalctl -u newcycle -n 100",
            )
        }
        Err(error) if error.is_connect() => {
            Finding::skipped(format!("no server listens at {url} (systemctl status newcycle, if one should)"))
        }
        Err(_) => Finding::problem(
            format!("{url} does not answer within {} s", SERVER_TIMEOUT.as_secs()),
            "look at its log (journalctl -u newcycle -n 100) and at the load of the machine; a restart loses nothing",
        ),
    }
}
