//! Who wrote what through which key.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use newcycle::audit::{self, AuditSettings};
use newcycle::auth::{self, Scopes, keys};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::api::Api;
use crate::harness::{Server, connect, eventually, new_database};
use crate::source::Source;
use crate::streams::{create, cursors, fetch, settings};

/// A server, and those who have keys of these names, which may do everything.
async fn server_with<const N: usize>(names: [&str; N]) -> (Server, [Api; N]) {
    let name = new_database().await;
    let database = connect(&name).await;
    let mut keys = Vec::new();
    for name in names {
        keys.push(keys::create(&database.pool, name, Scopes::ALL, None).await.expect("a key").1);
    }
    let server = Server::on(&name).await;
    let callers = std::array::from_fn(|number| server.api.with_key(&keys[number].key_text()));
    (server, callers)
}

/// Who wrote which rows of a table, by the names of keys.
async fn written(server: &Server, table: &str) -> BTreeMap<String, Vec<Uuid>> {
    let rows: Vec<(String, Uuid)> = sqlx::query_as(
        "select author_name, row from access.audit, unnest(ids) as row where action = $1 order by author_name, row",
    )
    .bind(format!("insert into {table}"))
    .fetch_all(&server.database.pool)
    .await
    .expect("the audit");
    let mut written = BTreeMap::<_, Vec<_>>::new();
    for (name, row) in rows {
        written.entry(name).or_default().push(row);
    }
    written
}

fn sorted(mut ids: Vec<Uuid>) -> Vec<Uuid> {
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn every_row_says_through_which_key_it_was_written() {
    let (server, [one, other]) = server_with(["one", "other"]).await;
    // At the same time: rows of both are written by the same statements.
    let ids: Vec<_> = (0..200).map(|_| Uuid::now_v7()).collect();
    let users = ids.iter().enumerate().map(|(number, id)| {
        let api = if number % 2 == 0 { &one } else { &other };
        api.post("/users", json!({"id": id}))
    });
    for (status, answer) in join_all(users).await {
        assert_eq!(status, StatusCode::CREATED, "{answer}");
    }
    // Whoever asks again has written nothing.
    let again = join_all(ids.iter().map(|id| other.post("/users", json!({"id": id})))).await;
    assert!(again.iter().all(|(status, _)| *status == StatusCode::OK));
    // Many at once, and then many of which most are there.
    let many: Vec<_> = (0..500).map(|_| Uuid::now_v7()).collect();
    let rows = |ids: &[Uuid]| Value::Array(ids.iter().map(|id| json!({"id": id})).collect());
    assert_eq!(one.post("/users", rows(&many[..400])).await.0, StatusCode::OK);
    assert_eq!(other.post("/users", rows(&many)).await.0, StatusCode::OK);
    // Of what is refused nothing is noted.
    let refused = json!([{"id": Uuid::now_v7()}, {"id": Uuid::nil(), "created_at": "nonsense"}]);
    assert!(one.post("/users", refused).await.0.is_client_error());

    let halves = |parity| ids.iter().skip(parity).step_by(2).copied();
    let expected = BTreeMap::from([
        ("one".to_owned(), sorted(halves(0).chain(many[..400].iter().copied()).collect())),
        ("other".to_owned(), sorted(halves(1).chain(many[400..].iter().copied()).collect())),
    ]);
    assert_eq!(written(&server, "users").await, expected);
}

#[tokio::test]
async fn items_and_hand_overs_say_it_too() {
    let (server, [one]) = server_with(["one"]).await;
    let base_item = one.create("/base-items", json!({"description": "chair"})).await;
    let user = one.user().await;
    let item = one.item(&base_item).await;
    let (status, _) = one.put(&format!("/items/{item}/ownership"), json!({"to": user})).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let entries: Vec<(String, String, i32)> =
        sqlx::query_as("select action, through, cardinality(ids) from access.audit order by id")
            .fetch_all(&server.database.pool)
            .await
            .expect("the audit");
    let expected = ["base_items", "users", "items", "transfers"]
        .map(|table| (format!("insert into {table}"), "key".to_owned(), 1));
    assert_eq!(entries, expected);
}

#[tokio::test]
async fn commands_are_noted_with_how_they_were_answered() {
    let (server, [one]) = server_with(["one"]).await;
    let (_, export) = one.post("/exports", json!({"dataset": "users", "format": "csv", "compression": "none"})).await;
    let path = format!("/exports/{}", export["id"].as_str().expect("an id"));
    let (status, _) = one.post(&format!("{path}/cancel"), json!({})).await;
    let (missing, _) = one.post(&format!("/streams/{}/run", Uuid::nil()), json!({})).await;
    assert_eq!(missing, StatusCode::NOT_FOUND);
    // To look is no command.
    one.get(&path).await;
    let entries: Vec<(String, String, Option<i16>, bool)> =
        sqlx::query_as("select author_name, action, status, request_id is not null from access.audit order by id")
            .fetch_all(&server.database.pool)
            .await
            .expect("the audit");
    let entry = |action: String, status: StatusCode| {
        let status = i16::try_from(status.as_u16()).expect("a status");
        ("one".to_owned(), action, Some(status), true)
    };
    let expected = [
        entry("POST /exports".to_owned(), StatusCode::ACCEPTED),
        entry(format!("POST {path}/cancel"), status),
        entry(format!("POST /streams/{}/run", Uuid::nil()), missing),
    ];
    assert_eq!(entries, expected);
}

#[tokio::test]
async fn what_a_data_stream_writes_is_its_own() {
    let server = Server::limited(&new_database().await, auth::Settings::default(), settings()).await;
    let source = Source::with(0).await;
    source.change(|records| {
        *records = (0..30).map(|n| json!({"id": n, "model": "bike", "owner": format!("u{n}")})).collect();
    });
    let mut stream = cursors(&source);
    stream["destination"] = json!({"ledger": {
        "base_item": {"key": "model"}, "item": {"key": "id"}, "user": {"key": "owner"},
    }});
    let id = create(&server.api, stream).await;
    for _ in 0..2 {
        let batch = fetch(&server.api, &id).await;
        assert_eq!(batch["state"], "complete", "{batch}");
    }
    let entries: Vec<(String, String, i64)> = sqlx::query_as(
        "select author, action, sum(cardinality(ids)) from access.audit where through = 'stream' group by 1, 2 order by 2",
    )
    .fetch_all(&server.database.pool)
    .await
    .expect("the audit");
    let entry = |table: &str, rows| (id.clone(), format!("insert into {table}"), rows);
    assert_eq!(entries, [entry("base_items", 1), entry("items", 30), entry("users", 30)]);
}

#[tokio::test]
async fn where_nobody_has_to_say_who_they_are_nothing_is_noted() {
    let server = Server::start().await;
    server.api.user().await;
    server.api.post("/exports", json!({"dataset": "users", "format": "csv", "compression": "none"})).await;
    let entries: i64 =
        sqlx::query_scalar("select count(*) from access.audit").fetch_one(&server.database.pool).await.expect("it");
    assert_eq!(entries, 0);
}

#[tokio::test]
async fn what_is_too_old_is_forgotten() {
    let server = Server::start().await;
    let pool = server.database.pool.clone();
    sqlx::query(
        "insert into access.audit (at, author, author_name, through, action)
        select now() - n * interval '1 day', 'k', 'one', 'key', 'POST /exports' from generate_series(0, 20000) n",
    )
    .execute(&pool)
    .await
    .expect("entries");
    let stop = CancellationToken::new();
    let settings = AuditSettings { audit_retention: Duration::from_secs(30 * 24 * 3_600 + 60) };
    let forgetting = tokio::spawn(audit::run(pool.clone(), settings, stop.clone()));
    eventually(|| async {
        let left: i64 = sqlx::query_scalar("select count(*) from access.audit")
            .fetch_one(&pool)
            .await
            .map_err(|error| error.to_string())?;
        if left == 31 { Ok(()) } else { Err(format!("{left} are left")) }
    })
    .await;
    stop.cancel();
    forgetting.await.expect("no panic");
}

#[tokio::test]
async fn those_who_report_do_not_see_it() {
    let server = Server::start().await;
    let may: bool = sqlx::query_scalar("select has_table_privilege('newcycle_reader', 'access.audit', 'select')")
        .fetch_one(&server.database.pool)
        .await
        .expect("it");
    assert!(!may);
}
