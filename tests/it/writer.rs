//! Single rows of many requests are written together, and each gets the answer that is its own.

use std::time::Duration;

use futures_util::future::{join_all, poll_immediate};
use newcycle::ledger::writer::Metrics;
use newcycle::ledger::{BaseItem, LedgerError, NewBaseItem, NewItem, NewTransfer, NewUser, Outcome, User, Writer};
use prometheus_client::registry::Registry;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{Postgres, Transaction};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::api::Api;
use crate::harness::{Server, database, eventually};

/// How long a pool is waited for, by the clock of the test that stops it.
const PATIENCE_OF_POOL: Duration = Duration::from_secs(3);

/// Keeps everybody from writing to the table until dropped.
async fn hold(server: &Server, table: &str) -> Transaction<'static, Postgres> {
    let mut transaction = server.database.pool.begin().await.expect("a transaction");
    sqlx::query(sqlx::AssertSqlSafe(format!("lock table {table} in share mode")))
        .execute(&mut *transaction)
        .await
        .expect("the lock");
    transaction
}

/// Sends all of these such that they are written by two statements: the first row, then all others together.
async fn post_together(
    server: &Server,
    path: &str,
    table: &str,
    first: Value,
    others: &[Value],
) -> Vec<(StatusCode, Value)> {
    let held = hold(server, table).await;
    let mut answers = vec![tokio::spawn(send(server, path, &first))];
    // The first is on its way when a statement waits for the lock.
    eventually(|| async {
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from pg_locks where not granted and database = (select oid from pg_database
                where datname = current_database())",
        )
        .fetch_one(&server.database.pool)
        .await
        .map_err(|error| error.to_string())?;
        if waiting == 1 { Ok(()) } else { Err(format!("{waiting} statements wait")) }
    })
    .await;
    answers.extend(others.iter().map(|row| tokio::spawn(send(server, path, row))));
    let expected = format!("newcycle_writer_waiting_rows{{table=\"{table}\"}} {}", others.len());
    eventually(|| async {
        let metrics = metrics(server).await;
        if metrics.contains(&expected) { Ok(()) } else { Err(metrics) }
    })
    .await;
    held.rollback().await.expect("the lock is given back");
    join_all(answers).await.into_iter().map(|answer| answer.expect("an answer")).collect()
}

fn send(server: &Server, path: &str, row: &Value) -> impl Future<Output = (StatusCode, Value)> + use<> {
    Api::send(server.api.request(Method::POST, path).json(row))
}

async fn metrics(server: &Server) -> String {
    let response = server.api.request(Method::GET, "/metrics").send().await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    response.text().await.expect("a text")
}

#[tokio::test]
async fn rows_that_come_while_others_are_written_are_written_together() {
    let server = Server::start().await;
    let users: Vec<_> = (0..50).map(|_| json!({"id": Uuid::now_v7()})).collect();
    let answers = post_together(&server, "/users", "users", json!({}), &users).await;
    for ((status, row), user) in answers[1..].iter().zip(&users) {
        assert_eq!(*status, StatusCode::CREATED);
        assert_eq!(row["id"], user["id"], "each gets the answer to its own row");
    }
    let metrics = metrics(&server).await;
    for line in [
        "newcycle_writer_batch_rows_sum{table=\"users\"} 51.0",
        "newcycle_writer_batch_rows_count{table=\"users\"} 2",
        "newcycle_writer_wait_seconds_count{table=\"users\"} 51",
        "newcycle_writer_waiting_rows{table=\"users\"} 0",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    assert_eq!(server.differences().await, 0);
}

#[tokio::test]
async fn a_row_that_cannot_be_written_takes_no_other_with_it() {
    let server = Server::start().await;
    let (base_item, owner) = (server.api.base_item().await, server.api.user().await);
    let item = server.api.item(&base_item).await;
    let stored = server.api.create("/transfers", json!({"item_id": item, "owner_id": owner})).await;
    let good = json!({"item_id": item, "owner_id": owner});
    let with = |field: &str, value: Value| {
        let mut row = good.clone();
        row[field] = value;
        row
    };
    let twice = Uuid::now_v7().to_string();
    let nobody = Uuid::now_v7().to_string();
    let others = [
        good.clone(),
        with("owner_id", json!(nobody)),
        with("item_id", json!(nobody)),
        with("id", json!(stored)),
        with("id", json!(twice)),
        with("id", json!(twice)),
        good.clone(),
    ];
    let answers = post_together(&server, "/transfers", "transfers", good.clone(), &others).await;
    let statuses: Vec<_> = answers.iter().map(|(status, _)| status.as_u16()).collect();
    let (created, mut same_id) = (StatusCode::CREATED.as_u16(), statuses[5..7].to_vec());
    same_id.sort_unstable();
    assert_eq!(statuses[..5], [created, created, 422, 422, 200], "{answers:?}");
    assert_eq!(same_id, [200, 201], "of two with the same id one is created, the other is a retry");
    assert_eq!(statuses[7], created);
    assert_eq!(answers[2].1["errors"][0]["field"], "owner_id");
    assert_eq!(answers[3].1["errors"][0]["field"], "item_id");
    assert_eq!(answers[4].1["id"], json!(stored));
    assert_eq!(server.rows().await[3], 5);
}

#[tokio::test]
async fn a_row_with_the_id_of_another_is_a_conflict_also_among_rows_written_together() {
    let server = Server::start().await;
    let id = Uuid::now_v7();
    let others = [json!({"id": id, "description": "chair"}), json!({"id": id, "description": "table"})];
    let answers = post_together(&server, "/base-items", "base_items", json!({"description": "lamp"}), &others).await;
    let mut statuses: Vec<_> = answers[1..].iter().map(|(status, _)| status.as_u16()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409], "{answers:?}");
    let (_, stored) = server.api.get(&format!("/base-items/{id}")).await;
    let created = answers[1..].iter().find(|(status, _)| *status == StatusCode::CREATED).expect("one was created");
    assert_eq!(stored, created.1);
}

#[tokio::test]
async fn whoever_comes_when_no_more_can_wait_is_told_to_come_again() {
    let database = database().await;
    let mut tasks = JoinSet::new();
    let mut registry = Registry::default();
    let writer = Writer::start(&database.pool, &Metrics::register(&mut registry), &mut tasks);
    // Nothing is written while this runs: the tasks have no turn before the first await.
    let mut waiting = Vec::new();
    let refused = loop {
        let mut create = Box::pin(writer.create::<User>(NewUser::default()));
        match poll_immediate(&mut create).await {
            None => waiting.push(create),
            Some(answer) => break answer.expect_err("there is no room"),
        }
    };
    assert!(matches!(refused, LedgerError::Busy), "{refused}");
    assert!(waiting.len() > 1000, "many can wait");
    let expected = waiting.len();
    let created = join_all(waiting).await;
    assert!(created.iter().all(|answer| matches!(answer, Ok(Outcome::Created(_)))));
    let users: i64 =
        sqlx::query_scalar("select count(*) from users").fetch_one(&database.pool).await.expect("a number");
    assert_eq!(users.cast_unsigned() as usize, expected);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("metrics");
    assert!(text.contains("writer_refused_rows_total{table=\"users\"} 1"), "{text}");
}

#[tokio::test]
async fn a_row_whose_sender_went_away_before_its_turn_is_not_written() {
    let database = database().await;
    let mut tasks = JoinSet::new();
    let writer = Writer::start(&database.pool, &Metrics::register(&mut Registry::default()), &mut tasks);
    let mut gone = Box::pin(writer.create::<User>(NewUser::default()));
    assert!(poll_immediate(&mut gone).await.is_none());
    drop(gone);
    let stays = writer.create::<User>(NewUser::default()).await;
    assert!(matches!(stays, Ok(Outcome::Created(_))));
    let users: i64 =
        sqlx::query_scalar("select count(*) from users").fetch_one(&database.pool).await.expect("a number");
    assert_eq!(users, 1);
}

#[tokio::test]
async fn all_that_wait_are_told_at_once_when_the_database_cannot_be_reached() {
    let database = database().await;
    let pool = sqlx::postgres::PgPoolOptions::new()
        .acquire_timeout(PATIENCE_OF_POOL)
        .max_connections(1)
        .connect_lazy_with((*database.pool.connect_options()).clone());
    // Somebody else has the only connection.
    let taken = pool.begin().await;
    let mut tasks = JoinSet::new();
    let metrics = Metrics::register(&mut Registry::default());
    let writer = Writer::start(&pool, &metrics, &mut tasks);
    let description = "lamp".to_owned();
    let new = || NewBaseItem { id: None, description: description.clone(), created_at: None };
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    let answers = join_all((0..500).map(|_| writer.create::<BaseItem>(new()))).await;
    assert!(start.elapsed() < 2 * PATIENCE_OF_POOL, "not one batch after the other");
    assert!(answers.iter().all(|answer| matches!(answer, Err(LedgerError::Database(_)))), "{answers:?}");
    drop(taken);
}

#[tokio::test]
async fn the_writer_ends_with_its_last_handle() {
    let database = database().await;
    let mut tasks = JoinSet::new();
    let writer = Writer::start(&database.pool, &Metrics::register(&mut Registry::default()), &mut tasks);
    let missing = Uuid::now_v7();
    let item = NewItem { id: None, base_item_id: missing, created_at: None };
    let answer = writer.create::<newcycle::ledger::Item>(item).await;
    assert!(matches!(answer, Err(LedgerError::Invalid { field: "base_item_id", .. })), "{answer:?}");
    let transfer = NewTransfer { id: None, item_id: missing, owner_id: missing, timestamp: None };
    let answer = writer.create::<newcycle::ledger::Transfer>(transfer).await;
    assert!(matches!(answer, Err(LedgerError::Invalid { .. })), "{answer:?}");
    drop(writer);
    while let Some(ended) = tasks.join_next().await {
        ended.expect("no task fails");
    }
}
