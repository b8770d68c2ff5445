//! The statistics: whether they are what the ledger says, and kept up.

use super::finding::Finding;
use super::for_people;
use super::questions::{Questions, Unanswered};

/// A fold a second adds what came in it. So many are a minute of the most that one machine takes.
const UNFOLDED: i64 = 1_000_000;
/// Servers clean up every five minutes.
const PRUNED_SECONDS: f64 = 20.0 * 60.0;
/// Small tables may be mostly dead rows for a while.
const DEAD_ROWS: i64 = 5_000_000;

/// What the statistics of the last hour say and the ledger does not, by the minute; from an index, for all base items together.
const SAMPLE: &str = "
    with stated as (
        select m.metric, l.bucket, l.count
        from unnest(enum_range(null::statistics.metric)) as m (metric)
        cross join lateral statistics.latest(
            m.metric, 'minute', null, date_trunc('minute', now()) - interval '1 hour', now() + interval '1 hour', 100000
        ) l
    ), counted as (
        select m.metric, date_trunc('minute', e.moment) as bucket, count(*) as count
        from unnest(enum_range(null::statistics.metric)) as m (metric)
        cross join lateral statistics.moments(
            m.metric, null, date_trunc('minute', now()) - interval '1 hour', now() + interval '1 hour'
        ) as e (moment)
        group by 1, 2
    )
    select metric::text, 'minute', bucket::text, coalesce(c.count, 0)::bigint, coalesce(s.count, 0)::bigint
    from stated s full join counted c using (metric, bucket)
    where s.count is distinct from c.count
    order by bucket desc limit 1000";

const DIFFERENCES: &str = "
    select metric::text, width::text, bucket::text, ledger, statistics from statistics.differences()
    order by width, bucket desc limit 1000";

/// A recount of the last hour, if that is cheap.
pub(super) async fn sample(questions: &Questions) -> Result<Vec<Finding>, Unanswered> {
    match questions.ask(SAMPLE).await {
        Ok(rows) if rows.is_empty() => {
            Ok(vec![Finding::ok("those of the last hour agree with a recount; --deep recounts all")])
        }
        Ok(rows) => Ok(vec![differ(&rows)]),
        Err(Unanswered::Slow) => {
            Ok(vec![Finding::skipped("the last hour has too much to count now; --deep takes the time")])
        }
        Err(other) => Err(other),
    }
}

/// A recount of everything.
pub(super) async fn recount(questions: &Questions) -> Result<Vec<Finding>, Unanswered> {
    let rows = questions.ask_patiently(DIFFERENCES).await?;
    Ok(if rows.is_empty() {
        vec![Finding::ok("all of them agree with a recount of the ledger")]
    } else {
        vec![differ(&rows)]
    })
}

fn differ(rows: &[tokio_postgres::Row]) -> Finding {
    let (metric, width, bucket): (String, String, String) = (rows[0].get(0), rows[0].get(1), rows[0].get(2));
    let (ledger, statistics): (i64, i64) = (rows[0].get(3), rows[0].get(4));
    let many = if rows.len() == 1_000 { "1,000 or more".to_owned() } else { rows.len().to_string() };
    Finding::problem(
        format!(
            "the statistics differ from the ledger in {many} buckets, such as the {width} {bucket} of {metric}, where they \
            say {statistics} and the ledger has {ledger}"
        ),
        "select statistics.rebuild() (writers wait meanwhile: some 8 s for a million events); and look at triggers above, \
        and who changed tables by hand",
    )
}

/// Whether somebody adds deltas to the rollups.
pub(super) async fn folding(questions: &Questions) -> Result<Vec<Finding>, Unanswered> {
    let row = questions
        .ask_one(&format!(
            "select (select count(*) from (select from statistics.unfolded limit {UNFOLDED} + 1) as counted),
                (select extract(epoch from now() - pruned_at)::float8 from statistics.state),
                (select count(*) from pg_stat_activity
                    where application_name = 'newcycle listener' and datname = current_database())"
        ))
        .await?;
    let (unfolded, pruned, servers): (i64, Option<f64>, i64) = (row.get(0), row.get(1), row.get(2));
    let Some(pruned) = pruned else {
        return Ok(vec![Finding::problem(
            "the row of statistics.state is missing: nothing can be counted",
            "restore the table statistics.state from a dump",
        )]);
    };
    let since = for_people(pruned);
    if servers > 0 && (pruned > PRUNED_SECONDS || unfolded > UNFOLDED) {
        return Ok(vec![Finding::problem(
            format!(
                "{unfolded} deltas are not folded, and it is {since} since the last cleaning up, though servers run"
            ),
            "the servers' log says why (\"deltas could not be folded\"); see sessions: somebody may lock statistics.state",
        )]);
    }
    let note = if servers == 0 { "; no server runs, which would fold them" } else { "" };
    Ok(vec![Finding::ok(format!("{unfolded} deltas wait for the next fold{note}"))])
}

/// Dead rows that autovacuum does not get rid of.
pub(super) async fn dead_rows(questions: &Questions) -> Result<Vec<Finding>, Unanswered> {
    let rows = questions
        .ask(&format!(
            "select schemaname || '.' || relname, n_dead_tup, n_live_tup,
                coalesce(greatest(last_autovacuum, last_vacuum)::text, 'never')
            from pg_stat_user_tables
            where n_dead_tup > {DEAD_ROWS} and n_dead_tup > n_live_tup / 2
                and schemaname in ('public', 'statistics', 'access', 'jobs')
            order by n_dead_tup desc limit 3"
        ))
        .await?;
    let finding = |row: &tokio_postgres::Row| {
        let (table, last): (String, String) = (row.get(0), row.get(3));
        let (dead, live): (i64, i64) = (row.get(1), row.get(2));
        Finding::warning(
            format!("{table} has {dead} dead rows beside {live}; it was vacuumed {last}"),
            format!("end old transactions and slots (see sessions, wal), then vacuum (verbose) {table}"),
        )
    };
    Ok(rows.iter().map(finding).collect())
}
