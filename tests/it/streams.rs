//! Data streams, against a service that misbehaves: after each fault the batch is what the source has, or has failed, and
//! the ledger has each record once.

use std::time::Duration;

use newcycle::server::Settings;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::api::Api;
use crate::harness::{Server, eventually};
use crate::source::{Fault, Source, numbered};

/// A server that fetches from this machine.
pub fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.streams.stream_networks = "127.0.0.1".parse().expect("a network");
    settings
}

pub async fn server() -> Server {
    Server::with_settings(settings()).await
}

/// Creates a stream. Its id.
pub async fn create(api: &Api, stream: Value) -> String {
    api.create("/streams", stream).await
}

/// A stream of records under `/data`, by that pagination.
pub fn stream(source: &Source, kind: &str, pagination: &Value) -> Value {
    json!({
        "name": kind, "interval_seconds": 86_400,
        "source": {"http": {"url": format!("{}/{kind}", source.url), "records": "/data", "pagination": pagination}},
    })
}

pub fn cursors(source: &Source) -> Value {
    stream(source, "cursors", &json!({"cursor": {"at": "/paging/after", "parameter": "after"}}))
}

pub async fn get(api: &Api, id: &str) -> Value {
    let (status, stream) = api.get(&format!("/streams/{id}")).await;
    assert_eq!(status, StatusCode::OK, "{stream}");
    stream
}

pub async fn run(api: &Api, id: &str) {
    eventually(|| async {
        let (status, answer) = api.post(&format!("/streams/{id}/run"), json!({})).await;
        // On a busy machine the server may ask to come again.
        assert!([StatusCode::ACCEPTED, StatusCode::SERVICE_UNAVAILABLE].contains(&status), "{status} {answer}");
        if status == StatusCode::ACCEPTED { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
}

/// The batch with that number, once it is over.
pub async fn over(api: &Api, id: &str, number: i64) -> Value {
    eventually(|| async {
        let (_, batch) = api.get(&format!("/streams/{id}/batches/{number}")).await;
        let is_over = batch["finished_at"].is_string();
        if is_over { Ok(batch) } else { Err(format!("{batch} of {}", api.get(&format!("/streams/{id}")).await.1)) }
    })
    .await
}

/// Runs a stream. The batch.
pub async fn fetch(api: &Api, id: &str) -> Value {
    let (_, before) = api.get(&format!("/streams/{id}/batches")).await;
    let number = before["data"][0]["number"].as_i64().unwrap_or(0) + 1;
    run(api, id).await;
    over(api, id, number).await
}

/// The records of a batch, page by page.
pub async fn records(api: &Api, id: &str, batch: &str) -> Vec<Value> {
    let mut records = Vec::new();
    let mut path = format!("/streams/{id}/data?page_size=7&batch={batch}");
    loop {
        let (status, page) = api.get(&path).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        records.extend(page["data"].as_array().expect("records").iter().map(|stored| stored["record"].clone()));
        match page["next_page_token"].as_str() {
            Some(token) => path = format!("/streams/{id}/data?page_size=7&page_token={token}"),
            None => return records,
        }
    }
}

fn sorted(mut records: Vec<Value>) -> Vec<Value> {
    records.sort_by_key(|record| record["id"].to_string());
    records
}

/// The newest batch is what the source has.
pub async fn assert_equal(api: &Api, id: &str, source: &Source) {
    assert_eq!(sorted(records(api, id, "latest").await), sorted(source.records()));
}

#[tokio::test]
async fn every_pagination_fetches_everything_once() {
    let server = server().await;
    for amount in [0, 1, 10, 25, 30] {
        let source = Source::with(amount).await;
        for (kind, pagination) in [
            ("cursors", json!({"cursor": {"at": "/paging/after", "parameter": "after"}})),
            ("links", json!({"next_link": {"at": "next"}})),
            ("headers", json!({"next_link": {}})),
            ("pages", json!({"page": {"parameter": "page"}})),
            ("pages", json!({"page": {"parameter": "page", "verify": false}})),
            ("offsets", json!({"offset": {"parameter": "offset"}})),
            ("offsets", json!({"offset": {"parameter": "offset", "verify": false}})),
        ] {
            let mut new = stream(&source, kind, &pagination);
            let name = format!("{amount} {}", new["source"]["http"]["pagination"]);
            new["name"] = json!(name);
            let id = create(&server.api, new).await;
            let batch = fetch(&server.api, &id).await;
            assert_eq!((&batch["state"], &batch["records"]), (&json!("complete"), &json!(amount)), "{kind}: {batch}");
            assert_equal(&server.api, &id, &source).await;
        }
    }
}

#[tokio::test]
async fn a_stream_is_created_run_changed_and_deleted() {
    let server = server().await;
    let source = Source::with(3).await;
    let (status, created) = server.api.post("/streams", cursors(&source)).await;
    assert_eq!(status, StatusCode::CREATED, "{created}");
    assert_eq!((&created["state"], &created["desired"]), (&json!("stopped"), &json!("stopped")));
    let id = created["id"].as_str().expect("an id").to_owned();
    assert_eq!(server.api.get(&format!("/streams/{id}/data")).await.0, StatusCode::NOT_FOUND, "there is nothing yet");
    let (status, problem) = server.api.post("/streams", cursors(&source)).await;
    assert_eq!(
        (status, &problem["type"]),
        (StatusCode::CONFLICT, &json!("urn:newcycle:problem:name-taken")),
        "{problem}"
    );
    fetch(&server.api, &id).await;
    let stopped = get(&server.api, &id).await;
    assert_eq!((&stopped["state"], &stopped["latest_batch"]), (&json!("stopped"), &json!(1)), "it ran once: {stopped}");

    let path = format!("/streams/{id}/data");
    let first = server.api.request(Method::GET, &path).send().await.expect("an answer");
    let etag = first.headers()["etag"].clone();
    let again = server.api.request(Method::GET, &path).header("if-none-match", &etag).send().await.expect("an answer");
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
    source.change(|records| records.push(json!({"id": 77})));
    fetch(&server.api, &id).await;
    let changed =
        server.api.request(Method::GET, &path).header("if-none-match", &etag).send().await.expect("an answer");
    assert_eq!(changed.status(), StatusCode::OK);
    assert_equal(&server.api, &id, &source).await;
    assert_eq!(records(&server.api, &id, "1").await.len(), 3, "the older batch is as it was");

    let change = async |change: Value| {
        let request = server.api.request(Method::PATCH, &format!("/streams/{id}")).json(&change);
        let (status, changed) = Api::send(request).await;
        assert_eq!(status, StatusCode::OK, "{changed}");
        changed
    };
    let transform = json!([{"filter": {"field": "/id", "equals": 77, "not": false}}]);
    let destination = json!({"ledger": {"base_item": {"key": "/id"}}});
    let more = json!({"transform": transform, "interval_seconds": 60, "name": "another", "destination": destination});
    let changed = change(more).await;
    assert_eq!((&changed["interval_seconds"], &changed["destination"]), (&json!(60), &destination), "{changed}");
    let changed = change(json!({"destination": null})).await;
    assert_eq!((&changed["destination"], &changed["transform"]), (&Value::Null, &transform), "what is not said stays");
    fetch(&server.api, &id).await;
    assert_eq!(records(&server.api, &id, "latest").await, [json!({"id": 77})]);
    let (_, batches) = server.api.get(&format!("/streams/{id}/batches?page_size=2")).await;
    let numbers: Vec<_> = batches["data"].as_array().expect("batches").iter().map(|batch| &batch["number"]).collect();
    assert_eq!((numbers, &batches["next_before"]), (vec![&json!(3), &json!(2)], &json!(2)));
    let analysts: Vec<(String, String, i64)> = sqlx::query_as("select stream, key, batch from stream_records")
        .fetch_all(&server.database.pool)
        .await
        .expect("the view");
    assert_eq!(analysts, [("another".to_owned(), "77".to_owned(), 3)]);

    let deleted = server.api.request(Method::DELETE, &format!("/streams/{id}"));
    assert_eq!(Api::send(deleted).await.0, StatusCode::NO_CONTENT);
    assert_eq!(server.api.get(&format!("/streams/{id}")).await.0, StatusCode::NOT_FOUND);
    let left: i64 =
        sqlx::query_scalar("select (select count(*) from jobs.queue) + (select count(*) from jobs.records)")
            .fetch_one(&server.database.pool)
            .await
            .expect("a number");
    assert_eq!(left, 0);
}

#[tokio::test]
async fn what_may_pass_is_tried_again_until_the_batch_is_what_the_source_has() {
    let mut settings = settings();
    settings.streams.stream_timeout = Duration::from_secs(1);
    let server = Server::with_settings(settings).await;
    let faults: Vec<(&str, Vec<Fault>)> = vec![
        ("slow", vec![Fault::None, Fault::Silence]),
        ("broken off", vec![Fault::BreaksOff, Fault::None, Fault::BreaksOff]),
        ("away for a while", vec![Fault::None, Fault::Status(500, vec![]), Fault::Status(503, vec![]), Fault::None]),
        ("no JSON", vec![Fault::Body("application/json", "{\"data\": [".to_owned())]),
        ("a page for people", vec![Fault::None, Fault::Body("text/html", "<h1>We will be back</h1>".to_owned())]),
        ("busy, and says nothing", vec![Fault::None, Fault::Status(429, vec![])]),
        ("a bad request timed out", vec![Fault::Status(408, vec![])]),
    ];
    for (name, faults) in faults {
        let source = Source::with(35).await;
        source.then(faults);
        let mut new = cursors(&source);
        new["name"] = json!(name);
        let id = create(&server.api, new).await;
        let batch = fetch(&server.api, &id).await;
        assert_eq!((&batch["state"], &batch["records"]), (&json!("complete"), &json!(35)), "{name}: {batch}");
        assert_equal(&server.api, &id, &source).await;
        assert_eq!(get(&server.api, &id).await["last_error"], Value::Null, "{name}: it went well in the end");
    }
}

#[tokio::test]
async fn a_batch_that_goes_on_does_not_begin_anew() {
    let server = server().await;
    let source = Source::with(35).await;
    source.then([Fault::None, Fault::None, Fault::Status(502, vec![])]);
    let id = create(&server.api, cursors(&source)).await;
    fetch(&server.api, &id).await;
    let asked: Vec<_> = source.asked().iter().map(|asked| asked.query.get("after").cloned()).collect();
    let after = |last: u32| Some(last.to_string());
    assert_eq!(asked, [None, after(9), after(19), after(19), after(29)]);
}

#[tokio::test]
async fn who_is_told_when_to_come_again_comes_then_and_that_is_no_failure() {
    let server = server().await;
    let source = Source::with(15).await;
    // More often than a batch may fail.
    let busy = |seconds: &str| Fault::Status(429, vec![("retry-after", seconds.to_owned())]);
    source.then((0..9).map(|_| busy("0")).chain([busy("2")]));
    let id = create(&server.api, cursors(&source)).await;
    let batch = fetch(&server.api, &id).await;
    assert_eq!(batch["state"], "complete", "{batch}");
    let asked = source.asked();
    assert!(asked[10].at - asked[9].at >= Duration::from_secs(2), "exactly, and not before");
    assert_equal(&server.api, &id, &source).await;
}

#[tokio::test]
async fn what_somebody_has_to_change_stops_the_stream_and_says_what() {
    let server = server().await;
    let source = Source::with(15).await;
    let elsewhere = Fault::Status(302, vec![("location", "http://127.0.0.2:9/secret".to_owned())]);
    let other_place = Fault::Status(307, vec![("location", "https://example.com/".to_owned())]);
    let circle = || Fault::Status(302, vec![("location", "/cursors".to_owned())]);
    let faults: Vec<(&str, Vec<Fault>, &str)> = vec![
        (
            "401",
            vec![Fault::Status(401, vec![])],
            "does not let the stream in (401 Unauthorized): change its auth. It says: this is 401",
        ),
        ("403", vec![Fault::Status(403, vec![])], "does not let the stream in (403 Forbidden)"),
        ("404", vec![Fault::Status(404, vec![])], "nothing at this URL"),
        ("400", vec![Fault::None, Fault::Status(400, vec![])], "does not take the request (400 Bad Request)"),
        ("private", vec![elsewhere], "127.0.0.2 is 127.0.0.2, which is not public"),
        ("elsewhere", vec![other_place], "redirects to https://example.com: use a URL of that place"),
        ("in circles", (0..7).map(|_| circle()).collect(), "redirects more than 5 times"),
        ("huge", vec![Fault::None, Fault::Huge(40 << 20)], "more than 32 MB"),
        (
            "no array",
            vec![Fault::Body("application/json", "{\"data\": {}}".to_owned())],
            "/data in the answer is no array",
        ),
    ];
    for (name, faults, reason) in faults {
        source.then(faults);
        let mut new = cursors(&source);
        new["name"] = json!(name);
        let id = create(&server.api, new).await;
        let (status, _) = server.api.put(&format!("/streams/{id}/start"), json!({})).await;
        assert_eq!(status, StatusCode::OK);
        let batch = over(&server.api, &id, 1).await;
        assert_eq!(batch["state"], "failed", "{name}: {batch}");
        assert!(batch["reason"].as_str().is_some_and(|said| said.contains(reason)), "{name}: {batch}");
        let failed = get(&server.api, &id).await;
        assert_eq!((&failed["state"], &failed["last_error"]), (&json!("failed"), &batch["reason"]), "{failed}");
        assert_eq!(server.api.get(&format!("/streams/{id}/data")).await.0, StatusCode::NOT_FOUND, "nothing half done");
        // Somebody has changed it.
        server.api.put(&format!("/streams/{id}/start"), json!({})).await;
        assert_eq!(over(&server.api, &id, 2).await["state"], "complete", "{name}");
        assert_equal(&server.api, &id, &source).await;
    }
}

#[tokio::test]
async fn a_source_that_changes_while_it_is_read_is_read_anew_or_the_batch_fails() {
    let server = server().await;
    for (kind, pagination) in
        [("pages", json!({"page": {"parameter": "page"}})), ("offsets", json!({"offset": {"parameter": "offset"}}))]
    {
        let source = Source::with(35).await;
        let gone = Fault::Change(Box::new(|records| drop(records.remove(3))));
        let come = Fault::Change(Box::new(|records| records.insert(0, json!({"id": 1_000}))));
        source.then([Fault::None, Fault::None, gone, Fault::None, Fault::None, Fault::None, Fault::None, come]);
        let id = create(&server.api, stream(&source, kind, &pagination)).await;
        let batch = fetch(&server.api, &id).await;
        assert_eq!(batch["state"], "complete", "{batch}");
        assert_equal(&server.api, &id, &source).await;
        // It never stands still.
        source.then((0..200).map(|_| Fault::Change(Box::new(|records| drop(records.remove(0))))));
        source.change(|records| *records = numbered(0, 500));
        let batch = fetch(&server.api, &id).await;
        assert_eq!(batch["state"], "failed", "{batch}");
        assert!(batch["reason"].as_str().expect("why").contains("Records came or went"), "{batch}");
        let stream = get(&server.api, &id).await;
        assert_eq!(stream["latest_batch"], 1, "readers have what was complete: {stream}");
    }
}

#[tokio::test]
async fn one_record_in_a_thousand_is_found() {
    let server = server().await;
    let source = Source::with(1_500).await;
    let mut new = cursors(&source);
    new["transform"] = json!([{"filter": {"field": "id", "equals": 1_499}}]);
    let id = create(&server.api, new).await;
    let batch = fetch(&server.api, &id).await;
    assert_eq!(
        (&batch["state"], &batch["records"], &batch["pages"]),
        (&json!("complete"), &json!(1), &json!(150)),
        "{batch}"
    );
}

#[tokio::test]
async fn a_source_without_an_end_is_noticed() {
    let server = server().await;
    let source = Source::with(15).await;
    for (kind, reason) in
        [("endless", "leads back to a page that was read already"), ("restless", "gave nothing new on 100 pages")]
    {
        let pagination = json!({"cursor": {"at": "/paging/after", "parameter": "after"}});
        let id = create(&server.api, stream(&source, kind, &pagination)).await;
        let batch = fetch(&server.api, &id).await;
        assert_eq!(batch["state"], "failed", "{batch}");
        assert!(batch["reason"].as_str().expect("why").contains(reason), "{batch}");
    }
}
