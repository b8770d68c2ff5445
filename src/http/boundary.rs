//! The log line of a request: one, with the whole story, if the server is at fault. And what is counted of each.
//!
//! Not a tracing span around each request, as it had been: a span is made, entered and left several times, and only ever
//! read for requests that fail. Without spans the server inserts a tenth more rows a second. Whoever asks for traces has them
//! from [`super::trace`].

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use tower_http::request_id::RequestId;

use super::connection::Transport;
use super::metrics::Requests;

/// What the server or its database did wrong: an extension of the response, for the log alone.
#[derive(Clone, Debug)]
pub(super) struct Fault(pub(super) Arc<dyn Error + Send + Sync>);

/// Hands the request on, and looks at what comes back.
pub(super) async fn log(State(requests): State<Requests>, request: Request, next: Next) -> Response {
    let id = request.extensions().get::<RequestId>().cloned();
    let peer = request.extensions().get::<Transport>().copied();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let start = Instant::now();
    let mut response = next.run(request).await;
    let elapsed = start.elapsed();
    requests.count(&method, route.as_ref(), response.status(), elapsed);
    let id = id.as_ref().and_then(|id| id.header_value().to_str().ok()).unwrap_or("");
    let (status, path) = (response.status().as_u16(), uri.path());
    let peer = peer.as_ref().map(tracing::field::display);
    match response.extensions_mut().remove::<Fault>() {
        Some(Fault(error)) => {
            if let Some(sqlx::Error::PoolTimedOut) = error.downcast_ref() {
                requests.count_pool_timeout();
            }
            tracing::error!(id, peer, %method, path, status, error = &*error as &dyn Error, "a request failed");
        }
        None => tracing::debug!(id, peer, %method, path, status, ?elapsed, "answered"),
    }
    response
}
