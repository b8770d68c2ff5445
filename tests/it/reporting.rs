//! The `reporting` schema: what analysts get with psql.

use chrono::{DateTime, TimeDelta, Utc};
use newcycle::statistics::{Calendar, Resolution, date_time};
use sqlx::{AssertSqlSafe, Executor, PgPool, Row};

use crate::harness::database;

const ZONES: [&str; 9] = [
    "UTC",
    "Europe/Berlin",
    "America/St_Johns",
    "America/Havana",
    "Atlantic/Azores",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Apia",
];

/// A small ledger: 3 kinds, 4 users, 30 items, 200 transfers over two years up to now.
async fn seed(pool: &PgPool) {
    pool.execute(
        "insert into base_items (description) select 'kind ' || n from generate_series(1, 3) n;
        insert into users select from generate_series(1, 4);
        insert into items (base_item_id, created_at)
            select (array(select id from base_items))[1 + n % 3], now() - n * interval '24 days' from generate_series(1, 30) n;
        insert into transfers (item_id, owner_id, timestamp)
            select (array(select id from items))[1 + n % 30], (array(select id from users))[1 + n % 4],
                now() - n * interval '87 hours 31 minutes'
            from generate_series(1, 200) n;",
    )
    .await
    .expect("a seed");
}

async fn single<T>(pool: &PgPool, sql: &str) -> T
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
{
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(pool).await.expect(sql)
}

#[tokio::test]
async fn the_queries_of_the_readme_run_for_a_reader() {
    let database = database().await;
    seed(&database.pool).await;
    let readme = std::fs::read_to_string("README.md").expect("README.md");
    let block = readme.split("```sql").nth(1).and_then(|rest| rest.split("```").next()).expect("a block of SQL");
    let mut reader = database.pool.acquire().await.unwrap();
    reader.execute("set role newcycle_reader").await.unwrap();
    let queries: Vec<_> = block.split(';').map(str::trim).filter(|query| !query.is_empty()).collect();
    assert_eq!(queries.len(), 6);
    for query in queries {
        let rows = sqlx::query(AssertSqlSafe(query.to_owned())).fetch_all(&mut *reader).await.expect(query);
        assert!(!rows.is_empty(), "{query}");
    }
    reader.execute("reset role").await.unwrap();
}

#[tokio::test]
async fn a_reader_may_not_write() {
    let database = database().await;
    let mut reader = database.pool.acquire().await.unwrap();
    reader.execute("set role newcycle_reader").await.unwrap();
    for statement in [
        "insert into users default values",
        "insert into statistics.deltas (metric, base_item_id, bucket, count) values ('transfers', gen_random_uuid(), now(), 1)",
        "delete from statistics.rollups",
        "create table public.mine ()",
    ] {
        let error = reader.execute(statement).await.expect_err(statement);
        assert!(error.to_string().contains("permission denied"), "{statement}: {error}");
    }
    reader.execute("reset role").await.unwrap();
}

#[tokio::test]
async fn a_series_has_every_bucket_and_adds_up_to_the_ledger() {
    let database = database().await;
    let pool = &database.pool;
    seed(pool).await;
    for fold in [false, true] {
        if fold {
            pool.execute("select statistics.fold()").await.unwrap();
        }
        for (resolution, days) in [
            ("second", 1),
            ("minute", 8),
            ("hour", 40),
            ("day", 400),
            ("week", 400),
            ("month", 400),
            ("quarter", 800),
            ("year", 2000),
        ] {
            for zone in ["UTC", "Europe/Berlin", "Asia/Kathmandu"] {
                let rows = sqlx::query(
                    "select bucket, count, lead(bucket) over (order by bucket) as next,
                        statistics.bucket_end($1, $2, bucket) as bucket_end
                    from reporting.series('transfers', $1, now() - $3 * interval '1 day', now(), $2)",
                )
                .bind(resolution)
                .bind(zone)
                .bind(days)
                .fetch_all(pool)
                .await
                .unwrap();
                let sum: i64 = rows.iter().map(|row| row.get::<i64, _>("count")).sum();
                let first: DateTime<Utc> = rows[0].get("bucket");
                let expected: i64 = sqlx::query_scalar("select count(*) from transfers where timestamp >= $1")
                    .bind(first)
                    .fetch_one(pool)
                    .await
                    .unwrap();
                assert_eq!(sum, expected, "{resolution} {zone}");
                for row in &rows {
                    let next: Option<DateTime<Utc>> = row.get("next");
                    assert!(next.is_none_or(|next| next == row.get::<DateTime<Utc>, _>("bucket_end")), "no gap");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_series_of_milliseconds_is_exact() {
    let database = database().await;
    let pool = &database.pool;
    seed(pool).await;
    pool.execute("insert into users select from generate_series(1, 7)").await.unwrap();
    let (rows, sum): (i64, i64) = sqlx::query_as(
        "select count(*), sum(count)::bigint from reporting.series(
            'user-creation', 'millisecond', (select max(created_at) from users), clock_timestamp())",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    assert!(rows >= 1);
    assert_eq!(sum, 7);
}

#[tokio::test]
async fn a_question_that_makes_no_sense_is_refused_with_a_hint() {
    let database = database().await;
    for (query, hint) in [
        ("select * from reporting.series('sales', 'day')", "unknown metric \"sales\""),
        ("select * from reporting.series('transfers', 'days')", "unknown resolution \"days\""),
        (
            "select * from reporting.series('transfers', 'day', now() - interval '1 day', timezone => 'Mars/Olympus')",
            "time zone \"Mars/Olympus\" not recognized",
        ),
    ] {
        let error = database.pool.execute(query).await.expect_err(query);
        assert!(error.to_string().contains(hint), "{query}: {error}");
    }
}

#[tokio::test]
async fn owners_and_holdings_agree_with_the_transfers() {
    let database = database().await;
    let pool = &database.pool;
    seed(pool).await;
    for moment in ["now()", "now() - interval '200 days'", "now() - interval '3 years'"] {
        // The owner by definition: nobody received the item later.
        let disagreements: i64 = single(
            pool,
            &format!(
                "with defined as (
                    select t.item_id, t.owner_id from transfers t
                    where t.timestamp <= {moment} and not exists (
                        select from transfers later
                        where later.item_id = t.item_id and later.timestamp <= {moment}
                            and (later.timestamp, later.id) > (t.timestamp, t.id)
                    )
                ), told as (
                    select i.id, o.owner_id from items i cross join lateral reporting.owner_at(i.id, {moment}) o
                ), held as (
                    select h.item_id, u.id from users u cross join lateral reporting.holdings(u.id, {moment}) h
                )
                select (select count(*) from (table defined except table told) a)
                    + (select count(*) from (table told except table held) b)
                    + (select count(*) from (table held except table defined) c)"
            ),
        )
        .await;
        assert_eq!(disagreements, 0, "{moment}");
    }
    let current: i64 = single(
        pool,
        "select count(*) from reporting.current_owners c join lateral reporting.owner_at(c.item_id) o using (owner_id, since, transfer_id)",
    )
    .await;
    assert_eq!(current, 30);
}

#[tokio::test]
async fn everything_is_explained() {
    let database = database().await;
    let unexplained: i64 = single(
        &database.pool,
        "select (select count(*) from pg_class
                where relnamespace = 'reporting'::regnamespace and obj_description(oid, 'pg_class') is null)
            + (select count(*) from pg_proc
                where pronamespace = 'reporting'::regnamespace and obj_description(oid, 'pg_proc') is null)",
    )
    .await;
    assert_eq!(unexplained, 0);
}

/// Postgres and the server cut time in the same way: around every change of the clocks, and at moments in between.
#[tokio::test]
async fn buckets_in_sql_are_the_buckets_of_the_server() {
    let database = database().await;
    let pool = &database.pool;
    for zone in ZONES {
        let tz = zone.parse().unwrap();
        let mut moments: Vec<i64> = Vec::new();
        // Around every third change of the zone's clocks from 1975 to 2025.
        let (start, end) = (157_766_400_000_i64, 1_767_225_600_000_i64);
        let changes: Vec<DateTime<Utc>> = sqlx::query_scalar(
            "select at from generate_series($1::timestamptz, $2::timestamptz, interval '30 minutes') at
            where statistics.zone_offset($3, at) <> statistics.zone_offset($3, at - interval '30 minutes')",
        )
        .bind(date_time(start))
        .bind(date_time(end))
        .bind(zone)
        .fetch_all(pool)
        .await
        .unwrap();
        for change in changes.iter().step_by(3) {
            for minutes in [-61, -30, -1, 0, 1, 29, 45, 60, 90, 150] {
                moments.push((*change + TimeDelta::minutes(minutes)).timestamp_millis());
            }
        }
        moments.extend((start..end).step_by(16_000_000_000));
        for resolution in &Resolution::ALL[3..] {
            let calendar = Calendar { resolution: *resolution, zone: tz };
            let rows: Vec<(DateTime<Utc>, DateTime<Utc>, DateTime<Utc>)> = sqlx::query_as(
                "select at, s, statistics.bucket_end($1, $2, s)
                from unnest($3::timestamptz[]) at
                cross join lateral (select statistics.bucket_start($1, $2, at) as s offset 0) as starts",
            )
            .bind(resolution.name())
            .bind(zone)
            .bind(moments.iter().copied().map(date_time).collect::<Vec<_>>())
            .fetch_all(pool)
            .await
            .unwrap();
            assert_eq!(rows.len(), moments.len());
            for (at, start, end) in rows {
                let expected = calendar.start_of(at.timestamp_millis());
                assert_eq!(start.timestamp_millis(), expected, "{resolution} of {at} in {zone}");
                assert_eq!(end.timestamp_millis(), calendar.end_of(expected), "end of {resolution} of {at} in {zone}");
            }
        }
    }
}

#[tokio::test]
async fn every_index_says_what_it_is_for() {
    let database = database().await;
    let unexplained: Vec<String> = sqlx::query_scalar(
        "select indexrelid::regclass::text from pg_index join pg_class c on c.oid = indexrelid
        where c.relnamespace in ('public'::regnamespace, 'statistics'::regnamespace)
            and not exists (select from pg_constraint where conindid = indexrelid)
            and obj_description(indexrelid, 'pg_class') is null",
    )
    .fetch_all(&database.pool)
    .await
    .unwrap();
    assert!(unexplained.is_empty(), "{unexplained:?}");
}
