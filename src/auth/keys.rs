//! API keys in the database: created, listed, rotated, given an expiry and revoked.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{FromRow, PgPool};

use super::{Scopes, Secret};

/// A key, as far as it can be shown.
#[derive(Clone, Debug, Serialize, FromRow)]
pub struct Key {
    /// Names it to `newcycle keys`, and is not secret.
    pub id: String,
    /// What it is for.
    pub name: String,
    /// What its holder may do.
    #[sqlx(try_from = "Vec<String>")]
    pub scopes: Scopes,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When its secret was last replaced.
    pub rotated_at: Option<DateTime<Utc>>,
    /// Until when the secret before that one is taken.
    pub previous_expires_at: Option<DateTime<Utc>>,
    /// When it ends by itself.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
    /// When it was last used, give or take a minute.
    pub last_used_at: Option<DateTime<Utc>>,
}

/// Why a key could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No key has that id.
    #[error("there is no key {id}; `newcycle keys list --all` names those there are")]
    NotFound {
        /// The id.
        id: String,
    },
    /// It cannot be changed any more.
    #[error("key {id} is revoked, and stays so: create another one")]
    Revoked {
        /// The id.
        id: String,
    },
    /// The system has no random numbers.
    #[error("the system gives no random numbers")]
    Random(#[from] getrandom::Error),
    /// The database did not do it.
    #[error("the keys cannot be read or written")]
    Database(#[from] sqlx::Error),
}

/// Makes a key. Its secret is known now and never again.
pub async fn create(
    pool: &PgPool,
    name: &str,
    scopes: Scopes,
    expires_at: Option<DateTime<Utc>>,
) -> Result<(Key, Secret), KeyError> {
    let secret = Secret::generate()?;
    let key = sqlx::query_as(
        "insert into access.keys (id, name, scopes, secret_hash, expires_at) values ($1, $2, $3, $4, $5) returning *",
    )
    .bind(secret.id())
    .bind(name)
    .bind(scopes.names())
    .bind(secret.hash().as_bytes())
    .bind(expires_at)
    .fetch_one(pool)
    .await?;
    Ok((key, secret))
}

/// All keys, oldest first.
pub async fn list(pool: &PgPool) -> Result<Vec<Key>, KeyError> {
    Ok(sqlx::query_as("select * from access.keys order by created_at, id").fetch_all(pool).await?)
}

/// Replaces the secret of a key. The one before is taken until then; the one before that no more.
pub async fn rotate(pool: &PgPool, id: &str, previous_until: DateTime<Utc>) -> Result<(Key, Secret), KeyError> {
    let secret = Secret::regenerate(id)?;
    let rotated = sqlx::query_as(
        "update access.keys
        set previous_secret_hash = case when $3 > now() then secret_hash end,
            previous_expires_at = case when $3 > now() then $3 end,
            secret_hash = $2,
            rotated_at = now()
        where id = $1 and revoked_at is null
        returning *",
    )
    .bind(id)
    .bind(secret.hash().as_bytes())
    .bind(previous_until)
    .fetch_optional(pool)
    .await?;
    Ok((changed(pool, id, rotated).await?, secret))
}

/// Sets when a key ends by itself, or that it does not.
pub async fn expire(pool: &PgPool, id: &str, expires_at: Option<DateTime<Utc>>) -> Result<Key, KeyError> {
    let expiring =
        sqlx::query_as("update access.keys set expires_at = $2 where id = $1 and revoked_at is null returning *")
            .bind(id)
            .bind(expires_at)
            .fetch_optional(pool)
            .await?;
    changed(pool, id, expiring).await
}

/// Ends a key for good. Doing so again changes nothing.
pub async fn revoke(pool: &PgPool, id: &str) -> Result<Key, KeyError> {
    let revoked =
        sqlx::query_as("update access.keys set revoked_at = coalesce(revoked_at, now()) where id = $1 returning *")
            .bind(id)
            .fetch_optional(pool)
            .await?;
    changed(pool, id, revoked).await
}

/// The key that was changed, or why there is none.
async fn changed(pool: &PgPool, id: &str, key: Option<Key>) -> Result<Key, KeyError> {
    if let Some(key) = key {
        return Ok(key);
    }
    let exists: bool =
        sqlx::query_scalar("select exists (select from access.keys where id = $1)").bind(id).fetch_one(pool).await?;
    let id = id.to_owned();
    Err(if exists { KeyError::Revoked { id } } else { KeyError::NotFound { id } })
}
