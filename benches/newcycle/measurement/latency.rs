//! From an insert to the readers: 100 inserts a second, 100 streams.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::cluster::Cluster;
use crate::figures::{Latencies, Percentiles, latencies};
use crate::report::{Bar, Section};
use crate::server::Server;
use crate::watch::{Open, Watch, since};
use crate::{Outcome, Run, http, plot, posts, schedule, tell};

use super::single_row::inserts;

const STREAMS: usize = 100;
/// Inserts a second.
const RATE: f64 = 100.0;
/// Inserts wait for each other on fewer connections than this when one is slow.
const CONNECTIONS: usize = 16;
const BAR_P50: f64 = 3.0;
const BAR_P99: f64 = 15.0;
/// Everything has arrived by then.
const ARRIVAL: Duration = Duration::from_secs(10);
const DATABASE: &str = "latency";
/// All counts in one bucket, whose count then says how many inserts have arrived.
const STREAM: &str = "/statistics/stream?metrics=item-creation&resolution=year";

pub(super) async fn measure(run: &Run) -> Outcome<Section> {
    Cluster::with(run, &[("track_commit_timestamp", "on")], async |cluster: &Cluster| {
        let mut section = Section::new("Latency of streams");
        section.versions.push(("Postgres, pgbench, psql", cluster.version().await?));
        let mut all = latencies();
        let [mut sent, mut committed] = [Percentiles::default(), Percentiles::default()];
        for repetition in 1..=run.plan.repetitions {
            let (since_sent, since_committed) = repeat(run, cluster).await?;
            sent.push(&since_sent);
            committed.push(&since_committed);
            all.add(&since_sent)?;
            let [p50, p99, _] = sent.shown();
            tell(&format!("  {repetition}: p50 {p50}, p99 {p99}"));
        }
        let what = format!("insert to message, {RATE} inserts/s, {STREAMS} streams");
        let ([p50, p99, _], [shown_p50, shown_p99, _]) = (&sent.0, sent.shown());
        let met = [p50.median() <= BAR_P50, p99.median() <= BAR_P99];
        section.bars.push(Bar::new(format!("{what}: p50"), format!("≤ {BAR_P50} ms"), shown_p50, met[0]));
        section.bars.push(Bar::new(format!("{what}: p99"), format!("≤ {BAR_P99} ms"), shown_p99, met[1]));
        section.say(&format!(
            "{RATE} `POST /items` a second at moments fixed before, and {STREAMS} streams of all items (`{STREAM}`). A \
             latency is the time from the moment at which the k-th insert was to be sent until a stream shows a count of \
             k or more: request, commit, notification, publication and delivery together; {STREAMS} latencies for each \
             insert. From the commit on (Postgres' own commit timestamps, by the same clock) is the part that newcycle \
             adds to any writer's insert."
        ));
        let row = |what: &str, percentiles: &Percentiles| {
            std::iter::once(what.to_owned()).chain(percentiles.shown()).collect::<Vec<_>>()
        };
        section.table(
            &["", "p50", "p99", "p99.9"],
            [row("from when the insert was to be sent", &sent), row("from its commit", &committed)],
        );
        let plot = plot::percentiles("From insert to message, 100 streams", &[("newcycle".to_owned(), all)])?;
        section.plots.push(("latency.svg", plot));
        Ok(section)
    })
    .await
}

/// Latencies from when inserts were to be sent, and from when they committed.
async fn repeat(run: &Run, cluster: &Cluster) -> Outcome<(Latencies, Latencies)> {
    cluster.fresh(DATABASE).await?;
    let server = Server::start(run, &cluster.url(DATABASE)).await?;
    let watch = Watch::open(server.address, http::get_events(STREAM), STREAMS, Open::WithSnapshots(1)).await?;
    let warm_up = schedule::jittered(Instant::now(), RATE, run.plan.warm_up);
    let base = i64::try_from(send(&server, warm_up).await?)?;
    watch.until(base, ARRIVAL).await?;

    watch.record(base)?;
    let due = schedule::jittered(Instant::now(), RATE, run.plan.latency);
    let total = base + i64::try_from(send(&server, due.clone()).await?)?;
    let survey = watch.until(total, ARRIVAL).await?;
    let arrivals = watch.arrivals()?;
    if survey.most != total || arrivals.len() != due.len() * STREAMS {
        return Err(format!("NOT EXACT: of {total} inserts a stream shows {}", survey.most).into());
    }
    drop(watch);
    server.stop().await?;
    cluster.check_items(DATABASE, u64::try_from(total)?).await?;
    Ok((since(&due, &arrivals), since(&commits(cluster, base).await?, &arrivals)))
}

async fn send(server: &Server, due: Vec<Instant>) -> Outcome<u64> {
    let address = server.address;
    let load = move || posts::on_schedule(address, &inserts(), CONNECTIONS, &due);
    Ok(tokio::task::spawn_blocking(load).await??.acknowledged)
}

/// When the items after the first so many were committed, by Postgres' record of it.
async fn commits(cluster: &Cluster, base: i64) -> Outcome<Vec<Instant>> {
    let statement = format!(
        "select (extract(epoch from pg_xact_commit_timestamp(xmin)) * 1000000)::bigint as at
        from items order by at offset {base}"
    );
    let (now, clock) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH)?);
    let rows = cluster.rows(DATABASE, &statement).await?;
    let moment = |microseconds: i64| {
        let ago = clock.saturating_sub(Duration::from_micros(u64::try_from(microseconds)?));
        now.checked_sub(ago).ok_or_else(|| "a commit before this machine was started".into())
    };
    rows.iter().map(|row| moment(row.get(0))).collect()
}
