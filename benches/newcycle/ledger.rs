//! A ledger of many millions of events, made as fast as Postgres can.

use std::ops::RangeInclusive;
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::SinkExt;
use futures_util::future::try_join_all;
use uuid::Uuid;

use crate::cluster::{Cluster, TEMPLATE, base_item};
use crate::figures::number;
use crate::schedule::Random;
use crate::{Outcome, tell};

/// Over how many seconds before now the events are spread: four years.
pub(crate) const SPAN_SECONDS: u32 = 4 * 365 * 86_400;
/// Of so many base items.
pub(crate) const KINDS: usize = 5;
/// What Postgres is given to make it with, for 50 million events some 20 GB of disk. WAL of the bulk is not needed by anyone, checkpoints only get in the way, and
/// vacuum comes when we say so; reading, which is what is measured afterwards, is not touched by any of it.
pub(crate) const SETTINGS: [(&str, &str); 5] = [
    ("wal_level", "minimal"),
    ("max_wal_senders", "0"),
    ("max_wal_size", "16GB"),
    ("maintenance_work_mem", "1GB"),
    ("autovacuum", "off"),
];
/// What is sent to Postgres at once.
const PIECE: usize = 256 * 1024;
/// Postgres counts microseconds from the year 2000 on.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;
/// For the session that counts everything anew.
const REBUILD: &str = "set work_mem = '256MB'; select statistics.rebuild()";

/// Makes a database with so many items, created over [`SPAN_SECONDS`] up to `now` (in seconds since 1970): the later, the
/// denser (the n-th newest of N is `span · (n/N)²` old). The statistics are counted by `statistics.rebuild()`.
pub(crate) async fn make(cluster: &Cluster, database: &str, events: u64, now: i64) -> Outcome<()> {
    let step = |what: &str, begin: Instant| -> Outcome<()> {
        tell(&format!("  {database}: {what} in {} s", number(begin.elapsed().as_secs_f64())));
        Ok(())
    };
    let begin = Instant::now();
    cluster.copy(TEMPLATE, database).await?;
    let indexes = set_aside(cluster, database).await?;
    let sessions = std::thread::available_parallelism()?.get() as u64;
    let parts = (0..sessions).map(|part| {
        let rows = events * part / sessions + 1..=events * (part + 1) / sessions;
        load(cluster, database, rows, events, now)
    });
    try_join_all(parts).await?;
    step(&format!("{} items", number(events as f64)), begin)?;

    // The one takes a core, the others take what is left.
    let begin = Instant::now();
    cluster.execute(database, "analyze items").await?;
    let statistics = async {
        cluster.execute(database, REBUILD).await?;
        step("statistics", begin)
    };
    let made = async {
        let made = indexes.made_side_by_side.iter().map(|statement| cluster.execute(database, statement));
        try_join_all(made).await?;
        step("indexes", begin)
    };
    tokio::try_join!(statistics, made)?;
    for statement in &indexes.made_afterwards {
        cluster.execute(database, statement).await?;
    }

    let begin = Instant::now();
    cluster.execute(database, "vacuum (analyze)").await?;
    cluster.settle().await?;
    step("vacuum", begin)
}

/// Rows `first..=last` of `events`, oldest first, in binary form. The triggers are silent for a session that says it
/// replays what another server has checked.
async fn load(cluster: &Cluster, database: &str, rows: RangeInclusive<u64>, events: u64, now: i64) -> Outcome<()> {
    let client = cluster.connect(database).await?;
    client.batch_execute("set session_replication_role = replica").await?;
    let statement = "copy items (id, base_item_id, created_at) from stdin with (format binary)";
    let mut sink = std::pin::pin!(client.copy_in::<_, Bytes>(statement).await?);
    let base_items = (0..KINDS).map(|number| base_item(number).parse()).collect::<Result<Vec<Uuid>, _>>()?;
    let mut random = Random::new();
    let mut piece = BytesMut::new();
    piece.extend_from_slice(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
    for row in rows {
        let age = f64::from(SPAN_SECONDS) * ((events - row) as f64 / events as f64).powi(2);
        let microseconds = now * 1_000_000 - (age * 1e6) as i64;
        let milliseconds = u64::try_from(microseconds / 1_000)?;
        // Version 7: milliseconds, then what tells them apart; the variant is in the two highest bits of the second half.
        let id = u128::from((milliseconds << 16) | 0x7000 | (row & 0xfff)) << 64 | u128::from(row | 1 << 63);
        piece.put_i16(3);
        piece.put_i32(16);
        piece.put_u128(id);
        piece.put_i32(16);
        piece.put_u128(random.of(&base_items).as_u128());
        piece.put_i32(8);
        piece.put_i64(microseconds - POSTGRES_EPOCH);
        if piece.len() >= PIECE {
            sink.send(piece.split().freeze()).await?;
        }
    }
    piece.put_i16(-1);
    sink.send(piece.freeze()).await?;
    sink.finish().await?;
    Ok(())
}

/// How to make again what was dropped.
struct Indexes {
    /// These do not get into each other's way, nor into that of who reads the table.
    made_side_by_side: Vec<String>,
    /// Constraints, in order: primary keys, then the foreign keys that refer to them.
    made_afterwards: Vec<String>,
}

/// Drops the indexes of the items, whichever the schema has: to make one of all rows takes far less than to add to it
/// row by row.
async fn set_aside(cluster: &Cluster, database: &str) -> Outcome<Indexes> {
    let definitions =
        "select indexname::text, indexdef from pg_indexes where schemaname = 'public' and tablename = 'items'";
    let definitions = cluster.rows(database, definitions).await?;
    let made_side_by_side = definitions.iter().map(|row| row.get(1)).collect();
    let constraints = "
        select conrelid::regclass::text, conname::text, case contype
            when 'p' then format('primary key using index %I', conname)
            when 'u' then format('unique using index %I', conname)
            else pg_get_constraintdef(oid)
        end
        from pg_constraint
        where (contype = 'f' and confrelid = 'items'::regclass) or (contype in ('p', 'u') and conrelid = 'items'::regclass)
        order by contype = 'f' desc";
    let mut made_afterwards = Vec::new();
    for row in cluster.rows(database, constraints).await? {
        let (table, name, definition): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        cluster.execute(database, &format!("alter table {table} drop constraint {name}")).await?;
        made_afterwards.insert(0, format!("alter table {table} add constraint {name} {definition}"));
    }
    for row in &definitions {
        cluster.execute(database, &format!("drop index if exists {}", row.get::<_, String>(0))).await?;
    }
    Ok(Indexes { made_side_by_side, made_afterwards })
}
