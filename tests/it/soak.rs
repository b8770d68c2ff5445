//! `make soak`: everything at once, for an hour, while something is broken every few seconds.
//!
//! Two servers, Postgres with fsync on, writers, readers who read and readers who do not, exports and a data stream. One server
//! lives through all of it, and its memory is watched. In the end nothing may be lost or doubled, and the report says so.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use chrono::Utc;
use newcycle::http::ConnectionSettings;
use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use sqlx::{Connection, Executor, PgConnection, PgPool};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::api::Api;
use crate::fault_readers::{one_who_asks_and_reads_nothing, server_of};
use crate::faults::{Chance, Process};
use crate::harness::eventually;
use crate::load::{Load, Place, Plan, Tally};
use crate::postgres::Postgres;
use crate::proxy::{Network, Proxy};
use crate::source::{Source, numbered};
use crate::streams::{assert_equal, create, cursors, over, run};

/// Between two faults, so that everything has recovered, and has had a while to be as usual.
const BETWEEN_FAULTS: Duration = Duration::from_secs(15);
/// A pause of each writer between two requests: an hour of writing as fast as it goes is another thing to measure.
const WRITERS_PAUSE: Duration = Duration::from_millis(10);
/// How long the network is away, or a table locked.
const OUTAGE: Duration = Duration::from_secs(2);
/// How long a file of some million transfers may take while everything else goes on, with beginning anew.
const EXPORT: Duration = Duration::from_mins(5);
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);
/// Readers who read nothing.
const SILENT: usize = 200;
/// What an array of the readers who read nothing is made of.
const MANY_USERS: &str =
    "insert into users (created_at) select now() - n * interval '1 ms' from generate_series(1, 10000) n returning id";
/// Of the server that lives through it all, memory may be so much more in the end than after the first fifth.
const MOST_GROWTH: f64 = 1.10;

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    ServerKilled,
    ServerStopped,
    BackendTerminated,
    NetworkCut,
    NetworkSilent,
    LedgerLocked,
    PostgresStopped,
    PostgresKilled,
    ReadersGone,
}

impl Fault {
    /// Those of one thing are not next to each other.
    const ALL: [Self; 9] = [
        Self::ServerKilled,
        Self::BackendTerminated,
        Self::NetworkCut,
        Self::ReadersGone,
        Self::ServerStopped,
        Self::LedgerLocked,
        Self::PostgresKilled,
        Self::NetworkSilent,
        Self::PostgresStopped,
    ];
}

impl Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::ServerKilled => "one of two servers killed",
            Self::ServerStopped => "one of two servers stopped",
            Self::BackendTerminated => "a connection terminated by Postgres",
            Self::NetworkCut => "the network to Postgres cut for 2 s",
            Self::NetworkSilent => "the network to Postgres silent for 2 s",
            Self::LedgerLocked => "the transfers locked for 2 s",
            Self::PostgresStopped => "Postgres stopped (immediate) and started",
            Self::PostgresKilled => "Postgres killed and started",
            Self::ReadersGone => "200 readers who read nothing gone and back",
        })
    }
}

/// How the server that lives through it all is at a moment.
#[derive(Clone, Copy, Debug)]
struct Sample {
    after: Duration,
    resident: u64,
    files: usize,
}

impl Sample {
    fn take(pid: u32, after: Duration) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        let resident = resident.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024;
        let files = fs::read_dir(format!("/proc/{pid}/fd")).expect("its files").count();
        Self { after, resident, files }
    }
}

/// Everything that is broken, and what comes of it.
struct Soak {
    postgres: Postgres,
    /// Before Postgres, for the server that lives through it all.
    network: Proxy,
    steady: Process,
    /// The one that is killed and stopped.
    other: Process,
    place: Place,
    silent: Vec<TcpStream>,
}

impl Soak {
    async fn start(directory: &Path) -> Self {
        let postgres = Postgres::start_in(directory).await;
        let network = Proxy::before(postgres.address(), "127.0.0.1").await;
        let through = postgres.url().replace(&postgres.address().to_string(), &network.address.to_string());
        let settings = [("NEWCYCLE_MAX_STREAMS_PER_KEY", "10000"), ("NEWCYCLE_STREAM_NETWORKS", "127.0.0.1")];
        let steady = Process::on(&through, &postgres.files(), "", &settings).await;
        let other = Process::on(&postgres.url(), &postgres.files(), "", &settings).await;
        let place = Place::new(&other.api.url);
        Self { postgres, network, steady, other, place, silent: Vec::new() }
    }

    async fn crowd(&mut self) {
        let address = server_of(&self.steady.api.url);
        self.silent.clear();
        for _ in 0..SILENT {
            self.silent.push(one_who_asks_and_reads_nothing(address).await);
        }
    }

    async fn restart_other(&mut self) {
        let settings = [("NEWCYCLE_STREAM_NETWORKS", "127.0.0.1")];
        self.other = Process::on(&self.postgres.url(), &self.postgres.files(), "", &settings).await;
        self.place.moved(&self.other.api.url);
    }

    async fn suffer(&mut self, fault: Fault) {
        match fault {
            Fault::ServerKilled => {
                self.other.child.kill().await.expect("it is killed");
                self.restart_other().await;
            }
            Fault::ServerStopped => {
                let pid = self.other.child.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?)).expect("it runs");
                kill_process(pid, Signal::TERM).expect("it is told");
                assert!(self.other.child.wait().await.expect("it ends").success(), "it ends in order");
                self.restart_other().await;
            }
            Fault::BackendTerminated => {
                let terminate = "select pg_terminate_backend(pid) from pg_stat_activity
                    where application_name like 'newcycle%' order by random() limit 1";
                self.connection().await.execute(terminate).await.expect("it is told");
            }
            Fault::NetworkCut | Fault::NetworkSilent => {
                let network = if fault == Fault::NetworkCut { Network::Cut } else { Network::Silent };
                self.network.set(network);
                sleep(OUTAGE).await;
                self.network.set(Network::Fine);
            }
            Fault::LedgerLocked => {
                let mut holder = self.connection().await;
                holder.execute("begin; lock table transfers in access exclusive mode").await.expect("a lock");
                sleep(OUTAGE).await;
                holder.close().await.expect("it ends");
            }
            Fault::PostgresStopped | Fault::PostgresKilled => {
                let signal = if fault == Fault::PostgresStopped { Signal::QUIT } else { Signal::KILL };
                self.postgres.end(signal).await;
                self.postgres.start_again().await;
            }
            Fault::ReadersGone => self.crowd().await,
        }
    }

    async fn connection(&self) -> PgConnection {
        PgConnection::connect(&self.postgres.url()).await.expect("a connection")
    }
}

/// Makes a file of all transfers on a server that suffers meanwhile; how many there are in it.
async fn export(api: Api) -> u64 {
    let order = json!({"dataset": "transfers", "format": "csv", "compression": "gzip"});
    let started = eventually(|| async {
        let (status, export) = api.post("/exports", order.clone()).await;
        if status.is_success() { Ok(export) } else { Err(export.to_string()) }
    })
    .await;
    let path = format!("/exports/{}", started["id"].as_str().expect("an id"));
    let complete = async {
        loop {
            let (_, export) = api.get(&path).await;
            assert_ne!(export["state"], "failed", "{export}");
            if export["state"] == "complete" {
                return export;
            }
            sleep(BETWEEN_LOOKS).await;
        }
    };
    let export = timeout(EXPORT, complete).await.expect("the file in time");
    let deleted = api.request(Method::DELETE, &path).send().await.expect("an answer");
    assert!(deleted.status().is_success(), "{}", deleted.status());
    export["result"]["rows"].as_u64().expect("a number")
}

fn minutes() -> u64 {
    let asked = std::env::var("SOAK_MINUTES").ok().filter(|minutes| !minutes.is_empty());
    asked.map_or(60, |minutes| minutes.parse().expect("SOAK_MINUTES is a number of minutes"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it takes an hour, or SOAK_MINUTES: make soak"]
#[expect(clippy::print_stdout, reason = "what people want to know meanwhile")]
async fn for_an_hour_nothing_is_lost_nothing_is_doubled_and_memory_is_flat() {
    ConnectionSettings::default().raise_file_limit().expect("enough files");
    let length = Duration::from_secs(60 * minutes());
    let mut soak = Soak::start(Path::new(env!("CARGO_TARGET_TMPDIR"))).await;
    let steady = soak.steady.api.clone();
    let pid = soak.steady.child.id().expect("it runs");
    let plan = Plan { writers: 6, pause: WRITERS_PAUSE, resolutions: &["minute", "hour", "day", "year"] };
    let mut load = Load::planned(&soak.place, &plan).await;
    load.read_at(&Place::new(&steady.url), &plan);
    let pool = PgPool::connect(&soak.postgres.url()).await.expect("it answers");
    load.users(&pool, MANY_USERS).await;
    soak.crowd().await;
    let source = Source::with(100).await;
    let stream = create(&steady, cursors(&source)).await;

    let begun = Instant::now();
    let mut chance = Chance(81);
    let mut report = Report::default();
    for (number, fault) in (1..).zip(Fault::ALL.into_iter().cycle()) {
        if begun.elapsed() > length {
            break;
        }
        sleep(BETWEEN_FAULTS.mul_f64(0.5 + chance.below(100) as f64 / 100.0)).await;
        report.samples.push(Sample::take(pid, begun.elapsed()));
        let amount = 50 + usize::try_from(chance.below(100)).expect("few");
        source.change(|records| *records = numbered(0, amount));
        run(&steady, &stream).await;
        let exporting = tokio::spawn(export(steady.clone()));
        let broken = Instant::now();
        soak.suffer(fault).await;
        load.goes_on(10).await;
        load.transfers_go_on(1).await;
        let healed = broken.elapsed();
        report.exported = exporting.await.expect("no panic");
        let batch = over(&steady, &stream, number).await;
        assert_eq!((&batch["state"], &batch["records"]), (&json!("complete"), &json!(amount)), "{batch}");
        assert_equal(&steady, &stream, &source).await;
        report.fetched += amount;
        report.faults.entry(fault).or_default().push(healed);
        println!("{:>6.0} s: {fault}; {:.1} s until it was well", begun.elapsed().as_secs_f64(), healed.as_secs_f64());
    }
    report.length = begun.elapsed();
    report.samples.push(Sample::take(pid, report.length));
    report.metrics =
        steady.request(Method::GET, "/metrics").send().await.expect("it answers").text().await.expect("text");
    report.tally = Some(load.settle(&pool).await);
    drop(soak);
    let text = report.text();
    println!("\n{text}");
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(if minutes() >= 60 { "docs/soak.md" } else { "target/soak.md" });
    fs::write(&path, text).expect("the report is written");
    println!("the report is {}", path.display());
    // In the first minutes caches fill up.
    let growth = report.growth();
    assert!(minutes() < 30 || growth < MOST_GROWTH, "memory grew to {growth:.2} times what it was");
}

/// What came of it.
#[derive(Default)]
struct Report {
    length: Duration,
    samples: Vec<Sample>,
    /// How long it took each time until writes went on.
    faults: BTreeMap<Fault, Vec<Duration>>,
    /// Transfers in the last file.
    exported: u64,
    /// Records of all batches.
    fetched: usize,
    metrics: String,
    tally: Option<Tally>,
}

impl Report {
    /// The median resident memory of the last fifth, by that of the second.
    fn growth(&self) -> f64 {
        let fifth = |number: usize| {
            let length = self.samples.len();
            let mut resident: Vec<_> =
                self.samples[number * length / 5..(number + 1) * length / 5].iter().map(|it| it.resident).collect();
            resident.sort_unstable();
            resident.get(resident.len() / 2).copied().unwrap_or(1) as f64
        };
        fifth(4) / fifth(1)
    }

    fn metric(&self, name: &str) -> &str {
        let mut lines = self.metrics.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or("unknown")
    }

    fn text(&self) -> String {
        let tally = self.tally.as_ref().expect("it has settled");
        let faults: usize = self.faults.values().map(Vec::len).sum();
        let mut text = format!(
            "# Soak\n\n`make soak` wrote this on {}: {:.0} minutes on {} cores, everything at once, while something was \
            broken every {:.0} seconds or so ({faults} times). Two servers on one Postgres with fsync on; one was killed and stopped, the \
            other lived through all of it.\n\n",
            Utc::now().format("%Y-%m-%d"),
            self.length.as_secs_f64() / 60.0,
            std::thread::available_parallelism().map_or(0, usize::from),
            self.length.as_secs_f64() / faults.max(1) as f64,
        );
        let mut line = |what: &str, figure: &dyn Display| {
            writeln!(text, "| {what} | {figure} |").expect("memory");
        };
        line("what was to be", &"what was");
        line("---", &"---:");
        line("requests to write that were acknowledged", &tally.acknowledged);
        line("requests whose answer was lost or an error", &tally.unknown);
        line("rows written", &tally.rows);
        line("acknowledged rows that were **lost**", &0);
        line("rows that were **doubled**, or nobody wrote", &0);
        line("requests of which a part was written", &0);
        line("differences between the statistics and a recount", &0);
        line("streams that did not show the recount in the end", &format!("0 of {}", tally.readers));
        line("batches of the data stream that were not what the source had", &format!("0 of {faults}"));
        line("records of these batches", &self.fetched);
        line("exports that failed", &format!("0 of {faults}"));
        line("transfers in the last export", &self.exported);
        line("memory in the last fifth, by that of the second", &format!("{:.3}", self.growth()));
        for (what, name) in [
            ("connections to listen that were lost and made again", "newcycle_listener_reconnects_total"),
            (
                "changes that a sweep found while no notification came",
                "newcycle_sweep_corrections_total{news=\"none\"}",
            ),
        ] {
            line(what, &self.metric(name));
        }
        text += "\n(Each nought is asserted: otherwise there is no report.)\n\n| what was broken | times | s until writes went on: median | most |\n| --- | ---: | ---: | ---: |\n";
        for (fault, healed) in &self.faults {
            let mut healed: Vec<_> = healed.iter().map(Duration::as_secs_f64).collect();
            healed.sort_by(f64::total_cmp);
            let (median, most) = (healed[healed.len() / 2], healed[healed.len() - 1]);
            writeln!(text, "| {fault} | {} | {median:.1} | {most:.1} |", healed.len()).expect("memory");
        }
        text += "\n| after minutes | resident memory, MB | open files |\n| ---: | ---: | ---: |\n";
        let every = self.samples.len().div_ceil(20).max(1);
        for Sample { after, resident, files } in self.samples.iter().step_by(every) {
            let (minutes, megabytes) = (after.as_secs_f64() / 60.0, *resident as f64 / 1e6);
            writeln!(text, "| {minutes:.1} | {megabytes:.1} | {files} |").expect("memory");
        }
        text
    }
}
