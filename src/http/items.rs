//! `/items`

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use sqlx::PgPool;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::App;
use super::document::{ChangeProblems, CreateProblems, LookupProblems, OneOrMany, QueryProblems};
use super::extract::{self, Path, Query, moment};
use super::guard::{Allowed, LedgerRead, LedgerWrite};
use super::problem::{Kind, Problem};
use super::records::{self, Accepted, CreateQuery, ListQuery, Turns, WriterFor};
use crate::ledger::{self, Item, LedgerError, NewItem, NewTransfer, Owner, Page, Transfer, transfer};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(get))
        .routes(routes!(owner))
        .routes(routes!(history))
        .routes(routes!(hand_over))
}

/// Create items
///
/// One from a JSON object, or many from a JSON array or NDJSON.
#[utoipa::path(
    post, path = "/items", operation_id = "create_items", tag = "ledger", security(("key" = ["ledger:write"])), params(CreateQuery),
    request_body(content((OneOrMany<NewItem> = "application/json"), (String = "application/x-ndjson"))),
    responses(
        (status = 201, description = "Created", body = Item, headers(("Location" = String, description = "Its path"))),
        (status = 200, description = "The same row was there, or a bulk request is done", body = Accepted<Item>),
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
    records::create::<Item>(&pool, &writer, &turns, "/items", &query, request).await
}

/// List items, newest first
#[utoipa::path(
    get, path = "/items", operation_id = "list_items", tag = "ledger", security(("key" = ["ledger:read"])), params(ListQuery),
    responses((status = 200, description = "A page", body = Page<Item>), QueryProblems)
)]
async fn list(
    _: Allowed<LedgerRead>,
    State(pool): State<PgPool>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<Item>>, Problem> {
    Ok(Json(ledger::list(&pool, query.page()?).await?))
}

/// Get an item
#[utoipa::path(
    get, path = "/items/{id}", operation_id = "get_item", tag = "ledger", security(("key" = ["ledger:read"])), params(("id" = Uuid, Path)),
    responses((status = 200, description = "The item", body = Item), LookupProblems)
)]
async fn get(_: Allowed<LedgerRead>, State(pool): State<PgPool>, Path(id): Path<Uuid>) -> Result<Json<Item>, Problem> {
    Ok(Json(ledger::get(&pool, id).await?))
}

/// At which moment.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct AtQuery {
    /// The moment; now, unless said otherwise.
    #[serde(default, deserialize_with = "moment")]
    at: Option<DateTime<Utc>>,
}

/// Get the owner of an item, now or at a moment
///
/// Before its first transfer nobody owned the item: that is a 404 as well.
#[utoipa::path(
    get, path = "/items/{id}/owner", operation_id = "get_item_owner", tag = "ledger", security(("key" = ["ledger:read"])),
    params(("id" = Uuid, Path), AtQuery),
    responses((status = 200, description = "The owner", body = Owner), LookupProblems)
)]
async fn owner(
    _: Allowed<LedgerRead>,
    State(pool): State<PgPool>,
    Path(id): Path<Uuid>,
    Query(query): Query<AtQuery>,
) -> Result<Json<Owner>, Problem> {
    let owner = transfer::owner(&pool, id, query.at).await?;
    owner.map(Json).ok_or_else(|| Problem::new(Kind::NotFound, format!("nobody owned item {id} at that moment")))
}

/// List the transfers of an item, newest first
#[utoipa::path(
    get, path = "/items/{id}/transfers", operation_id = "list_item_transfers", tag = "ledger", security(("key" = ["ledger:read"])),
    params(("id" = Uuid, Path), ListQuery),
    responses((status = 200, description = "A page", body = Page<Transfer>), LookupProblems)
)]
async fn history(
    _: Allowed<LedgerRead>,
    State(pool): State<PgPool>,
    Path(id): Path<Uuid>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<Transfer>>, Problem> {
    Ok(Json(transfer::history(&pool, id, query.page()?).await?))
}

/// Who is to own an item.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewOwner {
    /// The new owner.
    to: Uuid,
}

/// Hand an item over: the same as a transfer now
#[utoipa::path(
    put, path = "/items/{id}/ownership", operation_id = "put_item_ownership", tag = "ledger", security(("key" = ["ledger:write"])),
    params(("id" = Uuid, Path)), request_body = NewOwner,
    responses((status = 204, description = "Done"), ChangeProblems)
)]
async fn hand_over(
    _: Allowed<LedgerWrite>,
    WriterFor(writer): WriterFor,
    Path(id): Path<Uuid>,
    extract::Json(new): extract::Json<NewOwner>,
) -> Result<StatusCode, Problem> {
    let transfer = NewTransfer { id: None, item_id: id, owner_id: new.to, timestamp: None };
    match writer.create::<Transfer>(transfer).await {
        Ok(_) => Ok(StatusCode::NO_CONTENT),
        Err(LedgerError::Invalid { field: "item_id", .. }) => Err(LedgerError::NotFound { what: "item", id }.into()),
        Err(LedgerError::Invalid { field: "owner_id", reason }) => Err(Problem::field("to", reason)),
        Err(error) => Err(error.into()),
    }
}
