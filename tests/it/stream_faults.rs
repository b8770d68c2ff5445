//! Data streams when workers, servers and people get in each other's way.

use std::process::Stdio;

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::process::{Child, Command};

use newcycle::auth;

use crate::api::Api;
use crate::export_faults::{Chance, Process};
use crate::harness::{Server, data_directory, eventually, new_database, url};
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
    Command::new(env!("CARGO_BIN_EXE_newcycle"))
        .arg("worker")
        .env("DATABASE_URL", url(name).await)
        .env("NEWCYCLE_DATA_DIR", data_directory(name))
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
            let is_fine = status == StatusCode::OK || status == StatusCode::ACCEPTED;
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
    let ids = join_all((0..200).map(|number| {
        let mut new = cursors(&source);
        new["name"] = json!(format!("stream {number}"));
        create(&server.api, new)
    }))
    .await;
    join_all(ids.iter().map(async |id| server.api.put(&format!("/streams/{id}/start"), json!({})).await)).await;
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
