//! What one caller may have of the server, and what all have together.

use newcycle::auth::{self, Door, Scopes, keys};
use newcycle::http::LimitSettings;
use newcycle::server::Settings;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::api::Api;
use crate::harness::{Server, eventually, new_database};

const STREAM: &str = "/statistics/stream?metrics=user-creation";

async fn limited(limits: LimitSettings, door: Door) -> Server {
    let mut settings = Settings::default();
    settings.http.limits = limits;
    let auth = auth::Settings { door, ..auth::Settings::default() };
    Server::limited(&new_database().await, auth, settings).await
}

async fn key(server: &Server) -> Api {
    let (_, secret) = keys::create(&server.database.pool, "x", Scopes::ALL, None).await.expect("a key");
    server.api.with_key(&secret.key_text())
}

async fn refused(api: &Api, path: &str) -> StatusCode {
    let response =
        api.request(Method::GET, path).header("accept", "text/event-stream").send().await.expect("an answer");
    let status = response.status();
    assert!(status.is_success() || response.headers().contains_key("retry-after"), "{status} says when to come again");
    status
}

#[tokio::test]
async fn a_key_has_so_many_streams_and_others_have_theirs() {
    let server = limited(LimitSettings { max_streams_per_key: 2, ..LimitSettings::default() }, Door::Closed).await;
    let (one, other) = (key(&server).await, key(&server).await);
    let mut streams = vec![one.stream(STREAM, None).await, one.stream("/statistics/transfers/day", None).await];
    assert_eq!(refused(&one, STREAM).await, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused(&one, "/statistics/transfers/day").await, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(one.get("/statistics/transfers/day").await.0, StatusCode::OK, "what is answered at once is no stream");
    let mut others = other.stream(STREAM, None).await;
    others.next_named("snapshot").await;
    streams.pop();
    // The server hears that a reader has left a moment after it did.
    eventually(|| async {
        let status = refused(&one, STREAM).await;
        if status == StatusCode::OK { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn sessions_of_a_key_share_what_it_may_have_and_strangers_what_an_address_may() {
    let settings = LimitSettings { max_streams_per_key: 1, ..LimitSettings::default() };
    let mut server_settings = Settings::default();
    server_settings.http.limits = settings;
    let auth = auth::Settings { door: Door::Closed, public_statistics: true, ..auth::Settings::default() };
    let server = Server::limited(&new_database().await, auth, server_settings).await;
    let key = key(&server).await;
    let _by_key = key.stream(STREAM, None).await;
    assert_eq!(refused(&key, STREAM).await, StatusCode::TOO_MANY_REQUESTS);
    let _by_stranger = server.api.stream(STREAM, None).await;
    assert_eq!(refused(&server.api, STREAM).await, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn there_are_so_many_streams_and_so_many_series_in_all() {
    let server = limited(LimitSettings { max_streams: 2, ..LimitSettings::default() }, Door::Open).await;
    let _streams = [server.api.stream(STREAM, None).await, server.api.stream(STREAM, None).await];
    assert_eq!(refused(&server.api, STREAM).await, StatusCode::SERVICE_UNAVAILABLE);

    let server = limited(LimitSettings { max_series: 2, ..LimitSettings::default() }, Door::Open).await;
    let _stream = server.api.stream("/statistics/stream?metrics=transfers,item-creation", None).await;
    assert_eq!(refused(&server.api, STREAM).await, StatusCode::SERVICE_UNAVAILABLE);
    let _same = server.api.stream("/statistics/stream?metrics=transfers", None).await;
}

#[tokio::test]
async fn an_answer_has_so_many_buckets() {
    let server = limited(LimitSettings { max_buckets: 24, ..LimitSettings::default() }, Door::Open).await;
    for (path, field) in [
        ("/statistics/transfers/hour?limit=25", "limit"),
        ("/statistics/stream?resolution=hour&window=25", "window"),
        ("/statistics/stream?resolution=hour&from=2026-01-01T00:00:00Z&to=2026-01-02T01:00:00Z", "from"),
    ] {
        let (status, problem) = server.api.get(path).await;
        assert_eq!(
            (status, &problem["errors"][0]["field"]),
            (StatusCode::UNPROCESSABLE_ENTITY, &json!(field)),
            "{path}"
        );
    }
    assert_eq!(server.api.get("/statistics/transfers/hour").await.0, StatusCode::OK, "unasked it gives what it may");
    let _stream = server.api.stream("/statistics/stream?resolution=hour", None).await;
}

#[tokio::test]
async fn a_body_has_so_many_bytes_and_nothing_of_a_larger_one_is_kept() {
    let server = limited(LimitSettings { max_body_bytes: 1_000, ..LimitSettings::default() }, Door::Open).await;
    let lines = "{}\n".repeat(500);
    let said = server.api.request(Method::POST, "/users").header("content-type", "application/x-ndjson");
    let (status, problem) = Api::send(said.body(lines.clone())).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("1000 bytes")), "{problem}");
    // Without a length that could be looked at before.
    let chunks = futures_util::stream::iter(lines.into_bytes().chunks(100).map(<[u8]>::to_vec).collect::<Vec<_>>());
    let chunks = futures_util::StreamExt::map(chunks, Ok::<_, std::io::Error>);
    let said = server.api.request(Method::POST, "/users").header("content-type", "application/x-ndjson");
    let (status, problem) = Api::send(said.body(reqwest::Body::wrap_stream(chunks))).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{problem}");
    assert_eq!(server.rows().await, [0, 0, 0, 0]);
    let said = server.api.request(Method::POST, "/users").header("content-type", "application/x-ndjson");
    assert_eq!(Api::send(said.body("{}\n".repeat(300))).await.0, StatusCode::OK);
}
