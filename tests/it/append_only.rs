//! The database itself keeps the ledger as it was, whoever connects.

use newcycle::database::Database;
use sqlx::postgres::PgDatabaseError;
use sqlx::{AssertSqlSafe, PgExecutor};

use crate::harness::database;

const TABLES: [&str; 4] = ["base_items", "users", "items", "transfers"];

/// A ledger with two of everything, as psql would fill it.
async fn filled() -> Database {
    let database = database().await;
    let statement = "
        insert into base_items (description) values ('chair'), ('table');
        insert into users default values;
        insert into users default values;
        insert into items (base_item_id) select id from base_items;
        insert into transfers (item_id, owner_id) select i.id, u.id from items i, (select id from users limit 1) u";
    sqlx::raw_sql(statement).execute(&database.pool).await.expect("rows can be inserted");
    database
}

/// Everything that is in the ledger, as text.
async fn content(database: &Database) -> String {
    sqlx::query_scalar(
        "select (select json_agg(b order by id) from base_items b)::text
            || (select json_agg(u order by id) from users u)::text
            || (select json_agg(i order by id) from items i)::text
            || (select json_agg(t order by id) from transfers t)::text",
    )
    .fetch_one(&database.pool)
    .await
    .expect("the ledger can be read")
}

/// Runs the statement, which the database must refuse because the ledger is append-only.
async fn assert_refused(executor: impl PgExecutor<'_>, statement: &str) {
    let error = sqlx::query(AssertSqlSafe(statement)).execute(executor).await.expect_err(statement);
    let error = error.as_database_error().expect(statement).downcast_ref::<PgDatabaseError>();
    assert_eq!(error.code(), "23001", "{statement}: {error}");
    assert!(error.message().contains("append-only"), "{statement}: {error}");
    assert!(error.detail().is_some_and(|detail| detail.contains("never changed or removed")), "{statement}: {error:?}");
    assert!(error.hint().is_some_and(|hint| hint.contains("Insert a new row")), "{statement}: {error:?}");
}

#[tokio::test]
async fn rows_can_be_neither_changed_nor_removed() {
    let database = filled().await;
    let before = content(&database).await;
    for table in TABLES {
        for statement in [
            format!("update {table} set id = gen_random_uuid()"),
            format!("update {table} set id = id"),
            format!("update {table} set id = id where false"),
            format!("delete from {table}"),
            format!("delete from {table} where false"),
            format!("delete from only {table}"),
            format!("truncate {table} cascade"),
            "truncate base_items, users, items, transfers".to_owned(),
            format!("with gone as (delete from {table} returning 1) select count(*) from gone"),
            format!("insert into {table} select * from {table} on conflict (id) do update set id = excluded.id"),
            format!("merge into {table} using (values (1)) as v on true when matched then delete"),
            format!(
                "merge into {table} using (values (1)) as v on true when matched then update set id = gen_random_uuid()"
            ),
        ] {
            assert_refused(&database.pool, &statement).await;
        }
        assert_eq!(content(&database).await, before, "{table}");
    }
    assert_refused(&database.pool, "update transfers set \"timestamp\" = now() - interval '1 day'").await;
    assert_refused(&database.pool, "update base_items set description = 'throne'").await;
    assert_eq!(content(&database).await, before);
}

/// The refusal is a rule of the tables, not a lack of rights: it holds for the owner, and for whoever gets all rights.
#[tokio::test]
async fn rights_do_not_help() {
    let database = filled().await;
    for table in TABLES {
        // Roles belong to the whole cluster: this one lasts as long as the transaction.
        let mut transaction = database.pool.begin().await.expect("a transaction");
        let grant = "create role editor; grant all on all tables in schema public to editor; set local role editor";
        sqlx::raw_sql(grant).execute(&mut *transaction).await.expect("a role with all rights");
        assert_refused(&mut *transaction, &format!("delete from {table}")).await;
    }
}

/// Every constraint that says what a row may be holds for psql as it does for the REST interface.
#[tokio::test]
async fn rows_that_the_rest_interface_would_refuse_are_refused_from_psql_too() {
    let database = filled().await;
    let before = content(&database).await;
    for (statement, constraint) in [
        ("insert into base_items (description) values ('')", "base_items_description_length"),
        ("insert into base_items (description) values (repeat('x', 10001))", "base_items_description_length"),
        (
            "insert into base_items (id, description) values ('00000000-0000-0000-0000-000000000000', 'nil')",
            "base_items_id_not_nil",
        ),
        (
            "insert into base_items (description, created_at) values ('old', '0001-12-31T00:00:00Z BC')",
            "base_items_created_at_range",
        ),
        ("insert into users (created_at) values ('-infinity')", "users_created_at_range"),
        ("insert into users (created_at) values ('infinity')", "users_created_at_not_in_future"),
        ("insert into users (created_at) values (now() + interval '6 minutes')", "users_created_at_not_in_future"),
        ("insert into items (base_item_id) values (gen_random_uuid())", "items_base_item_id_fkey"),
        (
            "insert into items (base_item_id, created_at) select id, now() + interval '6 minutes' from base_items",
            "items_created_at_not_in_future",
        ),
        (
            "insert into transfers (item_id, owner_id) select id, gen_random_uuid() from items",
            "transfers_owner_id_fkey",
        ),
        ("insert into transfers (item_id, owner_id) select gen_random_uuid(), id from users", "transfers_item_id_fkey"),
        (
            "insert into transfers (item_id, owner_id, \"timestamp\")
                select i.id, u.id, now() + interval '6 minutes' from items i, users u",
            "transfers_timestamp_not_in_future",
        ),
    ] {
        let error = sqlx::query(statement).execute(&database.pool).await.expect_err(statement);
        let error = error.as_database_error().expect(statement);
        assert_eq!(error.constraint(), Some(constraint), "{statement}: {error}");
        assert_eq!(content(&database).await, before, "{statement}");
    }
}

#[tokio::test]
async fn ids_from_psql_are_time_ordered_too() {
    let database = database().await;
    sqlx::raw_sql("insert into users default values; insert into users default values")
        .execute(&database.pool)
        .await
        .expect("users");
    let ids: Vec<uuid::Uuid> = sqlx::query_scalar("select id from users").fetch_all(&database.pool).await.expect("ids");
    assert_eq!(ids.len(), 2);
    assert!(ids.iter().all(|id| id.get_version_num() == 7), "{ids:?}");
    let now = uuid::Uuid::now_v7();
    let millis = |id: &uuid::Uuid| id.as_u128() >> 80;
    assert!(
        ids.iter().all(|id| millis(&now).abs_diff(millis(id)) < 60_000),
        "{ids:?}: the first 48 bits are milliseconds"
    );
}
