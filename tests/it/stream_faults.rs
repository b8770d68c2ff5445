//! Data streams when workers, servers and people get in each other's way.

use std::path::Path;
use std::process::Stdio;

use futures_util::StreamExt;
use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

use newcycle::auth;

use crate::api::Api;
use crate::faults::{Chance, Obstacle, Process};
use crate::harness::{Server, data_directory, eventually, new_database, url};
use crate::postgres::Postgres;
use crate::source::{Fault, Source};
use crate::streams::{assert_equal, create, cursors, get, over, run, server, settings};

const NETWORKS: (&str, &str) = ("NEWCYCLE_STREAM_NETWORKS", "127.0.0.1");

/// A server that leaves fetching to others.
async fn idle(name: &str) -> Server {
    let mut settings = settings();
    settings.streams.stream_workers = 0;
    Server::limited(name, auth::Settings::default(), settings).await
}

/// A worker in a process of its own.
async fn worker(name: &str) -> Child {
    worker_on(&url(name).await, &data_directory(name))
}

fn worker_on(url: &str, files: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_newcycle"))
        .arg("worker")
        .env("DATABASE_URL", url)
        .env("NEWCYCLE_DATA_DIR", files)
        .env("NEWCYCLE_DATABASE_CONNECTIONS", "4")
        .envs([NETWORKS])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts")
}

async fn until_asked(source: &Source, times: usize) {
    eventually(|| async {
        let asked = source.asked().len();
        if asked >= times { Ok(()) } else { Err(format!("{asked} of {times}")) }
    })
    .await;
}

/// Nobody works at anything any more, and no batch is half there.
async fn nothing_is_left(server: &Server) {
    eventually(|| async {
        let left: (i64, i64, i64) = sqlx::query_as(
            "select (select count(*) from jobs.queue where due_at < 'infinity'),
                (select count(*) from jobs.batches where state = 'running'),
                (select count(*) from jobs.records r join jobs.batches b on b.stream_id = r.stream_id and b.number = r.batch
                    where b.state <> 'complete')",
        )
        .fetch_one(&server.database.pool)
        .await
        .map_err(|error| error.to_string())?;
        if left == (0, 0, 0) { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}

#[tokio::test]
async fn the_run_of_a_killed_worker_goes_on_elsewhere_from_its_last_page() {
    let mut chance = Chance(23);
    let cases = [2, 2 + chance.below(15), 2 + chance.below(15)];
    let case = async |asked: u64| {
        let name = new_database().await;
        let server = idle(&name).await;
        let source = Source::with(200).await;
        let asked = usize::try_from(asked).expect("few");
        // The page at which it is killed is answered to nobody.
        source.then((1..asked).map(|_| Fault::None).chain([Fault::Silence]));
        let id = create(&server.api, cursors(&source)).await;
        run(&server.api, &id).await;
        let mut killed = worker(&name).await;
        until_asked(&source, asked).await;
        killed.kill().await.expect("it is killed");
        let mut heir = worker(&name).await;
        let batch = over(&server.api, &id, 1).await;
        assert_eq!(
            (&batch["state"], &batch["records"], &batch["pages"]),
            (&json!("complete"), &json!(200), &json!(20))
        );
        assert_equal(&server.api, &id, &source).await;
        let pages: Vec<_> = source.asked().iter().map(|asked| asked.query.get("after").cloned()).collect();
        let mut once = pages.clone();
        once.dedup();
        assert_eq!(
            (once.len(), pages.len()),
            (20, 21),
            "the page that was lost is asked for again, and no other: {pages:?}"
        );
        nothing_is_left(&server).await;
        heir.kill().await.expect("it is killed");
    };
    join_all(cases.into_iter().map(case)).await;
}

#[tokio::test]
async fn what_a_killed_worker_was_about_to_write_is_not_half_there() {
    let case = async |table: &str, page: usize| {
        let name = new_database().await;
        let server = idle(&name).await;
        let source = Source::with(30).await;
        let (told, answer) = oneshot::channel();
        source.then((1..page).map(|_| Fault::None).chain([Fault::Held(answer)]));
        let id = create(&server.api, cursors(&source)).await;
        run(&server.api, &id).await;
        let mut killed = worker(&name).await;
        until_asked(&source, page).await;
        let obstacle = Obstacle::before(table, &name).await;
        told.send(()).expect("it waits");
        obstacle.is_met(&server.database.pool).await;
        killed.kill().await.expect("it is killed");
        obstacle.remove().await;
        let mut heir = worker(&name).await;
        let batch = over(&server.api, &id, 1).await;
        assert_eq!((&batch["state"], &batch["records"], &batch["pages"]), (&json!("complete"), &json!(30), &json!(3)));
        assert_equal(&server.api, &id, &source).await;
        assert_eq!(source.asked().len(), 4, "the page that was not stored is asked for again");
        nothing_is_left(&server).await;
        heir.kill().await.expect("it is killed");
    };
    let cases = [("jobs.records", 2), ("jobs.pages", 2), ("jobs.batches", 2), ("jobs.records", 3), ("jobs.batches", 3)];
    join_all(cases.map(|(table, page)| case(table, page))).await;
}

/// Things for the ledger, of which each has another owner each time.
fn things(amount: usize, generation: usize) -> Vec<Value> {
    let thing = |number: usize| {
        json!({
            "id": number, "model": format!("model {}", number % 7), "owner": format!("owner {}", (number + generation) % 11),
            "since": format!("2026-05-{:02}T12:00:00Z", 1 + generation),
        })
    };
    (0..amount).map(thing).collect()
}

#[tokio::test]
async fn whenever_postgres_ends_no_record_is_lost_and_none_is_doubled() {
    let mut chance = Chance(41);
    let mut postgres = Postgres::start().await;
    let server = Process::on(&postgres.url(), &postgres.files(), "", &[NETWORKS]).await;
    let mut worker = worker_on(&postgres.url(), &postgres.files());
    let source = Source::with(0).await;
    let mut new = cursors(&source);
    new["destination"] = json!({"ledger": {
        "base_item": {"key": "model"}, "item": {"key": "id"}, "user": {"key": "owner"}, "transfer": {"timestamp": "since"},
    }});
    let id = create(&server.api, new).await;
    let mut amount = 100;
    let signals = [Signal::KILL, Signal::QUIT, Signal::INT, Signal::KILL, Signal::QUIT, Signal::KILL];
    for (generation, signal) in signals.into_iter().enumerate() {
        amount += 10;
        source.change(|records| *records = things(amount, generation));
        let asked = source.asked().len();
        run(&server.api, &id).await;
        // Anywhere: between pages, within the ledger's transactions, within those of the batch.
        let pages = 1 + usize::try_from(chance.below(10)).expect("few");
        until_asked(&source, asked + pages).await;
        chance.pass(3_000).await;
        postgres.end(signal).await;
        postgres.start_again().await;
        server.api.until_ready().await;
        let batch = over(&server.api, &id, 1 + i64::try_from(generation).expect("few")).await;
        assert_eq!((&batch["state"], &batch["records"]), (&json!("complete"), &json!(amount)), "{batch}");
        assert_equal(&server.api, &id, &source).await;
    }
    let database = PgPool::connect(&postgres.url()).await.expect("it answers");
    let (items, transfers, differences): (i64, i64, i64) = sqlx::query_as(
        "select (select count(*) from items), (select count(*) from transfers), (select count(*) from statistics.differences())",
    )
    .fetch_one(&database)
    .await
    .expect("it can be counted");
    let each_once = (0..signals.len()).map(|generation| 110 + 10 * generation).sum::<usize>();
    assert_eq!(
        (items, transfers, differences),
        (160, i64::try_from(each_once).expect("few"), 0),
        "things, each time each of them changes hands once, and exact statistics"
    );
    worker.kill().await.expect("it is killed");
}

#[tokio::test]
async fn a_killed_server_loses_no_record_and_no_command() {
    let name = new_database().await;
    let mut process = Process::start(&name, "", &[NETWORKS]).await;
    let source = Source::with(50).await;
    source.then([Fault::None, Fault::Silence]);
    let id = create(&process.api, cursors(&source)).await;
    run(&process.api, &id).await;
    until_asked(&source, 2).await;
    process.child.kill().await.expect("it is killed");
    // While nobody works, commands are taken all the same.
    let server = idle(&name).await;
    let (status, _) = server.api.put(&format!("/streams/{id}/start"), json!({})).await;
    assert_eq!(status, StatusCode::OK);
    let other = Process::start(&name, "", &[NETWORKS]).await;
    assert_eq!(over(&other.api, &id, 1).await["state"], "complete");
    assert_equal(&other.api, &id, &source).await;
    let started = get(&other.api, &id).await;
    assert_eq!((&started["desired"], started["next_run_at"].is_string()), (&json!("running"), true), "{started}");
}

#[tokio::test]
async fn one_that_is_stopped_while_it_fetches_stops_and_leaves_nothing_behind() {
    let server = server().await;
    let source = Source::with(50).await;
    source.then([Fault::None, Fault::None, Fault::Silence]);
    let id = create(&server.api, cursors(&source)).await;
    server.api.put(&format!("/streams/{id}/start"), json!({})).await;
    until_asked(&source, 3).await;
    let mut events = server.api.stream(&format!("/streams/{id}/events"), None).await;
    let seen = events.next().await.expect("the stream");
    assert_eq!((&seen.data["state"], &seen.data["running"]["pages"]), (&json!("running"), &json!(2)), "{seen:?}");
    let (status, stopping) = server.api.put(&format!("/streams/{id}/stop"), json!({})).await;
    assert_eq!((status, &stopping["state"]), (StatusCode::ACCEPTED, &json!("stopping")));
    events.next_where(|event| event.data["state"] == "stopped").await;
    assert_eq!(over(&server.api, &id, 1).await["state"], "cancelled");
    nothing_is_left(&server).await;
    let (status, stopped) = server.api.put(&format!("/streams/{id}/stop"), json!({})).await;
    assert_eq!((status, &stopped["state"]), (StatusCode::OK, &json!("stopped")), "again");
    // And it can be started again.
    server.api.put(&format!("/streams/{id}/start"), json!({})).await;
    assert_eq!(over(&server.api, &id, 2).await["state"], "complete");
    assert_equal(&server.api, &id, &source).await;
}

#[tokio::test]
async fn whoever_lost_a_lease_writes_nothing_any_more() {
    let server = server().await;
    let source = Source::with(50).await;
    source.then([Fault::None, Fault::Silence]);
    let id = create(&server.api, cursors(&source)).await;
    run(&server.api, &id).await;
    until_asked(&source, 2).await;
    // As if its worker had not been heard of for too long, and another had taken it; whose lease is over, too.
    let pool = &server.database.pool;
    sqlx::query("update jobs.queue set attempt = attempt + 1, due_at = now()").execute(pool).await.expect("a job");
    assert_eq!(over(&server.api, &id, 1).await["records"], 50);
    // The first one waits for its page for ever, unless it has noticed.
    let pages: Vec<_> = source.asked().iter().map(|asked| asked.query.get("after").cloned()).collect();
    assert_eq!(pages.len(), 6, "{pages:?}");
    nothing_is_left(&server).await;
    assert_equal(&server.api, &id, &source).await;
}

#[tokio::test]
async fn many_who_start_and_stop_a_stream_do_not_confuse_it() {
    let name = new_database().await;
    let (server, other) = (
        Server::limited(&name, auth::Settings::default(), settings()).await,
        Server::limited(&name, auth::Settings::default(), settings()).await,
    );
    let source = Source::with(50).await;
    let id = create(&server.api, cursors(&source)).await;
    let client = async |seed: u64| {
        let mut chance = Chance(seed);
        for _ in 0..30 {
            let api = if chance.below(2) == 0 { &server.api } else { &other.api };
            let (method, command) = [(Method::PUT, "start"), (Method::PUT, "stop"), (Method::POST, "run")]
                [usize::try_from(chance.below(3)).expect("few")]
            .clone();
            let (status, answer) = Api::send(api.request(method, &format!("/streams/{id}/{command}"))).await;
            // On a busy machine the server may ask to come again.
            let is_fine = [StatusCode::OK, StatusCode::ACCEPTED, StatusCode::SERVICE_UNAVAILABLE].contains(&status);
            assert!(is_fine || (command == "run" && status == StatusCode::CONFLICT), "{command}: {status} {answer}");
        }
    };
    join_all((0..12).map(client)).await;
    let (status, _) = server.api.put(&format!("/streams/{id}/stop"), json!({})).await;
    assert!(status == StatusCode::OK || status == StatusCode::ACCEPTED);
    nothing_is_left(&server).await;
    assert_eq!(get(&server.api, &id).await["state"], "stopped");
    let (_, batches) = server.api.get(&format!("/streams/{id}/batches?page_size=1000")).await;
    let number = batches["data"][0]["number"].as_i64().unwrap_or(0);
    server.api.put(&format!("/streams/{id}/start"), json!({})).await;
    assert_eq!(over(&server.api, &id, number + 1).await["state"], "complete");
    assert_equal(&server.api, &id, &source).await;
}

#[tokio::test]
async fn of_hundreds_of_streams_and_two_workers_each_due_run_happens_once() {
    let name = new_database().await;
    let server = idle(&name).await;
    let source = Source::with(15).await;
    let started = futures_util::stream::iter(0..200).map(async |number| {
        let mut new = cursors(&source);
        new["name"] = json!(format!("stream {number}"));
        let id = create(&server.api, new).await;
        server.api.put(&format!("/streams/{id}/start"), json!({})).await;
        id
    });
    // As many at a time as there are connections.
    let ids: Vec<_> = started.buffered(16).collect().await;
    let mut workers = [worker(&name).await, worker(&name).await];
    for id in &ids {
        assert_eq!(over(&server.api, id, 1).await["state"], "complete");
    }
    assert_eq!(source.asked().len(), 2 * ids.len(), "each page of each stream once");
    let batches: i64 =
        sqlx::query_scalar("select count(*) from jobs.batches").fetch_one(&server.database.pool).await.expect("it");
    assert_eq!(batches, 200);
    let mut waiting: Vec<(i64,)> = sqlx::query_as(
        "select count(*) from jobs.streams s join jobs.queue q using (id) where s.state = 'waiting' and q.due_at > now()
            and q.due_at - s.next_run_at between '0' and '30 seconds'",
    )
    .fetch_all(&server.database.pool)
    .await
    .expect("it");
    assert_eq!(waiting.pop(), Some((200,)), "and all wait for their next run");
    for worker in &mut workers {
        worker.kill().await.expect("it is killed");
    }
}
