//! Asking for statistics: of a million events, and of many millions over the same time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, Utc};
use newcycle::statistics::Resolution;
use serde::Deserialize;

use crate::cluster::Cluster;
use crate::figures::{Latencies, Unit, latencies, millis, nanoseconds, number, show};
use crate::http::{self, Connection};
use crate::inbox::{Inbox, News, Reader};
use crate::report::{Bar, Section};
use crate::server::Server;
use crate::{Outcome, Run, ledger, plot, tell};

/// One that is an hour or two from UTC and changes its clocks, and one that is five and three quarters and does not.
const ZONES: [&str; 2] = ["Europe/Berlin", "Asia/Kathmandu"];
/// Those that the bars are about.
const RESOLUTIONS: [Resolution; 7] = [
    Resolution::Minute,
    Resolution::Hour,
    Resolution::Day,
    Resolution::Week,
    Resolution::Month,
    Resolution::Quarter,
    Resolution::Year,
];
/// Of these every answer can hold all buckets, so that their sum must be the number of events.
const CHECKED: [Resolution; 5] =
    [Resolution::Day, Resolution::Week, Resolution::Month, Resolution::Quarter, Resolution::Year];
/// One in so many queries is also asked before, to warm up.
const WARM_UP: usize = 10;
const BAR_P99: f64 = 20.0;
const BAR_RATIO: f64 = 1.3;
const BAR_OPENING: f64 = 30.0;
/// Buckets of the first stream's window; each has one more than the one before, which makes it another series.
const FIRST_WINDOW: usize = 60;
/// A dashboard shows three metrics.
const SNAPSHOTS: usize = 3;
/// A stream that says nothing for so long is broken.
const PATIENCE: Duration = Duration::from_secs(30);
const FEW: &str = "few_events";
const MANY: &str = "many_events";

/// One of the two ledgers.
struct Side {
    events: u64,
    server: Server,
    connection: Connection,
    /// By resolution, both zones together.
    taken: Vec<Latencies>,
}

pub(super) async fn measure(run: &Run) -> Outcome<Section> {
    Cluster::with(run, &ledger::SETTINGS, async |cluster: &Cluster| {
        let mut section = Section::new("Statistics queries");
        section.versions.push(("Postgres, pgbench, psql", cluster.version().await?));
        let now = Utc::now();
        tokio::try_join!(
            ledger::make(cluster, FEW, run.plan.few_events, now.timestamp()),
            ledger::make(cluster, MANY, run.plan.many_events, now.timestamp()),
        )?;
        let mut few = Side::start(run, cluster, FEW, run.plan.few_events).await?;
        let mut many = Side::start(run, cluster, MANY, run.plan.many_events).await?;
        for side in [&mut few, &mut many] {
            side.check()?;
        }
        for number in (0..run.plan.queries).step_by(WARM_UP) {
            ask(run, now, number, [&mut few, &mut many]).await?;
        }
        for side in [&mut few, &mut many] {
            side.taken.iter_mut().for_each(Latencies::reset);
        }
        for number in 0..run.plan.queries {
            ask(run, now, number, [&mut few, &mut many]).await?;
        }
        let opened = open_streams(run, many.server.address).await?;
        for side in [&few, &many] {
            let all = together(&side.taken)?;
            let [p50, p99] = [0.5, 0.99].map(|quantile| show(millis(&all, quantile), Unit::Milliseconds));
            tell(&format!("  {} events: p50 {p50}, p99 {p99}", number(side.events as f64)));
        }
        tell(&format!("  opening a stream: p99 {}", show(millis(&opened, 0.99), Unit::Milliseconds)));
        describe(run, &mut section, &few, &many, &opened)?;
        few.server.stop().await?;
        many.server.stop().await?;
        Ok(section)
    })
    .await
}

impl Side {
    async fn start(run: &Run, cluster: &Cluster, database: &str, events: u64) -> Outcome<Self> {
        let server = Server::start(run, &cluster.url(database)).await?;
        let connection = Connection::open(server.address)?;
        Ok(Self { events, server, connection, taken: RESOLUTIONS.map(|_| latencies()).to_vec() })
    }

    /// Everything is counted, by every calendar.
    fn check(&mut self) -> Outcome<()> {
        #[derive(Deserialize)]
        struct Bucket {
            count: u64,
        }
        for zone in ZONES {
            for resolution in CHECKED {
                let path = format!("/statistics/item-creation/{resolution}?timezone={zone}&limit=10000");
                let response = self.connection.send(&http::get(&path))?;
                let buckets: Vec<Bucket> = serde_json::from_slice(&response.body)?;
                let sum: u64 = buckets.iter().map(|bucket| bucket.count).sum();
                if sum != self.events {
                    return Err(format!("NOT EXACT: {path} has {sum} of {} events", self.events).into());
                }
            }
        }
        Ok(())
    }
}

/// The n-th query of every resolution and zone, of both ledgers in turns.
async fn ask(run: &Run, now: DateTime<Utc>, number: usize, sides: [&mut Side; 2]) -> Outcome<()> {
    // One query after the other leaves no time to be interrupted otherwise.
    tokio::task::yield_now().await;
    // As the events: the nearer to now, the denser.
    let back = f64::from(ledger::SPAN_SECONDS) * (number as f64 / run.plan.queries as f64).powi(2);
    let to = (now - Duration::from_secs_f64(back)).to_rfc3339_opts(SecondsFormat::Millis, true);
    let [few, many] = sides;
    for zone in ZONES {
        for (position, resolution) in RESOLUTIONS.into_iter().enumerate() {
            let path = format!("/statistics/item-creation/{resolution}?timezone={zone}&limit=1000&to={to}");
            let request = http::get(&path);
            for side in [&mut *few, &mut *many] {
                let begin = Instant::now();
                let response = side.connection.send(&request)?;
                side.taken[position].saturating_record(nanoseconds(begin.elapsed()));
                if response.status != 200 {
                    return Err(format!("{path} answered {}", response.status).into());
                }
            }
        }
    }
    Ok(())
}

/// From connecting to the last of the snapshots.
async fn open_streams(run: &Run, address: SocketAddr) -> Outcome<Latencies> {
    let mut taken = latencies();
    for number in 0..run.plan.openings {
        tokio::task::yield_now().await;
        let resolution = RESOLUTIONS[number % RESOLUTIONS.len()];
        let zone = ZONES[number / RESOLUTIONS.len() % ZONES.len()];
        let window = FIRST_WINDOW + number;
        let path = format!("/statistics/stream?resolution={resolution}&timezone={zone}&window={window}");
        let begin = Instant::now();
        let mut socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.write_all(&http::get_events(&path))?;
        let (mut inbox, mut reader, mut buffer) = (Inbox::default(), Reader::default(), vec![0; 64 * 1024]);
        let mut snapshots = 0;
        while snapshots < SNAPSHOTS {
            let read = socket.read(&mut buffer)?;
            if read == 0 {
                return Err(format!("{path} ended").into());
            }
            inbox.take(&buffer[..read], |message| {
                snapshots += usize::from(matches!(reader.read(message)?, News::Snapshot(..)));
                Ok(())
            })?;
        }
        taken.saturating_record(nanoseconds(begin.elapsed()));
    }
    Ok(taken)
}

fn together(many: &[Latencies]) -> Outcome<Latencies> {
    let mut all = latencies();
    for one in many {
        all.add(one)?;
    }
    Ok(all)
}

fn describe(run: &Run, section: &mut Section, few: &Side, many: &Side, opened: &Latencies) -> Outcome<()> {
    let size = number(many.events as f64);
    let small = number(few.events as f64);
    let (all_few, all_many) = (together(&few.taken)?, together(&many.taken)?);
    let [p50, p99] = [0.5, 0.99].map(|quantile| (millis(&all_few, quantile), millis(&all_many, quantile)));
    let p99_of = |taken: &Latencies| millis(taken, 0.99);
    let worst = many.taken.iter().map(p99_of).fold(0.0, f64::max);
    section.bars.push(Bar::new(
        format!("a statistics query at {size} events: p99 of every resolution"),
        "≤ 20 ms",
        format!("{} (the slowest resolution; of all together {})", shown(worst), shown(p99.1)),
        worst <= BAR_P99,
    ));
    let ratios = [p50, p99].map(|(few, many)| many / few);
    section.bars.push(Bar::new(
        format!("the same, to {small} events: p50 and p99"),
        format!("≤ {BAR_RATIO} ×"),
        format!("{} and {}", show(ratios[0], Unit::Times), show(ratios[1], Unit::Times)),
        ratios.iter().all(|ratio| *ratio <= BAR_RATIO),
    ));
    section.bars.push(Bar::new(
        format!("opening a stream of a new series at {size} events: p99"),
        "≤ 30 ms",
        shown(p99_of(opened)),
        p99_of(opened) <= BAR_OPENING,
    ));

    section.say(&format!(
        "Two ledgers, {small} and {size} items, spread over the same four years, the denser the later (the n-th newest of \
         N is n²/N² of four years old), among {} base items. Made by SQL and counted by `statistics.rebuild()`; before \
         measuring, the sums by day, week, month, quarter and year in both zones are checked to be all events. The \
         settings with which Postgres makes them so fast (WAL at its minimum, autovacuum off, much memory for indexes) \
         stay while reading.",
        ledger::KINDS
    ));
    section.say(&format!(
        "`GET /statistics/item-creation/{{resolution}}?timezone={{zone}}&limit=1000&to={{moment}}` over one keep-alive \
         connection to each server, one query after the other, both ledgers in turns: {} moments for each resolution and \
         each of {}, distributed as the events are. {} buckets at most, as many as there are. From writing the request to \
         having read the answer. All numbers in milliseconds.",
        run.plan.queries,
        ZONES.join(" and "),
        number(1_000.0),
    ));
    let cell = |taken: &Latencies, quantile: f64| number(millis(taken, quantile));
    let row = |name: &str, few: &Latencies, many: &Latencies| {
        let ratio = |quantile| show(millis(many, quantile) / millis(few, quantile), Unit::Times);
        let cells = [cell(few, 0.5), cell(few, 0.99), cell(many, 0.5), cell(many, 0.99), ratio(0.5), ratio(0.99)];
        std::iter::once(name.to_owned()).chain(cells).collect::<Vec<_>>()
    };
    let mut rows: Vec<_> = RESOLUTIONS
        .iter()
        .enumerate()
        .map(|(position, resolution)| row(resolution.name(), &few.taken[position], &many.taken[position]))
        .collect();
    rows.push(row("all together", &all_few, &all_many));
    section
        .table(&["", &format!("{small}: p50"), "p99", &format!("{size}: p50"), "p99", "ratio of p50", "of p99"], rows);
    section.say(&format!(
        "A stream of the large ledger: from connecting until the snapshots of all three metrics are read; {} streams one \
         after the other, of all resolutions in both zones, each with a window of its own and therefore a series that \
         nobody watched before. p50 {}, p99 {}, the slowest {}.",
        run.plan.openings,
        shown(millis(opened, 0.5)),
        shown(p99_of(opened)),
        shown(millis(opened, 1.0)),
    ));
    let names: Vec<_> = RESOLUTIONS.iter().map(|resolution| resolution.name()).collect();
    let line = |side: &Side| side.taken.iter().map(p99_of).collect::<Vec<_>>();
    let lines = [(format!("{small} events"), line(few)), (format!("{size} events"), line(many))];
    section.plots.push(("queries.svg", plot::lines("p99 of statistics queries by resolution", &names, &lines)?));
    Ok(())
}

fn shown(milliseconds: f64) -> String {
    show(milliseconds, Unit::Milliseconds)
}
