//! One row a request: `POST /items` against pgbench, which inserts the same rows straight into Postgres.

use std::time::{Duration, Instant};

use crate::cluster::{BASE_ITEMS, Cluster, base_item};
use crate::figures::{Percentiles, Spread, Unit, number, show};
use crate::pgbench::{self, Ids, Settings};
use crate::posts::{self, Answers};
use crate::report::{Bar, Section};
use crate::server::Server;
use crate::watch::{Counts, Open, Watch};
use crate::{Outcome, Run, http, machine, plot, schedule, tell};

/// Connections that insert over HTTP.
pub(super) const CONNECTIONS: usize = 64;
/// How many clients pgbench is tried with. With more it only gets slower on machines of this size.
const CLIENTS: [usize; 4] = [8, 16, 32, 64];
/// How much faster than the best of pgbench.
const BAR_RATIO: f64 = 1.5;
/// How much slower at most with dashboards than without, in percent.
const BAR_LOSS: f64 = 15.0;
/// The share of the highest rate at which latencies are taken: a busy server that is not overwhelmed.
const BUSY: f64 = 0.6;
/// Every dashboard shows the final counts by then.
const ARRIVAL: Duration = Duration::from_secs(10);
/// The three metrics that a dashboard shows.
const SNAPSHOTS: usize = 3;
/// The database of whoever's turn it is.
const DATABASE: &str = "single_row";

/// What pgbench writes into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tables {
    /// The same columns and indexes, with foreign keys and without newcycle's triggers.
    Plain,
    /// newcycle's, with `set newcycle.notify = off`: counted, but nobody is notified.
    Counted,
    /// newcycle's, with a server that listens.
    Notified,
}

/// Makes the tables what they would be without newcycle: no triggers of its own, and foreign keys where it checks parents
/// itself.
pub(super) const PLAIN: &str = "
    do $$
    declare
        of_newcycle record;
    begin
        for of_newcycle in
            select t.tgname, t.tgrelid::regclass as relation
            from pg_trigger t join pg_class c on c.oid = t.tgrelid
            where not t.tgisinternal and c.relnamespace = 'public'::regnamespace
        loop
            execute format('drop trigger %I on %s', of_newcycle.tgname, of_newcycle.relation);
        end loop;
        if not exists (select from pg_constraint where contype = 'f' and conrelid = 'items'::regclass) then
            alter table items add foreign key (base_item_id) references base_items;
            alter table transfers add foreign key (owner_id) references users, add foreign key (item_id) references items;
        end if;
    end
    $$";

/// Rates of newcycle and of its peers.
#[derive(Debug, Default)]
struct Rates {
    peers: Vec<(Tables, Option<Settings>, Spread)>,
    alone: Spread,
    watched: Spread,
    /// What a turn with dashboards is less than the one beside it without, in percent.
    loss: Spread,
    /// The server's processor time for a request, in microseconds.
    cost: Spread,
}

pub(super) async fn measure(run: &Run) -> Outcome<Section> {
    Cluster::with(run, &[], async |cluster: &Cluster| {
        let mut section = Section::new("Single rows");
        section.versions.push(("Postgres, pgbench, psql", cluster.version().await?));
        let mut rates = Rates::default();
        for tables in [Tables::Plain, Tables::Counted, Tables::Notified] {
            let best = if pgbench::is_there(cluster) { Some(best(run, cluster, tables).await?) } else { None };
            rates.peers.push((tables, best, Spread::default()));
        }
        for repetition in 1..=run.plan.repetitions {
            for (tables, settings, spread) in &mut rates.peers {
                let Some(settings) = settings else { continue };
                spread.push(peer(run, cluster, *tables, *settings, Some(run.plan.warm_up), run.plan.throughput).await?);
            }
            newcycle(run, cluster, &mut rates).await?;
            tell(&format!("  {repetition}: {}", summary(&rates)));
        }
        let latencies = busy(run, cluster, rates.alone.median() * BUSY).await?;
        describe(run, &mut section, &rates, &latencies)?;
        Ok(section)
    })
    .await
}

fn summary(rates: &Rates) -> String {
    let peers = rates.peers.iter().map(|(tables, _, spread)| format!("{tables:?} {}, ", spread.show(Unit::PerSecond)));
    let peers: String = peers.collect();
    let (alone, watched) = (rates.alone.show(Unit::PerSecond), rates.watched.show(Unit::PerSecond));
    format!("{peers}POST {alone}, with dashboards {watched}")
}

/// Tries numbers of clients, then the other kind of ids.
async fn best(run: &Run, cluster: &Cluster, tables: Tables) -> Outcome<Settings> {
    let silent = tables == Tables::Counted;
    let mut best: Option<(f64, Settings)> = None;
    for clients in CLIENTS {
        let settings = Settings { clients, ids: Ids::Default, silent };
        let rate = peer(run, cluster, tables, settings, None, run.plan.trial).await?;
        if best.is_none_or(|(fastest, _)| rate > fastest) {
            best = Some((rate, settings));
        }
    }
    let (fastest, settings) = best.ok_or("nothing was tried")?;
    let random = Settings { ids: Ids::Random, ..settings };
    let rate = peer(run, cluster, tables, random, None, run.plan.trial).await?;
    let chosen = if rate > fastest { random } else { settings };
    tell(&format!("  pgbench, {tables:?}: best with {} clients, {:?} ids", chosen.clients, chosen.ids));
    Ok(chosen)
}

/// pgbench once, into new tables, after a warm-up.
async fn peer(
    run: &Run,
    cluster: &Cluster,
    tables: Tables,
    settings: Settings,
    warm_up: Option<Duration>,
    time: Duration,
) -> Outcome<f64> {
    cluster.fresh(DATABASE).await?;
    let mut server = None;
    match tables {
        Tables::Plain => cluster.execute(DATABASE, PLAIN).await?,
        Tables::Counted => {}
        Tables::Notified => server = Some(Server::start(run, &cluster.url(DATABASE)).await?),
    }
    cluster.settle().await?;
    let mut transactions = 0;
    if let Some(time) = warm_up {
        transactions += pgbench::saturate(run, cluster, DATABASE, settings, time).await?.transactions;
    }
    let rate = pgbench::saturate(run, cluster, DATABASE, settings, time).await?;
    transactions += rate.transactions;
    if let Some(server) = server {
        server.stop().await?;
    }
    let items: i64 = cluster.value(DATABASE, "select count(*) from items").await?;
    if u64::try_from(items)? != transactions {
        return Err(format!("pgbench reports {transactions} transactions, there are {items} items").into());
    }
    Ok(rate.per_second)
}

/// newcycle with a new ledger, in turns without dashboards and with them: the machine is the same in both then.
async fn newcycle(run: &Run, cluster: &Cluster, rates: &mut Rates) -> Outcome<()> {
    cluster.fresh(DATABASE).await?;
    let server = Server::start(run, &cluster.url(DATABASE)).await?;
    cluster.settle().await?;
    let mut acknowledged = 0;
    for turn in 0..run.plan.turns {
        // Every other turn the other way round, since the ledger grows and the machine gets warmer.
        let mut order = [false, true];
        order.rotate_left(turn % 2);
        let (mut alone, mut watched) = (0.0, 0.0);
        for has_dashboards in order {
            if has_dashboards {
                let open = Open::WithSnapshots(SNAPSHOTS);
                let request = http::get_events("/statistics/stream");
                let watch = Watch::open(server.address, request, run.plan.dashboards, open).await?;
                let answers = saturate(run, &server, inserts()).await?;
                acknowledged += answers.acknowledged;
                check_dashboards(cluster, &watch, acknowledged).await?;
                watched = answers.rate;
            } else {
                let before = machine::processor_time(server.pid()?)?;
                let answers = saturate(run, &server, inserts()).await?;
                let taken = machine::processor_time(server.pid()?)? - before;
                acknowledged += answers.acknowledged;
                alone = answers.rate;
                rates.cost.push(taken.as_secs_f64() * 1e6 / answers.acknowledged as f64);
            }
        }
        rates.alone.push(alone);
        rates.watched.push(watched);
        rates.loss.push(100.0 * (1.0 - watched / alone));
    }
    server.stop().await?;
    cluster.check_items(DATABASE, acknowledged).await
}

/// One turn: how many of these requests are possible.
pub(super) async fn saturate(run: &Run, server: &Server, requests: Vec<Vec<u8>>) -> Outcome<Answers> {
    let (address, warm_up, turn) = (server.address, run.plan.turn_warm_up, run.plan.turn);
    tokio::task::spawn_blocking(move || posts::saturate(address, &requests, CONNECTIONS, warm_up, turn)).await?
}

/// One insert for each base item.
pub(super) fn inserts() -> Vec<Vec<u8>> {
    (0..BASE_ITEMS).map(insert).collect()
}

/// An insert of this base item.
pub(super) fn insert(number: usize) -> Vec<u8> {
    http::post("/items", "application/json", &format!(r#"{{"base_item_id":"{}"}}"#, base_item(number)))
}

/// Every dashboard shows in the end what a recount by the minute gives.
async fn check_dashboards(cluster: &Cluster, watch: &Watch, acknowledged: u64) -> Outcome<()> {
    watch.until(i64::try_from(acknowledged)?, ARRIVAL).await?;
    let recount = r#"
        select to_char(date_trunc('minute', created_at at time zone 'UTC'), 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), count(*)
        from items group by 1"#;
    let rows = cluster.rows(DATABASE, recount).await?;
    let recount: Counts = rows.iter().map(|row| (("item-creation".to_owned(), row.get(0)), row.get(1))).collect();
    let differing = watch.counts()?.iter().filter(|counts| **counts != recount).count();
    if differing > 0 {
        return Err(format!("NOT EXACT: {differing} streams show other counts than a recount of the ledger").into());
    }
    Ok(())
}

/// Latencies of requests at a rate that the server can keep.
async fn busy(run: &Run, cluster: &Cluster, rate: f64) -> Outcome<Percentiles> {
    let mut percentiles = Percentiles::default();
    for _ in 0..run.plan.repetitions {
        cluster.fresh(DATABASE).await?;
        let server = Server::start(run, &cluster.url(DATABASE)).await?;
        cluster.settle().await?;
        let (address, plan) = (server.address, run.plan.clone());
        let load = move || {
            let warm_up = schedule::jittered(Instant::now(), rate, plan.warm_up);
            let first = posts::on_schedule(address, &inserts(), CONNECTIONS, &warm_up)?;
            let due = schedule::jittered(Instant::now(), rate, plan.throughput);
            let then = posts::on_schedule(address, &inserts(), CONNECTIONS, &due)?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((first.acknowledged + then.acknowledged, then.latencies))
        };
        let (acknowledged, taken) = tokio::task::spawn_blocking(load).await??;
        server.stop().await?;
        cluster.check_items(DATABASE, acknowledged).await?;
        percentiles.push(&taken);
    }
    Ok(percentiles)
}

fn describe(run: &Run, section: &mut Section, rates: &Rates, latencies: &Percentiles) -> Outcome<()> {
    let [plain, counted, _] = rates.peers.as_slice() else { return Err("three kinds of tables".into()) };
    let best = [plain, counted].map(|(_, _, spread)| spread.median()).into_iter().fold(f64::NAN, f64::max);
    let alone = rates.alone.median();
    let what = format!("inserts of one row over HTTP, {CONNECTIONS} connections");
    let bar = format!("≥ {BAR_RATIO} × the best pgbench without NOTIFY");
    if best.is_nan() {
        section.bars.push(Bar::not_measured(what, bar, "there is no pgbench beside this Postgres"));
    } else {
        let ratio = alone / best;
        let measured = format!("{} = {}", rates.alone.show(Unit::PerSecond), show(ratio, Unit::Times));
        section.bars.push(Bar::new(what, bar, measured, ratio >= BAR_RATIO));
    }
    section.bars.push(Bar::new(
        format!("the same with {} dashboards open", number(run.plan.dashboards as f64)),
        format!("at most {BAR_LOSS} % less"),
        format!("{}, {} less", rates.watched.show(Unit::PerSecond), rates.loss.show(Unit::Percent)),
        rates.loss.median() <= BAR_LOSS,
    ));

    section.say(&format!(
        "Items are inserted one by one, each answered after its commit. pgbench: `insert into items (base_item_id) values \
         (…)` with the prepared protocol over TCP, one of {BASE_ITEMS} base items by chance; with the number of clients \
         (of {CLIENTS:?}) and the kind of ids (the ledger's time-ordered default, or `gen_random_uuid()`) that were \
         fastest in short trials. newcycle: `POST /items` over {CONNECTIONS} keep-alive connections from one thread, \
         without an id in the body. Each repetition begins with an empty ledger. With dashboards and without take turns of \
         {} s in the same server, {} in a repetition; how much less is the median over pairs of turns.",
        run.plan.turn.as_secs_f64(),
        run.plan.turns * 2,
    ));
    let name = |tables: Tables| match tables {
        Tables::Plain => "pgbench, plain tables (the same columns and indexes, foreign keys, no triggers of newcycle)",
        Tables::Counted => "pgbench, newcycle's tables, `newcycle.notify = off` (counted, no NOTIFY)",
        Tables::Notified => "pgbench, newcycle's tables, with NOTIFY and a listening server",
    };
    let settings = |settings: &Option<Settings>| match settings {
        Some(Settings { clients, ids, .. }) => format!("{clients} clients, {} ids", format!("{ids:?}").to_lowercase()),
        None => "—".to_owned(),
    };
    let ratio = |spread: &Spread| show(alone / spread.median(), Unit::Times);
    let mut rows: Vec<_> = rates
        .peers
        .iter()
        .map(|(tables, best, spread)| {
            vec![name(*tables).to_owned(), settings(best), spread.show(Unit::PerSecond).to_string(), ratio(spread)]
        })
        .collect();
    let own = |what: String, spread: &Spread| {
        vec![what, format!("{CONNECTIONS} connections"), spread.show(Unit::PerSecond).to_string(), ratio(spread)]
    };
    rows.push(own("newcycle".to_owned(), &rates.alone));
    rows.push(own(format!("newcycle, {} dashboards open", number(run.plan.dashboards as f64)), &rates.watched));
    section.table(&["", "with", "inserts", "newcycle is"], rows);
    let [p50, p99, p999] = latencies.shown();
    section.say(&format!(
        "At {:.0} % of that rate ({}, open loop) a request takes p50 {p50}, p99 {p99}, p99.9 {p999}. When saturated, the server \
         takes {} µs of processor time a request (Postgres not counted).",
        BUSY * 100.0,
        show(alone * BUSY, Unit::PerSecond),
        number(rates.cost.median()),
    ));
    let mut bars: Vec<_> = rates
        .peers
        .iter()
        .filter(|(_, _, spread)| !spread.is_empty())
        .map(|(tables, _, spread)| (format!("pgbench, {}", format!("{tables:?}").to_lowercase()), spread.clone()))
        .collect();
    bars.push(("newcycle".to_owned(), rates.alone.clone()));
    bars.push((format!("newcycle, {} dashboards", run.plan.dashboards), rates.watched.clone()));
    section.plots.push(("single-rows.svg", plot::bars("Inserts of one row a second", &bars)?));
    Ok(())
}
