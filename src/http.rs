//! The REST interface, the streams, the dashboard and the documentation.
//!
//! **Invariant:** handlers write to Postgres and read from it; none tells the hub anything. What a stream shows came
//! through the database, so one server and ten behave alike.

mod assets;
mod base_items;
mod boundary;
mod connection;
mod cookie;
mod cors;
mod document;
mod download;
mod exports;
mod extract;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod guard;
mod health;
mod items;
mod limits;
mod metrics;
mod problem;
mod protection;
mod rate;
mod records;
mod rows;
mod session;
mod sse;
mod statistics;
mod streams;
mod trace;
mod transfers;
mod users;
mod watch;

use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRef, Request};
use axum::handler::Handler;
use axum::http::{HeaderName, Method};
use axum::response::{IntoResponse, Response};
use prometheus_client::registry::Registry;
use sqlx::PgPool;
use tower::ServiceBuilder;
use tower_http::ServiceBuilderExt;
use tower_http::compression::CompressionLayer;
use tower_http::request_id::MakeRequestUuid;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::SwaggerUi;

use crate::auth::Authority;
use crate::exports::Exports;
use crate::hub::Hub;
use crate::ledger::Writer;
use crate::metrics::Figures;
use crate::statistics::{Metric, Resolution};
use crate::streams::Streams;
pub use connection::{ConnectionMetrics, ConnectionSettings, Connections, TooFewFiles, serve};
pub use cors::{CorsSettings, MalformedOrigin, Origins};
use guard::Guard;
pub use limits::LimitSettings;
use limits::Limits;
pub use problem::Problem;
pub use rate::{Limit, MalformedProxy, MalformedRate, Rate, RateLimits, RateSettings, TrustedProxies};
pub use rows::parse;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What handlers take parts of.
#[derive(Clone, Debug, FromRef)]
pub struct App {
    pool: PgPool,
    hub: Arc<Hub>,
    writer: Writer,
    exports: Exports,
    streams: Streams,
    turns: records::Turns,
    metrics: Arc<metrics::Told>,
    requests: metrics::Requests,
    event_streams: metrics::EventStreams,
    authority: Authority,
    limits: Limits,
    guard: Guard,
    cors_origins: Origins,
}

/// What is served to whom, and how much of it.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// How much of the server one caller may have, and all together.
    pub limits: LimitSettings,
    /// How many requests anybody may send.
    pub rates: RateSettings,
    /// Which other pages may use it.
    pub cors: CorsSettings,
}

/// The parts of the server that handlers use.
#[derive(Debug)]
pub struct Parts {
    /// Connections for requests.
    pub pool: PgPool,
    /// Live series.
    pub hub: Arc<Hub>,
    /// Writes single rows.
    pub writer: Writer,
    /// Exports.
    pub exports: Exports,
    /// Data streams.
    pub streams: Streams,
    /// Says who callers are.
    pub authority: Authority,
    /// What is looked up for `/metrics`.
    pub figures: Figures,
}

impl App {
    /// What handlers use. Their own figures are added to the registry.
    pub fn new(parts: Parts, settings: Settings, mut registry: Registry) -> Self {
        let Parts { pool, hub, writer, exports, streams, authority, figures } = parts;
        let counters = metrics::register(&mut registry, Arc::clone(&hub), writer.clone(), &settings.limits);
        let guard = Guard::new(authority.clone(), settings.rates, pool.clone(), &mut registry);
        Self {
            turns: records::Turns::new(&pool, settings.limits.max_body_bytes),
            pool,
            hub,
            writer,
            exports,
            streams,
            metrics: Arc::new(metrics::Told::new(registry, figures)),
            requests: counters.requests,
            event_streams: counters.event_streams,
            authority,
            limits: Limits::new(settings.limits),
            guard,
            cors_origins: settings.cors.cors_origins,
        }
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "newcycle",
        description = "A ledger of things that change hands, and exact live statistics of it.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "ledger", description = "Base items, items, users and transfers: inserted and read, never changed"),
        (name = "statistics", description = "Exact counts by millisecond … year, once and live"),
        (name = "exports", description = "Files of the ledger: started, watched, cancelled, downloaded"),
        (name = "streams", description = "Data streams: what is fetched from other companies' APIs, on a schedule"),
        (name = "session", description = "Who you are; signing in and out of the dashboard"),
        (name = "health", description = "For whoever keeps the server running"),
    ),
    components(schemas(Metric, Problem, Resolution, records::BulkAnswer, statistics::Fill)),
)]
struct Description;

/// All routes but those for health checks, and their description.
fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Description::openapi())
        .merge(base_items::router()) //  POST GET /base-items, GET /base-items/{id}
        .merge(users::router()) //       POST GET /users, GET /users/{id}, /users/{id}/items
        .merge(items::router()) //       POST GET /items, GET /items/{id}, …/owner, …/transfers, PUT …/ownership
        .merge(transfers::router()) //   POST GET /transfers, GET /transfers/{id}
        .merge(statistics::router()) //  GET /statistics/{metric}/{resolution}, /statistics/stream
        .merge(exports::router()) //      POST GET /exports, GET DELETE /exports/{id}, …/events, …/cancel, …/data
        .merge(streams::router()) //     POST GET /streams, GET PATCH DELETE /streams/{id}, …, GET /dead-letters, POST …/retry
        .merge(session::router()) //     GET POST DELETE /session
        .merge(metrics::router()) //     GET /metrics
}

/// The OpenAPI document.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut document = document::with_security(routes().into_openapi());
    document.merge(health::router().into_openapi());
    document::with_closed_choices(document::with_references(document))
}

/// Everything that is served.
pub fn router(app: App) -> Router {
    let guarded = Router::from(routes()).layer(axum::middleware::from_fn_with_state(app.guard.clone(), guard::guard));
    // The page would have the document validated by a server on the internet.
    let documentation = utoipa_swagger_ui::Config::default().validator_url("none");
    let layers = ServiceBuilder::new()
        .set_request_id(REQUEST_ID, MakeRequestUuid)
        .option_layer(trace::is_on().then(|| axum::middleware::from_fn(trace::trace)))
        .layer(axum::middleware::from_fn_with_state(app.requests.clone(), boundary::log))
        .propagate_request_id(REQUEST_ID)
        .layer(axum::middleware::from_fn(protection::protect))
        .option_layer(cors::layer(app.cors_origins.clone()));
    guarded
        // Health checks ask often, from wherever, and learn nothing.
        .merge(health::router())
        .merge(SwaggerUi::new("/docs").url("/openapi.json", openapi()).config(documentation))
        .method_not_allowed_fallback(method_not_allowed)
        // Streams are not compressed: each message would wait for the next.
        .fallback(assets::serve.layer(CompressionLayer::new()))
        .layer(layers)
        .with_state(app)
}

async fn method_not_allowed(method: Method, request: Request) -> Response {
    let detail = format!("{} cannot be used with {method}", request.uri().path());
    Problem::new(problem::Kind::MethodNotAllowed, detail).into_response()
}
