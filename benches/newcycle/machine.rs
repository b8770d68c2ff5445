//! The machine and the versions that figures were taken on.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::figures::number;

/// How long the disk is tried.
const SYNC_TIME: Duration = Duration::from_secs(1);
/// What Postgres writes at least for a commit.
const SYNC_SIZE: usize = 8 * 1024;

/// Lines of the report: what, and which.
pub(crate) type Description = Vec<(&'static str, String)>;

pub(crate) fn describe(directory: &Path) -> Outcome<Description> {
    let commit = said("git", &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty", "--abbrev=12"]);
    Ok(vec![
        (
            "newcycle",
            format!("{} ({})", env!("CARGO_PKG_VERSION"), commit.unwrap_or_else(|| "unknown commit".to_owned())),
        ),
        ("rustc", said("rustc", &["--version"]).unwrap_or_else(|| "unknown".to_owned())),
        ("CPU", format!("{}, {} cores", field("/proc/cpuinfo", "model name"), std::thread::available_parallelism()?)),
        ("memory", memory()),
        ("kernel", fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned()),
        ("disk", format!("{} fdatasync/s of 8 KB", number(syncs_per_second(directory)?))),
    ])
}

/// The resident memory of a process, in bytes.
pub(crate) fn resident(pid: u32) -> Outcome<u64> {
    memory_of(pid, "VmRSS")
}

/// The most resident memory that a process has had so far, in bytes.
pub(crate) fn peak(pid: u32) -> Outcome<u64> {
    memory_of(pid, "VmHWM")
}

fn memory_of(pid: u32, name: &str) -> Outcome<u64> {
    let kilobytes: u64 = field(&format!("/proc/{pid}/status"), name).trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024)
}

/// Processor time that a process has taken, threads and all.
pub(crate) fn processor_time(pid: u32) -> Outcome<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // After the name in parentheses: state is the third field, user and system time the 14th and 15th, in ticks.
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

fn memory() -> String {
    let kilobytes: f64 = field("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse().unwrap_or(f64::NAN);
    format!("{} GB", number(kilobytes * 1024.0 / 1e9))
}

/// The first `name: value` of a file.
fn field(path: &str, name: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'));
    line.unwrap_or("unknown").trim().to_owned()
}

/// What a program says in one line, if it is there.
pub(crate) fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    // nginx says its version where others complain.
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    Some(String::from_utf8_lossy(&text).trim().to_owned())
}

fn syncs_per_second(directory: &Path) -> Outcome<f64> {
    let path = directory.join("sync");
    let mut file = File::create(&path)?;
    let page = [1; SYNC_SIZE];
    file.write_all(&page)?;
    file.sync_all()?;
    let begin = Instant::now();
    let mut syncs = 0;
    while begin.elapsed() < SYNC_TIME {
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&page)?;
        file.sync_data()?;
        syncs += 1;
    }
    let rate = f64::from(syncs) / begin.elapsed().as_secs_f64();
    fs::remove_file(path)?;
    Ok(rate)
}
