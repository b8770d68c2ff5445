//! Removes files whose time is over, and what is left of exports that came to nothing.
//!
//! Every server has one. What they do can be done twice: a state changes once, and what is gone is gone.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use uuid::Uuid;

use super::record::terminal_states;
use super::{Event, Exports, State};

/// A file that is too old goes within so long after its time.
const INTERVAL: Duration = Duration::from_secs(5);
/// So many are cleaned up after at a time: a store that is slow should not have the next ones wait for hours.
const BATCH: i64 = 100;
/// What was exported by whom can be seen for so long after it was over.
const RECORDS_KEPT: &str = "30 days";

/// Cleans up until the stop.
pub(super) async fn run(exports: Exports) {
    let stop = exports.0.stop.clone();
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        if let Some(Err(error)) = stop.run_until_cancelled(tidy(&exports)).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "exports could not be cleaned up; trying again");
        }
    }
}

async fn tidy(exports: &Exports) -> Result<(), sqlx::Error> {
    let pool = &exports.0.own_pool;
    let (states, next): (Vec<_>, Vec<_>) = Event::Expire
        .transitions()
        .filter(|(state, next)| state != next)
        .map(|(state, next)| (state.name(), next.name()))
        .unzip();
    sqlx::query(
        "update jobs.exports e set state = t.next from unnest($1::text[], $2::text[]) as t (state, next)
        where e.state = t.state and e.object is not null and e.expires_at <= now()",
    )
    .bind(states)
    .bind(next)
    .execute(pool)
    .await?;
    let left: Vec<Uuid> = sqlx::query_scalar(
        "select id from jobs.exports where object is not null and state = any($1) and state <> $2 limit $3",
    )
    .bind(terminal_states())
    .bind(State::Complete.name())
    .bind(BATCH)
    .fetch_all(pool)
    .await?;
    for id in left {
        clean(exports, id).await;
    }
    sqlx::query("delete from jobs.exports where object is null and finished_at < now() - $1::interval")
        .bind(RECORDS_KEPT)
        .execute(pool)
        .await?;
    Ok(())
}

/// Removes the files of an export that is over.
pub(super) async fn clean(exports: &Exports, id: Uuid) {
    if let Err(error) = exports.0.depot.remove(id).await {
        tracing::warn!(%id, error = &error as &dyn std::error::Error, "files of an export cannot be removed");
        return;
    }
    let cleaned = sqlx::query(
        "update jobs.exports set object = null
        where id = $1 and object is not null and state = any($2) and state <> $3",
    )
    .bind(id)
    .bind(terminal_states())
    .bind(State::Complete.name())
    .execute(&exports.0.own_pool)
    .await;
    if let Err(error) = cleaned {
        tracing::warn!(%id, error = &error as &dyn std::error::Error, "an export could not be cleaned up");
    }
}
