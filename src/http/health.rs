//! `/livez` and `/readyz`, for whoever keeps the server running.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use sqlx::PgPool;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use crate::hub::{Hub, Status};

/// A database that does not answer for so long is not there.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(live)).routes(routes!(ready))
}

/// How the server is.
#[derive(Debug, Serialize, ToSchema)]
struct Health {
    /// `ok`, or what is missing.
    status: &'static str,
}

/// The process runs
#[utoipa::path(get, path = "/livez", operation_id = "livez", tag = "health", security(()), responses((status = 200, description = "It does", body = Health)))]
async fn live() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// The server can do its work
#[utoipa::path(
    get, path = "/readyz", operation_id = "readyz", tag = "health", security(()),
    responses(
        (status = 200, description = "The database answers, and its notifications arrive", body = Health),
        (status = 503, description = "Not now", body = Health),
    )
)]
async fn ready(State(pool): State<PgPool>, State(hub): State<Arc<Hub>>) -> (StatusCode, Json<Health>) {
    let answered = tokio::time::timeout(READY_TIMEOUT, sqlx::query("select 1").execute(&pool)).await;
    let status = match answered {
        Ok(Ok(_)) if hub.status() == Status::Live => "ok",
        Ok(Ok(_)) => "the database cannot be heard",
        _ => "the database does not answer",
    };
    let code = if status == "ok" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(Health { status }))
}
