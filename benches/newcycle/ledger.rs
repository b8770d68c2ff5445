//! A ledger of many millions of events, made as fast as Postgres can.

use std::time::Instant;

use crate::cluster::{BASE_ITEMS, Cluster, TEMPLATE, base_item};
use crate::figures::number;
use crate::{Outcome, tell};

/// Over how many seconds before now the events are spread: four years.
pub(crate) const SPAN_SECONDS: u32 = 4 * 365 * 86_400;
/// What Postgres is given to make it with. WAL of the bulk is not needed by anyone, checkpoints only get in the way, and
/// vacuum comes when we say so; reading, which is what is measured afterwards, is not touched by any of it.
pub(crate) const SETTINGS: [(&str, &str); 5] = [
    ("wal_level", "minimal"),
    ("max_wal_senders", "0"),
    ("max_wal_size", "16GB"),
    ("maintenance_work_mem", "1GB"),
    ("autovacuum", "off"),
];
/// For the session that counts everything anew.
const REBUILD: &str = "set work_mem = '256MB'; select statistics.rebuild()";

/// Makes a database with so many items, created over [`SPAN_SECONDS`] up to `now` (in seconds since 1970): the later, the
/// denser (the n-th newest of N is `span · (n/N)²` old). The statistics are counted by `statistics.rebuild()`.
pub(crate) async fn make(cluster: &Cluster, database: &str, events: u64, now: i64) -> Outcome<()> {
    let step = |what: &str, begin: Instant| {
        tell(&format!("  {database}: {what} in {} s", number(begin.elapsed().as_secs_f64())));
    };
    let begin = Instant::now();
    cluster.copy(TEMPLATE, database).await?;
    let indexes = set_aside(cluster, database).await?;
    let sessions = std::thread::available_parallelism()?.get() as u64;
    let parts = (0..sessions).map(|part| {
        let (first, last) = (events * part / sessions + 1, events * (part + 1) / sessions);
        let statement = insert(first, last, events, now);
        async move { cluster.execute(database, &statement).await }
    });
    futures_util::future::try_join_all(parts).await?;
    step(&format!("{} items", number(events as f64)), begin);

    let begin = Instant::now();
    futures_util::future::try_join_all(
        indexes.made_side_by_side.iter().map(|statement| cluster.execute(database, statement)),
    )
    .await?;
    for statement in &indexes.made_afterwards {
        cluster.execute(database, statement).await?;
    }
    step("indexes", begin);

    let begin = Instant::now();
    cluster.execute(database, REBUILD).await?;
    step("statistics", begin);

    let begin = Instant::now();
    cluster.execute(database, "vacuum (analyze)").await?;
    cluster.settle().await?;
    step("vacuum", begin);
    Ok(())
}

/// Rows `first..=last` of `events`, oldest first. The triggers and foreign keys are silent for a session that says it
/// replays what another server has checked. The ids are time-ordered as the ledger's own, but made with arithmetic.
fn insert(first: u64, last: u64, events: u64, now: i64) -> String {
    let base_items: Vec<_> = (0..BASE_ITEMS).map(base_item).collect();
    let base_items = base_items.join(",");
    format!(
        "set session_replication_role = replica;
        insert into items (id, base_item_id, created_at)
        select
            encode(
                int8send(((extract(epoch from at) * 1000)::bigint << 16) | 28672 | (n & 4095))
                    || int8send((-9223372036854775808)::bigint | n),
                'hex')::uuid,
            ('{{{base_items}}}'::uuid[])[1 + (hashint8(n) & {mask})],
            at
        from generate_series({first}::bigint, {last}) n
        cross join lateral (
            select to_timestamp({now} - {SPAN_SECONDS} * (({events} - n) / {events}::float8) ^ 2) as at offset 0
        ) as moments",
        mask = BASE_ITEMS - 1,
    )
}

/// How to make again what was dropped.
struct Indexes {
    made_side_by_side: Vec<String>,
    /// Foreign keys need the primary key that they refer to.
    made_afterwards: Vec<String>,
}

/// Drops the indexes of the items, whichever the schema has: to make one of all rows takes far less than to add to it row
/// by row.
async fn set_aside(cluster: &Cluster, database: &str) -> Outcome<Indexes> {
    let constraints = "
        select conrelid::regclass::text, conname::text, pg_get_constraintdef(oid), contype = 'f'
        from pg_constraint
        where (contype = 'f' and confrelid = 'items'::regclass) or (contype in ('p', 'u') and conrelid = 'items'::regclass)
        order by contype = 'f' desc";
    let (mut made_side_by_side, mut made_afterwards) = (Vec::new(), Vec::new());
    for row in cluster.rows(database, constraints).await? {
        let (table, name, definition): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let made = format!("alter table {table} add constraint {name} {definition}");
        if row.get(3) {
            made_afterwards.push(made);
        } else {
            made_side_by_side.push(made);
        }
        cluster.execute(database, &format!("alter table {table} drop constraint {name}")).await?;
    }
    let indexes =
        "select indexname::text, indexdef from pg_indexes where schemaname = 'public' and tablename = 'items'";
    for row in cluster.rows(database, indexes).await? {
        cluster.execute(database, &format!("drop index {}", row.get::<_, String>(0))).await?;
        made_side_by_side.push(row.get(1));
    }
    Ok(Indexes { made_side_by_side, made_afterwards })
}
