//! Removes batches that are too old.
//!
//! Every worker has one. What they do can be done twice.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::Streams;

const INTERVAL: Duration = Duration::from_secs(5);
/// What ran when, and what could not be processed, can be seen for so long.
const RECORDS_KEPT: &str = "30 days";

/// Cleans up until the stop.
pub(super) async fn run(streams: Streams) {
    let stop = streams.0.stop.clone();
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        if let Some(Err(error)) = stop.run_until_cancelled(tidy(&streams)).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "streams could not be cleaned up; trying again");
        }
    }
}

/// The newest complete batches of each stream stay. Of older ones, of streams that fetch what is new, records stay of which
/// there is no newer version.
async fn tidy(streams: &Streams) -> Result<(), sqlx::Error> {
    let pool = &streams.0.own_pool;
    sqlx::query(
        "with removed as (
            update jobs.batches b set removed_at = now()
            from (
                select stream_id, number, row_number() over (partition by stream_id order by number desc) as place
                from jobs.batches where state = 'complete' and removed_at is null
            ) c
            where b.stream_id = c.stream_id and b.number = c.number and c.place > $1
            returning b.stream_id, b.number
        )
        delete from jobs.records r using removed, jobs.streams s
        where r.stream_id = removed.stream_id and r.batch = removed.number and s.id = r.stream_id and (
            not s.is_incremental or exists (
                select from jobs.records later join jobs.batches b
                    on b.stream_id = later.stream_id and b.number = later.batch and b.state = 'complete'
                where later.stream_id = r.stream_id and later.key = r.key and later.batch > r.batch
            )
        )",
    )
    .bind(streams.0.settings.stream_batches)
    .execute(pool)
    .await?;
    sqlx::query(
        "delete from jobs.batches b where finished_at < now() - $1::interval
            and not exists (select from jobs.records r where r.stream_id = b.stream_id and r.batch = b.number)
            and not exists (select from jobs.streams s where s.id = b.stream_id and s.latest_batch = b.number)",
    )
    .bind(RECORDS_KEPT)
    .execute(pool)
    .await?;
    sqlx::query("delete from jobs.dead_letters where state = 'dead' and last_seen_at < now() - $1::interval")
        .bind(RECORDS_KEPT)
        .execute(pool)
        .await?;
    Ok(())
}
