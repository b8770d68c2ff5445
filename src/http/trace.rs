//! A span around each request until the head of its answer, as part of the caller's trace.
//!
//! Names are those of OpenTelemetry's semantic conventions for HTTP. Queries and headers are left out: some hold secrets.

use axum::extract::{MatchedPath, Request};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tower_http::request_id::RequestId;
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::connection::Transport;
use crate::telemetry::{SPANS, traced};

/// What asks every few seconds, and is of interest to nobody who looks for where time went.
const UNTRACED: [&str; 3] = ["/livez", "/readyz", "/metrics"];

/// Whether anybody wants spans. Without traces, requests do not even pass by here.
pub(super) fn is_on() -> bool {
    tracing::enabled!(target: SPANS, tracing::Level::INFO)
}

/// Hands the request on, in a span.
pub(super) async fn trace(request: Request, next: Next) -> Response {
    let span = span(&request);
    let work = async {
        let response = next.run(request).await;
        let status = response.status();
        let span = Span::current();
        span.record("http.response.status_code", i64::from(status.as_u16()));
        if status.is_server_error() {
            span.record("otel.status_code", "error").record("error.type", status.as_str());
        }
        response
    };
    traced(span.clone(), work).await
}

fn span(request: &Request) -> Span {
    let extensions = request.extensions();
    let route = extensions.get::<MatchedPath>().map(MatchedPath::as_str);
    if route.is_some_and(|route| UNTRACED.contains(&route)) {
        return Span::none();
    }
    let method = known(request.method());
    // Without a route there is nothing to name it by: paths are many.
    let kind = method.unwrap_or("HTTP");
    let name = route.map_or_else(|| kind.to_owned(), |route| format!("{kind} {route}"));
    let is_encrypted = extensions.get::<Transport>().is_some_and(|transport| transport.is_encrypted);
    let request_id = extensions.get::<RequestId>().and_then(|id| id.header_value().to_str().ok());
    let span = tracing::info_span!(
        target: SPANS,
        parent: None,
        "request",
        otel.name = name,
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = method.unwrap_or("_OTHER"),
        http.route = route,
        http.response.status_code = Empty,
        url.path = request.uri().path(),
        url.scheme = if is_encrypted { "https" } else { "http" },
        error.type = Empty,
        newcycle.request_id = request_id,
    );
    let caller =
        TraceContextPropagator::new().extract_with_context(&Context::new(), &HeaderExtractor(request.headers()));
    // It cannot fail, as nobody has looked at the span before.
    let _ = span.set_parent(caller);
    span
}

/// Others anybody can make up.
fn known(method: &Method) -> Option<&'static str> {
    let methods = [
        (Method::GET, "GET"),
        (Method::POST, "POST"),
        (Method::PUT, "PUT"),
        (Method::PATCH, "PATCH"),
        (Method::DELETE, "DELETE"),
        (Method::HEAD, "HEAD"),
        (Method::OPTIONS, "OPTIONS"),
    ];
    methods.into_iter().find(|(known, _)| known == method).map(|(_, name)| name)
}
