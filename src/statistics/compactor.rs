//! Moves deltas into the rollups. Every server has one of these running; an advisory lock lets one at a time work.

use std::time::Duration;

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

/// How often. Queries add what is not folded yet: a second's worth of deltas is cheap to add, and few rows change twice.
const FOLD_INTERVAL: Duration = Duration::from_secs(1);
/// Names the lock: "newcycle" and "fold" in ASCII, so that nobody else takes it by accident.
const FOLD_LOCK: (i32, i32) = (0x6e65_7763, 0x666f_6c64);

/// Folds and prunes until the end.
pub async fn run(pool: PgPool, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(FOLD_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        if let Some(Err(error)) = shutdown.run_until_cancelled(fold(&pool)).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "deltas could not be folded; trying again");
        }
    }
}

async fn fold(pool: &PgPool) -> Result<(), sqlx::Error> {
    let folded: Option<i64> = sqlx::query_scalar(
        "select case when pg_try_advisory_xact_lock($1, $2)
            then statistics.fold() + 0 * (statistics.prune() + statistics.prune_seconds()) end",
    )
    .bind(FOLD_LOCK.0)
    .bind(FOLD_LOCK.1)
    .fetch_one(pool)
    .await?;
    if let Some(folded @ 1..) = folded {
        tracing::debug!(folded, "deltas folded");
    }
    Ok(())
}
