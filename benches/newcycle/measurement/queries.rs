//! Asking for statistics: of a million events, and of many millions over the same time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, Utc};
use newcycle::statistics::Resolution;
use serde::Deserialize;

use crate::cluster::Cluster;
use crate::figures::{Latencies, Spread, Unit, latencies, millis, nanoseconds, number, show};
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
    /// By resolution, both zones together, in this repetition.
    taken: Vec<Latencies>,
    /// The same of those before.
    all: Vec<Latencies>,
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
            ask(run, now, 0, number, [&mut few, &mut many]).await?;
        }
        for side in [&mut few, &mut many] {
            side.taken.iter_mut().for_each(Latencies::reset);
        }
        let mut figures = Figures::new();
        for repetition in 0..run.plan.repetitions {
            for number in 0..run.plan.queries {
                ask(run, now, repetition, number, [&mut few, &mut many]).await?;
            }
            let opened = open_streams(run, repetition, many.server.address).await?;
            figures.repeat(&few.repeat()?, &many.repeat()?, &opened)?;
            tell(&format!("  {}: {}", repetition + 1, figures.summary()));
        }
        describe(run, &mut section, &few, &many, &figures)?;
        few.server.stop().await?;
        many.server.stop().await?;
        Ok(section)
    })
    .await
}

/// What the bars are about, by repetition.
#[derive(Debug)]
struct Figures {
    /// The p99 of the slowest resolution of the large ledger.
    slowest: Spread,
    /// Of all queries together, large to small.
    ratio_p50: Spread,
    ratio_p99: Spread,
    opened_p99: Spread,
    /// All repetitions.
    opened: Latencies,
}

impl Figures {
    fn new() -> Self {
        let [slowest, ratio_p50, ratio_p99, opened_p99] = std::array::from_fn(|_| Spread::default());
        Self { slowest, ratio_p50, ratio_p99, opened_p99, opened: latencies() }
    }

    fn repeat(&mut self, few: &[Latencies], many: &[Latencies], opened: &Latencies) -> Outcome<()> {
        self.slowest.push(many.iter().map(p99_of).fold(0.0, f64::max));
        let (few, many) = (together(few)?, together(many)?);
        self.ratio_p50.push(millis(&many, 0.5) / millis(&few, 0.5));
        self.ratio_p99.push(p99_of(&many) / p99_of(&few));
        self.opened_p99.push(p99_of(opened));
        Ok(self.opened.add(opened)?)
    }

    fn summary(&self) -> String {
        format!(
            "p99 of the slowest resolution {}, to the small ledger p50 {}, p99 {}, opening a stream p99 {}",
            self.slowest.show(Unit::Milliseconds),
            self.ratio_p50.show(Unit::Times),
            self.ratio_p99.show(Unit::Times),
            self.opened_p99.show(Unit::Milliseconds)
        )
    }
}

impl Side {
    async fn start(run: &Run, cluster: &Cluster, database: &str, events: u64) -> Outcome<Self> {
        let server = Server::start(run, &cluster.url(database)).await?;
        let connection = Connection::open(server.address)?;
        let none = RESOLUTIONS.map(|_| latencies()).to_vec();
        Ok(Self { events, server, connection, taken: none.clone(), all: none })
    }

    /// Ends a repetition; what it took.
    fn repeat(&mut self) -> Outcome<Vec<Latencies>> {
        let taken = std::mem::replace(&mut self.taken, RESOLUTIONS.map(|_| latencies()).to_vec());
        for (all, one) in self.all.iter_mut().zip(&taken) {
            all.add(one)?;
        }
        Ok(taken)
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
async fn ask(run: &Run, now: DateTime<Utc>, repetition: usize, number: usize, sides: [&mut Side; 2]) -> Outcome<()> {
    // One query after the other leaves no time to be interrupted otherwise.
    tokio::task::yield_now().await;
    // As the events: the nearer to now, the denser.
    let share = (number * run.plan.repetitions + repetition) as f64 / (run.plan.queries * run.plan.repetitions) as f64;
    let back = f64::from(ledger::SPAN_SECONDS) * share.powi(2);
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
async fn open_streams(run: &Run, repetition: usize, address: SocketAddr) -> Outcome<Latencies> {
    let mut taken = latencies();
    for number in 0..run.plan.openings {
        tokio::task::yield_now().await;
        let resolution = RESOLUTIONS[number % RESOLUTIONS.len()];
        let zone = ZONES[number / RESOLUTIONS.len() % ZONES.len()];
        let window = FIRST_WINDOW + repetition * run.plan.openings + number;
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

fn p99_of(taken: &Latencies) -> f64 {
    millis(taken, 0.99)
}

fn describe(run: &Run, section: &mut Section, few: &Side, many: &Side, figures: &Figures) -> Outcome<()> {
    let size = number(many.events as f64);
    let small = number(few.events as f64);
    section.bars.push(Bar::new(
        format!("a statistics query at {size} events: p99 of the slowest resolution"),
        format!("≤ {BAR_P99} ms"),
        figures.slowest.show(Unit::Milliseconds).to_string(),
        figures.slowest.median() <= BAR_P99,
    ));
    let ratios = [&figures.ratio_p50, &figures.ratio_p99];
    section.bars.push(Bar::new(
        format!("statistics queries at {size} events to those at {small}: p50 and p99"),
        format!("≤ {BAR_RATIO} ×"),
        format!("{} and {}", ratios[0].show(Unit::Times), ratios[1].show(Unit::Times)),
        ratios.iter().all(|ratio| ratio.median() <= BAR_RATIO),
    ));
    section.bars.push(Bar::new(
        format!("opening a stream of a new series at {size} events: p99"),
        format!("≤ {BAR_OPENING} ms"),
        figures.opened_p99.show(Unit::Milliseconds).to_string(),
        figures.opened_p99.median() <= BAR_OPENING,
    ));

    section.say(&format!(
        "Two ledgers, {small} and {size} items, spread over the same four years, the denser the later (the n-th newest of \
         N is n²/N² of four years old), among {} base items. Loaded by COPY without triggers and counted by `statistics.rebuild()`; before \
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
        run.plan.queries * run.plan.repetitions,
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
        .map(|(position, resolution)| row(resolution.name(), &few.all[position], &many.all[position]))
        .collect();
    rows.push(row("all together", &together(&few.all)?, &together(&many.all)?));
    section
        .table(&["", &format!("{small}: p50"), "p99", &format!("{size}: p50"), "p99", "ratio of p50", "of p99"], rows);
    section.say(&format!(
        "A stream of the large ledger: from connecting until the snapshots of all three metrics are read; {} streams one \
         after the other, of all resolutions in both zones, each with a window of its own and therefore a series that \
         nobody watched before. p50 {}, p99 {}, the slowest {}.",
        run.plan.openings * run.plan.repetitions,
        shown(millis(&figures.opened, 0.5)),
        shown(p99_of(&figures.opened)),
        shown(millis(&figures.opened, 1.0)),
    ));
    let names: Vec<_> = RESOLUTIONS.iter().map(|resolution| resolution.name()).collect();
    let line = |side: &Side| side.all.iter().map(p99_of).collect::<Vec<_>>();
    let lines = [(format!("{small} events"), line(few)), (format!("{size} events"), line(many))];
    section.plots.push(("queries.svg", plot::lines("p99 of statistics queries by resolution", &names, &lines)?));
    Ok(())
}

fn shown(milliseconds: f64) -> String {
    show(milliseconds, Unit::Milliseconds)
}
