//! Statements that must not get slower as tables grow: which way Postgres goes through them.

use newcycle::statistics::{Position, query};
use sqlx::Executor;
use sqlx::postgres::PgPoolOptions;

use crate::harness;

/// A table of deltas that is read from end to end, many times a second, is all that a busy server then does.
#[tokio::test]
async fn what_is_recent_is_found_without_reading_all_deltas() {
    let url = harness::url(&harness::new_database().await).await;
    let pool = PgPoolOptions::new().max_connections(1).connect(&url).await.expect("a connection");
    let fold = "select statistics.fold()";
    let many = "insert into users (created_at) select now() - n * interval '1 second' from generate_series(1, 30000) n";
    for statement in [many, fold] {
        pool.execute(statement).await.unwrap();
    }
    // What a session has done is in the view once it was told to say so, and the statement after that.
    let scans = async || {
        pool.execute("select pg_stat_force_next_flush()").await.unwrap();
        let (all, by_index): (i64, i64) = sqlx::query_as(
            "select seq_scan, idx_scan from pg_stat_user_tables where schemaname = 'statistics' and relname = 'deltas'",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        (all, by_index)
    };
    let before = scans().await;
    // More often than Postgres plans a statement for its parameters: after that it plans it for any.
    for _ in 0..8 {
        let query::Changes { epoch, snapshot, .. } = query::present(&pool).await.unwrap();
        let position = Position { epoch, snapshot, heard: Default::default() };
        pool.execute("insert into users default values").await.unwrap();
        let changes = query::changes_since(&pool, &position).await.unwrap();
        assert_eq!(changes.deltas.map(|deltas| deltas.len()), Some(1));
        assert_eq!(sqlx::query_scalar::<_, i64>(fold).fetch_one(&pool).await.unwrap(), 1);
    }
    let after = scans().await;
    assert_eq!(after.0, before.0, "read from end to end");
    assert!(after.1 > before.1);
}
