//! `/base-items`

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
use crate::ledger::{self, BaseItem, NewBaseItem, Page};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(get))
}

/// Create base items
///
/// One from a JSON object, or many from a JSON array or NDJSON.
#[utoipa::path(
    post, path = "/base-items", operation_id = "create_base_items", tag = "ledger", security(("key" = ["ledger:write"])), params(CreateQuery),
    request_body(content((OneOrMany<NewBaseItem> = "application/json"), (String = "application/x-ndjson"))),
    responses(
        (status = 201, description = "Created", body = BaseItem, headers(("Location" = String, description = "Its path"))),
        (status = 200, description = "The same row was there, or a bulk request is done", body = Accepted<BaseItem>),
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
    records::create::<BaseItem>(&pool, &writer, &turns, "/base-items", &query, request).await
}

/// List base items, newest first
#[utoipa::path(
    get, path = "/base-items", operation_id = "list_base_items", tag = "ledger", security(("key" = ["ledger:read"])), params(ListQuery),
    responses((status = 200, description = "A page", body = Page<BaseItem>), QueryProblems)
)]
async fn list(
    _: Allowed<LedgerRead>,
    State(pool): State<PgPool>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<BaseItem>>, Problem> {
    Ok(Json(ledger::list(&pool, query.page()?).await?))
}

/// Get a base item
#[utoipa::path(
    get, path = "/base-items/{id}", operation_id = "get_base_item", tag = "ledger", security(("key" = ["ledger:read"])), params(("id" = Uuid, Path)),
    responses((status = 200, description = "The base item", body = BaseItem), LookupProblems)
)]
async fn get(
    _: Allowed<LedgerRead>,
    State(pool): State<PgPool>,
    Path(id): Path<Uuid>,
) -> Result<Json<BaseItem>, Problem> {
    Ok(Json(ledger::get(&pool, id).await?))
}
