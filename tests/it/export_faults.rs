//! Exports when something is in their way: they are cancelled, killed, taken over, told to stop; and end once, as one of the
//! things that they can end as, with nothing left behind.

use std::path::PathBuf;

use futures_util::future::join_all;
use newcycle::server::Settings;
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::task::yield_now;
use uuid::Uuid;

use crate::export_files::read;
use crate::exports::{export, file, over, sha256, start, stored, until};
use crate::faults::{Chance, Obstacle, Process};
use crate::harness::{Server, data_directory, eventually, new_database};

fn id(export: &Value) -> String {
    export["id"].as_str().expect("an id").to_owned()
}

async fn users(pool: &PgPool, amount: i64) {
    sqlx::query("insert into users select from generate_series(1, $1)")
        .bind(amount)
        .execute(pool)
        .await
        .expect("users");
}

/// A server that makes several exports at a time, and lets as many wait as there are.
async fn busy() -> Server {
    let mut settings = Settings::default();
    settings.exports.export_workers = 8;
    settings.exports.max_exports = 100_000;
    Server::with_settings(settings).await
}

/// Nobody works at anything any more, in Postgres neither, and nothing lies around but the files of what is complete.
async fn nothing_is_left(server: &Server) {
    eventually(|| async {
        let (jobs, alive, complete, queries): (i64, i64, i64, i64) = sqlx::query_as(
            "select (select count(*) from jobs.queue),
                (select count(*) from jobs.exports where state in ('created', 'pending', 'running', 'cancelling')),
                (select count(*) from jobs.exports where state = 'complete'),
                (select count(*) from pg_stat_activity
                    where datname = current_database() and application_name = 'newcycle export')",
        )
        .fetch_one(&server.database.pool)
        .await
        .map_err(|error| error.to_string())?;
        let files = i64::try_from(stored(server).len()).expect("few");
        if (jobs, alive, queries) == (0, 0, 0) && files == complete {
            Ok(())
        } else {
            Err(format!("{jobs} jobs, {alive} alive, {queries} queries, {files} files of {complete}"))
        }
    })
    .await;
}

const TRANSFERS: &str = r#"{"dataset": "transfers", "format": "csv"}"#;

fn transfers() -> Value {
    serde_json::from_str(TRANSFERS).expect("JSON")
}

#[tokio::test]
async fn one_that_runs_stops_when_it_is_cancelled_by_whichever_server_and_so_does_its_query() {
    let mut settings = Settings::default();
    settings.exports.export_workers = 0;
    let server = Server::start().await;
    let other = Server::limited(&server.name, newcycle::auth::Settings::default(), settings).await;
    let obstacle = Obstacle::before("transfers", &server.name).await;
    let (_, export) = start(&server.api, &transfers()).await;
    obstacle.is_met(&server.database.pool).await;
    let (status, cancelled) = other.api.post(&format!("/exports/{}/cancel", id(&export)), json!({})).await;
    assert!(matches!(status, StatusCode::ACCEPTED | StatusCode::OK), "{cancelled}");
    // Nobody has removed the obstacle: without having been told, Postgres would wait for ever.
    assert_eq!(over(&server.api, &id(&export)).await["state"], "cancelled");
    nothing_is_left(&server).await;
    obstacle.remove().await;
}

#[tokio::test]
async fn cancelling_at_any_moment_leaves_nothing_or_everything() {
    let server = busy().await;
    users(&server.database.pool, 30_000).await;
    let mut chance = Chance(7);
    let mut ends = [0, 0];
    for round in 0..60 {
        let formats = ["csv", "ndjson", "parquet"];
        let compressions = ["none", "gzip", "zstd"];
        let order = json!({
            "dataset": "users", "format": formats[round % 3], "compression": compressions[round / 3 % 3],
        });
        let (_, export) = start(&server.api, &order).await;
        chance.pass(3_000).await;
        let (status, answer) = server.api.post(&format!("/exports/{}/cancel", id(&export)), json!({})).await;
        let export = over(&server.api, &id(&export)).await;
        match status {
            StatusCode::CONFLICT => {
                assert_eq!(export["state"], "complete", "{answer}");
                assert_eq!(sha256(&file(&server.api, &export).await), export["result"]["sha256"].as_str().expect("it"));
                ends[0] += 1;
            }
            _ => {
                assert_eq!(export["state"], "cancelled", "{answer}");
                ends[1] += 1;
            }
        }
    }
    assert!(ends[1] > 0, "{ends:?}");
    nothing_is_left(&server).await;
}

#[tokio::test]
async fn of_completion_and_cancellation_one_wins_a_thousand_times() {
    let server = busy().await;
    users(&server.database.pool, 10).await;
    let race = async |seed: u64| {
        let mut chance = Chance(seed);
        let mut complete = 0;
        for _ in 0..125 {
            let (_, export) = start(&server.api, &json!({"dataset": "users", "format": "csv"})).await;
            chance.pass(1_500).await;
            let cancel = format!("/exports/{}/cancel", id(&export));
            // Two who change their minds at the same time.
            let answers = join_all([server.api.post(&cancel, json!({})), server.api.post(&cancel, json!({}))]).await;
            let export = over(&server.api, &id(&export)).await;
            let is_complete = export["state"] == "complete";
            for (status, answer) in answers {
                assert_eq!(status == StatusCode::CONFLICT, is_complete, "{answer} and then {export}");
            }
            assert!(is_complete || export["state"] == "cancelled", "{export}");
            assert_eq!(export["result"].is_object(), is_complete);
            complete += i32::from(is_complete);
        }
        complete
    };
    let complete: i32 = join_all((0..8).map(race)).await.into_iter().sum();
    assert!(complete > 0 && complete < 1_000, "both happened: {complete} of 1,000 were complete");
    nothing_is_left(&server).await;
}

#[tokio::test]
async fn a_worker_that_lost_its_lease_writes_nothing_any_more() {
    let server = Server::start().await;
    let pool = &server.database.pool;
    let obstacle = Obstacle::before("transfers", &server.name).await;
    let (_, started) = start(&server.api, &transfers()).await;
    until(&server.api, &id(&started), &["pending", "running"]).await;
    let attempt = eventually(|| async {
        // As if the worker had not been heard of for the whole time of its lease; the other one is told to look.
        sqlx::query("with due as (update jobs.queue set due_at = now()) select pg_notify('newcycle_jobs', '')")
            .execute(pool)
            .await
            .map_err(|error| error.to_string())?;
        let attempt: Option<i32> = sqlx::query_scalar("select attempt from jobs.queue")
            .fetch_optional(pool)
            .await
            .map_err(|error| error.to_string())?;
        attempt.filter(|attempt| *attempt > 1).ok_or_else(|| format!("{attempt:?}"))
    })
    .await;
    obstacle.remove().await;
    let export = over(&server.api, &id(&started)).await;
    assert_eq!(export["state"], "complete");
    let object: String = sqlx::query_scalar("select object from jobs.exports").fetch_one(pool).await.expect("a name");
    let name = object.strip_prefix(&format!("{}/", id(&started))).expect("in a directory of its own");
    let of_attempt: i32 = name.strip_suffix(".csv").and_then(|number| number.parse().ok()).expect("a number");
    assert!(of_attempt >= attempt, "{object} is of one that lost its lease");
    nothing_is_left(&server).await;
}

#[tokio::test]
async fn two_servers_share_the_work_and_each_export_is_made_once() {
    let server = busy().await;
    let other = Server::on(&server.name).await;
    users(&server.database.pool, 1_000).await;
    let order = json!({"dataset": "users", "format": "csv"});
    let accepted = async || {
        // On a busy machine the server may ask to come again.
        eventually(|| async {
            let (status, started) = start(&server.api, &order).await;
            assert!([StatusCode::ACCEPTED, StatusCode::SERVICE_UNAVAILABLE].contains(&status), "{status} {started}");
            if status == StatusCode::ACCEPTED { Ok(started) } else { Err(started.to_string()) }
        })
        .await
    };
    let started = join_all((0..60).map(|_| accepted())).await;
    for started in &started {
        let export = over(&other.api, &id(started)).await;
        assert_eq!((&export["state"], &export["result"]["rows"]), (&json!("complete"), &json!(1_000)), "{export}");
        assert_eq!(sha256(&file(&other.api, &export).await), export["result"]["sha256"].as_str().expect("a digest"));
    }
    let more_than_once: i64 = sqlx::query_scalar("select count(*) from jobs.exports where object not like '%/1.csv'")
        .fetch_one(&server.database.pool)
        .await
        .expect("a number");
    assert_eq!(more_than_once, 0);
    nothing_is_left(&server).await;
}

#[tokio::test]
async fn a_server_that_stops_leaves_its_exports_to_others() {
    let server = Server::start().await;
    let obstacle = Obstacle::before("transfers", &server.name).await;
    let (_, started) = start(&server.api, &transfers()).await;
    until(&server.api, &id(&started), &["running"]).await;
    let name = server.name.clone();
    server.stop().await;
    let other = Server::on(&name).await;
    obstacle.remove().await;
    let export = over(&other.api, &id(&started)).await;
    assert_eq!(export["state"], "complete");
    nothing_is_left(&other).await;
}

#[tokio::test]
async fn the_export_of_a_killed_server_is_taken_over_and_complete_once() {
    let mut chance = Chance(11);
    let cases = [chance.below(10_000), chance.below(40_000), chance.below(40_000)];
    join_all(cases.map(outlives_its_server)).await;
}

/// The server is killed that many passes of the executor after the export is started.
async fn outlives_its_server(passes: u64) {
    let name = new_database().await;
    let mut process = Process::start(&name, "", &[]).await;
    let server = {
        let mut settings = Settings::default();
        settings.exports.export_workers = 0;
        Server::limited(&name, newcycle::auth::Settings::default(), settings).await
    };
    users(&server.database.pool, 100_000).await;
    let (_, started) = start(&process.api, &json!({"dataset": "users", "format": "csv", "compression": "gzip"})).await;
    for _ in 0..passes {
        yield_now().await;
    }
    process.child.kill().await.expect("it is killed");
    let heir = Server::on(&name).await;
    let export = over(&heir.api, &id(&started)).await;
    assert_eq!((&export["state"], &export["result"]["rows"]), (&json!("complete"), &json!(100_000)), "{export}");
    let bytes = file(&heir.api, &export).await;
    assert_eq!(read("csv", "gzip", &bytes).1.len(), 100_000);
    nothing_is_left(&heir).await;
}

#[tokio::test]
async fn an_export_that_was_being_cancelled_when_its_server_was_killed_is_cancelled() {
    let name = new_database().await;
    let mut process = Process::start(&name, "", &[]).await;
    let obstacle = Obstacle::before("transfers", &name).await;
    let (_, started) = start(&process.api, &transfers()).await;
    until(&process.api, &id(&started), &["running"]).await;
    process.child.kill().await.expect("it is killed");
    let heir = Server::on(&name).await;
    let (_, cancelled) = heir.api.post(&format!("/exports/{}/cancel", id(&started)), json!({})).await;
    assert!(matches!(cancelled["state"].as_str(), Some("cancelling" | "cancelled")), "{cancelled}");
    assert_eq!(over(&heir.api, &id(&started)).await["state"], "cancelled");
    obstacle.remove().await;
    nothing_is_left(&heir).await;
}

#[tokio::test]
async fn one_that_takes_its_servers_down_again_and_again_is_given_up() {
    let mut settings = Settings::default();
    settings.exports.export_workers = 0;
    let server = Server::with_settings(settings).await;
    let (_, started) = start(&server.api, &transfers()).await;
    sqlx::query("update jobs.queue set attempt = 20").execute(&server.database.pool).await.expect("a job");
    let other = Server::on(&server.name).await;
    let failed = over(&other.api, &id(&started)).await;
    assert_eq!(failed["reason"], "It was begun 20 times and its server ended each time", "{failed}");
    nothing_is_left(&other).await;
}

#[tokio::test]
async fn a_store_with_no_room_fails_the_export_and_says_so() {
    let name = new_database().await;
    // Files may have 64 kB. Being told so by a signal would kill the server.
    let process = Process::start(&name, "trap '' XFSZ; ulimit -f 128;", &[]).await;
    let server = Server::on(&name).await;
    users(&server.database.pool, 20_000).await;
    server.stop().await;
    let failed = export(&process.api, &json!({"dataset": "users", "format": "csv"})).await;
    assert_eq!(failed["state"], "failed", "{failed}");
    assert_eq!(failed["reason"], "The file is larger than the disk of the store takes");
    let data = process.api.get(&format!("/exports/{}/data", id(&failed))).await;
    assert_eq!(data.0, StatusCode::CONFLICT, "{}", data.1);
    let small = export(&process.api, &json!({"dataset": "items", "format": "csv"})).await;
    assert_eq!(small["state"], "complete", "others are made: {small}");
    assert!(!data_directory(&name).join("exports").join(id(&failed)).exists());
}

#[tokio::test]
async fn a_ledger_that_cannot_be_read_fails_the_export_and_nothing_looks_alive() {
    let server = Server::start().await;
    sqlx::query("alter table transfers rename column owner_id to owner")
        .execute(&server.database.pool)
        .await
        .expect("it");
    let failed = export(&server.api, &transfers()).await;
    assert_eq!(failed["state"], "failed");
    assert_eq!(failed["reason"], "The database says: column t.owner_id does not exist");
    nothing_is_left(&server).await;
}

#[tokio::test]
async fn a_connection_that_is_lost_is_no_failure_yet() {
    let server = Server::start().await;
    let pool = &server.database.pool;
    let obstacle = Obstacle::before("transfers", &server.name).await;
    let (_, started) = start(&server.api, &transfers()).await;
    until(&server.api, &id(&started), &["running"]).await;
    let terminated: i64 = sqlx::query_scalar(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity
        where datname = current_database() and application_name = 'newcycle export'",
    )
    .fetch_one(pool)
    .await
    .expect("a number");
    assert_eq!(terminated, 1);
    let waiting = until(&server.api, &id(&started), &["created"]).await;
    assert!(waiting["reason"].is_string(), "{waiting}");
    obstacle.remove().await;
    let export = over(&server.api, &id(&started)).await;
    assert_eq!((&export["state"], &export["reason"]), (&json!("complete"), &Value::Null));
    nothing_is_left(&server).await;
}

#[tokio::test]
async fn files_that_nobody_knows_of_any_more_do_not_outlive_their_export() {
    let server = Server::start().await;
    let complete = export(&server.api, &json!({"dataset": "users", "format": "csv"})).await;
    // What a worker leaves that was killed while it wrote, and what a late one wrote that had lost its lease.
    let directory = data_directory(&server.name).join("exports").join(id(&complete));
    for name in ["2.csv#1", "3.csv"] {
        std::fs::write(directory.join(name), "left over").expect("a file");
    }
    assert_eq!(stored(&server).len(), 3);
    let request = server.api.request(reqwest::Method::DELETE, &format!("/exports/{}", id(&complete)));
    assert_eq!(request.send().await.expect("an answer").status(), StatusCode::NO_CONTENT);
    assert_eq!(stored(&server), [] as [PathBuf; 0]);
    nothing_is_left(&server).await;
}

#[tokio::test]
async fn records_of_long_ago_go_and_those_of_yesterday_stay() {
    let server = Server::start().await;
    let pool = &server.database.pool;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let export = export(&server.api, &json!({"dataset": "users", "format": "csv"})).await;
        let request = server.api.request(reqwest::Method::DELETE, &format!("/exports/{}", id(&export)));
        request.send().await.expect("an answer");
        ids.push(id(&export).parse::<Uuid>().expect("an id"));
    }
    for (id, age) in ids.iter().zip(["31 days", "29 days"]) {
        sqlx::query("update jobs.exports set finished_at = now() - $2::interval where id = $1")
            .bind(id)
            .bind(age)
            .execute(pool)
            .await
            .expect("an export");
    }
    eventually(|| async {
        let left: Vec<Uuid> = sqlx::query_scalar("select id from jobs.exports")
            .fetch_all(pool)
            .await
            .map_err(|error| error.to_string())?;
        if left == ids[1..] { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}
