//! `/session`: who asks, and signing in and out of the dashboard.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::cookie;
use super::document::SignInProblems;
use super::extract;
use super::guard::{Admitted, SameOrigin};
use super::problem::Problem;
use crate::auth::{Authority, Caller, IdentityKind, Scope};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(get, sign_in, sign_out))
}

/// Who asks, and what they may do.
#[derive(Debug, Serialize, ToSchema)]
struct Session {
    /// Whether callers have to say who they are.
    authentication: Authentication,
    /// Whether everybody may read statistics.
    public_statistics: bool,
    /// Who asks, if they said so.
    caller: Option<SignedIn>,
    /// What they may do.
    scopes: Vec<Scope>,
}

/// Whether callers have to say who they are.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Authentication {
    /// They do.
    Required,
    /// Everybody may do everything.
    Open,
}

/// Somebody who is known.
#[derive(Debug, Serialize, ToSchema)]
struct SignedIn {
    /// The name of the key, or the subject of the token.
    name: String,
    /// How they said who they are.
    kind: IdentityKind,
    /// When that ends by itself.
    expires_at: Option<DateTime<Utc>>,
}

/// A key, to sign in with.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SignIn {
    /// As `newcycle keys create` printed it.
    #[schema(example = "nck_…")]
    key: String,
}

/// Get who you are, and what you may do
#[utoipa::path(
    get, path = "/session", operation_id = "get_session", tag = "session", security(()),
    responses((status = 200, description = "Always, also for strangers", body = Session))
)]
async fn get(State(authority): State<Authority>, Extension(admitted): Extension<Admitted>) -> Json<Session> {
    Json(describe(&authority, &admitted.caller))
}

/// Sign in with a key
///
/// For browsers: the answer sets a cookie that scripts cannot read, and that is sent along from pages of this server only.
/// Everybody else sends the key itself, as `Authorization: Bearer`.
#[utoipa::path(
    post, path = "/session", operation_id = "sign_in", tag = "session", security(()), request_body = SignIn,
    responses(
        (status = 201, description = "Signed in", body = Session, headers(("Set-Cookie" = String, description = "The session"))),
        SignInProblems,
    )
)]
async fn sign_in(
    _: SameOrigin,
    State(authority): State<Authority>,
    State(pool): State<PgPool>,
    Extension(admitted): Extension<Admitted>,
    extract::Json(SignIn { key }): extract::Json<SignIn>,
) -> Result<Response, Problem> {
    let (session, expires_at, caller) = authority.sign_in(&pool, key.trim()).await?;
    let answer = Json(describe(&authority, &caller));
    let cookie = cookie::keep(&session, expires_at, admitted.is_encrypted);
    Ok((StatusCode::CREATED, set_cookie(cookie), answer).into_response())
}

/// Sign out
#[utoipa::path(
    delete, path = "/session", operation_id = "sign_out", tag = "session", security(()),
    responses((status = 204, description = "Signed out, or nobody was signed in"), SignInProblems)
)]
async fn sign_out(
    _: SameOrigin,
    State(authority): State<Authority>,
    State(pool): State<PgPool>,
    Extension(admitted): Extension<Admitted>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if let Some(session) = cookie::session(&headers) {
        authority.sign_out(&pool, &session).await?;
    }
    Ok((StatusCode::NO_CONTENT, set_cookie(cookie::forget(admitted.is_encrypted))).into_response())
}

fn set_cookie(value: Option<HeaderValue>) -> HeaderMap {
    value.into_iter().map(|value| (header::SET_COOKIE, value)).collect()
}

fn describe(authority: &Authority, caller: &Caller) -> Session {
    let is_allowed = |scope: &Scope| {
        let is_public = *scope == Scope::StatisticsRead && authority.has_public_statistics();
        is_public || caller.scopes.allow(*scope)
    };
    Session {
        authentication: if authority.is_open() { Authentication::Open } else { Authentication::Required },
        public_statistics: authority.has_public_statistics(),
        caller: caller.identity.as_ref().map(|identity| SignedIn {
            name: identity.name.to_string(),
            kind: identity.kind,
            expires_at: identity.expires_at,
        }),
        scopes: Scope::ALL.into_iter().filter(is_allowed).collect(),
    }
}
