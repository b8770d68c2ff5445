//! A database that an earlier version filled goes on with this one.

use newcycle::database::Database;
use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, Executor, PgPool};

use crate::harness::{connect, empty_database};

/// Brings an empty database as far as the earlier version did, by the first so many migrations.
async fn earlier(migrations: usize) -> Database {
    let database = connect(&empty_database().await).await;
    let directory = tempfile::tempdir().expect("a directory");
    let mut files: Vec<_> = std::fs::read_dir("migrations").unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in &files[..migrations] {
        std::fs::copy(file, directory.path().join(file.file_name().unwrap())).unwrap();
    }
    Migrator::new(directory.path()).await.expect("migrations").run(&database.pool).await.expect("an earlier schema");
    database
}

/// Items, users and transfers over two days and over two years, a part of them folded.
async fn fill(pool: &PgPool) {
    pool.execute(
        "insert into base_items (description) select 'kind ' || n from generate_series(1, 3) n;
        insert into users select from generate_series(1, 4)",
    )
    .await
    .unwrap();
    for (fold, step) in [(true, "17 minutes"), (true, "23 hours"), (false, "31 minutes"), (false, "11 days")] {
        let fill = format!(
            "insert into items (base_item_id, created_at)
                select (array(select id from base_items))[1 + n % 3], now() - n * interval '{step}' from generate_series(1, 170) n;
            insert into transfers (item_id, owner_id, timestamp)
                select (array(select id from items))[1 + n % 30], (array(select id from users))[1 + n % 4],
                    now() - n * interval '{step}'
                from generate_series(1, 170) n"
        );
        pool.execute(AssertSqlSafe(fill)).await.unwrap();
        if fold {
            pool.execute("select statistics.fold()").await.unwrap();
        }
    }
}

async fn series(pool: &PgPool) -> String {
    sqlx::query_scalar(
        "select string_agg(format('%s %s %s %s %s', metric, resolution, zone, s.bucket, s.count), e'\\n'
            order by metric, resolution, zone, b.id, s.bucket)
        from unnest(array['transfers', 'item-creation', 'user-creation']) as metric
        cross join unnest(array['millisecond', 'second', 'minute', 'hour', 'day', 'week', 'month', 'year']) as resolution
        cross join unnest(array['UTC', 'Asia/Kathmandu']) as zone
        cross join (select id from base_items union all select null) as b (id)
        cross join lateral reporting.series(metric, resolution, timezone => zone, base_item_id => b.id, fill => false) s
        where b.id is null or metric <> 'user-creation'",
    )
    .fetch_one(pool)
    .await
    .expect("series")
}

#[tokio::test]
async fn a_database_of_the_first_version_goes_on() {
    let database = earlier(3).await;
    let pool = &database.pool;
    fill(pool).await;
    let before = series(pool).await;
    database.migrate().await.expect("an upgrade");

    let wrong: i64 = sqlx::query_scalar("select count(*) from statistics.differences()").fetch_one(pool).await.unwrap();
    assert_eq!(wrong, 0);
    assert!(series(pool).await == before, "the same figures");
    let kept: bool = sqlx::query_scalar("select count(*) > 0 from statistics.seconds").fetch_one(pool).await.unwrap();
    assert!(kept, "recent seconds stay");

    for _ in 0..2 {
        pool.execute("select statistics.fold()").await.unwrap();
        pool.execute("insert into users default values").await.unwrap();
        let wrong: i64 =
            sqlx::query_scalar("select count(*) from statistics.differences()").fetch_one(pool).await.unwrap();
        assert_eq!(wrong, 0);
    }
    let mut reader = pool.acquire().await.unwrap();
    reader.execute("set role newcycle_reader; select * from reporting.totals; reset role").await.expect("a reader");
}
