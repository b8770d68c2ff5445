//! Writers who note what they were told and readers who come back, whatever is broken under them; and the account in the end:
//! what was acknowledged is in the ledger, of what was not nothing is half there, and every reader sees what the ledger has.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::api::{Events, View};
use crate::exactness::recounts;
use crate::faults::Chance;
use crate::harness::{PATIENCE, eventually};

/// Clients that were told nothing ask again after a while, as `EventSource` does.
const RETRY: Duration = Duration::from_millis(50);
/// Who is not answered for so long gives up. Servers say within seconds that the database is away.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Where the server is at present: after a restart it may be elsewhere.
#[derive(Clone)]
pub struct Place(Arc<Mutex<String>>);

impl Place {
    pub fn new(url: &str) -> Self {
        Self(Arc::new(Mutex::new(url.to_owned())))
    }

    pub fn moved(&self, url: &str) {
        url.clone_into(&mut self.0.lock().expect("it"));
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.0.lock().expect("it"))
    }
}

/// What became of a request that was to write rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It was acknowledged: the rows are there.
    Acknowledged,
    /// It was not: they are all there, or none is.
    Unknown,
}

/// A request that was to write rows.
#[derive(Debug)]
pub struct Attempt {
    table: &'static str,
    ids: Vec<Uuid>,
    outcome: Outcome,
}

/// Writers and readers at work.
pub struct Load {
    stop: CancellationToken,
    writers: JoinSet<Vec<Attempt>>,
    others: Vec<Attempt>,
    readers: JoinSet<()>,
    views: Vec<(&'static str, Arc<Mutex<View>>)>,
    acknowledged: Arc<AtomicU64>,
    transferred: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    cut: Arc<Mutex<Vec<String>>>,
}

/// Who writes and reads.
pub struct Plan {
    pub writers: u64,
    /// Of each, between two requests.
    pub pause: Duration,
    /// There is a reader for each.
    pub resolutions: &'static [&'static str],
}

/// What came of it.
pub struct Tally {
    /// Requests that were acknowledged.
    pub acknowledged: usize,
    /// Requests of which nobody knew what became of them.
    pub unknown: usize,
    /// Rows in the ledger.
    pub rows: usize,
    pub readers: usize,
    /// What clients saw whose connection was cut after it had been made, and before it was answered.
    pub cut: Vec<String>,
}

impl Load {
    /// So many writers, and a reader for each resolution.
    pub async fn start(place: &Place, writers: u64) -> Self {
        let resolutions = &["second", "minute", "day", "year"];
        Self::planned(place, &Plan { writers, pause: Duration::ZERO, resolutions }).await
    }

    pub async fn planned(place: &Place, plan: &Plan) -> Self {
        let mut load = Self {
            stop: CancellationToken::new(),
            writers: JoinSet::new(),
            others: Vec::new(),
            readers: JoinSet::new(),
            views: Vec::new(),
            acknowledged: Arc::default(),
            transferred: Arc::default(),
            refused: Arc::default(),
            cut: Arc::default(),
        };
        let base_item = Uuid::now_v7();
        let client = Client::new();
        let created = client.post(place.url("/base-items")).json(&json!({"id": base_item, "description": "thing"}));
        assert_eq!(created.send().await.expect("an answer").status(), StatusCode::CREATED);
        for number in 0..plan.writers {
            let writer = Writer {
                place: place.clone(),
                pause: plan.pause,
                // Each request by a connection of its own: so it is known which of them were answered.
                client: Client::builder().timeout(TIMEOUT).pool_max_idle_per_host(0).build().expect("a client"),
                chance: Chance(number),
                stop: load.stop.clone(),
                base_item,
                users: Vec::new(),
                items: Vec::new(),
                acknowledged: Arc::clone(&load.acknowledged),
                transferred: Arc::clone(&load.transferred),
                refused: Arc::clone(&load.refused),
                cut: Arc::clone(&load.cut),
            };
            load.writers.spawn(writer.run());
        }
        load.read_at(place, plan);
        load
    }

    /// Readers there, too.
    pub fn read_at(&mut self, place: &Place, plan: &Plan) {
        for resolution in plan.resolutions {
            let view = Arc::new(Mutex::new(View::default()));
            self.readers.spawn(read(place.clone(), resolution, Arc::clone(&view)));
            self.views.push((resolution, view));
        }
    }

    /// Users whom somebody else inserts, by a statement that returns their ids.
    pub async fn users(&mut self, pool: &PgPool, statement: &'static str) {
        let ids = sqlx::query_scalar(statement).fetch_all(pool).await.expect("users");
        self.others.push(Attempt { table: "users", ids, outcome: Outcome::Acknowledged });
    }

    /// Waits until so many more requests were acknowledged.
    pub async fn goes_on(&self, requests: u64) {
        grows(&self.acknowledged, requests).await;
    }

    /// Waits until so many more requests with transfers were acknowledged.
    pub async fn transfers_go_on(&self, requests: u64) {
        grows(&self.transferred, requests).await;
    }

    /// Waits until so many more requests were not.
    pub async fn is_refused(&self, requests: u64) {
        grows(&self.refused, requests).await;
    }

    /// Has all writers end; what they wrote.
    pub async fn stop(&mut self) -> Vec<Attempt> {
        self.stop.cancel();
        let mut attempts = std::mem::take(&mut self.others);
        while let Some(of_one) = timeout(PATIENCE, self.writers.join_next()).await.expect("writers end") {
            attempts.extend(of_one.expect("no panic"));
        }
        attempts
    }

    /// Ends it, when everything is whole again, and compares.
    pub async fn settle(mut self, pool: &PgPool) -> Tally {
        let attempts = self.stop().await;
        let mut rows = 0;
        for table in ["users", "items", "transfers"] {
            let statement = format!("select id from {table}");
            let ids: Vec<Uuid> =
                sqlx::query_scalar(sqlx::AssertSqlSafe(statement)).fetch_all(pool).await.expect("the ledger");
            rows += ids.len();
            compare(table, &attempts, &ids.into_iter().collect());
        }
        let differences: i64 = sqlx::query_scalar("select count(*) from statistics.differences()")
            .fetch_one(pool)
            .await
            .expect("a number");
        assert_eq!(differences, 0, "the statistics are those of a recount");
        self.converges(pool).await;
        // Whatever might still be on its way, and be counted twice, comes before one more event.
        sqlx::query("insert into users default values").execute(pool).await.expect("a fence");
        self.converges(pool).await;
        let acknowledged = attempts.iter().filter(|attempt| attempt.outcome == Outcome::Acknowledged).count();
        Tally {
            acknowledged,
            unknown: attempts.len() - acknowledged,
            rows,
            readers: self.views.len(),
            cut: self.cut.lock().expect("it").clone(),
        }
    }

    /// Every reader sees what the ledger has.
    pub async fn converges(&self, pool: &PgPool) {
        for (resolution, view) in &self.views {
            let expected = recounts(pool, resolution).await;
            eventually(|| async {
                let mut seen = view.lock().expect("it").counts.clone();
                // What is gone, for a database went back in time, is none.
                seen.values_mut().for_each(|counts| counts.retain(|_, count| *count > 0));
                if seen == expected { Ok(()) } else { Err(format!("{resolution}: {seen:?} instead of {expected:?}")) }
            })
            .await;
        }
    }
}

async fn grows(count: &AtomicU64, wanted: u64) {
    let before = count.load(Ordering::Relaxed);
    eventually(|| async {
        let more = count.load(Ordering::Relaxed) - before;
        if more >= wanted { Ok(()) } else { Err(format!("{more} of {wanted} requests")) }
    })
    .await;
}

/// What was acknowledged is there, and of what was not all or nothing; and nothing else.
fn compare(table: &str, attempts: &[Attempt], there: &HashSet<Uuid>) {
    let attempts: Vec<_> = attempts.iter().filter(|attempt| attempt.table == table).collect();
    for Attempt { ids, outcome, .. } in &attempts {
        let found = ids.iter().filter(|id| there.contains(id)).count();
        match outcome {
            Outcome::Acknowledged => assert_eq!(found, ids.len(), "{table}: acknowledged and lost"),
            Outcome::Unknown => assert!(found == 0 || found == ids.len(), "{table}: {found} of {} rows", ids.len()),
        }
    }
    let tried: HashSet<_> = attempts.iter().flat_map(|attempt| &attempt.ids).copied().collect();
    assert_eq!(there.difference(&tried).count(), 0, "{table}: rows that nobody wrote");
}

struct Writer {
    place: Place,
    pause: Duration,
    client: Client,
    chance: Chance,
    stop: CancellationToken,
    base_item: Uuid,
    users: Vec<Uuid>,
    items: Vec<Uuid>,
    acknowledged: Arc<AtomicU64>,
    transferred: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    cut: Arc<Mutex<Vec<String>>>,
}

impl Writer {
    async fn run(mut self) -> Vec<Attempt> {
        let mut attempts = Vec::new();
        while !self.stop.is_cancelled() {
            let (table, path, rows) = self.choose();
            let ids: Vec<Uuid> =
                rows.iter().map(|row| row["id"].as_str().expect("an id").parse().expect("it")).collect();
            let body = if rows.len() == 1 { rows[0].clone() } else { Value::Array(rows) };
            let mut outcome = self.send(path, &body).await;
            // Some ask again until they are told, as a careful client does; others never know.
            let is_careful = self.chance.below(2) == 0;
            while is_careful && outcome == Outcome::Unknown && !self.stop.is_cancelled() {
                sleep(RETRY).await;
                outcome = self.send(path, &body).await;
            }
            if outcome == Outcome::Acknowledged {
                match table {
                    "users" => self.users.extend(&ids),
                    "items" => self.items.extend(&ids),
                    _ => drop(self.transferred.fetch_add(1, Ordering::Relaxed)),
                }
            }
            attempts.push(Attempt { table, ids, outcome });
            sleep(self.pause).await;
        }
        attempts
    }

    /// What is written next: one row, or some dozens, all or none.
    fn choose(&mut self) -> (&'static str, &'static str, Vec<Value>) {
        let amount = if self.chance.below(4) == 0 { 2 + self.chance.below(60) } else { 1 };
        let kind =
            if self.users.is_empty() || self.items.is_empty() { self.chance.below(2) } else { self.chance.below(6) };
        let mut row = || {
            let id = Uuid::now_v7();
            match kind {
                0 => json!({"id": id}),
                1 => json!({"id": id, "base_item_id": self.base_item}),
                _ => json!({"id": id, "item_id": one_of(&self.items, &mut self.chance),
                    "owner_id": one_of(&self.users, &mut self.chance)}),
            }
        };
        let rows = (0..amount).map(|_| row()).collect();
        match kind {
            0 => ("users", "/users", rows),
            1 => ("items", "/items", rows),
            _ => ("transfers", "/transfers", rows),
        }
    }

    async fn send(&self, path: &str, body: &Value) -> Outcome {
        let outcome = self.ask(path, body).await;
        let count = if outcome == Outcome::Acknowledged { &self.acknowledged } else { &self.refused };
        count.fetch_add(1, Ordering::Relaxed);
        outcome
    }

    async fn ask(&self, path: &str, body: &Value) -> Outcome {
        let answer = self.client.request(Method::POST, self.place.url(path)).json(body).send().await;
        match answer {
            Ok(response) if response.status().is_success() => Outcome::Acknowledged,
            Ok(response) => {
                // The ledger cannot be written now; anything else would be the client's fault.
                let status = response.status();
                assert!(status.is_server_error(), "{status}: {:?}", response.text().await);
                Outcome::Unknown
            }
            Err(error) => {
                if !error.is_connect() && !error.is_timeout() {
                    self.cut.lock().expect("it").push(format!("{error:?}"));
                }
                Outcome::Unknown
            }
        }
    }
}

fn one_of(ids: &[Uuid], chance: &mut Chance) -> Uuid {
    ids[usize::try_from(chance.below(ids.len() as u64)).expect("few")]
}

/// Follows the statistics, and comes back when it is cut off, with the id of what it has seen last.
async fn read(place: Place, resolution: &'static str, view: Arc<Mutex<View>>) {
    let path = format!("/statistics/stream?resolution={resolution}&window=10000");
    let client = Client::new();
    loop {
        let mut request = client.get(place.url(&path)).header("accept", "text/event-stream");
        if let Some(id) = view.lock().expect("it").last_id.clone() {
            request = request.header("last-event-id", id);
        }
        if let Ok(response) = request.send().await
            && response.status().is_success()
        {
            let mut events = Events::new(response);
            while let Some(event) = events.next().await {
                view.lock().expect("it").take(&event);
            }
        }
        sleep(RETRY).await;
    }
}
