//! `/transfers`

use axum::Json;
use axum::extract::{Request, State};
use axum::response::Response;
use sqlx::PgPool;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::App;
use super::document::{CreateProblems, LookupProblems, OneOrMany, QueryProblems};
use super::extract::{Path, Query};
use super::guard::{Allowed, LedgerRead, LedgerWrite};
use super::problem::Problem;
use super::records::{self, Accepted, CreateQuery, ListQuery, Turns, WriterFor};
use crate::ledger::{self, NewTransfer, Page, Transfer};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(get))
}

/// Create transfers
///
/// One from a JSON object, or many from a JSON array or NDJSON.
#[utoipa::path(
    post, path = "/transfers", operation_id = "create_transfers", tag = "ledger", security(("key" = ["ledger:write"])), params(CreateQuery),
    request_body(content((OneOrMany<NewTransfer> = "application/json"), (String = "application/x-ndjson"))),
    responses(
        (status = 201, description = "Created", body = Transfer, headers(("Location" = String, description = "Its path"))),
        (status = 200, description = "The same row was there, or a bulk request is done", body = Accepted<Transfer>),
        CreateProblems,
    )
)]
async fn create(
    _: Allowed<LedgerWrite>,
    State(pool): State<PgPool>,
    WriterFor(writer): WriterFor,
    State(turns): State<Turns>,
    Query(query): Query<CreateQuery>,
    request: Request,
) -> Result<Response, Problem> {
    records::create::<Transfer>(&pool, &writer, &turns, "/transfers", &query, request).await
}

/// List transfers, newest first
#[utoipa::path(
    get, path = "/transfers", operation_id = "list_transfers", tag = "ledger", security(("key" = ["ledger:read"])), params(ListQuery),
    responses((status = 200, description = "A page", body = Page<Transfer>), QueryProblems)
)]
async fn list(
    _: Allowed<LedgerRead>,
    State(pool): State<PgPool>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<Transfer>>, Problem> {
    Ok(Json(ledger::list(&pool, query.page()?).await?))
}

/// Get a transfer
#[utoipa::path(
    get, path = "/transfers/{id}", operation_id = "get_transfer", tag = "ledger", security(("key" = ["ledger:read"])), params(("id" = Uuid, Path)),
    responses((status = 200, description = "The transfer", body = Transfer), LookupProblems)
)]
async fn get(
    _: Allowed<LedgerRead>,
    State(pool): State<PgPool>,
    Path(id): Path<Uuid>,
) -> Result<Json<Transfer>, Problem> {
    Ok(Json(ledger::get(&pool, id).await?))
}
