//! Items and transfers have parents. The database sees to it, whoever writes, and refuses orphans as a foreign key would.

use sqlx::postgres::{PgConnection, PgDatabaseError};
use sqlx::{AssertSqlSafe, Connection, Executor, PgPool};

use crate::harness::{connect, database, dump, empty_database, new_database, psql, url};

const MISSING: &str = "00000000-0000-7000-8000-00000000dead";

/// One of everything, with ids that a statement can name.
const SEED: &str = "
    insert into base_items (id, description) values ('00000000-0000-7000-8000-000000000001', 'chair');
    insert into users (id) values ('00000000-0000-7000-8000-000000000002');
    insert into items (id, base_item_id) values
        ('00000000-0000-7000-8000-000000000003', '00000000-0000-7000-8000-000000000001');
    insert into transfers (item_id, owner_id) values
        ('00000000-0000-7000-8000-000000000003', '00000000-0000-7000-8000-000000000002')";

/// Runs the statement, which must be refused exactly as Postgres refuses an orphan; the parent that it lacks.
async fn refused(connection: &mut PgConnection, statement: &str, table: &str, column: &str, parent: &str) {
    let error = connection.execute(AssertSqlSafe(statement)).await.expect_err(statement);
    let error = error.as_database_error().expect(statement).downcast_ref::<PgDatabaseError>();
    let constraint = format!("{table}_{column}_fkey");
    assert_eq!(error.code(), "23503", "{error}");
    assert_eq!(error.constraint(), Some(constraint.as_str()), "{error}");
    assert_eq!((error.schema(), error.table()), (Some("public"), Some(table)), "{error}");
    let message = format!("insert or update on table \"{table}\" violates foreign key constraint \"{constraint}\"");
    assert_eq!(error.message(), message);
    let detail = format!("Key ({column})=({MISSING}) is not present in table \"{parent}\".");
    assert_eq!(error.detail(), Some(detail.as_str()));
}

async fn rows(pool: &PgPool) -> (i64, i64, i64) {
    sqlx::query_as(
        "select (select count(*) from items), (select count(*) from transfers), (select count(*) from statistics.deltas)",
    )
    .fetch_one(pool)
    .await
    .expect("the tables can be counted")
}

#[tokio::test]
async fn an_orphan_is_refused_as_a_foreign_key_does_it() {
    let database = database().await;
    database.pool.execute(SEED).await.unwrap();
    let before = rows(&database.pool).await;
    let mut client = database.pool.acquire().await.unwrap();
    let orphans = [
        (format!("insert into items (base_item_id) values ('{MISSING}')"), ("items", "base_item_id", "base_items")),
        (
            format!("insert into transfers (item_id, owner_id) select id, '{MISSING}' from items"),
            ("transfers", "owner_id", "users"),
        ),
        (
            format!("insert into transfers (item_id, owner_id) select '{MISSING}', id from users"),
            ("transfers", "item_id", "items"),
        ),
        // The last of many.
        (
            format!(
                "insert into items (base_item_id)
                select case when n < 3000 then b.id else '{MISSING}' end from base_items b, generate_series(1, 3000) n"
            ),
            ("items", "base_item_id", "base_items"),
        ),
        (
            format!(
                "insert into transfers (item_id, owner_id)
                select i.id, case when n < 3000 then u.id else '{MISSING}' end
                from items i, users u, generate_series(1, 3000) n"
            ),
            ("transfers", "owner_id", "users"),
        ),
        (
            format!(
                "insert into transfers (item_id, owner_id)
                select case when n < 3000 then i.id else '{MISSING}' end, u.id
                from items i, users u, generate_series(1, 3000) n"
            ),
            ("transfers", "item_id", "items"),
        ),
    ];
    for (statement, (table, column, parent)) in orphans {
        refused(&mut client, &statement, table, column, parent).await;
        assert_eq!(rows(&database.pool).await, before, "{statement}");
    }
}

#[tokio::test]
async fn an_orphan_that_comes_with_copy_is_refused_with_all_that_came_with_it() {
    let database = database().await;
    database.pool.execute(SEED).await.unwrap();
    let before = rows(&database.pool).await;
    let mut client = database.pool.acquire().await.unwrap();
    let mut copy = client.copy_in_raw("copy items (base_item_id) from stdin").await.unwrap();
    copy.send(format!("00000000-0000-7000-8000-000000000001\n{MISSING}\n").into_bytes()).await.unwrap();
    let error = copy.finish().await.expect_err("an orphan");
    let constraint = error.as_database_error().and_then(|error| error.constraint());
    assert_eq!(constraint, Some("items_base_item_id_fkey"), "{error}");
    assert_eq!(rows(&database.pool).await, before);
}

#[tokio::test]
async fn parents_and_children_may_come_in_one_statement() {
    let database = database().await;
    let pool = &database.pool;
    for n in 1..=2 {
        pool.execute(
            "with kind as (insert into base_items (description) values ('lamp') returning id),
                owner as (insert into users default values returning id),
                piece as (insert into items (base_item_id) select id from kind returning id)
            insert into transfers (item_id, owner_id) select piece.id, owner.id from piece, owner",
        )
        .await
        .expect("a whole family");
        assert_eq!(rows(pool).await, (n, n, 3 * n));
    }
    let differences: i64 =
        sqlx::query_scalar("select count(*) from statistics.differences()").fetch_one(pool).await.unwrap();
    assert_eq!(differences, 0);
}

#[tokio::test]
async fn a_parent_counts_once_it_is_committed() {
    let database = database().await;
    database.pool.execute(SEED).await.unwrap();
    let mut parents = database.pool.acquire().await.unwrap();
    let mut children = database.pool.acquire().await.unwrap();
    let kind = format!("insert into base_items (id, description) values ('{MISSING}', 'late')");
    let piece = format!("insert into items (base_item_id) values ('{MISSING}')");

    let mut open = parents.begin().await.unwrap();
    open.execute(AssertSqlSafe(kind)).await.unwrap();
    open.execute(AssertSqlSafe(piece.clone())).await.expect("a parent of the same transaction");
    refused(&mut children, &piece, "items", "base_item_id", "base_items").await;

    let mut earlier = children.begin_with("begin isolation level repeatable read").await.unwrap();
    earlier.execute("select").await.unwrap();
    open.commit().await.unwrap();
    refused(&mut earlier, &piece, "items", "base_item_id", "base_items").await;
    earlier.rollback().await.unwrap();

    children.execute(AssertSqlSafe(piece)).await.expect("a parent that is there");
}

/// A dump is restored before the triggers are there, and they are there afterwards.
#[tokio::test]
async fn a_dump_can_be_restored() {
    let original = new_database().await;
    connect(&original).await.pool.execute(SEED).await.unwrap();
    let restored = empty_database().await;
    let Some(everything) = dump(&original, &[]).await else { return };
    psql(&restored, &["-q"], &everything).await;
    are_alike(&original, &restored).await;

    let restored = new_database().await;
    let rows_only = ["--data-only", "--disable-triggers", "--schema=public", "--exclude-table=_sqlx_migrations"];
    let Some(rows_only) = dump(&original, &rows_only).await else { return };
    psql(&restored, &["-q"], &rows_only).await;
    psql(&restored, &["-q", "-c", "select statistics.rebuild()"], "").await;
    are_alike(&original, &restored).await;
}

async fn are_alike(original: &str, restored: &str) {
    let original = connect(original).await;
    let restored = connect(restored).await;
    restored.migrate().await.expect("nothing is missing");
    let content = "select concat((select json_agg(b) from base_items b), (select json_agg(u) from users u),
        (select json_agg(i) from items i), (select json_agg(t) from transfers t),
        (select json_agg(s order by metric) from reporting.totals s), (select count(*) from statistics.differences()))";
    let mut contents = Vec::new();
    for database in [&original, &restored] {
        contents.push(sqlx::query_scalar::<_, String>(content).fetch_one(&database.pool).await.expect("the content"));
    }
    assert_eq!(contents[0], contents[1]);
    let mut client = restored.pool.acquire().await.unwrap();
    let orphan = format!("insert into items (base_item_id) values ('{MISSING}')");
    refused(&mut client, &orphan, "items", "base_item_id", "base_items").await;
    let error = client.execute("insert into users values (default, 'infinity')").await.expect_err("the future");
    assert!(error.to_string().contains("users_created_at_not_in_future"), "{error}");
}

/// Postgres plans a trigger's statement once a connection: what is planned for many rows must do for one, too.
#[tokio::test]
async fn a_single_row_after_many_does_not_read_all_parents() {
    let name = new_database().await;
    let mut client = PgConnection::connect(&url(&name).await).await.unwrap();
    client.execute(SEED).await.unwrap();
    client
        .execute(
            "insert into users select from generate_series(1, 20000);
            insert into items (base_item_id) select id from base_items, generate_series(1, 20000);
            analyze",
        )
        .await
        .unwrap();
    let mut second = PgConnection::connect(&url(&name).await).await.unwrap();
    let many = "insert into transfers (item_id, owner_id)
        select i.id, u.id from (select row_number() over () as n, id from items) i
        join (select row_number() over () as n, id from users) u using (n)";
    second.execute(many).await.unwrap();
    let mut transaction = second.begin().await.unwrap();
    let before = parents_read_in_sequence(&mut transaction).await;
    transaction
        .execute(
            "insert into transfers (item_id, owner_id) values
            ('00000000-0000-7000-8000-000000000003', '00000000-0000-7000-8000-000000000002')",
        )
        .await
        .unwrap();
    assert_eq!(parents_read_in_sequence(&mut transaction).await - before, 0, "to find one");
}

/// How many rows this connection read without an index, in this transaction and perhaps in earlier ones.
async fn parents_read_in_sequence(connection: &mut PgConnection) -> i64 {
    sqlx::query_scalar(
        "select coalesce(sum(seq_tup_read), 0)::bigint from pg_stat_xact_user_tables where relname in ('users', 'items')",
    )
    .fetch_one(connection)
    .await
    .unwrap()
}
