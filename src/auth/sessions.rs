//! Sessions of browsers that signed in with a key.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use super::{KeyError, Secret, SecretHash};

/// So many sessions a key has at most; the oldest make room. Whoever has a key could else fill the table, and the memory of
/// every server.
const MOST_SESSIONS_PER_KEY: i64 = 1_000;

/// Begins a session of the key, which is given by its id and the hash of the secret that was shown.
pub(super) async fn begin(
    pool: &PgPool,
    key_id: &str,
    key_secret: SecretHash,
    expires_at: DateTime<Utc>,
) -> Result<Secret, KeyError> {
    let secret = Secret::generate()?;
    let mut transaction = pool.begin().await?;
    sqlx::query(
        "delete from access.sessions
        where expires_at <= now()
            or id in (select id from access.sessions where key_id = $1 order by created_at desc, id offset $2)",
    )
    .bind(key_id)
    .bind(MOST_SESSIONS_PER_KEY - 1)
    .execute(&mut *transaction)
    .await?;
    sqlx::query(
        "insert into access.sessions (id, secret_hash, key_id, key_secret_hash, expires_at) values ($1, $2, $3, $4, $5)",
    )
    .bind(secret.id())
    .bind(secret.hash().as_bytes())
    .bind(key_id)
    .bind(key_secret.as_bytes())
    .bind(expires_at)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(secret)
}

/// Ends a session. Doing so again changes nothing.
pub(super) async fn end(pool: &PgPool, id: &str) -> Result<(), KeyError> {
    sqlx::query("delete from access.sessions where id = $1").bind(id).execute(pool).await?;
    Ok(())
}
