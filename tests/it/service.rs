//! What whoever runs the server relies on: health, request ids, the documentation, and an orderly stop.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::api::Events;
use crate::harness::{PATIENCE, Server};

/// Open streams must not hold up a stop: the promise is a second, and machines that run tests are busy.
const PROMPTLY: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_running_server_is_alive_and_ready() {
    let server = Server::start().await;
    for path in ["/livez", "/readyz"] {
        assert_eq!(server.api.get(path).await, (StatusCode::OK, json!({"status": "ok"})), "{path}");
    }
}

#[tokio::test]
async fn every_answer_carries_the_id_of_its_request() {
    let server = Server::start().await;
    let mut ids = std::collections::HashSet::new();
    for (method, path) in [
        (Method::GET, "/livez"),
        (Method::GET, "/"),
        (Method::GET, "/openapi.json"),
        (Method::GET, "/docs/"),
        (Method::GET, "/users"),
        (Method::HEAD, "/users"),
        (Method::POST, "/users"),
        (Method::DELETE, "/users"),
        (Method::GET, "/users/lamp"),
        (Method::GET, "/nothing"),
        (Method::OPTIONS, "/users"),
    ] {
        let response = server.api.request(method.clone(), path).send().await.expect("an answer");
        let id = response.headers().get("x-request-id").unwrap_or_else(|| panic!("{method} {path}")).clone();
        assert!(ids.insert(id.to_str().expect("text").to_owned()), "{method} {path}: each its own");
        let request = server.api.request(method.clone(), path).header("x-request-id", "mine");
        let response = request.send().await.expect("an answer");
        assert_eq!(response.headers()["x-request-id"], "mine", "{method} {path}");
    }
    let request = server.api.request(Method::GET, "/statistics/transfers/day").header("accept", "text/event-stream");
    assert!(request.send().await.expect("a stream").headers().contains_key("x-request-id"));
}

/// What the text refers to by the attributes of HTML or the functions of CSS and JavaScript.
fn references(html: &str) -> Vec<String> {
    let mut found = Vec::new();
    for prefix in ["src=\"", "href=\"", "src='", "href='", "url(", "@import "] {
        for (at, _) in html.match_indices(prefix) {
            let rest = &html[at + prefix.len()..];
            let end = rest.find(['"', '\'', ')', ';']).unwrap_or(rest.len());
            found.push(rest[..end].to_owned());
        }
    }
    found
}

#[tokio::test]
async fn the_documentation_loads_nothing_from_elsewhere() {
    let server = Server::start().await;
    let page = server.api.request(Method::GET, "/docs/").send().await.expect("an answer");
    assert_eq!(page.status(), StatusCode::OK);
    assert!(page.headers()["content-type"].to_str().is_ok_and(|value| value.starts_with("text/html")));
    let html = page.text().await.expect("text");
    let assets = references(&html);
    assert!(assets.iter().any(|asset| asset.ends_with(".js")), "{assets:?}");
    assert!(assets.iter().any(|asset| asset.ends_with(".css")), "{assets:?}");
    for asset in assets {
        assert!(!asset.contains("//") && !asset.starts_with("data:"), "{asset} lies elsewhere");
        let path =
            if asset.starts_with('/') { asset.clone() } else { format!("/docs/{}", asset.trim_start_matches("./")) };
        let response = server.api.request(Method::GET, &path).send().await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let body = response.text().await.expect("a body");
        assert!(!body.is_empty(), "{path}");
        if path.ends_with(".css") {
            let outside: Vec<_> = references(&body).into_iter().filter(|asset| asset.starts_with("http")).collect();
            assert!(outside.is_empty(), "{path} loads {outside:?}");
        }
        if path.ends_with("initializer.js") {
            assert!(body.contains("/openapi.json"), "{path} shows the document of this server");
            assert!(!body.contains("http"), "{path}: {body}");
            // Otherwise, wherever the server is not on localhost, the page has somebody else's server validate it.
            assert!(body.contains(r#""validatorUrl": "none""#), "{path}: {body}");
        }
    }
    let moved = server.api.request(Method::GET, "/docs").send().await.expect("an answer");
    assert!(moved.url().path().starts_with("/docs/") && moved.status() == StatusCode::OK, "/docs leads there too");
}

#[tokio::test]
async fn the_document_is_served_as_it_is_committed() {
    let server = Server::start().await;
    let (status, document) = server.api.get("/openapi.json").await;
    assert_eq!(status, StatusCode::OK);
    let expected: Value = serde_json::to_value(newcycle::http::openapi()).expect("JSON");
    assert_eq!(document, expected);
}

/// Reads a stream until it ends.
async fn ended(mut events: Events) {
    while events.next().await.is_some() {}
}

#[tokio::test]
async fn open_streams_end_when_the_server_stops_and_do_not_hold_it_up() {
    let server = Server::start().await;
    let mut streams = Vec::new();
    for path in
        ["/statistics/stream", "/statistics/transfers/minute", "/statistics/user-creation/year?timezone=Asia/Kolkata"]
    {
        for _ in 0..3 {
            let mut events = server.api.stream(path, None).await;
            events.next().await.expect("an event");
            streams.push(tokio::spawn(ended(events)));
        }
    }
    // Connections that were used and are kept open do not matter either.
    server.api.user().await;
    let start = Instant::now();
    server.stop().await;
    assert!(start.elapsed() < PROMPTLY, "it took {:?}", start.elapsed());
    for stream in streams {
        timeout(PATIENCE, stream).await.expect("the stream ends").expect("in order");
    }
}

#[tokio::test]
async fn a_request_under_way_is_finished_before_the_server_stops() {
    let server = Server::start().await;
    let (send, receive) = tokio::sync::oneshot::channel::<()>();
    let rows = futures_util::stream::unfold(Some(receive), |receive| async {
        let receive = receive?;
        let _ = receive.await;
        Some((Ok::<_, std::convert::Infallible>(bytes::Bytes::from_static(b"{}\n{}\n")), None))
    });
    let (begun, has_begun) = tokio::sync::oneshot::channel::<()>();
    let mut begun = Some(begun);
    let first = futures_util::stream::once(async move {
        if let Some(begun) = begun.take() {
            begun.send(()).expect("somebody waits");
        }
        Ok::<_, std::convert::Infallible>(bytes::Bytes::from_static(b"{}\n"))
    });
    let body = reqwest::Body::wrap_stream(futures_util::StreamExt::chain(first, rows));
    let request = server.api.request(Method::POST, "/users").header("content-type", "application/x-ndjson").body(body);
    let answer = tokio::spawn(async move { crate::api::Api::send(request).await });
    has_begun.await.expect("the request has begun");
    // It has reached the server when its transaction is open.
    crate::harness::eventually(|| async {
        let open: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity where datname = current_database() and state = 'idle in transaction' and query = 'select now()'",
        )
        .fetch_one(&server.database.pool)
        .await
        .map_err(|error| error.to_string())?;
        if open == 1 { Ok(()) } else { Err("nothing is being loaded".to_owned()) }
    })
    .await;
    let name = server.name.clone();
    let stop = tokio::spawn(server.stop());
    send.send(()).expect("the request goes on");
    assert_eq!(answer.await.expect("an answer"), (StatusCode::OK, json!({"inserted": 3, "unchanged": 0})));
    stop.await.expect("the server stops");
    let database = crate::harness::connect(&name).await;
    let users: i64 =
        sqlx::query_scalar("select count(*) from users").fetch_one(&database.pool).await.expect("a number");
    assert_eq!(users, 3);
}
