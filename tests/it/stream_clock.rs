//! Data streams by a clock that the test moves: days go by in seconds.
//!
//! Schedules and leases go by the clock of the database alone. Here its functions are replaced by ones that tell what the test
//! says; everything else, workers included, is as it always is.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::{Executor, PgPool};

use crate::harness::{Server, connect, empty_database, eventually};
use crate::source::{Fault, Source};
use crate::streams::{create, cursors, get, run, settings};

fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("a moment")
}

/// The clock of a database.
struct Clock {
    name: String,
    pool: PgPool,
}

impl Clock {
    /// Of a database of its own, with the schema.
    async fn start(now: DateTime<Utc>) -> Self {
        let name = empty_database().await;
        let database = connect(&name).await;
        let statements = format!(
            "create schema simulated;
            create table simulated.clock (now timestamptz not null);
            create function simulated.now() returns timestamptz stable return (select now from simulated.clock);
            create function simulated.clock_timestamp() returns timestamptz return (select now from simulated.clock);
            alter database {name} set search_path = public, simulated, pg_catalog;"
        );
        database.pool.execute(sqlx::AssertSqlSafe(statements)).await.expect("a clock");
        sqlx::query("insert into simulated.clock values ($1)")
            .bind(now)
            .execute(&database.pool)
            .await
            .expect("a clock");
        database.close().await;
        let database = connect(&name).await;
        database.migrate().await.expect("the schema");
        Self { name, pool: database.pool.clone() }
    }

    /// A server whose workers go by it.
    async fn server(&self) -> Server {
        let mut settings = settings();
        settings.streams.stream_timeout = Duration::from_secs(1);
        Server::limited(&self.name, newcycle::auth::Settings::default(), settings).await
    }

    async fn set(&self, now: DateTime<Utc>) {
        sqlx::query("update simulated.clock set now = $1").bind(now).execute(&self.pool).await.expect("it is set");
        self.pool.execute("notify newcycle_jobs").await.expect("the bell");
    }

    /// When the next job is due.
    async fn next(&self) -> Option<DateTime<Utc>> {
        sqlx::query_scalar("select min(due_at) from jobs.queue where due_at < 'infinity'")
            .fetch_one(&self.pool)
            .await
            .expect("a moment")
    }

    /// Waits until nobody works, and nothing is due.
    async fn rest(&self) {
        eventually(|| async {
            let busy: i64 =
                sqlx::query_scalar("select count(*) from jobs.queue where held or due_at <= simulated.now()")
                    .fetch_one(&self.pool)
                    .await
                    .map_err(|error| error.to_string())?;
            if busy == 0 { Ok(()) } else { Err(format!("{busy} streams run or are due")) }
        })
        .await;
    }

    /// Lets time go by, from one run to the next.
    async fn until(&self, end: DateTime<Utc>) {
        while let Some(next) = self.next().await.filter(|next| *next <= end) {
            self.set(next).await;
            self.rest().await;
        }
        self.set(end).await;
    }
}

#[derive(Debug)]
struct Run {
    scheduled_at: Option<DateTime<Utc>>,
    started_at: DateTime<Utc>,
    skipped: i64,
}

impl Run {
    fn late(&self) -> Option<TimeDelta> {
        Some(self.started_at - self.scheduled_at?)
    }
}

/// The runs of a stream, oldest first. All of them are complete.
async fn runs(server: &Server, id: &str) -> Vec<Run> {
    let (_, page) = server.api.get(&format!("/streams/{id}/batches?page_size=1000")).await;
    let mut runs = Vec::new();
    for batch in page["data"].as_array().expect("batches").iter().rev() {
        assert_eq!(batch["state"], "complete", "{batch}");
        runs.push(Run {
            scheduled_at: batch["scheduled_at"].as_str().map(at),
            started_at: at(batch["started_at"].as_str().expect("a moment")),
            skipped: batch["skipped_runs"].as_i64().expect("a number"),
        });
    }
    runs
}

async fn started(server: &Server, new: Value) -> String {
    let id = create(&server.api, new).await;
    server.api.put(&format!("/streams/{id}/start"), json!({})).await;
    id
}

/// Some that are fetched every so often, and one each night in Berlin.
async fn several(server: &Server, source: &Source, intervals: &[TimeDelta]) -> (Vec<String>, String) {
    let mut ids = Vec::new();
    for (number, interval) in intervals.iter().enumerate() {
        let mut new = cursors(source);
        (new["name"], new["interval_seconds"]) = (json!(format!("stream {number}")), json!(interval.num_seconds()));
        ids.push(started(server, new).await);
    }
    let mut nightly = cursors(source);
    nightly.as_object_mut().expect("an object").remove("interval_seconds");
    (nightly["name"], nightly["cron"], nightly["timezone"]) =
        (json!("nightly"), json!("30 2 * * *"), json!("Europe/Berlin"));
    (ids, started(server, nightly).await)
}

#[tokio::test]
async fn for_days_every_run_begins_when_it_is_scheduled_and_once() {
    let begin = at("2026-03-27T12:00:00Z");
    let clock = Clock::start(begin).await;
    let (server, _other) = tokio::join!(clock.server(), clock.server());
    let source = Source::with(15).await;
    let intervals = [TimeDelta::hours(3), TimeDelta::minutes(47), TimeDelta::seconds(50_001)];
    let (ids, nightly) = several(&server, &source, &intervals).await;
    clock.until(at("2026-03-28T07:11:13Z")).await;
    // Somebody has one of them run in between, which moves no other run.
    run(&server.api, &ids[0]).await;
    clock.rest().await;
    let end = at("2026-03-31T12:00:00Z");
    clock.until(end).await;

    let mut pages = 0;
    for (id, interval) in ids.iter().zip(intervals) {
        let mut runs = runs(&server, id).await;
        pages += 2 * runs.len();
        let asked_for = runs.extract_if(.., |run| run.scheduled_at.is_none()).count();
        assert_eq!(asked_for, usize::from(*id == ids[0]));
        assert_eq!(runs[0].late(), Some(TimeDelta::zero()), "at once, when it is started");
        let late = runs[1].late().expect("it was scheduled");
        assert!(late <= TimeDelta::seconds(30), "{late}");
        assert!(runs.iter().skip(1).all(|run| run.late() == Some(late)), "always as late as before: {runs:?}");
        assert!(runs.iter().all(|run| run.skipped == 0), "{runs:?}");
        let scheduled: Vec<_> = runs.iter().filter_map(|run| run.scheduled_at).collect();
        let all = (0..).map(|times| begin + interval * times);
        assert_eq!(scheduled, all.take_while(|scheduled| *scheduled + late <= end).collect::<Vec<_>>());
    }
    let nights: Vec<_> = runs(&server, &nightly).await.iter().filter_map(|run| run.scheduled_at).collect();
    // On the 29th there is no half past two in Berlin: the clocks go from two to three.
    let expected = ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z", "2026-03-31T00:30:00Z"];
    assert_eq!(nights, expected.map(at));
    assert_eq!(source.asked().len(), pages + 2 * nights.len(), "nothing is asked for twice");
}

#[tokio::test]
async fn what_is_missed_is_caught_up_by_one_run_and_recorded() {
    let begin = at("2026-03-27T12:00:00Z");
    let clock = Clock::start(begin).await;
    let server = clock.server().await;
    let source = Source::with(15).await;
    let interval = TimeDelta::hours(1);
    let (ids, nightly) = several(&server, &source, &[interval]).await;
    let id = &ids[0];
    clock.until(begin + TimeDelta::minutes(90)).await;
    // A page that is never answered while hours go by: the lease is over meanwhile, or the worker tries again.
    source.then([Fault::Silence]);
    let asked = source.asked().len();
    clock.set(begin + TimeDelta::hours(2) + TimeDelta::seconds(30)).await;
    eventually(|| async { if source.asked().len() > asked { Ok(()) } else { Err("it is not asked".to_owned()) } })
        .await;
    clock.set(begin + TimeDelta::minutes(275)).await;
    clock.rest().await;
    clock.until(begin + TimeDelta::minutes(330)).await;
    // Nobody is there for two days and a half.
    server.stop().await;
    clock.set(begin + TimeDelta::hours(66)).await;
    let server = clock.server().await;
    clock.rest().await;
    clock.until(begin + TimeDelta::minutes(67 * 60 + 30)).await;

    let runs_of_it = runs(&server, id).await;
    let hours: Vec<_> =
        runs_of_it.iter().map(|run| (run.scheduled_at.map(|at| (at - begin).num_hours()), run.skipped)).collect();
    assert_eq!(
        hours,
        [(Some(0), 0), (Some(1), 0), (Some(2), 2), (Some(5), 0), (Some(6), 60), (Some(67), 0)],
        "{runs_of_it:?}"
    );
    let recorded = get(&server.api, id).await["skipped_runs"].as_i64();
    assert_eq!(recorded, Some(62));
    let nights: Vec<_> = runs(&server, &nightly).await.iter().map(|run| (run.scheduled_at, run.skipped)).collect();
    assert_eq!(nights, [(Some(at("2026-03-28T01:30:00Z")), 2)], "one for three nights");
}
