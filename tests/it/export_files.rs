//! What is in the files of exports: what is in the ledger, read back by libraries that others wrote.

use std::collections::BTreeSet;
use std::io::Read;

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool, Row};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::exports::{export, file, over, start};
use crate::harness::Server;

const DATASETS: [&str; 6] = ["base-items", "users", "items", "transfers", "ownership", "statistics"];

/// A row as text, whatever it was read from: the values between bars, moments in microseconds.
fn line(values: &[String]) -> String {
    values.join("|")
}

fn value(text: &str) -> String {
    let moment = text.strip_suffix('Z').and_then(|_| text.parse::<DateTime<Utc>>().ok());
    moment.map_or_else(|| text.to_owned(), |moment| moment.timestamp_micros().to_string())
}

/// The columns and the rows of a file.
pub fn read(format: &str, compression: &str, bytes: &[u8]) -> (Vec<String>, Vec<String>) {
    let mut plain = Vec::new();
    match compression {
        _ if format == "parquet" => plain.extend_from_slice(bytes),
        "gzip" => drop(flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).expect("gzip")),
        "zstd" => drop(zstd::Decoder::new(bytes).expect("zstd").read_to_end(&mut plain).expect("zstd")),
        _ => plain.extend_from_slice(bytes),
    }
    match format {
        "csv" => {
            let mut reader = csv::Reader::from_reader(&*plain);
            let columns = reader.headers().expect("a header").iter().map(str::to_owned).collect();
            let rows =
                reader.records().map(|record| line(&record.expect("a record").iter().map(value).collect::<Vec<_>>()));
            (columns, rows.collect())
        }
        "ndjson" => {
            let mut columns = Vec::new();
            let rows = serde_json::Deserializer::from_slice(&plain).into_iter::<serde_json::Map<String, Value>>();
            let rows = rows.map(|row| {
                let row = row.expect("an object");
                columns = row.keys().cloned().collect();
                let values = row.values().map(|field| field.as_str().map_or_else(|| field.to_string(), value));
                let mut named: Vec<_> = row.keys().cloned().zip(values).collect();
                named.sort();
                named.into_iter().map(|(_, value)| value).collect::<Vec<_>>()
            });
            let rows = rows.map(|row| line(&row)).collect();
            (columns, rows)
        }
        _ => {
            let reader = SerializedFileReader::new(bytes::Bytes::copy_from_slice(bytes)).expect("a Parquet file");
            let columns = reader.metadata().file_metadata().schema().get_fields();
            let columns = columns.iter().map(|field| field.name().to_owned()).collect();
            let rows = reader.get_row_iter(None).expect("rows").map(|row| {
                let row = row.expect("a row");
                let values = row.get_column_iter().map(|(_, field)| match field {
                    Field::Bytes(bytes) => Uuid::from_slice(bytes.data()).expect("an id").to_string(),
                    Field::TimestampMicros(micros) => micros.to_string(),
                    Field::Long(number) => number.to_string(),
                    Field::Str(text) => text.clone(),
                    other => panic!("{other:?}"),
                });
                line(&values.collect::<Vec<_>>())
            });
            (columns, rows.collect())
        }
    }
}

/// What of the ledger a dataset should have, as psql would say it; the columns are in the order of their names where they
/// come from JSON, which has none.
async fn expected(pool: &PgPool, query: &str, columns: &[String], by_name: bool) -> Vec<String> {
    let rows = sqlx::query(AssertSqlSafe(query.to_owned())).fetch_all(pool).await.expect("rows");
    let mut order: Vec<_> = (0..columns.len()).collect();
    if by_name {
        order.sort_by_key(|&position| &columns[position]);
    }
    let text = |row: &sqlx::postgres::PgRow, position: usize| {
        if let Ok(id) = row.try_get::<Uuid, _>(position) {
            id.to_string()
        } else if let Ok(moment) = row.try_get::<DateTime<Utc>, _>(position) {
            moment.timestamp_micros().to_string()
        } else if let Ok(number) = row.try_get::<i64, _>(position) {
            number.to_string()
        } else {
            row.get::<String, _>(position)
        }
    };
    let lines = rows.iter().map(|row| line(&order.iter().map(|&position| text(row, position)).collect::<Vec<_>>()));
    let mut lines: Vec<_> = lines.collect();
    lines.sort();
    lines
}

/// A ledger with everything that files find hard: quotes, line breaks, commas, other scripts, moments with and without
/// fractions, and years before the clocks of computers.
async fn fill(server: &Server) {
    let pool = &server.database.pool;
    let descriptions =
        ["chair", "a \"chair\", round", "two\nlines\r\nand three", " ", "椅子 🪑", "=1+1", "\\N", "\\.", "null", "'"];
    for (number, description) in descriptions.into_iter().enumerate() {
        sqlx::query("insert into base_items (description, created_at) values ($1, $2::text::timestamptz)")
            .bind(description)
            .bind(format!("20{:02}-02-28T23:59:59.99999{number}Z", number + 10))
            .execute(pool)
            .await
            .expect(description);
    }
    for statement in [
        "insert into users (created_at) select '0001-01-01T00:00:00Z'::timestamptz + n * interval '10 years 1 microsecond'
            from generate_series(0, 200) n",
        "insert into items (base_item_id, created_at)
            select b.id, '2024-02-29T12:00:00Z'::timestamptz + n * interval '1 hour 1 millisecond'
            from base_items b, generate_series(1, 30) n",
        "insert into transfers (item_id, owner_id, timestamp)
            select i.id, u.id, i.created_at + n * interval '7 hours'
            from (select id, created_at, row_number() over () as number from items) i
            cross join generate_series(1, 3) n
            join (select id, row_number() over () as number from users) u on u.number = 1 + (i.number * n) % 200
            where i.number % 5 <> 0",
    ] {
        sqlx::query(statement).execute(pool).await.expect(statement);
    }
}

fn query(dataset: &str) -> &'static str {
    match dataset {
        "base-items" => "select id, description, created_at from base_items",
        "users" => "select id, created_at from users",
        "items" => "select id, base_item_id, created_at from items",
        "transfers" => "select id, item_id, owner_id, timestamp from transfers",
        "ownership" => "select item_id, base_item_id, owner_id, since, transfer_id from reporting.current_owners",
        _ => {
            "select metric, bucket, count from unnest(array['item-creation', 'transfers', 'user-creation']) metric,
                reporting.series(metric, 'day', fill => false)"
        }
    }
}

fn columns(dataset: &str) -> Vec<String> {
    let names = match dataset {
        "base-items" => "id description created_at",
        "users" => "id created_at",
        "items" => "id base_item_id created_at",
        "transfers" => "id item_id owner_id timestamp",
        "ownership" => "item_id base_item_id owner_id since transfer_id",
        _ => "metric time count",
    };
    names.split(' ').map(str::to_owned).collect()
}

#[tokio::test]
async fn every_dataset_is_the_same_as_in_the_ledger_in_every_format() {
    let server = Server::start().await;
    fill(&server).await;
    for dataset in DATASETS {
        let columns = columns(dataset);
        for format in ["csv", "ndjson", "parquet"] {
            let expected = expected(&server.database.pool, query(dataset), &columns, format == "ndjson").await;
            assert!(expected.len() > 1);
            for compression in ["none", "gzip", "zstd"] {
                let order = json!({"dataset": dataset, "format": format, "compression": compression});
                let export = export(&server.api, &order).await;
                assert_eq!(export["state"], "complete", "{export}");
                let bytes = file(&server.api, &export).await;
                let (found, mut rows) = read(format, compression, &bytes);
                assert_eq!(found.iter().collect::<BTreeSet<_>>(), columns.iter().collect::<BTreeSet<_>>(), "{order}");
                assert!(format == "ndjson" || found == columns, "{order}: in their order");
                rows.sort();
                assert_eq!(rows, expected, "{order}");
                assert_eq!(export["result"]["rows"], rows.len());
            }
        }
    }
}

#[tokio::test]
async fn an_empty_ledger_makes_files_without_rows() {
    let server = Server::start().await;
    for dataset in DATASETS {
        for format in ["csv", "ndjson", "parquet"] {
            let export =
                export(&server.api, &json!({"dataset": dataset, "format": format, "compression": "gzip"})).await;
            assert_eq!((&export["state"], &export["result"]["rows"]), (&json!("complete"), &json!(0)), "{export}");
            let (_, rows) = read(format, "gzip", &file(&server.api, &export).await);
            assert_eq!(rows, [] as [String; 0]);
        }
    }
}

#[tokio::test]
async fn filters_leave_out_the_others() {
    let server = Server::start().await;
    fill(&server).await;
    let pool = &server.database.pool;
    let base_item: Uuid = sqlx::query_scalar("select id from base_items where description = 'chair'")
        .fetch_one(pool)
        .await
        .expect("an id");
    let (from, to) = ("2024-03-01T00:00:00Z", "2024-03-01T08:00:00.004Z");
    let item_of = format!("item_id in (select id from items where base_item_id = '{base_item}')");
    let cases = [
        ("base-items", json!({"from": "2015-01-01T00:00:00Z"}), "created_at >= '2015-01-01T00:00:00Z'".to_owned()),
        ("users", json!({"to": "1000-01-01T00:00:00Z"}), "created_at < '1000-01-01T00:00:00Z'".to_owned()),
        ("items", json!({"from": from, "to": to}), format!("created_at >= '{from}' and created_at < '{to}'")),
        ("items", json!({"base_item_id": base_item}), format!("base_item_id = '{base_item}'")),
        ("transfers", json!({"from": from, "to": to}), format!("timestamp >= '{from}' and timestamp < '{to}'")),
        ("transfers", json!({"base_item_id": base_item, "to": to}), format!("{item_of} and timestamp < '{to}'")),
        ("ownership", json!({"base_item_id": base_item}), item_of),
    ];
    for (dataset, filter, condition) in cases {
        let mut order = json!({"dataset": dataset, "format": "csv"});
        order.as_object_mut().expect("an object").extend(filter.as_object().expect("an object").clone());
        let export = export(&server.api, &order).await;
        let (_, mut rows) = read("csv", "none", &file(&server.api, &export).await);
        rows.sort();
        let query = format!("{} where {condition}", query(dataset));
        let expected = expected(pool, &query, &columns(dataset), false).await;
        assert!(!expected.is_empty(), "{order}");
        assert_eq!(rows, expected, "{order}");
    }

    // Who owned what at a moment, one item at a time.
    let order = json!({"dataset": "ownership", "format": "csv", "to": to});
    let (_, mut rows) = read("csv", "none", &file(&server.api, &export(&server.api, &order).await).await);
    rows.sort();
    let query = format!(
        "select i.id, i.base_item_id, o.owner_id, o.since, o.transfer_id
        from items i, reporting.owner_at(i.id, '{to}'::timestamptz - interval '1 microsecond') o"
    );
    assert_eq!(rows, expected(pool, &query, &columns("ownership"), false).await);

    // Whole buckets by the clocks of a zone, which begin at odd hours of UTC.
    let order = json!({
        "dataset": "statistics", "format": "csv", "resolution": "hour", "timezone": "Asia/Kathmandu",
        "base_item_id": base_item, "from": from, "to": to,
    });
    let (_, mut rows) = read("csv", "none", &file(&server.api, &export(&server.api, &order).await).await);
    rows.sort();
    let query = format!(
        "select metric, bucket, count from unnest(array['item-creation', 'transfers']) metric,
            reporting.series(metric, 'hour', '{from}', '{to}', 'Asia/Kathmandu', '{base_item}', false)"
    );
    let expected = expected(pool, &query, &columns("statistics"), false).await;
    assert!(expected.iter().any(|row| row.starts_with("item-creation")), "{expected:?}");
    assert_eq!(rows, expected);
}

/// A million transfers, and writers who go on while they are read: each file is what one snapshot shows, which the export
/// has recorded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_rows_are_those_of_one_snapshot_while_writers_go_on() {
    let server = Server::start().await;
    let pool = &server.database.pool;
    for statement in [
        "set newcycle.notify = off",
        "insert into base_items (description) values ('chair')",
        "insert into users select from generate_series(1, 1000)",
        "insert into items (base_item_id) select id from base_items, generate_series(1, 1000)",
        "insert into transfers (id, item_id, owner_id)
            select gen_random_uuid(), i.id, u.id from items i, users u",
    ] {
        sqlx::query(statement).execute(pool).await.expect(statement);
    }
    let stop = CancellationToken::new();
    let writers: Vec<_> = (0..3)
        .map(|_| {
            let (pool, stop) = (pool.clone(), stop.clone());
            tokio::spawn(async move {
                let mut written = 0;
                while !stop.is_cancelled() {
                    sqlx::query(
                        "insert into transfers (item_id, owner_id)
                            select (select id from items limit 1), id from users limit 10",
                    )
                    .execute(&pool)
                    .await
                    .expect("rows");
                    written += 10;
                }
                written
            })
        })
        .collect();
    let orders = [("csv", "none"), ("ndjson", "gzip"), ("parquet", "zstd")];
    let mut exports = Vec::new();
    for (format, compression) in orders {
        let order = json!({"dataset": "transfers", "format": format, "compression": compression});
        exports.push(start(&server.api, &order).await.1);
    }
    let exports = join_all(exports.iter().map(|export| over(&server.api, export["id"].as_str().expect("an id")))).await;
    stop.cancel();
    let mut written = 0;
    for writer in writers {
        written += writer.await.expect("no panic");
    }
    let [_, _, _, rows_now] = server.rows().await;
    assert_eq!(rows_now, 1_000_000 + written);
    let checks = orders.into_iter().zip(exports).map(async |((format, compression), export)| {
        assert_eq!(export["state"], "complete", "{export}");
        let bytes = file(&server.api, &export).await;
        let reading = tokio::task::spawn_blocking(move || {
            let (_, mut rows) = read(format, compression, &bytes);
            rows.sort_unstable();
            rows
        });
        let rows = reading.await.expect("it can be read");
        assert!(rows.len() >= 1_000_000 && (rows.len() - 1_000_000) % 10 == 0, "no statement is there by half");
        assert_eq!(export["result"]["rows"], rows.len());
        let expected: Vec<u8> = sqlx::query_scalar(
            "select sha256(string_agg(concat_ws('|', id, item_id, owner_id, micros), E'\\n' order by id)::bytea)
            from (
                select t.*, (extract(epoch from timestamp) * 1000000)::bigint as micros
                from transfers t, jobs.exports e
                where e.id = $1 and pg_visible_in_snapshot(t.xmin::text::xid8, e.snapshot)
            ) as visible",
        )
        .bind(export["id"].as_str().expect("an id").parse::<Uuid>().expect("an id"))
        .fetch_one(pool)
        .await
        .expect("a digest");
        let digest = crate::exports::sha256(rows.join("\n").as_bytes());
        let expected: String = expected.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, expected, "{format}");
    });
    join_all(checks).await;
}
