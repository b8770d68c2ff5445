//! One client floods the server: what another one notices. And what it costs that callers have to say who they are.

use std::time::{Duration, Instant};

use crate::barrage::{Barrage, Tally, Wish};
use crate::cluster::{BASE_ITEMS, Cluster, base_item};
use crate::figures::{Percentiles, Spread, Unit, millis, number, show};
use crate::posts::{self, Answers};
use crate::report::{Bar, Section};
use crate::server::{self, Server};
use crate::watch::{Open, Watch, since};
use crate::{Outcome, Run, http, machine, schedule, tell};

use super::single_row::{self, insert, inserts, saturate};

/// What a key may send a second: more than any client of ours sends, and far less than the server can do.
const LIMIT: u32 = 2_000;
/// And how many of them at once. Without this, a whole second's worth may come at once, in which others wait longer.
const BURST: u32 = 200;
/// Inserts a second of the client that is to notice nothing, as in the measurement of latencies.
const RATE: f64 = 100.0;
/// Its streams.
const STREAMS: usize = 10;
/// Inserts wait for each other on fewer connections than this when one is slow.
const CONNECTIONS: usize = 16;
/// Connections of a flood.
const FLOOD: usize = 64;
/// Streams that a flood wants: many more than a key may have.
const FLOOD_STREAMS: usize = 5_000;
/// So many different keys that there never were.
const WRONG_KEYS: usize = 1_024;
/// The same bar as without a flood.
const BAR_P99: f64 = 15.0;
/// How much slower at most when callers have to say who they are, in percent.
const BAR_LOSS: f64 = 5.0;
/// How long before a flood the client opens its connections.
const HEAD_START: Duration = Duration::from_millis(100);
/// Everything has arrived by then.
const ARRIVAL: Duration = Duration::from_secs(30);
/// The one that is flooded; and those for what keys cost.
const DATABASE: &str = "flood";
const CLOSED: &str = "closed";
const OPEN: &str = "open";
const SCOPES: &str = "ledger:write,statistics:read";
/// So many of them are different ones, by their windows: none shares its series with another.
const DIFFERENT_STREAMS: usize = 500;
/// The base item of the client that is flooded. The flood inserts items of the others, so that counts tell them apart.
const OWN: usize = 0;

/// What goes on beside the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// Requests and streams of another key.
    Key,
    /// Requests of callers without a key, and with wrong ones.
    Nobody,
}

impl Beside {
    const ALL: [Self; 3] = [Self::Nothing, Self::Key, Self::Nobody];
}

/// What the client noticed in the turns of a kind.
#[derive(Debug, Default)]
struct Noticed {
    /// From when a request was to be sent to its answer.
    answers: Percentiles,
    /// From when an insert was to be sent to a stream that shows it.
    arrivals: Percentiles,
    /// The p99 of both, and what they are of those of the quiet turn beside it.
    ratios: [Spread; 2],
    /// Cores that the server took.
    cores: Spread,
    requests: u64,
}

/// What a flood was told, a second.
#[derive(Debug, Default)]
struct Told {
    allowed: Spread,
    /// Of these beyond what may come at once, the most in a turn.
    beyond_burst: f64,
    refused: Spread,
    streams: Spread,
    streams_refused: Spread,
    closed: u64,
}

#[derive(Debug, Default)]
struct Figures {
    quiet: Noticed,
    by_key: Noticed,
    by_nobody: Noticed,
    key: Told,
    without_key: Told,
    wrong_keys: Told,
    price: Price,
}

/// Inserts with a key where one is needed, and without where none is.
#[derive(Debug, Default)]
struct Price {
    closed: Spread,
    open: Spread,
    /// How much less with a key, of pairs of turns, in percent.
    loss: Spread,
    /// The server's processor time for a request with a key and without, in microseconds.
    cost: [Spread; 2],
}

pub(super) async fn measure(run: &Run) -> Outcome<Section> {
    Cluster::with(run, &[], async |cluster: &Cluster| {
        let mut section = Section::new("Floods");
        section.versions.push(("Postgres, pgbench, psql", cluster.version().await?));
        let mut figures = Figures::default();
        flood(run, cluster, &mut figures).await?;
        for repetition in 1..=run.plan.repetitions {
            price(run, cluster, &mut figures.price).await?;
            tell(&format!("  {repetition}: {}", figures.price.summary()));
        }
        describe(run, &mut section, &figures);
        Ok(section)
    })
    .await
}

/// The client that is to notice nothing.
struct Client<'a> {
    server: &'a Server,
    key: &'a str,
    watch: Watch,
    /// How many inserts it has been acknowledged.
    total: u64,
}

/// One server, in turns without a flood and with either kind of it: the machine is the same in all then.
async fn flood(run: &Run, cluster: &Cluster, figures: &mut Figures) -> Outcome<()> {
    cluster.fresh(DATABASE).await?;
    let url = cluster.url(DATABASE);
    let [own, other] =
        [server::create_key(run, &url, "client", SCOPES).await?, server::create_key(run, &url, "flood", SCOPES).await?];
    let limit = format!("{LIMIT}/s,burst={BURST}");
    let settings = [("NEWCYCLE_AUTHENTICATION", "required"), ("NEWCYCLE_RATE_LIMIT_PER_KEY", limit.as_str())];
    let server = Server::start_with(run, &url, &settings).await?;
    // All counts in one bucket, whose count then says how many inserts have arrived.
    let stream = format!("/statistics/stream?metrics=item-creation&resolution=year&base_item_id={}", base_item(OWN));
    let request = http::with_key(&http::get_events(&stream), &own);
    let watch = Watch::open(server.address, request, STREAMS, Open::WithSnapshots(1)).await?;
    let mut client = Client { server: &server, key: &own, watch, total: 0 };
    client.send(schedule::jittered(Instant::now(), RATE, run.plan.warm_up)).await?;
    let mut flooded = 0;
    for turn in 0..run.plan.turns {
        // Each round in another order, since the ledger grows and the machine gets warmer.
        let mut order = Beside::ALL;
        order.rotate_left(turn % Beside::ALL.len());
        let mut round = Vec::new();
        for beside in order {
            client.send(schedule::jittered(Instant::now(), RATE, run.plan.turn_warm_up)).await?;
            round.push((beside, client.turn(run, beside, &other, figures, &mut flooded).await?));
        }
        let quiet = round.iter().find(|(beside, _)| *beside == Beside::Nothing).map(|(_, p99)| *p99);
        let quiet = quiet.ok_or("no turn was quiet")?;
        for (beside, p99) in round {
            for (spread, (flooded, quiet)) in figures.noticed(beside).ratios.iter_mut().zip(p99.into_iter().zip(quiet))
            {
                spread.push(flooded / quiet);
            }
        }
        tell(&format!("  {}: {}", turn + 1, figures.summary()));
    }
    let acknowledged = client.total + flooded;
    drop(client);
    server.stop().await?;
    cluster.check_items(DATABASE, acknowledged).await
}

impl Client<'_> {
    /// A turn: the p99 of answers and of arrivals. The flood begins with the first request and ends with the last one.
    async fn turn(
        &mut self,
        run: &Run,
        beside: Beside,
        other: &str,
        figures: &mut Figures,
        flooded: &mut u64,
    ) -> Outcome<[f64; 2]> {
        let base = i64::try_from(self.total)?;
        self.watch.until(base, ARRIVAL).await?;
        self.watch.record(base)?;
        let before = machine::processor_time(self.server.pid()?)?;
        // The client is there before the flood: its connections do not wait behind those of the flood.
        let (address, begun) = (self.server.address, Instant::now() + HEAD_START);
        let due = schedule::jittered(begun, RATE, run.plan.flood);
        let flood = async {
            tokio::time::sleep_until(begun.into()).await;
            let wishes = wishes(beside, other).into_iter();
            wishes.map(|(wish, connections)| Barrage::begin(address, wish, connections)).collect::<Outcome<Vec<_>>>()
        };
        let (answers, flood) = tokio::join!(self.send(due.clone()), flood);
        let (answers, flood) = (answers?, flood?);
        let (processor, taken) = (machine::processor_time(self.server.pid()?)? - before, begun.elapsed());
        let mut tallies = Vec::new();
        for barrage in flood {
            tallies.push(barrage.end().await?);
        }
        let total = i64::try_from(self.total)?;
        let survey = self.watch.until(total, ARRIVAL).await?;
        let arrivals = self.watch.arrivals()?;
        if survey.most != total || arrivals.len() != due.len() * STREAMS {
            return Err(format!("NOT EXACT: of {total} inserts a stream shows {}", survey.most).into());
        }
        let arrivals = since(&due, &arrivals);
        let noticed = figures.noticed(beside);
        noticed.answers.push(&answers.latencies);
        noticed.arrivals.push(&arrivals);
        noticed.cores.push(processor.as_secs_f64() / taken.as_secs_f64());
        noticed.requests += answers.acknowledged;
        match (beside, tallies.as_slice()) {
            (Beside::Key, [requests, streams]) => {
                *flooded += requests.answers_with(201);
                figures.key.add(requests, streams);
            }
            (Beside::Nobody, [without_key, wrong_keys]) => {
                figures.without_key.add(without_key, &Tally::default());
                figures.wrong_keys.add(wrong_keys, &Tally::default());
            }
            _ => {}
        }
        Ok([millis(&answers.latencies, 0.99), millis(&arrivals, 0.99)])
    }

    /// Fails if one of the requests does.
    async fn send(&mut self, due: Vec<Instant>) -> Outcome<Answers> {
        let (address, requests) = (self.server.address, vec![http::with_key(&insert(OWN), self.key)]);
        let load = move || posts::on_schedule(address, &requests, CONNECTIONS, &due);
        let answers = tokio::task::spawn_blocking(load).await??;
        self.total += answers.acknowledged;
        Ok(answers)
    }
}

/// What a flood asks for, and on how many connections each.
fn wishes(beside: Beside, key: &str) -> Vec<(Wish, usize)> {
    let others = || (0..BASE_ITEMS).filter(|number| *number != OWN).map(insert);
    match beside {
        Beside::Nothing => Vec::new(),
        Beside::Key => vec![
            (Wish::Answers(others().map(|request| http::with_key(&request, key)).collect()), FLOOD),
            (Wish::Streams(flood_streams().map(|request| http::with_key(&request, key)).collect()), FLOOD_STREAMS),
        ],
        Beside::Nobody => {
            let with_wrong_key = |wrong: String| http::with_key(&insert(OWN), &wrong);
            vec![
                (Wish::Answers(others().collect()), FLOOD / 2),
                (Wish::Answers(wrong_keys().map(with_wrong_key).collect()), FLOOD / 2),
            ]
        }
    }
}

/// As a page of the dashboard reads them.
fn flood_streams() -> impl Iterator<Item = Vec<u8>> {
    (1..=DIFFERENT_STREAMS).map(|window| http::get_events(&format!("/statistics/stream?window={window}")))
}

/// Keys that look like good ones.
fn wrong_keys() -> impl Iterator<Item = String> {
    let letters = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut random = schedule::Random::new();
    let mut text = move |length: usize| (0..length).map(|_| char::from(*random.of(letters))).collect::<String>();
    (0..WRONG_KEYS).map(move |_| format!("nck_{}_{}", text(12), text(52)))
}

/// Two servers with ledgers of their own, in turns: one that everybody may write to, and one that asks for a key.
async fn price(run: &Run, cluster: &Cluster, price: &mut Price) -> Outcome<()> {
    cluster.fresh(CLOSED).await?;
    cluster.fresh(OPEN).await?;
    let key = server::create_key(run, &cluster.url(CLOSED), "client", SCOPES).await?;
    let settings = [("NEWCYCLE_AUTHENTICATION", "required")];
    let closed = Server::start_with(run, &cluster.url(CLOSED), &settings).await?;
    let open = Server::start(run, &cluster.url(OPEN)).await?;
    let with_key: Vec<_> = inserts().iter().map(|request| http::with_key(request, &key)).collect();
    cluster.settle().await?;
    let mut acknowledged = [0, 0];
    for turn in 0..run.plan.turns {
        let mut order = [true, false];
        order.rotate_left(turn % 2);
        let mut rates = [0.0, 0.0];
        for has_key in order {
            let (server, requests) = if has_key { (&closed, with_key.clone()) } else { (&open, inserts()) };
            let before = machine::processor_time(server.pid()?)?;
            let answers = saturate(run, server, requests).await?;
            let taken = machine::processor_time(server.pid()?)? - before;
            let which = usize::from(!has_key);
            acknowledged[which] += answers.acknowledged;
            rates[which] = answers.rate;
            price.cost[which].push(taken.as_secs_f64() * 1e6 / answers.acknowledged as f64);
        }
        let [with_key, without] = rates;
        price.closed.push(with_key);
        price.open.push(without);
        price.loss.push(100.0 * (1.0 - with_key / without));
    }
    closed.stop().await?;
    open.stop().await?;
    cluster.check_items(CLOSED, acknowledged[0]).await?;
    cluster.check_items(OPEN, acknowledged[1]).await
}

impl Price {
    fn summary(&self) -> String {
        let [with_key, without] = [&self.closed, &self.open].map(|spread| spread.show(Unit::PerSecond));
        format!("POST with a key {with_key}, without {without}, {} less", self.loss.show(Unit::Percent))
    }
}

impl Tally {
    fn answers_with(&self, status: u16) -> u64 {
        self.answers.get(&status).copied().unwrap_or(0)
    }

    fn refused(&self) -> u64 {
        self.answers.iter().filter(|(status, _)| **status >= 400).map(|(_, answers)| answers).sum()
    }
}

impl Told {
    fn add(&mut self, requests: &Tally, streams: &Tally) {
        let seconds = requests.taken.as_secs_f64();
        let opened = streams.answers_with(200);
        let allowed = requests.answers_with(201) + opened;
        self.allowed.push(requests.answers_with(201) as f64 / seconds);
        self.refused.push(requests.refused() as f64 / seconds);
        self.streams.push(opened as f64);
        self.streams_refused.push(streams.refused() as f64 / seconds);
        let beyond_burst = (allowed as f64 - f64::from(BURST)) / seconds;
        self.beyond_burst = self.beyond_burst.max(beyond_burst);
        self.closed += requests.closed + streams.closed;
    }
}

impl Figures {
    fn noticed(&mut self, beside: Beside) -> &mut Noticed {
        match beside {
            Beside::Nothing => &mut self.quiet,
            Beside::Key => &mut self.by_key,
            Beside::Nobody => &mut self.by_nobody,
        }
    }

    fn summary(&self) -> String {
        let kinds = [("quiet", &self.quiet), ("flooded by a key", &self.by_key), ("by nobody", &self.by_nobody)];
        let p99 = kinds.map(|(name, noticed)| {
            let ([_, answers, _], [_, arrivals, _]) = (noticed.answers.shown(), noticed.arrivals.shown());
            format!("{name} p99 {answers} and {arrivals}")
        });
        let refused =
            [&self.key.refused, &self.key.streams_refused, &self.without_key.refused, &self.wrong_keys.refused];
        let [requests, streams, without_key, wrong] = refused.map(|spread| spread.show(Unit::PerSecond));
        format!("{}; refused {requests}, {streams} streams, {without_key} without a key, {wrong} wrong", p99.join(", "))
    }
}

fn describe(run: &Run, section: &mut Section, figures: &Figures) {
    bars(section, figures);
    let streams = number(FLOOD_STREAMS as f64);
    section.say(&format!(
        "A client sends {RATE} `POST /items` a second at moments fixed before, and has {STREAMS} streams of the item that \
         it inserts. Every client needs a key, and a key may send {} requests a second, {BURST} of \
         them at once, and have 200 streams. Beside it, \
         in turns of {} s each in the same server: nothing; another key, with {FLOOD} connections that insert as soon as \
         they are answered, and with {streams} connections that ask for one of {DIFFERENT_STREAMS} different streams of \
         `/statistics/stream` until they have one; or nobody's keys, with {} connections that insert without a key and as \
         many with wrong ones. A flood begins with the first request of its turn, for which the client has its connections \
         already. The flood's threads take their share of the same cores: the client notices those, too. How many times is \
         the median over rounds of turns, of the p99 in the flooded turn to that in the quiet one.",
        number(f64::from(LIMIT)),
        run.plan.flood.as_secs(),
        FLOOD / 2,
    ));
    let row = |name: &str, noticed: &Noticed| {
        let ([p50, p99, _], [arrival_p50, arrival_p99, _]) = (noticed.answers.shown(), noticed.arrivals.shown());
        let [answers, arrivals] = noticed.ratios.each_ref().map(|spread| show(spread.median(), Unit::Times));
        let cores = number(noticed.cores.median());
        vec![name.to_owned(), p50, p99, answers, arrival_p50, arrival_p99, arrivals, cores]
    };
    section.table(
        &["", "answer: p50", "p99", "", "insert to message: p50", "p99", "", "cores that the server takes"],
        [
            row("quiet", &figures.quiet),
            row("another key floods", &figures.by_key),
            row("nobody's keys flood", &figures.by_nobody),
        ],
    );
    let per_second = |spread: &Spread| spread.show(Unit::PerSecond).to_string();
    let told = |name: &str, status: &str, told: &Told| {
        vec![name.to_owned(), per_second(&told.allowed), format!("{} ({status})", per_second(&told.refused))]
    };
    section.table(
        &["flood", "done", "refused"],
        [
            told("inserts of the other key", "429", &figures.key),
            vec![
                "streams of the other key".to_owned(),
                format!("{} in all", number(figures.key.streams.median())),
                format!("{} (429)", per_second(&figures.key.streams_refused)),
            ],
            told("inserts without a key", "401", &figures.without_key),
            told("inserts with a wrong key", "401", &figures.wrong_keys),
        ],
    );
    let closed = figures.key.closed + figures.without_key.closed + figures.wrong_keys.closed;
    if closed > 0 {
        section.say(&format!("The server closed {} connections of floods.", number(closed as f64)));
    }
    let [with_key, without] = figures.price.cost.each_ref().map(|spread| number(spread.median()));
    section.say(&format!(
        "What keys cost: `POST /items` over {} connections as for single rows, {} with a key where one is needed, {} \
         without where none is; in turns between two servers with ledgers of their own. The server takes {with_key} µs of \
         processor time a request with a key, and {without} µs without.",
        single_row::CONNECTIONS,
        per_second(&figures.price.closed),
        per_second(&figures.price.open),
    ));
}

fn bars(section: &mut Section, figures: &Figures) {
    let floods = [("another key floods", &figures.by_key), ("nobody's keys flood", &figures.by_nobody)];
    for (name, noticed) in floods {
        let kinds = [("POST to answer", &noticed.answers), ("insert to message", &noticed.arrivals)];
        for ((what, percentiles), ratio) in kinds.into_iter().zip(&noticed.ratios) {
            let [_, p99, _] = percentiles.shown();
            section.bars.push(Bar::new(
                format!("{what} at {RATE}/s while {name}: p99"),
                format!("≤ {BAR_P99} ms"),
                format!("{p99} = {} a quiet turn's", show(ratio.median(), Unit::Times)),
                percentiles.p99().median() <= BAR_P99,
            ));
        }
    }
    // The first one that fails ends the measurement.
    let requests = figures.by_key.requests + figures.by_nobody.requests;
    section.bars.push(Bar::new(
        "requests and streams of that client that failed meanwhile",
        "none",
        format!("none of {} requests and {STREAMS} streams", number(requests as f64)),
        true,
    ));
    section.bars.push(Bar::new(
        "what a flood is allowed, beyond what may come at once",
        format!("≤ {}", show(f64::from(LIMIT), Unit::PerSecond)),
        format!("{} at most", show(figures.key.beyond_burst, Unit::PerSecond)),
        figures.key.beyond_burst <= f64::from(LIMIT),
    ));
    section.bars.push(Bar::new(
        "inserts of one row with a key",
        format!("at most {BAR_LOSS} % less than where none is needed"),
        format!("{}, {} less", figures.price.closed.show(Unit::PerSecond), figures.price.loss.show(Unit::Percent)),
        figures.price.loss.median() <= BAR_LOSS,
    ));
}
