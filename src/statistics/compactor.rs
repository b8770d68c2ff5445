//! Moves deltas into the rollups. Every server has one of these running; an advisory lock lets one at a time work.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

/// How often. Queries add what is not folded yet: a second's worth of deltas is cheap to add, and few rows change twice.
const FOLD_INTERVAL: Duration = Duration::from_secs(1);
/// Names the lock: "newcycle" and "fold" in ASCII, so that nobody else takes it by accident.
const FOLD_LOCK: (i32, i32) = (0x6e65_7763, 0x666f_6c64);

/// From an idle second to what a flood leaves behind.
const SECONDS_BUCKETS: [f64; 9] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];

/// Of the folds of this server: of several, one works and the others look on.
#[derive(Clone, Debug)]
pub struct Metrics {
    seconds: Histogram,
    deltas: Counter,
    failed: Counter,
    last: Gauge<f64, AtomicU64>,
}

impl Metrics {
    /// Makes them known.
    pub fn register(registry: &mut Registry) -> Self {
        let seconds = Histogram::new(SECONDS_BUCKETS);
        let metrics = Self { seconds, deltas: Counter::default(), failed: Counter::default(), last: Gauge::default() };
        let registry = registry.sub_registry_with_prefix("statistics_fold");
        let help = "How long it took to add deltas to the rollups";
        registry.register_with_unit("duration", help, Unit::Seconds, metrics.seconds.clone());
        registry.register("deltas", "Deltas that were added to the rollups", metrics.deltas.clone());
        registry.register("failures", "Times that it failed", metrics.failed.clone());
        let help = "When this server last did it, or saw that there was nothing to do; 0 if it never did";
        registry.register_with_unit("last_success_timestamp", help, Unit::Seconds, metrics.last.clone());
        metrics
    }

    fn succeeded(&self, deltas: i64, elapsed: Duration) {
        self.seconds.observe(elapsed.as_secs_f64());
        self.deltas.inc_by(deltas.try_into().unwrap_or(0));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        self.last.set(now.unwrap_or_default().as_secs_f64());
    }
}

/// Folds and prunes until the end.
pub async fn run(pool: PgPool, metrics: Metrics, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(FOLD_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        if let Some(Err(error)) = shutdown.run_until_cancelled(fold(&pool, &metrics)).await {
            metrics.failed.inc();
            tracing::warn!(error = &error as &dyn std::error::Error, "deltas could not be folded; trying again");
        }
    }
}

async fn fold(pool: &PgPool, metrics: &Metrics) -> Result<(), sqlx::Error> {
    let start = Instant::now();
    let folded: Option<i64> = sqlx::query_scalar(
        "select case when pg_try_advisory_xact_lock($1, $2)
            then statistics.fold() + 0 * (statistics.prune() + statistics.prune_seconds()) end",
    )
    .bind(FOLD_LOCK.0)
    .bind(FOLD_LOCK.1)
    .fetch_one(pool)
    .await?;
    if let Some(folded) = folded {
        metrics.succeeded(folded, start.elapsed());
    }
    if let Some(folded @ 1..) = folded {
        tracing::debug!(folded, "deltas folded");
    }
    Ok(())
}
