//! The shortest way through everything.

use serde_json::json;

use crate::api::View;
use crate::harness::Server;

#[tokio::test]
async fn a_transfer_reaches_an_open_stream() {
    let server = Server::start().await;
    let api = &server.api;
    let mut events = api.stream("/statistics/stream?metrics=transfers&resolution=year", None).await;
    let mut view = View::default();
    view.take(&events.next_named("snapshot").await);
    assert_eq!(view.total("transfers"), 0);

    let item = api.item(&api.base_item().await).await;
    let (status, _) = api.put(&format!("/items/{item}/ownership"), json!({"to": api.user().await})).await;

    assert_eq!(status, 204);
    view.take(&events.next_named("update").await);
    assert_eq!(view.total("transfers"), 1);
    server.stop().await;
}
