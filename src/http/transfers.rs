//! `/transfers`

use axum::Json;
use axum::extract::{Request, State};
use axum::response::Response;
use sqlx::PgPool;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::App;
use super::extract::{Path, Query};
use super::problem::Problem;
use super::records::{self, CreateQuery, ListQuery};
use crate::ledger::{self, NewTransfer, Page, Transfer};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(get))
}

/// Create transfers
///
/// One from a JSON object, or many from a JSON array or NDJSON.
#[utoipa::path(
    post, path = "/transfers", tag = "ledger", params(CreateQuery),
    request_body(content(
        (NewTransfer = "application/json"), (Vec<NewTransfer> = "application/json"), (String = "application/x-ndjson"),
    )),
    responses(
        (status = 201, description = "Created", body = Transfer, headers(("Location" = String))),
        (status = 200, description = "The same row was there; or a bulk request was done (`BulkAnswer`)", body = Transfer),
        (status = 409, description = "The id belongs to another row", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A field is wrong", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn create(
    State(pool): State<PgPool>,
    Query(query): Query<CreateQuery>,
    request: Request,
) -> Result<Response, Problem> {
    records::create::<Transfer>(&pool, "/transfers", &query, request).await
}

/// List transfers, newest first
#[utoipa::path(
    get, path = "/transfers", tag = "ledger", params(ListQuery),
    responses((status = 200, description = "A page", body = Page<Transfer>))
)]
async fn list(State(pool): State<PgPool>, Query(query): Query<ListQuery>) -> Result<Json<Page<Transfer>>, Problem> {
    Ok(Json(ledger::list(&pool, query.page()?).await?))
}

/// Get a transfer
#[utoipa::path(
    get, path = "/transfers/{id}", tag = "ledger", params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "The transfer", body = Transfer),
        (status = 404, description = "There is none", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn get(State(pool): State<PgPool>, Path(id): Path<Uuid>) -> Result<Json<Transfer>, Problem> {
    Ok(Json(ledger::get(&pool, id).await?))
}
