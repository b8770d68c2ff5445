//! What waits in the database, for whoever asks for `/metrics`: jobs, exports, data streams, dead letters, deltas.
//!
//! **Invariant:** a database that is away, or slow, delays nobody for longer than [`LOOK_UP_TIMEOUT`], and at most one server
//! process of it is busy for that, however many ask. For that there is a connection of its own: whoever asks what is wrong
//! takes none from those with whom something is wrong, and is not kept waiting by them.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use sqlx::{ConnectOptions, PgConnection, PgPool};
use tokio::time::timeout;
use uuid::Uuid;

use super::encode_gauge;
use crate::{exports, streams};

/// A database that does not say how it is within this time is as good as away for whoever wants to know. A tenth of what
/// Prometheus waits for an answer.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(1);
/// Who asks again within this time gets the same answer: several ask every few seconds.
const KEPT: Duration = Duration::from_secs(1);
/// The kinds of jobs, as the table's constraint has them. Of all of them something is told, as what is not there cannot
/// be told from what is not known.
const JOB_KINDS: [&str; 4] = ["export", "stream", "dead-letter", "preview"];
/// Each data stream has figures of its own, but not more than so many: a store of figures should not grow with them.
const MOST_STREAMS: i64 = 200;
/// Counting goes no further: that there are so many says enough, and counting should cost little.
const MOST_COUNTED: i64 = 100_000;

/// The database as it was seen last. A shared handle.
#[derive(Clone, Debug)]
pub(super) struct Backlog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Knows where the database is, which may change. No connection is taken from it.
    pool: PgPool,
    /// Held while the database is asked: whoever comes meanwhile waits for the same answer.
    looking: tokio::sync::Mutex<Looking>,
    seen: Mutex<Arc<Seen>>,
}

#[derive(Debug, Default)]
struct Looking {
    /// Closed with the first error, and when somebody stops to wait: what it is busy with then does not matter any more.
    connection: Option<PgConnection>,
    looked: Option<Instant>,
}

/// What a look has found.
#[derive(Debug, Default)]
struct Seen {
    is_up: bool,
    took: Duration,
    /// Nothing where not everything was answered in time.
    work: Option<Work>,
}

#[derive(Debug)]
struct Work {
    jobs: Vec<Jobs>,
    exports: Vec<(String, i64, Option<f64>)>,
    stream_states: Vec<(String, i64)>,
    streams: Vec<DataStream>,
    dead_letters: [(&'static str, i64); 2],
    unfolded: i64,
}

/// Of one kind.
#[derive(Debug, sqlx::FromRow)]
struct Jobs {
    kind: String,
    due: i64,
    running: i64,
    scheduled: i64,
    stopped: i64,
    oldest_due: f64,
}

/// One that should run.
#[derive(Debug, sqlx::FromRow)]
struct DataStream {
    id: Uuid,
    overdue: f64,
    is_failing: bool,
    completed_at: Option<f64>,
}

impl Backlog {
    /// Of the database of a pool.
    pub(super) fn of(pool: PgPool) -> Self {
        Self(Arc::new(Inner { pool, looking: tokio::sync::Mutex::default(), seen: Mutex::default() }))
    }

    /// Looks how things are, unless somebody has a moment ago.
    pub(super) async fn look_up(&self) {
        let Inner { pool, looking, seen: last_seen } = &*self.0;
        let mut looking = looking.lock().await;
        if looking.looked.is_some_and(|looked| looked.elapsed() < KEPT) {
            return;
        }
        let start = Instant::now();
        let mut seen = Seen::default();
        // Taken, so that it is closed if this ends before its time.
        let mut connection = looking.connection.take();
        let asking = async {
            // One that was left to itself may have been lost meanwhile, or its database may be another's standby by now.
            if let Some(kept) = &mut connection {
                seen.is_up = takes_writes(kept).await.unwrap_or(false);
            }
            let connection = match &mut connection {
                Some(connection) if seen.is_up => connection,
                other => {
                    let connection = other.insert(connect(pool).await?);
                    seen.is_up = takes_writes(connection).await?;
                    connection
                }
            };
            seen.work = Some(Work::look_up(connection).await?);
            Ok::<_, sqlx::Error>(())
        };
        match timeout(LOOK_UP_TIMEOUT, asking).await {
            Ok(Ok(())) => looking.connection = connection,
            Ok(Err(error)) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "there are no figures from the database");
            }
            Err(_too_long) => tracing::debug!("figures from the database did not come in time"),
        }
        seen.took = start.elapsed();
        looking.looked = Some(Instant::now());
        *last_seen.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(seen);
    }
}

async fn connect(pool: &PgPool) -> Result<PgConnection, sqlx::Error> {
    let options = Arc::unwrap_or_clone(pool.connect_options())
        .application_name("newcycle metrics")
        // Who gave up does not leave Postgres with the work.
        .options([("statement_timeout", LOOK_UP_TIMEOUT.as_millis())])
        .disable_statement_logging();
    options.connect().await
}

async fn takes_writes(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select not pg_is_in_recovery()").fetch_one(connection).await
}

impl Work {
    async fn look_up(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let jobs = sqlx::query_as(
            "select kind,
                count(*) filter (where due_at <= now()) as due,
                count(*) filter (where due_at > now() and held) as running,
                count(*) filter (where due_at > now() and not held and due_at < 'infinity') as scheduled,
                count(*) filter (where due_at = 'infinity') as stopped,
                coalesce(extract(epoch from now() - min(due_at) filter (where due_at <= now())), 0)::float8 as oldest_due
            from unnest($1::text[]) as kinds (kind) left join jobs.queue using (kind)
            group by kind",
        )
        .bind(JOB_KINDS)
        .fetch_all(&mut *connection)
        .await?;
        let exports = sqlx::query_as(
            "select state, count(id), extract(epoch from max(finished_at))::float8
            from unnest($1::text[]) as states (state) left join jobs.exports using (state)
            group by state",
        )
        .bind(exports::State::ALL.map(exports::State::name))
        .fetch_all(&mut *connection)
        .await?;
        let stream_states = sqlx::query_as(
            "select state, count(id) from unnest($1::text[]) as states (state) left join jobs.streams using (state)
            group by state",
        )
        .bind(streams::State::ALL.map(streams::State::name))
        .fetch_all(&mut *connection)
        .await?;
        // A run that is under way, or is tried again, keeps the moment that it was scheduled for.
        let streams = sqlx::query_as(
            "select s.id,
                coalesce(greatest(extract(epoch from now() - s.next_run_at), 0), 0)::float8 as overdue,
                s.state = 'failed' or coalesce((
                    select b.state = 'failed' from jobs.batches b
                    where b.stream_id = s.id and b.finished_at is not null
                    order by b.number desc limit 1
                ), false) as is_failing,
                (
                    select extract(epoch from b.finished_at)::float8 from jobs.batches b
                    where b.stream_id = s.id and b.number = s.latest_batch
                ) as completed_at
            from jobs.streams s
            where s.desired = 'running' or s.state = 'failed'
            order by s.created_at, s.id
            limit $1",
        )
        .bind(MOST_STREAMS)
        .fetch_all(&mut *connection)
        .await?;
        let (dead, retrying) = sqlx::query_as(
            "select count(*) filter (where state = 'dead'), count(*) filter (where state = 'retrying')
            from (select state from jobs.dead_letters limit $1) as counted",
        )
        .bind(MOST_COUNTED)
        .fetch_one(&mut *connection)
        .await?;
        let unfolded = sqlx::query_scalar("select count(*) from (select from statistics.unfolded limit $1) as counted")
            .bind(MOST_COUNTED)
            .fetch_one(&mut *connection)
            .await?;
        let dead_letters = [("dead", dead), ("retrying", retrying)];
        Ok(Self { jobs, exports, stream_states, streams, dead_letters, unfolded })
    }
}

impl Collector for Backlog {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let seen = Arc::clone(&self.0.seen.lock().unwrap_or_else(PoisonError::into_inner));
        let help = "Whether Postgres takes a connection and answers, and is no standby";
        encode_gauge(&mut encoder, "database_up", help, None, u64::from(seen.is_up))?;
        let help =
            "Whether it also told all of jobs, exports and data streams in time: if not, their figures are missing";
        encode_gauge(&mut encoder, "database_figures_complete", help, None, u64::from(seen.work.is_some()))?;
        let help = "How long it took to ask for them";
        let took = seen.took.as_secs_f64();
        encode_gauge(&mut encoder, "database_look_up", help, Some(&Unit::Seconds), took)?;
        seen.work.as_ref().map_or(Ok(()), |work| work.encode(encoder))
    }
}

impl Work {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Jobs: due (nobody has taken them), running, scheduled for later, stopped";
        let mut family = encoder.encode_descriptor("jobs", help, None, MetricType::Gauge)?;
        for Jobs { kind, due, running, scheduled, stopped, .. } in &self.jobs {
            for (state, count) in [("due", due), ("running", running), ("scheduled", scheduled), ("stopped", stopped)] {
                let labels = [("kind", &**kind), ("state", state)];
                ConstGauge::new(*count).encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "For how long the oldest job has been due that nobody has taken; 0 if there is none";
        let mut family = encoder.encode_descriptor("jobs_oldest_due", help, Some(&Unit::Seconds), MetricType::Gauge)?;
        for Jobs { kind, oldest_due, .. } in &self.jobs {
            ConstGauge::new(*oldest_due).encode(family.encode_family(&[("kind", kind)])?)?;
        }

        let help = "Exports of the last 30 days, by state";
        let mut family = encoder.encode_descriptor("exports", help, None, MetricType::Gauge)?;
        for (state, count, _) in &self.exports {
            ConstGauge::new(*count).encode(family.encode_family(&[("state", state)])?)?;
        }
        let help = "When an export last came to that end";
        let name = "exports_last_finished_timestamp";
        let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
        for (state, _, finished_at) in &self.exports {
            if let Some(finished_at) = *finished_at {
                ConstGauge::new(finished_at).encode(family.encode_family(&[("state", state)])?)?;
            }
        }

        let help = "Data streams, by state";
        let mut family = encoder.encode_descriptor("data_streams", help, None, MetricType::Gauge)?;
        for (state, count) in &self.stream_states {
            ConstGauge::new(*count).encode(family.encode_family(&[("state", state)])?)?;
        }
        // Their ids, as figures are for more people than the names of other companies' services are.
        let of_streams = |encoder: &mut DescriptorEncoder<'_>, name, help, unit, of: fn(&DataStream) -> Option<f64>| {
            let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
            for stream in &self.streams {
                if let Some(value) = of(stream) {
                    let labels = [("stream", stream.id.to_string())];
                    ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
                }
            }
            Ok(())
        };
        let help = "For how long the run has been due that is not over yet, of each data stream that should run";
        let seconds = Some(&Unit::Seconds);
        of_streams(&mut encoder, "data_stream_overdue", help, seconds, |stream| Some(stream.overdue))?;
        let help = "Whether its last run failed, or it has stopped by itself";
        let failing = |stream: &DataStream| Some(f64::from(u8::from(stream.is_failing)));
        of_streams(&mut encoder, "data_stream_failing", help, None, failing)?;
        let help = "When its newest complete batch was complete";
        let name = "data_stream_last_complete_timestamp";
        of_streams(&mut encoder, name, help, seconds, |stream| stream.completed_at)?;

        let help =
            "Records of data streams that could not be processed: dead, or being tried again. Counted up to 100,000";
        let mut family = encoder.encode_descriptor("dead_letters", help, None, MetricType::Gauge)?;
        for (state, count) in self.dead_letters {
            ConstGauge::new(count).encode(family.encode_family(&[("state", state)])?)?;
        }
        let help = "Changes that are not in the rollups yet, and are added by each query. Counted up to 100,000";
        encode_gauge(&mut encoder, "statistics_unfolded_deltas", help, None, self.unfolded)
    }
}
