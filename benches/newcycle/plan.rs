//! How long and how large everything is.

use std::time::Duration;

/// Enough for medians that hold still on a quiet machine, and for all of it to be done in minutes.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// How often everything is measured; peers and newcycle take turns.
    pub(crate) repetitions: usize,
    /// What comes before is not counted: connections, caches, compiled statements, files that grow.
    pub(crate) warm_up: Duration,
    /// One repetition of a throughput.
    pub(crate) throughput: Duration,
    /// One turn with dashboards or without, what comes before it, and how many of both there are in a repetition.
    pub(crate) turn: Duration,
    pub(crate) turn_warm_up: Duration,
    pub(crate) turns: usize,
    /// One try of a setting of pgbench, to find the best.
    pub(crate) trial: Duration,
    /// One repetition of latencies at a rate.
    pub(crate) latency: Duration,
    /// One repetition of the fan-out.
    pub(crate) fan_out: Duration,
    /// One turn of a flood, or without one.
    pub(crate) flood: Duration,
    /// Streams of the fan-out.
    pub(crate) streams: usize,
    /// Dashboards that are open while rows are inserted.
    pub(crate) dashboards: usize,
    /// How long streams are left alone before their memory is measured: a heartbeat or two.
    pub(crate) idle: Duration,
    /// Rows of the bulk load.
    pub(crate) bulk_rows: u32,
    /// Events of the small ledger that queries are compared on.
    pub(crate) few_events: u64,
    /// Events of the large one.
    pub(crate) many_events: u64,
    /// Queries for each resolution, zone and ledger in a repetition.
    pub(crate) queries: usize,
    /// Rows of exports: few, some, many.
    pub(crate) export_rows: [u64; 3],
    /// Streams opened on the large ledger in a repetition.
    pub(crate) openings: usize,
}

impl Plan {
    pub(crate) fn new(quick: bool, events: Option<u64>) -> Self {
        let plan = if quick { Self::quick() } else { Self::full() };
        Self { many_events: events.unwrap_or(plan.many_events), ..plan }
    }

    fn full() -> Self {
        Self {
            repetitions: 3,
            warm_up: Duration::from_secs(2),
            throughput: Duration::from_secs(6),
            turn: Duration::from_secs(2),
            turn_warm_up: Duration::from_millis(500),
            turns: 5,
            trial: Duration::from_secs(2),
            latency: Duration::from_secs(8),
            fan_out: Duration::from_secs(10),
            flood: Duration::from_secs(6),
            streams: 10_000,
            dashboards: 1_000,
            idle: Duration::from_secs(6),
            bulk_rows: 300_000,
            few_events: 1_000_000,
            many_events: 50_000_000,
            export_rows: [100_000, 1_000_000, 10_000_000],
            queries: 50,
            openings: 50,
        }
    }

    fn quick() -> Self {
        Self {
            repetitions: 1,
            warm_up: Duration::from_millis(500),
            throughput: Duration::from_secs(2),
            turn: Duration::from_secs(1),
            turn_warm_up: Duration::from_millis(500),
            turns: 1,
            trial: Duration::from_secs(1),
            latency: Duration::from_secs(3),
            fan_out: Duration::from_secs(3),
            flood: Duration::from_secs(3),
            streams: 1_000,
            dashboards: 200,
            idle: Duration::from_secs(2),
            bulk_rows: 30_000,
            few_events: 100_000,
            many_events: 300_000,
            export_rows: [10_000, 30_000, 100_000],
            queries: 20,
            openings: 20,
        }
    }
}
