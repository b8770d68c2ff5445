//! What Postgres tells whoever listens: part of the transaction, and enough to count without asking.

use futures_util::StreamExt;
use futures_util::stream::poll_fn;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_postgres::{AsyncMessage, Client, NoTls};

use crate::harness::{new_database, url};

/// A listener to all channels, and to one with which it marks the end of what it has heard.
struct Listener {
    client: Client,
    heard: UnboundedReceiver<(String, String)>,
}

impl Listener {
    async fn open(url: &str) -> Self {
        let (client, mut connection) = tokio_postgres::connect(url, NoTls).await.expect("a connection");
        let (sender, heard) = unbounded_channel();
        tokio::spawn(async move {
            let mut messages = poll_fn(move |context| connection.poll_message(context));
            while let Some(Ok(message)) = messages.next().await {
                if let AsyncMessage::Notification(message) = message {
                    let _ = sender.send((message.channel().to_owned(), message.payload().to_owned()));
                }
            }
        });
        client
            .batch_execute("listen item_creation; listen item_transfer; listen user_creation; listen fence")
            .await
            .unwrap();
        Self { client, heard }
    }

    /// Everything heard up to now: notifications come in the order of commits.
    async fn all(&mut self) -> Vec<(String, Value)> {
        self.client.batch_execute("notify fence").await.unwrap();
        let mut all = Vec::new();
        loop {
            let (channel, payload) = self.heard.recv().await.expect("the connection lives");
            if channel == "fence" {
                return all;
            }
            assert!(payload.len() < 8000, "a payload of {} bytes", payload.len());
            all.push((channel, serde_json::from_str(&payload).expect("JSON")));
        }
    }
}

async fn start() -> (PgConnection, Listener) {
    start_on(&new_database().await).await
}

async fn start_on(name: &str) -> (PgConnection, Listener) {
    let url = url(name).await;
    let mut writer = PgConnection::connect(&url).await.unwrap();
    writer
        .execute(
            "insert into base_items (id, description) values ('00000000-0000-7000-8000-000000000001', 'chair');
            insert into users (id) values ('00000000-0000-7000-8000-000000000002');
            insert into items (id, base_item_id) values
                ('00000000-0000-7000-8000-000000000003', '00000000-0000-7000-8000-000000000001');",
        )
        .await
        .unwrap();
    (writer, Listener::open(&url).await)
}

const TRANSFER: &str = "insert into transfers (item_id, owner_id, timestamp) values
    ('00000000-0000-7000-8000-000000000003', '00000000-0000-7000-8000-000000000002', '2026-05-01T12:00:00.123456Z')";

#[tokio::test]
async fn a_transfer_is_told_with_all_that_it_takes_to_count_it() {
    let (mut writer, mut listener) = start().await;
    let xid: String = sqlx::query_scalar(AssertSqlSafe(format!(
        "with row as ({TRANSFER} returning 1) select pg_current_xact_id()::text from row"
    )))
    .fetch_one(&mut writer)
    .await
    .unwrap();
    let heard = listener.all().await;
    let [(channel, payload)] = heard.as_slice() else { panic!("one notification: {heard:?}") };
    assert_eq!(channel, "item_transfer");
    assert_eq!(payload["xid"], json!(xid));
    let delta = payload["deltas"][0].as_array().expect("a delta");
    assert!(delta[0].is_i64(), "its id");
    let rest = json!([1_777_636_800_123_i64, "00000000-0000-7000-8000-000000000001", 1]);
    assert_eq!(json!(delta[1..]), rest);
}

#[tokio::test]
async fn each_kind_has_its_channel() {
    let (mut writer, mut listener) = start().await;
    for (statement, channel) in [
        ("insert into users default values", "user_creation"),
        ("insert into items (base_item_id) select id from base_items", "item_creation"),
        (TRANSFER, "item_transfer"),
    ] {
        writer.execute(statement).await.unwrap();
        let heard = listener.all().await;
        assert_eq!(heard.len(), 1, "{heard:?}");
        assert_eq!(heard[0].0, channel);
    }
    writer.execute("insert into base_items (description) values ('table')").await.unwrap();
    assert_eq!(listener.all().await, [], "base items are not counted");
}

/// Postgres delivers equal payloads of one transaction once; the delta's id makes them differ.
#[tokio::test]
async fn equal_statements_of_one_transaction_are_told_apart() {
    let (mut writer, mut listener) = start().await;
    let mut transaction = writer.begin().await.unwrap();
    transaction.execute("notify fence, 'equal'; notify fence, 'equal'").await.unwrap();
    transaction.execute(TRANSFER).await.unwrap();
    transaction.execute(TRANSFER).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(listener.all().await, [], "up to the first of the equal ones");
    assert_eq!(listener.all().await.len(), 2, "up to our own fence, with no second equal one between");
    assert_eq!(listener.all().await, []);
}

#[tokio::test]
async fn a_statement_is_told_once_however_many_rows_it_has() {
    let (mut writer, mut listener) = start().await;
    for (rows, resync) in [(120, false), (121, true), (5_000, true)] {
        let statement = format!(
            "insert into items (base_item_id, created_at)
            select '00000000-0000-7000-8000-000000000001', now() - n * interval '1 minute' from generate_series(1, {rows}) n"
        );
        writer.execute(AssertSqlSafe(statement)).await.unwrap();
        let heard = listener.all().await;
        assert_eq!(heard.len(), 1);
        assert_eq!(heard[0].1["resync"] == json!(true), resync, "{rows} rows");
        assert_eq!(heard[0].1["deltas"].as_array().map(Vec::len), (!resync).then_some(rows), "{rows} rows");
    }
    writer.execute("insert into users select from generate_series(1, 5000)").await.unwrap();
    let heard = listener.all().await;
    assert_eq!(heard[0].1["deltas"][0][3], 5_000, "rows of the same moment are one delta: {heard:?}");
}

/// Commits that notify wait for each other; so of those that run at the same time only three do.
#[tokio::test]
async fn of_transactions_that_run_at_the_same_time_three_tell() {
    let name = new_database().await;
    let (mut first, mut listener) = start_on(&name).await;
    let url = url(&name).await;
    let mut open = first.begin().await.unwrap();
    open.execute(TRANSFER).await.unwrap();
    let mut second = PgConnection::connect(&url).await.unwrap();
    second.execute(TRANSFER).await.unwrap();
    assert_eq!(listener.all().await.len(), 1, "one that stays open keeps nobody else quiet");
    let mut more = Vec::new();
    for _ in 0..2 {
        let mut connection = PgConnection::connect(&url).await.unwrap();
        connection.execute("begin").await.unwrap();
        connection.execute(TRANSFER).await.unwrap();
        more.push(connection);
    }
    second.execute(TRANSFER).await.unwrap();
    assert_eq!(listener.all().await, [], "one is silent, the others are not committed");
    open.execute("insert into users default values").await.unwrap();
    open.commit().await.unwrap();
    let channels: Vec<_> = listener.all().await.into_iter().map(|(channel, _)| channel).collect();
    assert_eq!(channels, ["item_transfer", "user_creation"]);
    second.execute(TRANSFER).await.unwrap();
    assert_eq!(listener.all().await.len(), 1, "nobody else is writing");
}

#[tokio::test]
async fn nothing_is_told_of_what_is_rolled_back_or_was_to_be_quiet() {
    let (mut writer, mut listener) = start().await;
    let mut transaction = writer.begin().await.unwrap();
    transaction.execute(TRANSFER).await.unwrap();
    transaction.rollback().await.unwrap();
    writer.execute("insert into users select where false").await.unwrap();
    writer.execute("set newcycle.notify = off").await.unwrap();
    writer.execute(TRANSFER).await.unwrap();
    assert_eq!(listener.all().await, []);
    writer.execute("set newcycle.notify = on").await.unwrap();
    writer.execute(TRANSFER).await.unwrap();
    assert_eq!(listener.all().await.len(), 1);
}

#[tokio::test]
async fn a_moment_far_in_the_future_is_refused_whoever_writes() {
    let (mut writer, _listener) = start().await;
    for (table, column, others, values) in [
        ("users", "created_at", "", ""),
        ("items", "created_at", ", base_item_id", ", '00000000-0000-7000-8000-000000000001'"),
        (
            "transfers",
            "timestamp",
            ", item_id, owner_id",
            ", '00000000-0000-7000-8000-000000000003', '00000000-0000-7000-8000-000000000002'",
        ),
    ] {
        for moment in ["now() + interval '6 minutes'", "'infinity'"] {
            let statement = format!("insert into {table} ({column}{others}) values ({moment}{values})");
            let error = writer.execute(AssertSqlSafe(statement)).await.expect_err(table);
            let constraint = error.as_database_error().and_then(|error| error.constraint()).map(str::to_owned);
            assert_eq!(constraint, Some(format!("{table}_{column}_not_in_future")), "{error}");
        }
        let statement = format!("insert into {table} ({column}{others}) values (now() + interval '4 minutes'{values})");
        writer.execute(AssertSqlSafe(statement)).await.expect("clocks differ a little");
    }
}
