//! One update, 10,000 readers: newcycle against nginx with nchan, with the same readers; and what an open stream takes.

use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::figures::{Latencies, Percentiles, Spread, Unit, latencies, millis, number, show};
use crate::nchan::{Installation, Nchan};
use crate::report::{Bar, Section};
use crate::server::Server;
use crate::watch::{Open, Survey, Watch, since};
use crate::{Outcome, Run, http, machine, plot, posts, schedule, tell};

use super::single_row::inserts;

/// Updates a second.
const RATE: f64 = 10.0;
/// A connection for each request that may still wait for its answer.
const CONNECTIONS: usize = 16;
const BAR_P99: f64 = 150.0;
/// Kilobytes of 1,000 bytes for each idle stream.
const BAR_MEMORY: f64 = 10.0;
/// Both are sent the same number of updates; when neither loses one, only the last one's arrival tells them apart.
const TOLERANCE: f64 = 0.01;
/// Everything has arrived by then.
const ARRIVAL: Duration = Duration::from_secs(30);
const DATABASE: &str = "fan_out";
/// All counts in one bucket, whose count then says how many inserts have arrived.
const STREAM: &str = "/statistics/stream?metrics=item-creation&resolution=year";
/// What nchan puts around the text of a message: `id: `, its id, `data: ` and line ends, about so many bytes.
const NCHAN_FRAME: usize = 30;

/// What one server did.
#[derive(Debug)]
struct Figures {
    /// Updates that arrived in all streams together, a second.
    delivered: Spread,
    latencies: Latencies,
    percentiles: Percentiles,
    /// Kilobytes for each idle stream.
    memory: Spread,
    /// Bytes of an update.
    size: usize,
    /// How often a stream was told that it is not live.
    stale: u64,
    /// Messages that did not arrive. Of newcycle's none may be missing, or the bench fails.
    lost: usize,
    /// Messages that were read, of all streams and repetitions.
    messages: u64,
    /// As many as updates for each stream.
    offered: u64,
}

pub(super) async fn measure(run: &Run) -> Outcome<Section> {
    Cluster::with(run, &[], async |cluster: &Cluster| {
        let mut section = Section::new("Fan-out");
        section.versions.push(("Postgres, pgbench, psql", cluster.version().await?));
        let nchan = Installation::find();
        let (mut ours, mut theirs) = (Figures::new(), Figures::new());
        for repetition in 1..=run.plan.repetitions {
            newcycle(run, cluster, &mut ours).await?;
            tell(&format!("  {repetition}: newcycle {}", ours.summary()));
            if let Some(installation) = &nchan {
                peer(run, installation, ours.size, &mut theirs).await?;
                tell(&format!("  {repetition}: nchan    {}", theirs.summary()));
            }
        }
        if let Some(installation) = &nchan {
            section.versions.push(("nginx", installation.version()));
        }
        describe(run, &mut section, &ours, nchan.is_some().then_some(&theirs))?;
        Ok(section)
    })
    .await
}

impl Figures {
    fn new() -> Self {
        Self {
            delivered: Spread::default(),
            latencies: latencies(),
            percentiles: Percentiles::default(),
            memory: Spread::default(),
            size: 0,
            stale: 0,
            lost: 0,
            messages: 0,
            offered: 0,
        }
    }

    fn take(&mut self, due: &[Instant], streams: usize, survey: &Survey, latencies: &Latencies) -> Outcome<()> {
        let end = survey.last_update.ok_or("no update arrived")?;
        self.delivered.push(survey.updates as f64 / (end - due[0]).as_secs_f64());
        self.messages += survey.updates;
        self.offered += u64::try_from(due.len() * streams)?;
        self.percentiles.push(latencies);
        self.latencies.add(latencies)?;
        self.size = usize::try_from(survey.update_bytes / survey.updates.max(1))?;
        Ok(())
    }

    fn summary(&self) -> String {
        let (delivered, memory) = (self.delivered.show(Unit::PerSecond), self.memory.show(Unit::Kilobytes));
        let [p50, p99, _] = self.percentiles.shown();
        format!("{delivered}, p50 {p50}, p99 {p99}, {memory} a stream")
    }
}

/// Updates are inserts, each a request to the same server.
async fn newcycle(run: &Run, cluster: &Cluster, figures: &mut Figures) -> Outcome<()> {
    cluster.fresh(DATABASE).await?;
    let server = Server::start(run, &cluster.url(DATABASE)).await?;
    let base = send(server.address, inserts(), schedule::steady(Instant::now(), RATE, run.plan.warm_up)).await?;
    let before = machine::resident(server.pid()?)?;
    let streams = run.plan.streams;
    let watch = Watch::open(server.address, http::get_events(STREAM), streams, Open::WithSnapshots(1)).await?;
    tokio::time::sleep(run.plan.idle).await;
    figures.memory.push(per_stream(before, machine::resident(server.pid()?)?, streams));

    let base = i64::try_from(base + send(server.address, inserts(), warm_up(run)).await?)?;
    watch.until(base, ARRIVAL).await?;
    watch.record(base)?;
    let due = schedule::steady(Instant::now(), RATE, run.plan.fan_out);
    let sent = send(server.address, inserts(), due.clone()).await?;
    let survey = watch.until(base + i64::try_from(sent)?, ARRIVAL).await?;
    let arrivals = watch.arrivals()?;
    figures.stale += survey.stale;
    if arrivals.len() != due.len() * streams {
        return Err(format!("NOT EXACT: {} of {} values arrived", arrivals.len(), due.len() * streams).into());
    }
    figures.take(&due, streams, &survey, &since(&due, &arrivals))?;
    drop(watch);
    server.stop().await?;
    cluster.check_items(DATABASE, u64::try_from(base)? + sent).await
}

/// The same with messages of the same size that are published by a request each.
async fn peer(run: &Run, installation: &Installation, size: usize, figures: &mut Figures) -> Outcome<()> {
    let nchan = Nchan::start(run, installation).await?;
    // It must have served somebody before its memory is taken.
    drop(Watch::open(nchan.address, http::get_events(Nchan::SUBSCRIBE), 1, Open::WithHead).await?);
    let before = nchan.resident()?;
    let streams = run.plan.streams;
    let watch = Watch::open(nchan.address, http::get_events(Nchan::SUBSCRIBE), streams, Open::WithHead).await?;
    tokio::time::sleep(run.plan.idle).await;
    figures.memory.push(per_stream(before, nchan.resident()?, streams));

    let warm_up = warm_up(run);
    let base = warm_up.len();
    send(nchan.address, messages(1..=base, size), warm_up).await?;
    watch.settled(i64::try_from(base)?, ARRIVAL).await?;
    watch.record(i64::try_from(base)?)?;
    let due = schedule::steady(Instant::now(), RATE, run.plan.fan_out);
    let total = base + due.len();
    send(nchan.address, messages(base + 1..=total, size), due.clone()).await?;
    let survey = watch.settled(i64::try_from(total)?, ARRIVAL).await?;
    let arrivals = watch.arrivals()?;
    figures.lost += (due.len() * streams).saturating_sub(usize::try_from(survey.updates)?);
    figures.take(&due, streams, &survey, &since(&due, &arrivals))?;
    drop(watch);
    nchan.stop().await
}

fn warm_up(run: &Run) -> Vec<Instant> {
    schedule::steady(Instant::now(), RATE, run.plan.warm_up)
}

fn per_stream(before: u64, after: u64, streams: usize) -> f64 {
    after.saturating_sub(before) as f64 / streams as f64 / 1e3
}

async fn send(address: std::net::SocketAddr, requests: Vec<Vec<u8>>, due: Vec<Instant>) -> Outcome<u64> {
    let load = move || posts::on_schedule(address, &requests, CONNECTIONS, &due);
    Ok(tokio::task::spawn_blocking(load).await??.acknowledged)
}

/// What newcycle would say, filled up to the size that it takes there.
fn messages(counts: std::ops::RangeInclusive<usize>, size: usize) -> Vec<Vec<u8>> {
    let message = |count| {
        let bucket = format!(r#"{{"time":"2026-01-01T00:00:00Z","count":{count}}}"#);
        let plain = format!(r#"{{"metric":"item-creation","buckets":[{bucket}],"fill":""}}"#);
        let fill = "x".repeat(size.saturating_sub(NCHAN_FRAME + plain.len()));
        plain.replace(r#""fill":"""#, &format!(r#""fill":"{fill}""#))
    };
    counts.map(|count| http::post(Nchan::PUBLISH, "application/json", &message(count))).collect()
}

fn describe(run: &Run, section: &mut Section, ours: &Figures, theirs: Option<&Figures>) -> Outcome<()> {
    let streams = number(run.plan.streams as f64);
    let what = format!("updates delivered to {streams} streams, {RATE}/s to each");
    let delivered = ours.delivered.show(Unit::PerSecond);
    section.bars.push(match theirs {
        Some(theirs) => {
            let met = ours.delivered.median() >= theirs.delivered.median() * (1.0 - TOLERANCE);
            let measured = format!("{delivered}, nchan {}", theirs.delivered.show(Unit::PerSecond));
            Bar::new(what, format!("≥ nchan's (within {:.0} %)", TOLERANCE * 100.0), measured, met)
        }
        None => Bar::not_measured(what, "≥ nchan's", &format!("{delivered}; there is no nginx with nchan here")),
    });
    let [_, measured, _] = ours.percentiles.shown();
    let met = ours.percentiles.p99().median() <= BAR_P99;
    section.bars.push(Bar::new("the same: p99 from the insert on", format!("≤ {BAR_P99} ms"), measured, met));
    let measured = ours.memory.show(Unit::Kilobytes).to_string();
    let met = ours.memory.median() <= BAR_MEMORY;
    section.bars.push(Bar::new("resident memory of an idle stream", format!("≤ {BAR_MEMORY} KB"), measured, met));

    section.say(&format!(
        "{streams} streams of one series (`GET {STREAM}`), {RATE} inserts a second by `POST /items`, evenly spaced. \
         Every stream gets every value. Delivered: messages that were read from all sockets together, divided by the time \
         from when the first insert was to be sent until the last message was read. Latency: from the moment at which an \
         insert was to be sent until its count was read from a stream's socket, one for each insert and stream; the \
         readers are one thread, so what the last of {streams} reads took is in it. When inserts come faster than \
         streams can be written, newcycle merges them, and a stream is told the newest count in one message: fewer \
         messages are delivered then, and no count is lost. Two servers that both deliver every message differ in the \
         rate by what the last one took, which is what 1 % is allowed for. nchan: as many subscribers \
         (EventSource) of one channel, messages of the same size ({} bytes) published by HTTP at the same rate, read by \
         the same code; it stores nothing on a disk.",
        ours.size
    ));
    section.say(&format!(
        "Memory: the resident memory of the server's process after {streams} streams were opened and left alone for {} s, \
         less what it was before, for each stream (1 KB = 1,000 bytes). Of nginx: of all its processes, shared memory \
         counted once for each of them. Buffers in the kernel are not counted.",
        run.plan.idle.as_secs()
    ));
    let row = |name: &str, figures: &Figures| {
        let (delivered, memory) = (figures.delivered.show(Unit::PerSecond), figures.memory.show(Unit::Kilobytes));
        let [p50, p99, p999] = figures.percentiles.shown();
        let share = figures.messages as f64 / figures.offered as f64 * 100.0;
        let messages = format!("{} of {}", show(share, Unit::Percent), number(figures.offered as f64));
        vec![name.to_owned(), messages, delivered.to_string(), p50, p99, p999, memory.to_string()]
    };
    let mut rows = vec![row("newcycle", ours)];
    rows.extend(theirs.map(|theirs| row("nginx with nchan", theirs)));
    section.table(&["", "messages", "delivered", "p50", "p99", "p99.9", "memory a stream"], rows);
    if let Some(lost) = theirs.map(|theirs| theirs.lost).filter(|lost| *lost > 0) {
        section.say(&format!("nchan lost {} messages.", number(lost as f64)));
    }
    let mut curves = vec![("newcycle".to_owned(), ours.latencies.clone())];
    curves.extend(theirs.map(|theirs| ("nginx with nchan".to_owned(), theirs.latencies.clone())));
    let title = format!("From an update to each of {streams} streams");
    section.plots.push(("fan-out.svg", plot::percentiles(&title, &curves)?));
    let slowest = show(millis(&ours.latencies, 1.0), Unit::Milliseconds);
    section.say(&format!(
        "The slowest of newcycle's {} deliveries took {slowest}.{}",
        number(ours.latencies.len() as f64),
        if ours.stale == 0 {
            String::new()
        } else {
            format!(" {} times a stream was told that it was stale.", ours.stale)
        }
    ));
    Ok(())
}
