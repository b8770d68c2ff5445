//! Postgres ends, throws everybody out, and has no room or no time for anybody, under load.

use reqwest::StatusCode;
use rustix::process::Signal;
use sqlx::{Connection, Executor, PgConnection, PgPool};

use crate::faults::{Chance, Obstacle, Process, SmallDisk};
use crate::harness::{connect, new_database, url};
use crate::load::{Load, Place};
use crate::postgres::Postgres;

#[tokio::test]
async fn however_postgres_ends_what_was_acknowledged_is_there_and_the_server_goes_on() {
    let mut postgres = Postgres::start().await;
    let server = Process::on(&postgres.url(), &postgres.files(), "", &[]).await;
    let load = Load::start(&Place::new(&server.api.url), 6).await;
    let mut chance = Chance(61);
    for signal in [Signal::INT, Signal::QUIT, Signal::KILL, Signal::QUIT, Signal::KILL] {
        load.goes_on(20 + chance.below(80)).await;
        postgres.end(signal).await;
        postgres.start_again().await;
    }
    load.goes_on(50).await;
    let pool = PgPool::connect(&postgres.url()).await.expect("it answers");
    load.settle(&pool).await;
}

#[tokio::test]
async fn backends_that_are_terminated_one_by_one_lose_nothing() {
    let name = new_database().await;
    let database = connect(&name).await;
    let server = Process::start(&name, "", &[]).await;
    let load = Load::start(&Place::new(&server.api.url), 6).await;
    for _ in 0..60 {
        load.goes_on(3).await;
        // Writers', the pools', the listener's: whichever it is.
        let terminated: i64 = sqlx::query_scalar(
            "select count(pg_terminate_backend(pid)) from (
                select pid from pg_stat_activity
                where datname = current_database() and application_name like 'newcycle%' and pid <> pg_backend_pid()
                order by random() limit 1
            ) one",
        )
        .fetch_one(&database.pool)
        .await
        .expect("it is told");
        assert!(terminated <= 1);
    }
    load.goes_on(50).await;
    load.settle(&database.pool).await;
}

#[tokio::test]
async fn that_others_have_all_connections_is_said_and_passes() {
    let postgres = Postgres::start().await;
    let server = Process::on(&postgres.url(), &postgres.files(), "", &[]).await;
    let load = Load::start(&Place::new(&server.api.url), 4).await;
    load.goes_on(20).await;
    let most: String = sqlx::query_scalar("show max_connections")
        .fetch_one(&mut PgConnection::connect(&postgres.url()).await.expect("a connection"))
        .await
        .expect("a number");
    // What the server loses others have, until they have all: a connection that is just being made is in no list.
    let mut others = Vec::new();
    while others.len() < most.parse().expect("it") {
        match PgConnection::connect(&postgres.url()).await {
            Ok(connection) => others.push(connection),
            Err(_) => drop(
                sqlx::query(
                    "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'newcycle%'",
                )
                .execute(others.last_mut().expect("there are some"))
                .await
                .expect("they are told"),
            ),
        }
    }
    load.is_refused(4).await;
    assert_eq!(server.api.get("/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
    drop(others);
    server.api.until_ready().await;
    load.goes_on(50).await;
    let pool = PgPool::connect(&postgres.url()).await.expect("it answers");
    load.settle(&pool).await;
}

#[tokio::test]
async fn a_full_disk_stops_writing_and_nothing_else_until_there_is_room() {
    let Some(disk) = SmallDisk::mount(192) else { return };
    let mut postgres = Postgres::start_in(disk.path()).await;
    let server = Process::on(&postgres.url(), &postgres.files(), "", &[]).await;
    let place = Place::new(&server.api.url);
    let load = Load::start(&place, 4).await;
    load.goes_on(50).await;
    let filler = disk.fill();
    // Postgres has some room in the files that it has; then it has none.
    load.is_refused(20).await;
    std::fs::remove_file(&filler).expect("it is removed");
    // It may have ended by itself, for want of room to recover in.
    loop {
        tokio::select! {
            () = server.api.until_ready() => break,
            () = postgres.exited() => {}
        }
        postgres.start_again().await;
    }
    load.goes_on(50).await;
    let pool = PgPool::connect(&postgres.url()).await.expect("it answers");
    load.settle(&pool).await;
}

#[tokio::test]
async fn a_lock_on_the_ledger_holds_writers_up_and_loses_nothing() {
    let name = new_database().await;
    let database = connect(&name).await;
    let server = Process::start(&name, "", &[]).await;
    let load = Load::start(&Place::new(&server.api.url), 6).await;
    for table in ["transfers", "items", "users", "statistics.deltas"] {
        load.goes_on(20).await;
        let obstacle = Obstacle::before(table, &name).await;
        obstacle.is_met(&database.pool).await;
        obstacle.remove().await;
    }
    load.goes_on(50).await;
    load.settle(&database.pool).await;
}

#[tokio::test]
async fn a_transaction_that_idles_holds_nobody_up_and_is_counted_when_it_commits() {
    let name = new_database().await;
    let database = connect(&name).await;
    let server = Process::start(&name, "", &[]).await;
    let load = Load::start(&Place::new(&server.api.url), 4).await;
    load.goes_on(20).await;
    let mut idle = PgConnection::connect(&url(&name).await).await.expect("a connection");
    idle.execute("begin; insert into base_items (description) values ('late')").await.expect("a transaction");
    load.goes_on(200).await;
    sqlx::query("select statistics.fold()").execute(&database.pool).await.expect("it folds");
    idle.execute("commit").await.expect("it commits");
    load.settle(&database.pool).await;
}

/// Says how many pages the queue of notifications may have; nothing where the version cannot be told.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
async fn with_a_small_queue() -> Option<Postgres> {
    let mut postgres = Postgres::start().await;
    let mut connection = PgConnection::connect(&postgres.url()).await.expect("a connection");
    // Sixteen gigabytes before PostgreSQL 17, which had no setting for it.
    if connection.execute("alter system set max_notify_queue_pages = 64").await.is_err() {
        println!("this Postgres has no setting for the queue of notifications: skipped");
        return None;
    }
    postgres.end(Signal::INT).await;
    postgres.start_again().await;
    Some(postgres)
}

#[tokio::test]
async fn a_full_queue_of_notifications_stops_nobody() {
    let Some(postgres) = with_a_small_queue().await else { return };
    let server = Process::on(&postgres.url(), &postgres.files(), "", &[]).await;
    let load = Load::start(&Place::new(&server.api.url), 4).await;
    load.goes_on(20).await;
    // Somebody listens, and does not: nothing that is told from now on can be forgotten.
    let mut idle = PgConnection::connect(&postgres.url()).await.expect("a connection");
    idle.execute("listen anything").await.expect("it listens");
    idle.execute("begin").await.expect("it idles");
    let mut other = PgConnection::connect(&postgres.url()).await.expect("a connection");
    let fill = "select pg_notify('anything', repeat(chr(65 + n), 7000)) from generate_series(1, 4) n";
    while other.execute(fill).await.is_ok() {}
    // And others that are smaller, until there is no room for any.
    while other.execute("select pg_notify('anything', '')").await.is_ok() {}
    let mut events = server.api.stream("/statistics/stream?resolution=minute", None).await;
    events.next_where(|event| event.name == "status" && event.data["status"] == "live").await;
    load.goes_on(100).await;
    idle.close().await.expect("it ends");
    load.goes_on(50).await;
    let pool = PgPool::connect(&postgres.url()).await.expect("it answers");
    load.settle(&pool).await;
}
