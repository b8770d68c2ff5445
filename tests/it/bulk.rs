//! Many rows in one request: arrays and NDJSON, as they come over the wire, all or none, or the good ones.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::api::{Answer, Api, buckets};
use crate::harness::{Server, eventually};

const ARRAY: &str = "application/json";
const LINES: &str = "application/x-ndjson";

fn id() -> String {
    Uuid::new_v4().to_string()
}

/// That many users with ids of their own.
fn users(amount: usize) -> Vec<Value> {
    (0..amount).map(|_| json!({"id": id()})).collect()
}

fn lines<'a>(rows: impl IntoIterator<Item = &'a Value>) -> String {
    rows.into_iter().map(|row| format!("{row}\n")).collect()
}

async fn send(api: &Api, path: &str, content_type: &str, body: impl Into<reqwest::Body>) -> Answer {
    Api::send(api.request(Method::POST, path).header("content-type", content_type).body(body)).await
}

/// A body that arrives in pieces of that many bytes.
fn in_pieces(request: RequestBuilder, body: &str, size: usize) -> RequestBuilder {
    let pieces: Vec<_> = body.as_bytes().chunks(size).map(Bytes::copy_from_slice).collect();
    let pieces = stream::unfold(pieces.into_iter(), |mut pieces| async move {
        let piece = pieces.next()?;
        // Lets the connection send what it has before there is more.
        tokio::task::yield_now().await;
        Some((Ok::<_, Infallible>(piece), pieces))
    });
    request.body(reqwest::Body::wrap_stream(pieces))
}

/// The line and field of every error.
fn errors(answer: &Value) -> Vec<(u64, Option<&str>)> {
    let errors = answer["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    errors.iter().map(|error| (error["line"].as_u64().expect("a line"), error["field"].as_str())).collect()
}

#[tokio::test]
async fn arrays_and_lines_create_rows_of_every_kind() {
    let server = Server::start().await;
    let api = &server.api;
    let (base_item, user, item) = (id(), id(), id());
    let kinds = [
        (
            "/base-items",
            [json!({"id": base_item, "description": "chair"}), json!({"description": "ta\"ble]},\n{[ \\"})],
        ),
        ("/users", [json!({"id": user}), json!({"created_at": "2021-01-01T00:00:00Z"})]),
        ("/items", [json!({"id": item, "base_item_id": base_item}), json!({"base_item_id": base_item})]),
        (
            "/transfers",
            [json!({"id": id(), "item_id": item, "owner_id": user}), json!({"item_id": item, "owner_id": user})],
        ),
    ];
    for (path, rows) in &kinds {
        let answer = send(api, path, ARRAY, json!(rows).to_string()).await;
        assert_eq!(answer, (StatusCode::OK, json!({"inserted": 2, "unchanged": 0})), "{path}");
        // The row with an id has been there; the other one gets a new id each time.
        let answer = send(api, path, LINES, lines(rows)).await;
        assert_eq!(answer, (StatusCode::OK, json!({"inserted": 1, "unchanged": 1})), "{path}");
        let (_, page) = api.get(path).await;
        for row in page["data"].as_array().expect("rows") {
            let sent = if row["id"] == rows[0]["id"] { &rows[0] } else { &rows[1] };
            for (field, value) in sent.as_object().expect("a row") {
                assert_eq!(&row[field], value, "{path}");
            }
        }
    }
    assert_eq!(server.rows().await, [3; 4]);
    let (_, owner) = api.get(&format!("/items/{item}/owner")).await;
    assert_eq!(owner["owner_id"], *user);
}

#[tokio::test]
async fn nothing_to_insert_is_no_mistake() {
    let server = Server::start().await;
    for (content_type, body) in
        [(ARRAY, "[]"), (ARRAY, " [ \n ] "), (LINES, ""), (LINES, "\n"), (LINES, " \r\n\t\r\n \n")]
    {
        let answer = send(&server.api, "/users", content_type, body).await;
        assert_eq!(answer, (StatusCode::OK, json!({"inserted": 0, "unchanged": 0})), "{body:?}");
    }
}

#[tokio::test]
async fn lines_may_be_blank_or_end_as_on_windows_or_not_end_at_all() {
    let server = Server::start().await;
    for content_type in [LINES, "application/ndjson", "application/jsonl", "Application/X-NDJSON; charset=utf-8"] {
        let answer = send(&server.api, "/users", content_type, "{}\r\n\r\n  {}  \n\n\n\t{}\n \r\n{}").await;
        assert_eq!(answer, (StatusCode::OK, json!({"inserted": 4, "unchanged": 0})), "{content_type}");
    }
    assert_eq!(server.rows().await, [0, 16, 0, 0]);
}

#[tokio::test]
async fn a_body_may_come_in_the_smallest_pieces() {
    let server = Server::start().await;
    let rows: Vec<_> = (0..20).map(|n| json!({"description": format!("Stühle \"{n}\" ]}},\\ 🪑")})).collect();
    let pretty = serde_json::to_string_pretty(&rows).expect("JSON");
    for size in [1, 2, 3, 7, 64] {
        for (content_type, body) in [(ARRAY, &pretty), (LINES, &lines(&rows))] {
            let request = server.api.request(Method::POST, "/base-items").header("content-type", content_type);
            let answer = Api::send(in_pieces(request, body, size)).await;
            assert_eq!(answer, (StatusCode::OK, json!({"inserted": 20, "unchanged": 0})), "pieces of {size}");
        }
        let request = server.api.request(Method::POST, "/base-items").header("content-type", ARRAY);
        let (status, row) = Api::send(in_pieces(request, &rows[0].to_string(), size)).await;
        assert_eq!((status, &row["description"]), (StatusCode::CREATED, &rows[0]["description"]));
    }
    let distinct: i64 = sqlx::query_scalar("select count(distinct description) from base_items")
        .fetch_one(&server.database.pool)
        .await
        .expect("a number");
    assert_eq!(distinct, 20, "no character was lost between two pieces");
}

/// Rows with all sorts of faults, and where those are: line and field.
fn faulty() -> (Vec<Value>, Vec<(u64, Option<&'static str>)>) {
    let rows = vec![
        json!({"id": id()}),
        json!({"id": "lamp"}),
        json!({"colour": "red"}),
        json!({}),
        json!("lamp"),
        json!({"created_at": "9999-01-01T00:00:00Z"}),
        json!([{}]),
        json!({"created_at": "2021-01-01T00:00:00Z"}),
        json!({"created_at": "2021-02-29T00:00:00Z"}),
    ];
    let faults = vec![
        (2, Some("id")),
        (3, Some("colour")),
        (5, None),
        (6, Some("created_at")),
        (7, None),
        (9, Some("created_at")),
    ];
    (rows, faults)
}

#[tokio::test]
async fn one_wrong_row_keeps_all_out_and_every_wrong_row_is_named() {
    let server = Server::start().await;
    let (rows, faults) = faulty();
    for (content_type, body) in [(ARRAY, json!(rows).to_string()), (LINES, lines(&rows))] {
        for path in ["/users", "/users?skip_rejected=false"] {
            let (status, problem) = send(&server.api, path, content_type, body.clone()).await;
            assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
            assert_eq!(errors(&problem), faults, "{problem}");
            assert_eq!(server.rows().await, [0; 4]);
        }
    }
}

#[tokio::test]
async fn wrong_rows_can_be_left_out() {
    let server = Server::start().await;
    let (rows, faults) = faulty();
    for (content_type, body) in [(ARRAY, json!(rows).to_string()), (LINES, lines(&rows))] {
        let before = server.rows().await[1];
        let (status, answer) = send(&server.api, "/users?skip_rejected=true", content_type, body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(errors(&answer), faults, "{answer}");
        assert_eq!(answer["rejected"], faults.len());
        let inserted = server.rows().await[1] - before;
        assert_eq!(answer["inserted"], inserted);
        assert_eq!(inserted + answer["unchanged"].as_i64().expect("a number"), 3);
    }
    let (_, answer) = send(&server.api, "/users?skip_rejected=true", LINES, "{}").await;
    assert_eq!(answer, json!({"inserted": 1, "unchanged": 0, "rejected": 0}));
}

#[tokio::test]
async fn rows_without_their_parents_are_named_and_left_out() {
    let server = Server::start().await;
    let api = &server.api;
    let (base_item, user) = (api.base_item().await, api.user().await);
    let item = api.item(&base_item).await;
    let items =
        [json!({"base_item_id": base_item}), json!({"base_item_id": id()}), json!({"base_item_id": Uuid::nil()})];
    let transfers = [
        json!({"item_id": id(), "owner_id": user}),
        json!({"item_id": item, "owner_id": user}),
        json!({"item_id": item, "owner_id": id()}),
        json!({"item_id": id(), "owner_id": id()}),
    ];
    let before = server.rows().await;
    let item_faults = [(2, Some("base_item_id")), (3, Some("base_item_id"))];
    let transfer_faults = [(1, Some("item_id")), (3, Some("owner_id")), (4, Some("item_id"))];
    for (path, rows, faults) in [("/items", &items[..], &item_faults[..]), ("/transfers", &transfers, &transfer_faults)]
    {
        let (status, problem) = api.post(path, json!(rows)).await;
        assert_eq!((status, errors(&problem)), (StatusCode::UNPROCESSABLE_ENTITY, faults.to_vec()), "{problem}");
        assert_eq!(server.rows().await, before);
    }
    for (path, rows, faults) in [("/items", &items[..], &item_faults[..]), ("/transfers", &transfers, &transfer_faults)]
    {
        let (status, answer) = api.post(&format!("{path}?skip_rejected=true"), json!(rows)).await;
        assert_eq!((status, errors(&answer)), (StatusCode::OK, faults.to_vec()), "{answer}");
        assert_eq!((&answer["inserted"], &answer["rejected"]), (&json!(1), &json!(faults.len())));
    }
    assert_eq!(server.rows().await, [before[0], before[1], before[2] + 1, before[3] + 1]);
}

#[tokio::test]
async fn of_rows_with_the_same_id_the_first_counts() {
    let server = Server::start().await;
    let (twice, differing) = (id(), id());
    let rows = [
        json!({"id": twice, "description": "chair"}),
        json!({"id": differing, "description": "lamp"}),
        json!({"id": twice, "description": "chair"}),
    ];
    let answer = server.api.post("/base-items", json!(rows)).await;
    assert_eq!(answer, (StatusCode::OK, json!({"inserted": 2, "unchanged": 1})));

    let third = id();
    let rows = [
        json!({"id": third, "description": "table"}),
        json!({"id": third, "description": "desk"}),
        json!({"id": differing, "description": "torch"}),
        json!({"id": differing, "description": "lamp"}),
    ];
    let (status, problem) = server.api.post("/base-items", json!(rows)).await;
    assert_eq!(status, StatusCode::CONFLICT, "{problem}");
    assert_eq!(problem["type"], "urn:newcycle:problem:conflict");
    assert_eq!(errors(&problem), [(2, Some("id")), (3, Some("id"))]);
    assert_eq!(server.rows().await, [2, 0, 0, 0]);

    let (status, answer) = server.api.post("/base-items?skip_rejected=true", json!(rows)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!((&answer["inserted"], &answer["unchanged"], &answer["rejected"]), (&json!(1), &json!(1), &json!(2)));
    assert_eq!(server.api.get(&format!("/base-items/{third}")).await.1["description"], "table");
    assert_eq!(server.api.get(&format!("/base-items/{differing}")).await.1["description"], "lamp");

    let mixed = [json!({"id": differing, "description": "torch"}), json!({"description": ""})];
    let (status, _) = server.api.post("/base-items", json!(mixed)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "a conflict only if nothing else is wrong");
}

#[tokio::test]
async fn rows_of_every_kind_conflict_in_every_field() {
    let server = Server::start().await;
    let api = &server.api;
    let (base_items, users) = ([api.base_item().await, api.base_item().await], [api.user().await, api.user().await]);
    let items = [api.item(&base_items[0]).await, api.item(&base_items[0]).await];
    let then = "2021-01-01T00:00:00Z";
    let stored = [
        ("/base-items", json!({"id": id(), "description": "chair", "created_at": then})),
        ("/users", json!({"id": id(), "created_at": then})),
        ("/items", json!({"id": id(), "base_item_id": base_items[0], "created_at": then})),
        ("/transfers", json!({"id": id(), "item_id": items[0], "owner_id": users[0], "timestamp": then})),
    ];
    for (path, row) in stored {
        assert_eq!(api.post(path, json!([row])).await.1["inserted"], 1);
        let before = server.rows().await;
        for field in row.as_object().expect("a row").keys().filter(|field| *field != "id") {
            let mut other = row.clone();
            other[field] = match field.as_str() {
                "description" => json!("Chair"),
                "base_item_id" => json!(base_items[1]),
                "item_id" => json!(items[1]),
                "owner_id" => json!(users[1]),
                _ => json!("2021-01-01T00:00:00.000001Z"),
            };
            let (status, problem) = api.post(path, json!([row, other])).await;
            assert_eq!(status, StatusCode::CONFLICT, "{path} {field}: {problem}");
            assert_eq!(errors(&problem), [(2, Some("id"))], "{path} {field}");
            assert_eq!(server.rows().await, before, "{path} {field}");
        }
    }
}

#[tokio::test]
async fn only_the_first_hundred_wrong_rows_are_described_but_all_are_counted() {
    let server = Server::start().await;
    let rows: Vec<_> = (1..=1000).map(|n| if n % 2 == 0 { json!({}) } else { json!({"id": n}) }).collect();
    let (status, problem) = server.api.post("/users", json!(rows)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let described: Vec<_> = errors(&problem).iter().map(|(line, _)| *line).collect();
    assert_eq!(described, (0..100).map(|n| 2 * n + 1).collect::<Vec<_>>());
    assert!(problem["detail"].as_str().expect("text").contains("500 rows"), "{}", problem["detail"]);
    let (_, answer) = server.api.post("/users?skip_rejected=true", json!(rows)).await;
    assert_eq!((&answer["inserted"], &answer["rejected"]), (&json!(500), &json!(500)));
}

#[tokio::test]
async fn what_is_no_json_is_refused_with_its_line() {
    let server = Server::start().await;
    let cases: [(&[u8], u64); 7] = [
        (b"{}\n{]\n{}\n", 2),
        (b"{}\n\n\r\nlamp\n{}", 4),
        (b"{} {}\n", 1),
        (b"{}\n{\"id\": \"\xff\"}\n", 2),
        (b"{}\n{}\n{}\n{\"id\"", 4),
        (b"\xef\xbb\xbf{}\n", 1),
        (b"{}\n{}\0\n", 2),
    ];
    for (body, line) in cases {
        let (status, problem) = send(&server.api, "/users", LINES, body).await;
        let body = String::from_utf8_lossy(body);
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body:?}: {problem}");
        assert_eq!(problem["type"], "urn:newcycle:problem:malformed-json");
        assert_eq!(errors(&problem), [(line, None)], "{body:?}: {problem}");
        assert_eq!(server.rows().await, [0; 4], "{body:?}");
    }
    let good_and_bad: &[u8] = b"{}\n{\"id\": \"\xff\"}\n{}\0\n{}\n";
    let (status, answer) = send(&server.api, "/users?skip_rejected=true", LINES, good_and_bad).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!((&answer["inserted"], errors(&answer)), (&json!(2), vec![(2, None), (3, None)]));
}

#[tokio::test]
async fn an_array_that_is_none_is_refused_even_if_wrong_rows_may_be_left_out() {
    let server = Server::start().await;
    for body in
        ["[", "[{}", "[{},", "[{},]", "[,{}]", "[{}]]", "[{}] {}", "[{}]\n[{}]", "[{\"id\"]", "[{}, {\"id\": \"", "[{]"]
    {
        for path in ["/users", "/users?skip_rejected=true"] {
            let (status, problem) = send(&server.api, path, ARRAY, body).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{body}: {problem}");
            assert_eq!(problem["type"], "urn:newcycle:problem:malformed-json", "{body}: {problem}");
            assert_eq!(server.rows().await, [0; 4], "{body}");
        }
    }
}

#[tokio::test]
async fn nul_characters_are_refused_by_name() {
    let server = Server::start().await;
    let rows = [json!({"description": "chair"}), json!({"description": "cha\0ir"})];
    for (content_type, body) in [(ARRAY, json!(rows).to_string()), (LINES, lines(&rows))] {
        let (status, problem) = send(&server.api, "/base-items", content_type, body.clone()).await;
        assert_eq!((status, errors(&problem)), (StatusCode::UNPROCESSABLE_ENTITY, vec![(2, Some("description"))]));
        let (_, answer) = send(&server.api, "/base-items?skip_rejected=true", content_type, body).await;
        assert_eq!((&answer["inserted"], errors(&answer)), (&json!(1), vec![(2, Some("description"))]));
    }
    assert_eq!(server.rows().await, [2, 0, 0, 0]);
}

#[tokio::test]
async fn a_row_has_at_most_a_mebibyte() {
    let server = Server::start().await;
    const MEBIBYTE: usize = 1024 * 1024;
    let row = |length: usize| format!("{{{}}}", " ".repeat(length - 2));
    for path in ["/users", "/users?skip_rejected=true"] {
        for length in [MEBIBYTE + 1, MEBIBYTE + 1000, 8 * MEBIBYTE] {
            for (content_type, body) in [
                (LINES, format!("{{}}\n{}\n{{}}\n", row(length))),
                (LINES, row(length)),
                (ARRAY, format!("[{{}},{},{{}}]", row(length))),
                (ARRAY, " ".repeat(length)),
            ] {
                let (status, problem) = send(&server.api, path, content_type, body).await;
                assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{length}: {problem}");
                assert_eq!(problem["type"], "urn:newcycle:problem:too-large");
                assert_eq!(server.rows().await, [0; 4]);
            }
        }
    }
    for (content_type, body) in [
        (LINES, format!("{}\n{}", row(MEBIBYTE), row(MEBIBYTE))),
        (ARRAY, format!("[{},{}]", row(MEBIBYTE), row(MEBIBYTE))),
    ] {
        let answer = send(&server.api, "/users", content_type, body).await;
        assert_eq!(answer, (StatusCode::OK, json!({"inserted": 2, "unchanged": 0})), "each row is just small enough");
    }
}

#[tokio::test]
async fn fifty_thousand_rows_are_one_request() {
    let server = Server::start().await;
    let api = &server.api;
    let item = api.item(&api.base_item().await).await;
    let user = api.user().await;
    let mut rows: Vec<_> = (0..50_000)
        .map(|n| {
            let time = format!("{}-03-01T00:00:00.{:03}Z", 2019 + n % 3, n % 1000);
            json!({"id": id(), "item_id": item, "owner_id": user, "timestamp": time})
        })
        .collect();
    let mut with_a_bad_one = rows.clone();
    with_a_bad_one.push(json!({"item_id": item, "owner_id": id()}));
    for content_type in [ARRAY, LINES] {
        let body = if content_type == ARRAY { json!(with_a_bad_one).to_string() } else { lines(&with_a_bad_one) };
        let (status, problem) = send(api, "/transfers", content_type, body).await;
        assert_eq!((status, errors(&problem)), (StatusCode::UNPROCESSABLE_ENTITY, vec![(50_001, Some("owner_id"))]));
        assert_eq!(server.rows().await[3], 0);
    }

    let answer = send(api, "/transfers", ARRAY, json!(rows).to_string()).await;
    assert_eq!(answer, (StatusCode::OK, json!({"inserted": 50_000, "unchanged": 0})));
    // Again, in another order and with a few more.
    rows.reverse();
    rows.extend((0..10).map(|_| json!({"item_id": item, "owner_id": user, "timestamp": "2022-01-01T00:00:00Z"})));
    let answer = send(api, "/transfers", LINES, lines(&rows)).await;
    assert_eq!(answer, (StatusCode::OK, json!({"inserted": 10, "unchanged": 50_000})));

    assert_eq!(server.rows().await[3], 50_010);
    let (_, counts) = api.get("/statistics/transfers/year").await;
    let counts: Vec<_> = buckets(&counts).into_values().collect();
    assert_eq!(counts, [16_667, 16_667, 16_666, 10], "each year's transfers are counted");
}

/// The first batch goes straight into the ledger, the second is looked at row by row, the third goes straight again.
#[tokio::test]
async fn a_wrong_row_in_one_batch_of_several_is_found_there() {
    let server = Server::start().await;
    let api = &server.api;
    let stored = api.create("/users", json!({"created_at": "2020-01-01T00:00:00Z"})).await;
    let mut rows = users(110_000);
    rows[59_999] = json!({"id": stored, "created_at": "2021-01-01T00:00:00Z"});
    rows[60_000] = json!({"id": stored});
    rows[60_001] = rows[7].clone();

    let (status, problem) = send(api, "/users", LINES, lines(&rows)).await;
    assert_eq!((status, errors(&problem)), (StatusCode::CONFLICT, vec![(60_000, Some("id"))]));
    assert_eq!(server.rows().await[1], 1);

    let (status, answer) = send(api, "/users?skip_rejected=true", LINES, lines(&rows)).await;
    assert_eq!((status, errors(&answer)), (StatusCode::OK, vec![(60_000, Some("id"))]));
    assert_eq!((&answer["inserted"], &answer["unchanged"]), (&json!(109_997), &json!(2)));
    assert_eq!(server.rows().await[1], 109_998);
    // Rows that do not say when they came into being did so at one moment, whichever way they went.
    let moments: i64 =
        sqlx::query_scalar("select count(distinct created_at) from users where created_at > '2022-01-01'")
            .fetch_one(&server.database.pool)
            .await
            .expect("a number");
    assert_eq!(moments, 1);
}

#[tokio::test]
async fn the_same_rows_in_different_orders_at_the_same_time_are_inserted_once() {
    let server = Server::start().await;
    let rows = users(2000);
    let requests = (0..6).map(|n| {
        let mut rows = rows.clone();
        rows.rotate_left(n * 300);
        if n % 2 == 0 {
            rows.reverse();
        }
        let api = &server.api;
        async move { api.post("/users", json!(rows)).await }
    });
    let mut inserted = 0;
    for (status, answer) in join_all(requests).await {
        assert_eq!(status, StatusCode::OK, "{answer}");
        inserted += answer["inserted"].as_i64().expect("a number");
        assert_eq!(
            answer["inserted"].as_i64().expect("a number") + answer["unchanged"].as_i64().expect("a number"),
            2000
        );
    }
    assert_eq!(inserted, 2000);
    assert_eq!(server.rows().await, [0, 2000, 0, 0]);
}

/// Rows are written in batches of fifty thousand: two requests can each have rows that the other one waits for. Postgres
/// ends one of them, which can then be repeated.
#[tokio::test]
async fn of_requests_that_are_in_each_others_way_one_is_to_be_repeated() {
    let server = Server::start().await;
    let mut rows = users(60_000);
    rows.sort_by_key(|row| std::cmp::Reverse(row["id"].to_string()));
    let bodies = [lines(&rows), lines(rows.iter().rev())];
    let load = async |body: &String| send(&server.api, "/users", LINES, body.clone()).await;
    let (first, second) = tokio::join!(load(&bodies[0]), load(&bodies[1]));
    let mut inserted = 0;
    for (answer, body) in [(first, &bodies[0]), (second, &bodies[1])] {
        let (status, answer) = if answer.0 == StatusCode::SERVICE_UNAVAILABLE { load(body).await } else { answer };
        assert_eq!(status, StatusCode::OK, "{answer}");
        inserted += answer["inserted"].as_i64().expect("a number");
    }
    assert_eq!(inserted, 60_000);
    assert_eq!(server.rows().await, [0, 60_000, 0, 0]);
}

/// How many connections of the server are within a transaction.
async fn transactions(server: &Server) -> i64 {
    sqlx::query_scalar(
        "select count(*) from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid() and xact_start is not null
            and (state <> 'active' or query like 'copy staged%')",
    )
    .fetch_one(&server.database.pool)
    .await
    .expect("a number")
}

/// Begins a bulk request of users that never ends.
async fn begin(server: &Server, headers: &str, body: &str) -> TcpStream {
    let address = server.api.url.strip_prefix("http://").expect("an address");
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let head = format!("POST /users HTTP/1.1\r\nhost: {address}\r\ncontent-type: {LINES}\r\n{headers}\r\n\r\n{body}");
    stream.write_all(head.as_bytes()).await.expect("the request is sent");
    stream
}

#[tokio::test]
async fn of_a_body_that_breaks_off_nothing_stays() {
    let server = Server::start().await;
    let rows = lines(&users(3000));
    let chunk = format!("{:x}\r\n{rows}\r\n", rows.len());
    for (headers, body) in [("content-length: 1000000", &rows), ("transfer-encoding: chunked", &chunk)] {
        for politely in [true, false] {
            let mut stream = begin(&server, headers, body).await;
            eventually(|| async {
                if transactions(&server).await == 1 { Ok(()) } else { Err("the rows are being read".to_owned()) }
            })
            .await;
            if politely {
                stream.shutdown().await.expect("no more is sent");
                // The server may say what it thinks of that, or just hang up.
                let mut answer = String::new();
                let _ = stream.read_to_string(&mut answer).await;
                assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
            }
            drop(stream);
            eventually(|| async {
                if transactions(&server).await == 0 { Ok(()) } else { Err("the transaction is still open".to_owned()) }
            })
            .await;
            assert_eq!(server.rows().await, [0; 4], "{headers}");
        }
    }
}

/// More than the server has connections to the database.
#[tokio::test]
async fn bodies_that_do_not_come_keep_nobody_else_waiting() {
    let server = Server::start().await;
    let rows = lines(&users(10));
    let streams = join_all((0..40).map(|_| begin(&server, "content-length: 1000000", &rows))).await;
    eventually(|| async {
        if transactions(&server).await > 4 { Ok(()) } else { Err("bodies are being read".to_owned()) }
    })
    .await;
    let posts = join_all((0..32).map(|_| server.api.user())).await;
    assert_eq!(posts.len(), 32);
    assert_eq!(server.api.get("/readyz").await.0, StatusCode::OK);
    // When they go, bulk requests that waited for them get their turn.
    let (waiting, ()) = tokio::join!(server.api.post("/users", json!(users(3))), async { drop(streams) });
    assert_eq!(waiting, (StatusCode::OK, json!({"inserted": 3, "unchanged": 0})));
    assert_eq!(server.rows().await, [0, 35, 0, 0]);
}

#[tokio::test]
async fn broken_bodies_do_not_use_up_connections() {
    let server = Server::start().await;
    let rows = lines(&users(100));
    for _ in 0..3 {
        let streams = join_all((0..12).map(|_| begin(&server, "content-length: 1000000", &rows))).await;
        drop(streams);
        let posts = join_all((0..32).map(|_| server.api.user())).await;
        assert_eq!(posts.len(), 32);
    }
    assert_eq!(server.rows().await, [0, 96, 0, 0]);
}
