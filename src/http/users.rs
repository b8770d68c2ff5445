//! `/users`

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
use super::records::{self, Accepted, CreateQuery, ListAtQuery, ListQuery, Turns, WriterFor};
use crate::ledger::{self, Item, NewUser, Page, User, user};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(get)).routes(routes!(holdings))
}

/// Create users
///
/// One from a JSON object, or many from a JSON array or NDJSON.
#[utoipa::path(
    post, path = "/users", operation_id = "create_users", tag = "ledger", security(("key" = ["ledger:write"])), params(CreateQuery),
    request_body(content((OneOrMany<NewUser> = "application/json"), (String = "application/x-ndjson"))),
    responses(
        (status = 201, description = "Created", body = User, headers(("Location" = String, description = "Its path"))),
        (status = 200, description = "The same row was there, or a bulk request is done", body = Accepted<User>),
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
    records::create::<User>(&pool, &writer, &turns, "/users", &query, request).await
}

/// List users, newest first
#[utoipa::path(
    get, path = "/users", operation_id = "list_users", tag = "ledger", security(("key" = ["ledger:read"])), params(ListQuery),
    responses((status = 200, description = "A page", body = Page<User>), QueryProblems)
)]
async fn list(
    _: Allowed<LedgerRead>,
    State(pool): State<PgPool>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<User>>, Problem> {
    Ok(Json(ledger::list(&pool, query.page()?).await?))
}

/// Get a user
#[utoipa::path(
    get, path = "/users/{id}", operation_id = "get_user", tag = "ledger", security(("key" = ["ledger:read"])), params(("id" = Uuid, Path)),
    responses((status = 200, description = "The user", body = User), LookupProblems)
)]
async fn get(_: Allowed<LedgerRead>, State(pool): State<PgPool>, Path(id): Path<Uuid>) -> Result<Json<User>, Problem> {
    Ok(Json(ledger::get(&pool, id).await?))
}

/// List what a user owns, or owned at a moment
#[utoipa::path(
    get, path = "/users/{id}/items", operation_id = "list_user_items", tag = "ledger", security(("key" = ["ledger:read"])),
    params(("id" = Uuid, Path), ListAtQuery),
    responses((status = 200, description = "A page of items, newest first", body = Page<Item>), LookupProblems)
)]
async fn holdings(
    _: Allowed<LedgerRead>,
    State(pool): State<PgPool>,
    Path(id): Path<Uuid>,
    Query(query): Query<ListAtQuery>,
) -> Result<Json<Page<Item>>, Problem> {
    Ok(Json(user::holdings(&pool, id, query.at, query.page()?).await?))
}
