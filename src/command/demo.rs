//! `newcycle demo`

mod client;
mod crm;
mod random;
mod story;

use std::fmt;
use std::io::IsTerminal;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::client::{Failure, Server, Target};
use super::{CommandError, cancel_on_signal, print, tell};
use random::Random;
use story::{Event, Kind, Story};

/// So many requests are under way at once at most. A server on the same machine answers thousands a second through
/// that; one that falls behind makes the demo wait instead of being buried.
const IN_FLIGHT: usize = 64;
/// Events that are late by more than this are left out: after a pause, the demo goes on instead of catching up.
const MOST_LATENESS: Duration = Duration::from_secs(1);
/// How often a terminal shows how much has happened.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(5);
/// Pauses between attempts to reach a server that is away: short at first, for a restart; then once in a while.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// With fewer users than these in the ledger, some are made at the start: things need hands to go to.
const FIRST_USERS: usize = 25;
/// Nobody means more than this, and pauses between events stay numbers that make sense.
const HIGHEST_RATE: f64 = 100_000.0;

/// Where, how much, and how long.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = DEMO_HELP)]
pub struct DemoSettings {
    #[command(flatten)]
    target: Target,
    /// How many events a second happen on average; now and then more, now and then fewer
    #[arg(long, value_name = "EVENTS", default_value_t = 5.0, value_parser = parse_rate)]
    rate: f64,
    /// Stop after so many seconds, not only at Ctrl-C
    #[arg(long, value_name = "SECONDS", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// Serve a made-up CRM on this port of this machine instead, of which assets change hands at that rate: something to fetch
    /// for a first data stream
    #[arg(long, value_name = "PORT", num_args = 0..=1, default_missing_value = CRM_PORT)]
    crm: Option<u16>,
    /// Make the same choices as another run with this number
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
}

/// Where the CRM is, unless said otherwise.
const CRM_PORT: &str = "8090";

const DEMO_HELP: &str = "\
It writes into the ledger over REST, as any other service would, and rows of a ledger stay: use one that is not kept,
such as that of `newcycle --data-dir /tmp/newcycle-demo`. Of ten events, six are transfers, three are new items, one is
a new user. Only items of the demo's own base items change hands. A key needs the scopes ledger:read and ledger:write.

When the server goes away, the demo waits for it and sends again what was not answered; nothing happens twice, as all
rows have ids. At the end it says what the server acknowledged: exactly that is in the ledger.

Examples:
  newcycle demo                           5 events a second on the server on this machine, until Ctrl-C
  newcycle demo --rate 1000 --duration 60 a busy minute
  newcycle demo --crm                     a CRM on http://127.0.0.1:8090/assets; examples/stream.json fetches from it";

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().map_err(|_| "it is not a number".to_owned())?;
    if rate > 0.0 && rate <= HIGHEST_RATE { Ok(rate) } else { Err(format!("it must be above 0, up to {HIGHEST_RATE}")) }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "it is not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

pub(super) async fn run(settings: &DemoSettings) -> Result<(), CommandError> {
    let stop = CancellationToken::new();
    let _stop_on_signal = tokio::spawn(cancel_on_signal(stop.clone()));
    let random = Random::new(settings.seed.unwrap_or_else(Random::seed));
    if let Some(port) = settings.crm {
        return crm::serve(port, random, settings.rate, stop).await;
    }
    let server = Server::new(&settings.target, IN_FLIGHT)?;
    let story = Story::new(random);
    let mut demo = Demo { server, stop, story, tally: Tally::default(), again: Vec::new(), in_flight: JoinSet::new() };
    let prepared = demo.prepare().await;
    let begin = Instant::now();
    if let Some(prepared) = prepared {
        prepared?;
        tell(&format!("{} events a second on {}; Ctrl-C ends it", settings.rate, demo.server.url()));
        if let Some(duration) = settings.duration {
            let stop = demo.stop.clone();
            tokio::spawn(async move {
                sleep(duration).await;
                stop.cancel();
            });
        }
        demo.play(settings.rate, begin).await?;
    }
    let seconds = begin.elapsed().as_secs_f64();
    let Tally { refused, .. } = demo.tally;
    print(&format!(
        "acknowledged in {seconds:.1} s: {}; {refused} refused, {} unanswered",
        demo.tally,
        demo.again.len()
    ));
    Ok(())
}

/// What the server acknowledged, and what it refused.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    transfers: u64,
    items: u64,
    users: u64,
    base_items: u64,
    refused: u64,
}

impl Tally {
    fn acknowledge(&mut self, kind: Kind) {
        match kind {
            Kind::Transfer => self.transfers += 1,
            Kind::Item => self.items += 1,
            Kind::User => self.users += 1,
        }
    }

    fn events(&self) -> u64 {
        self.transfers + self.items + self.users
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { transfers, items, users, base_items, .. } = self;
        write!(formatter, "{transfers} transfers, {items} items, {users} users, {base_items} base items")
    }
}

/// A demo under way.
#[derive(Debug)]
struct Demo {
    server: Server,
    stop: CancellationToken,
    story: Story,
    tally: Tally,
    /// What was not answered and is to be sent again. At most [`IN_FLIGHT`], as nothing new is sent meanwhile.
    again: Vec<Event>,
    in_flight: JoinSet<(Event, Result<(), Failure>)>,
}

impl Demo {
    /// Makes sure that there are base items and users, and learns who and what there is. None when it was stopped.
    async fn prepare(&mut self) -> Option<Result<(), Failure>> {
        // The same in every attempt, so that an attempt whose answer was lost can be repeated.
        let first_users: Vec<Event> = (0..FIRST_USERS).map(|_| Story::new_user(Uuid::now_v7())).collect();
        loop {
            let stop = self.stop.clone();
            match stop.run_until_cancelled(self.try_to_prepare(&first_users)).await? {
                Err(Failure::Away(reason)) => self.until_back(&reason).await?,
                other => return Some(other),
            }
        }
    }

    async fn try_to_prepare(&mut self, first_users: &[Event]) -> Result<(), Failure> {
        self.server.ready().await?;
        self.tally.base_items += self.server.create_all("/base-items", &Story::base_items()).await?.inserted;
        for item in self.server.newest("/items").await?.data {
            if item.base_item_id.is_some_and(Story::has_base_item) {
                self.story.remember(Kind::Item, item.id);
            }
        }
        for user in self.server.newest("/users").await?.data {
            self.story.remember(Kind::User, user.id);
        }
        if self.story.users() < FIRST_USERS {
            let bodies: Vec<_> = first_users.iter().map(|user| user.body.clone()).collect();
            let answer = self.server.create_all("/users", &bodies).await?;
            self.tally.users += answer.inserted + answer.unchanged;
            for user in first_users {
                self.story.remember(Kind::User, user.id);
            }
        }
        Ok(())
    }

    /// Lets things happen until it is stopped, and waits for the last answers.
    async fn play(&mut self, rate: f64, begin: Instant) -> Result<(), JoinError> {
        let stop = self.stop.clone();
        let mut due = begin;
        let mut summary = interval(SUMMARY_INTERVAL);
        summary.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let shows_summary = std::io::stdout().is_terminal();
        summary.reset();
        let mut shown = (begin, 0);
        let mut behind = false;
        while !stop.is_cancelled() {
            let now = Instant::now();
            if now > due + MOST_LATENESS {
                due = now;
                if !behind {
                    tell("the server does not keep up: less happens than was asked for");
                    behind = true;
                }
            }
            while due <= now && self.in_flight.len() < IN_FLIGHT {
                let event = self.again.pop().unwrap_or_else(|| self.story.next());
                self.send(event);
                due += Duration::from_secs_f64(self.story.pause(rate, due.duration_since(begin).as_secs_f64()));
            }
            let has_room = self.in_flight.len() < IN_FLIGHT;
            tokio::select! {
                () = stop.cancelled() => {}
                Some(answer) = self.in_flight.join_next() => {
                    if let Some(reason) = self.take(answer?) {
                        self.collect().await?;
                        if self.until_back(&reason).await.is_none() {
                            break;
                        }
                        // What would have happened meanwhile did not.
                        due = Instant::now();
                    }
                }
                () = sleep_until(due), if has_room => {}
                _ = summary.tick(), if shows_summary => {
                    let (now, events) = (Instant::now(), self.tally.events());
                    #[expect(clippy::cast_precision_loss, reason = "to read")]
                    let rate = (events - shown.1) as f64 / (now - shown.0).as_secs_f64();
                    print(&format!("{}; {rate:.1} a second", self.tally));
                    shown = (now, events);
                }
            }
        }
        self.collect().await
    }

    fn send(&mut self, event: Event) {
        let server = self.server.clone();
        self.in_flight.spawn(async move {
            let answer = server.create(event.kind.path(), &event.body).await;
            (event, answer)
        });
    }

    /// Notes what became of an event. If the server is away, why.
    fn take(&mut self, (event, answer): (Event, Result<(), Failure>)) -> Option<String> {
        match answer {
            Ok(()) => {
                self.tally.acknowledge(event.kind);
                self.story.remember(event.kind, event.id);
                None
            }
            Err(Failure::Refused(reason)) => {
                // The first says what is wrong; the rest are counted.
                if self.tally.refused == 0 {
                    tell(&format!("POST {} was refused: {reason}", event.kind.path()));
                }
                self.tally.refused += 1;
                None
            }
            Err(Failure::Away(reason)) => {
                self.again.push(event);
                Some(reason)
            }
        }
    }

    /// Waits for all answers.
    async fn collect(&mut self) -> Result<(), JoinError> {
        while let Some(answer) = self.in_flight.join_next().await {
            self.take(answer?);
        }
        Ok(())
    }

    /// Waits until the server is there; none when it was stopped.
    async fn until_back(&self, reason: &str) -> Option<()> {
        let begin = Instant::now();
        tell(&format!("{} is away ({reason}): waiting for it", self.server.url()));
        let mut backoff = FIRST_BACKOFF;
        self.stop
            .run_until_cancelled(async {
                loop {
                    // Before the first attempt too: a server may say that it is ready, and still not take anything.
                    sleep(backoff).await;
                    if self.server.ready().await.is_ok() {
                        break;
                    }
                    backoff = (2 * backoff).min(LONGEST_BACKOFF);
                }
            })
            .await?;
        tell(&format!("{} is there after {:.1} s", self.server.url(), begin.elapsed().as_secs_f64()));
        Some(())
    }
}
