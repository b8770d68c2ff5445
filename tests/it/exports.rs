//! Exports as their callers see them: start, watch, cancel, download, delete; whose they are, and how many there may be.

use std::path::PathBuf;
use std::time::Duration;

use newcycle::auth::{self, Door, Scope, Scopes, keys};
use newcycle::server::Settings;
use reqwest::header::HeaderMap;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::api::{Api, Events};
use crate::harness::{Server, data_directory, eventually, new_database};

/// Starts an export and waits until it is over.
pub async fn export(api: &Api, order: &Value) -> Value {
    let (status, export) = start(api, order).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{export}");
    over(api, export["id"].as_str().expect("an id")).await
}

pub async fn start(api: &Api, order: &Value) -> (StatusCode, Value) {
    api.post("/exports", order.clone()).await
}

/// The export, once it is over.
pub async fn over(api: &Api, id: &str) -> Value {
    let mut last = Value::Null;
    while !["complete", "cancelled", "failed", "expired"].iter().any(|state| last["state"] == *state) {
        let mut events = api.stream(&format!("/exports/{id}/events"), None).await;
        while let Some(event) = events.next().await {
            if event.name.is_empty() {
                last = event.data;
            }
        }
    }
    last
}

/// The export, once it is in one of these states, which it stays in for a while.
pub async fn until(api: &Api, id: &str, states: &[&str]) -> Value {
    eventually(|| async {
        let (status, export) = api.get(&format!("/exports/{id}")).await;
        assert_eq!(status, StatusCode::OK, "{export}");
        if states.iter().any(|state| export["state"] == *state) { Ok(export) } else { Err(export.to_string()) }
    })
    .await
}

pub async fn get(api: &Api, path: &str) -> Response {
    api.request(Method::GET, path).send().await.expect("an answer")
}

/// The file of an export.
pub async fn file(api: &Api, export: &Value) -> Vec<u8> {
    let response = get(api, &format!("/exports/{}/data", export["id"].as_str().expect("an id"))).await;
    assert_eq!(response.status(), StatusCode::OK);
    response.bytes().await.expect("a file").to_vec()
}

pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).unwrap_or_else(|| panic!("{name} in {headers:?}")).to_str().expect("text")
}

/// What lies in the store of the servers of a database.
pub fn stored(server: &Server) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![data_directory(&server.name).join("exports")];
    while let Some(directory) = directories.pop() {
        for entry in directory.read_dir().into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files
}

/// A server that makes no exports, so that those which are started wait.
async fn idle() -> Server {
    let mut settings = Settings::default();
    settings.exports.export_workers = 0;
    Server::with_settings(settings).await
}

async fn key(server: &Server, scopes: Scopes) -> Api {
    let (_, secret) = keys::create(&server.database.pool, "somebody", scopes, None).await.expect("a key");
    server.api.with_key(&secret.key_text())
}

#[tokio::test]
async fn an_export_is_started_made_downloaded_and_deleted() {
    let server = Server::start().await;
    let api = &server.api;
    let user = api.user().await;
    let response = api
        .request(Method::POST, "/exports")
        .json(&json!({"dataset": "users", "format": "csv"}))
        .send()
        .await
        .expect("an answer");
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    let location = text(response.headers(), "location").to_owned();
    let export: Value = response.json().await.expect("an export");
    assert_eq!(location, format!("/exports/{}", export["id"].as_str().expect("an id")));

    let export = over(api, location.rsplit('/').next().expect("an id")).await;
    assert_eq!((&export["state"], &export["progress"]["rows"]), (&json!("complete"), &json!(1)), "{export}");
    for moment in ["created_at", "started_at", "finished_at", "as_of", "expires_at"] {
        assert!(export[moment].is_string(), "{moment} in {export}");
    }

    let response = get(api, &format!("{location}/data")).await;
    let headers = response.headers().clone();
    let bytes = response.bytes().await.expect("a file");
    let lines: Vec<_> = std::str::from_utf8(&bytes).expect("text").lines().collect();
    assert_eq!(lines[0], "id,created_at");
    assert!(lines[1].starts_with(&format!("{user},")) && lines.len() == 2, "{lines:?}");
    let sha256 = sha256(&bytes);
    assert_eq!((&export["result"]["sha256"], &export["result"]["size"]), (&json!(sha256), &json!(bytes.len())));
    assert_eq!(text(&headers, "etag"), format!("\"{sha256}\""));
    assert_eq!(text(&headers, "content-type"), "text/csv; charset=utf-8; header=present");
    let name = export["result"]["name"].as_str().expect("a name");
    assert!(name.starts_with("users-") && name.ends_with("Z.csv"), "{name}");
    assert_eq!(text(&headers, "content-disposition"), format!("attachment; filename=\"{name}\""));

    let directory = data_directory(&server.name).join("exports");
    let mode = std::os::unix::fs::PermissionsExt::mode(&directory.metadata().expect("a directory").permissions());
    assert_eq!(mode & 0o777, 0o700, "others on this machine may not read it");

    for _ in 0..2 {
        let deleted = api.request(Method::DELETE, &location).send().await.expect("an answer");
        assert_eq!(deleted.status(), StatusCode::NO_CONTENT, "once or twice");
        assert_eq!(get(api, &format!("{location}/data")).await.status(), StatusCode::GONE);
        assert_eq!(api.get(&location).await.1["state"], "expired");
        assert_eq!(stored(&server), [] as [PathBuf; 0]);
    }
    let (status, problem) = api.post(&format!("{location}/cancel"), json!({})).await;
    assert_eq!((status, &problem["type"]), (StatusCode::CONFLICT, &json!("urn:newcycle:problem:wrong-state")));
}

#[tokio::test]
async fn whoever_would_rather_wait_is_answered_when_it_is_over() {
    let server = Server::start().await;
    let prefer = |api: &Api, wait: &str| {
        let order = json!({"dataset": "items", "format": "ndjson"});
        api.request(Method::POST, "/exports").header("prefer", wait.to_owned()).json(&order)
    };
    let response = prefer(&server.api, "respond-async, wait=40").send().await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(text(response.headers(), "preference-applied"), "wait=40");
    assert_eq!(response.json::<Value>().await.expect("an export")["state"], "complete");

    let idle = idle().await;
    let response = prefer(&idle.api, "wait=0").send().await.expect("an answer");
    assert_eq!(response.status(), StatusCode::ACCEPTED, "it did not wait for longer");
    assert_eq!(response.json::<Value>().await.expect("an export")["state"], "created");
}

#[tokio::test]
async fn what_cannot_be_exported_is_refused_with_the_field() {
    let server = idle().await;
    let api = &server.api;
    let base_item = api.base_item().await;
    let id = "01890000-0000-7000-8000-000000000000";
    let with = |dataset: &str, field: &str, value: Value| {
        let mut order = json!({"dataset": dataset, "format": "csv"});
        order[field] = value;
        order
    };
    let cases = [
        (json!({"format": "csv"}), "dataset"),
        (json!({"dataset": "users"}), "format"),
        (with("lamps", "format", json!("csv")), "dataset"),
        (with("users", "format", json!("xlsx")), "format"),
        (with("users", "compression", json!("rar")), "compression"),
        (with("users", "colour", json!("red")), "colour"),
        (with("users", "from", json!("yesterday")), "from"),
        (with("users", "to", json!("-10000-01-01T00:00:00Z")), "to"),
        (
            json!({"dataset": "users", "format": "csv", "from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}),
            "to",
        ),
        (
            json!({"dataset": "users", "format": "csv", "from": "2026-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}),
            "to",
        ),
        (with("users", "base_item_id", json!(base_item)), "base_item_id"),
        (with("base-items", "base_item_id", json!(base_item)), "base_item_id"),
        (with("items", "base_item_id", json!(id)), "base_item_id"),
        (with("items", "base_item_id", json!("chair")), "base_item_id"),
        (with("items", "resolution", json!("day")), "resolution"),
        (with("transfers", "timezone", json!("UTC")), "timezone"),
        (with("ownership", "from", json!("2026-01-01T00:00:00Z")), "from"),
        (with("statistics", "resolution", json!("fortnight")), "resolution"),
        (with("statistics", "timezone", json!("Europe/Atlantis")), "timezone"),
    ];
    for (order, field) in cases {
        let (status, problem) = start(api, &order).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{order}: {problem}");
        assert_eq!(problem["errors"][0]["field"], field, "{order}: {problem}");
    }
    assert_eq!(start(api, &json!([])).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(api.get("/exports").await.1["data"], json!([]), "nothing was recorded");
    for path in [format!("/exports/{id}"), format!("/exports/{id}/data"), format!("/exports/{id}/events")] {
        assert_eq!(api.get(&path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(api.get("/exports/lamp").await.0, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn one_that_waits_is_cancelled_at_once_and_only_once() {
    let server = idle().await;
    let api = &server.api;
    let (_, export) = start(api, &json!({"dataset": "users", "format": "csv"})).await;
    let path = format!("/exports/{}", export["id"].as_str().expect("an id"));
    let (status, problem) = api.get(&format!("{path}/data")).await;
    assert_eq!(status, StatusCode::CONFLICT, "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("created")), "{problem}");
    let deleted = Api::send(api.request(Method::DELETE, &path)).await;
    assert_eq!(deleted.0, StatusCode::CONFLICT, "{}", deleted.1);
    for _ in 0..3 {
        let (status, cancelled) = api.post(&format!("{path}/cancel"), json!({})).await;
        assert_eq!((status, &cancelled["state"]), (StatusCode::OK, &json!("cancelled")));
    }
    assert_eq!(api.get(&format!("{path}/data")).await.0, StatusCode::CONFLICT);
    let waiting: i64 =
        sqlx::query_scalar("select count(*) from jobs.queue").fetch_one(&server.database.pool).await.expect("a number");
    assert_eq!(waiting, 0, "nobody will make it");
}

#[tokio::test]
async fn exports_are_listed_newest_first_a_page_at_a_time() {
    let server = idle().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        let (_, export) = start(&server.api, &json!({"dataset": "users", "format": "csv"})).await;
        ids.push(export["id"].clone());
    }
    ids.reverse();
    let mut listed = Vec::new();
    let mut path = "/exports?page_size=2".to_owned();
    loop {
        let (_, page) = server.api.get(&path).await;
        listed.extend(page["data"].as_array().expect("rows").iter().map(|export| export["id"].clone()));
        let Some(token) = page["next_page_token"].as_str() else { break };
        path = format!("/exports?page_size=2&page_token={token}");
    }
    assert_eq!(listed, ids);
}

#[tokio::test]
async fn an_export_is_watched_until_it_is_over_and_not_longer() {
    let server = Server::start().await;
    let api = &server.api;
    let (_, export) = start(api, &json!({"dataset": "users", "format": "parquet"})).await;
    let path = format!("/exports/{}/events", export["id"].as_str().expect("an id"));
    let mut events = api.stream(&path, None).await;
    let mut last = None;
    while let Some(event) = events.next().await {
        let version = event.id.as_ref().and_then(|id| id.parse::<i64>().ok()).expect("a version");
        assert_eq!(event.data["version"], version);
        assert!(last.as_ref().is_none_or(|(before, _)| *before < version), "forward only");
        last = Some((version, event.data));
    }
    let (version, export) = last.expect("an event");
    assert_eq!(export["state"], "complete");
    let again = api.request(Method::GET, &path).header("last-event-id", version.to_string());
    assert_eq!(again.send().await.expect("an answer").status(), StatusCode::NO_CONTENT);
    let mut events = api.stream(&path, Some(&(version - 1).to_string())).await;
    assert_eq!(events.next().await.expect("what was missed").data, export);
}

#[tokio::test]
async fn the_list_can_be_watched_from_any_server() {
    let server = Server::start().await;
    let other = Server::on(&server.name).await;
    let mut events = other.api.stream("/exports", None).await;
    assert_eq!(events.next().await.expect("the list").data["data"], json!([]));
    let (_, export) = start(&server.api, &json!({"dataset": "users", "format": "csv"})).await;
    let shown = events.next_where(|event| event.data["data"][0]["state"] == "complete").await;
    assert_eq!(shown.data["data"][0]["id"], export["id"]);
}

#[tokio::test]
async fn watchers_leave_when_the_server_stops_and_when_their_key_is_revoked() {
    let auth = auth::Settings { door: Door::Closed, ..auth::Settings::default() };
    let mut settings = Settings::default();
    settings.exports.export_workers = 0;
    let server = Server::limited(&new_database().await, auth, settings).await;
    let (row, secret) = keys::create(&server.database.pool, "x", Scopes::ALL, None).await.expect("a key");
    let (revoked, kept) = (server.api.with_key(&secret.key_text()), key(&server, Scopes::ALL).await);
    let (_, export) = start(&revoked, &json!({"dataset": "users", "format": "csv"})).await;
    let path = format!("/exports/{}/events", export["id"].as_str().expect("an id"));
    let mut streams: Vec<Events> = Vec::new();
    for (api, path) in [(&revoked, &*path), (&revoked, "/exports"), (&kept, "/exports")] {
        let mut events = api.stream(path, None).await;
        events.next().await.expect("an event");
        streams.push(events);
    }
    keys::revoke(&server.database.pool, &row.id).await.expect("it is revoked");
    let mut kept = streams.pop().expect("a stream");
    for mut events in streams {
        while events.next().await.is_some() {}
    }
    server.stop().await;
    while kept.next().await.is_some() {}
}

#[tokio::test]
async fn others_exports_are_not_there_but_for_an_admin() {
    let auth = auth::Settings { door: Door::Closed, ..auth::Settings::default() };
    let server = Server::guarded(&new_database().await, auth).await;
    let scopes = Scopes::NONE.with(Scope::Exports);
    let (alice, bob) = (key(&server, scopes).await, key(&server, scopes).await);
    let admin = key(&server, Scopes::NONE.with(Scope::Admin)).await;
    let ours = export(&alice, &json!({"dataset": "users", "format": "csv"})).await;
    let path = format!("/exports/{}", ours["id"].as_str().expect("an id"));
    let nobodys = "/exports/01890000-0000-7000-8000-000000000000";
    for (method, rest) in [
        (Method::GET, ""),
        (Method::GET, "/events"),
        (Method::GET, "/data"),
        (Method::POST, "/cancel"),
        (Method::DELETE, ""),
    ] {
        let ask = |path: &str| bob.request(method.clone(), &format!("{path}{rest}"));
        let (status, problem) = Api::send(ask(&path)).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{method} {rest}");
        let (_, of_nobody) = Api::send(ask(nobodys)).await;
        let without_id = |problem: &Value, path: &str| problem.to_string().replace(&path["/exports/".len()..], "");
        assert_eq!(without_id(&problem, &path), without_id(&of_nobody, nobodys), "{method} {rest}: no difference");
    }
    assert_eq!(bob.get("/exports").await.1["data"], json!([]));
    for api in [&alice, &admin] {
        assert_eq!(api.get("/exports").await.1["data"][0]["id"], ours["id"]);
        assert_eq!(file(api, &ours).await, b"id,created_at\n");
    }
    let deleted = admin.request(Method::DELETE, &path).send().await.expect("an answer");
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    assert_eq!(alice.get(&format!("{path}/data")).await.0, StatusCode::GONE);
}

#[tokio::test]
async fn nobody_has_more_exports_waiting_than_they_may_nor_have_all_together() {
    let auth = auth::Settings { door: Door::Closed, ..auth::Settings::default() };
    let mut settings = Settings::default();
    settings.exports.export_workers = 0;
    settings.exports.max_exports = 5;
    settings.exports.max_exports_per_key = 3;
    let server = Server::limited(&new_database().await, auth, settings).await;
    let order = json!({"dataset": "users", "format": "csv"});
    let scopes = Scopes::NONE.with(Scope::Exports);
    let (alice, bob) = (key(&server, scopes).await, key(&server, scopes).await);
    let ask = |api: &Api| api.request(Method::POST, "/exports").json(&order);
    // All at the same moment: none slips through between a count and an insert.
    let answers = futures_util::future::join_all((0..10).map(|_| ask(&alice).send())).await;
    let mut statuses: Vec<_> = answers.into_iter().map(|answer| answer.expect("an answer").status().as_u16()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [202, 202, 202, 429, 429, 429, 429, 429, 429, 429]);
    for expected in [202, 202, 503] {
        let answer = ask(&bob).send().await.expect("an answer");
        assert_eq!(answer.status(), expected);
        assert_eq!(answer.headers().contains_key("retry-after"), expected == 503);
    }
    let (_, page) = alice.get("/exports").await;
    let path = format!("/exports/{}/cancel", page["data"][0]["id"].as_str().expect("an id"));
    assert_eq!(alice.post(&path, json!({})).await.0, StatusCode::OK);
    assert_eq!(ask(&alice).send().await.expect("an answer").status(), StatusCode::ACCEPTED, "there is room again");
}

#[tokio::test]
async fn a_download_that_broke_off_is_resumed() {
    let server = Server::start().await;
    sqlx::query("insert into users select from generate_series(1, 20000)")
        .execute(&server.database.pool)
        .await
        .expect("users");
    let export = export(&server.api, &json!({"dataset": "users", "format": "csv"})).await;
    let whole = file(&server.api, &export).await;
    let path = format!("/exports/{}/data", export["id"].as_str().expect("an id"));
    let part = async |range: &str, if_range: &str| {
        let request = server.api.request(Method::GET, &path).header("range", range).header("if-range", if_range);
        let response = request.send().await.expect("an answer");
        (response.status(), response.headers().clone(), response.bytes().await.expect("bytes"))
    };
    let etag = format!("\"{}\"", export["result"]["sha256"].as_str().expect("a digest"));
    // Broken off and taken up again at odd places, until it is whole.
    let mut received = Vec::new();
    for step in [1, 7, 255, 4_096, 65_537, 300_000, usize::MAX] {
        let end = received.len().saturating_add(step).min(whole.len()) - 1;
        let (status, headers, bytes) = part(&format!("bytes={}-{end}", received.len()), &etag).await;
        assert_eq!(status, StatusCode::PARTIAL_CONTENT);
        assert_eq!(text(&headers, "content-range"), format!("bytes {}-{end}/{}", received.len(), whole.len()));
        received.extend(bytes);
    }
    assert_eq!(sha256(&received), export["result"]["sha256"].as_str().expect("a digest"));
    let (status, _, bytes) = part("bytes=10-", "\"of another file\"").await;
    assert_eq!((status, bytes.len()), (StatusCode::OK, whole.len()), "all of it when it is not the same file");
    let (status, headers, _) = part(&format!("bytes={}-", whole.len()), &etag).await;
    assert_eq!(status, StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(text(&headers, "content-range"), format!("bytes */{}", whole.len()));

    let head = server.api.request(Method::HEAD, &path).send().await.expect("an answer");
    assert_eq!(text(head.headers(), "content-length"), whole.len().to_string());
    assert_eq!(text(head.headers(), "accept-ranges"), "bytes");
    let unchanged = server.api.request(Method::GET, &path).header("if-none-match", &etag).send().await;
    assert_eq!(unchanged.expect("an answer").status(), StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn a_file_goes_when_its_time_is_over() {
    let mut settings = Settings::default();
    settings.exports.export_lifetime = Duration::from_millis(1);
    let server = Server::with_settings(settings).await;
    let (_, started) = start(&server.api, &json!({"dataset": "users", "format": "csv"})).await;
    let id = started["id"].as_str().expect("an id");
    let expired = until(&server.api, id, &["expired"]).await;
    assert!(expired["result"].is_object(), "what it was stays known");
    assert_eq!(server.api.get(&format!("/exports/{id}/data")).await.0, StatusCode::GONE);
    eventually(|| async {
        let left = stored(&server);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}
