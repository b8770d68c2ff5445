//! From an insert to the readers: 100 inserts a second, 100 streams.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::cluster::Cluster;
use crate::figures::{Latencies, Spread, Unit, latencies, millis, show};
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
        let [mut p50, mut p99, mut p999] = [Spread::default(), Spread::default(), Spread::default()];
        let [mut commit_p50, mut commit_p99] = [Spread::default(), Spread::default()];
        for repetition in 1..=run.plan.repetitions {
            let (sent, committed) = repeat(run, cluster).await?;
            p50.push(millis(&sent, 0.5));
            p99.push(millis(&sent, 0.99));
            p999.push(millis(&sent, 0.999));
            commit_p50.push(millis(&committed, 0.5));
            commit_p99.push(millis(&committed, 0.99));
            all.add(&sent)?;
            tell(&format!(
                "  {repetition}: p50 {}, p99 {}",
                show(millis(&sent, 0.5), Unit::Milliseconds),
                show(millis(&sent, 0.99), Unit::Milliseconds)
            ));
        }
        let what = format!("insert to message, {RATE} inserts/s, {STREAMS} streams");
        let measured = p50.show(Unit::Milliseconds).to_string();
        section.bars.push(Bar::new(format!("{what}: p50"), "≤ 3 ms", measured, p50.median() <= BAR_P50));
        let measured = p99.show(Unit::Milliseconds).to_string();
        section.bars.push(Bar::new(format!("{what}: p99"), "≤ 15 ms", measured, p99.median() <= BAR_P99));
        section.say(&format!(
            "{RATE} `POST /items` a second at moments fixed before, and {STREAMS} streams of all items (`{STREAM}`). A \
             latency is the time from the moment at which the k-th insert was to be sent until a stream shows a count of \
             k or more: request, commit, notification, publication and delivery together; {STREAMS} latencies for each \
             insert. From the commit on (Postgres' own commit timestamps, by the same clock) is the part that newcycle \
             adds to any writer's insert."
        ));
        let row = |what: &str, spreads: [String; 3]| std::iter::once(what.to_owned()).chain(spreads).collect();
        let shown = |spread: &Spread| spread.show(Unit::Milliseconds).to_string();
        section.table(
            &["", "p50", "p99", "p99.9"],
            [
                row("from when the insert was to be sent", [shown(&p50), shown(&p99), shown(&p999)]),
                row("from its commit", [shown(&commit_p50), shown(&commit_p99), "—".to_owned()]),
            ],
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
