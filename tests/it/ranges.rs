//! What a stream tells besides its window: a range, and the newest event.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::api::{Event, Events};
use crate::harness::Server;

/// The next message about this series of the transfers.
async fn told(events: &mut Events, event: &str, series: &str) -> Value {
    let is_about = |message: &Event| message.data["series"].as_str().unwrap_or("window") == series;
    events.next_where(|message| message.name == event && is_about(message)).await.data["buckets"].clone()
}

#[tokio::test]
async fn a_stream_tells_a_range_and_the_newest_event_beside_its_window() {
    let server = Server::start().await;
    let api = &server.api;
    let (item, user) = (api.item(&api.base_item().await).await, api.user().await);
    let transfer = async |timestamp: &str| {
        api.create("/transfers", json!({"item_id": item, "owner_id": user, "timestamp": timestamp})).await;
    };
    transfer("2021-03-01T10:00:00.250Z").await;
    transfer("2021-03-02T23:30:00Z").await;
    transfer("2021-03-03T00:30:00Z").await;

    let path = "/statistics/stream?metrics=transfers&resolution=day&timezone=Europe/Berlin&latest=true\
        &from=2021-03-01T12:00:00Z&to=2021-03-03T12:00:00Z";
    let mut events = api.stream(path, None).await;
    assert_eq!(told(&mut events, "snapshot", "window").await, json!([]));
    let range = [("2021-03-02T23:00:00Z", 2), ("2021-02-28T23:00:00Z", 1)];
    let range = range.map(|(time, count)| json!({"time": time, "count": count}));
    assert_eq!(told(&mut events, "snapshot", "range").await, json!(range));
    assert_eq!(told(&mut events, "snapshot", "latest").await, json!([{"time": "2021-03-03T00:30:00Z", "count": 1}]));

    // Into the range, though it is long past; it is not the newest.
    transfer("2021-03-02T12:00:00Z").await;
    let expected = json!([{"time": "2021-03-01T23:00:00Z", "count": 1}]);
    assert_eq!(told(&mut events, "update", "range").await, expected);

    // Newer than all, but beyond the range: the next to be told of the range is the one after it.
    transfer("2021-03-05T12:00:00.5Z").await;
    let expected = json!([{"time": "2021-03-05T12:00:00Z", "count": 1}]);
    assert_eq!(told(&mut events, "update", "latest").await, expected);
    transfer("2021-03-01T12:00:00Z").await;
    let expected = json!([{"time": "2021-02-28T23:00:00Z", "count": 2}]);
    assert_eq!(told(&mut events, "update", "range").await, expected);
    server.stop().await;
}

#[tokio::test]
async fn a_range_that_cannot_be_told_is_refused_by_the_name_of_the_parameter() {
    let server = Server::start().await;
    for (query, parameter) in [
        ("from=2021-03-01T12:00:00Z", "to"),
        ("to=2021-03-01T12:00:00Z", "from"),
        ("from=2021-03-01T12:00:00Z&to=2021-03-01T12:00:00Z", "to"),
        ("resolution=second&from=2021-03-01T00:00:00Z&to=2021-03-01T02:46:41Z", "from"),
        ("from=yesterday&to=2021-03-01T12:00:00Z", "from"),
        ("latest=perhaps", "latest"),
    ] {
        let (status, problem) = server.api.get(&format!("/statistics/stream?{query}")).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{query}: {problem}");
        assert_eq!(problem["errors"][0]["field"], parameter, "{query}: {problem}");
    }
    // As many buckets as there may be.
    let path = "/statistics/stream?resolution=second&from=2021-03-01T00:00:00Z&to=2021-03-01T02:46:40Z";
    server.api.stream(path, None).await.next_named("snapshot").await;
    server.stop().await;
}
