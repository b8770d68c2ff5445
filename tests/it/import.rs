//! `newcycle import`, as a program, with files.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use newcycle::database::Database;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use uuid::Uuid;

use crate::api::{View, buckets};
use crate::harness::{self, Server, eventually};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// As it stands in README.md.
const README_COMMAND: &str = "newcycle import --base-items examples/base-items.csv --users examples/users.csv \
                              --items examples/items.csv --transfers examples/transfers.csv";
/// More than the loader takes at a time.
const MORE_THAN_A_BATCH: u128 = 60_000;

/// The program, about to import into a database.
async fn newcycle(database: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_newcycle"));
    command.args(arguments).env("DATABASE_URL", harness::url(database).await).env_remove("PGHOST");
    command.env_remove("LOG_LEVEL").stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn import(database: &str, arguments: &[&str]) -> Run {
    newcycle(database, &[&["import"], arguments].concat()).await.output().await.expect("the program runs").into()
}

/// A run that has ended.
#[derive(Debug)]
struct Run {
    code: Option<i32>,
    /// By kind of record: inserted, unchanged, rejected.
    rows: BTreeMap<String, [u64; 3]>,
    errors: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        let (table, errors) = (text(output.stdout), text(output.stderr));
        let mut rows = BTreeMap::new();
        for line in table.lines() {
            let Some((kind, numbers)) = line.split_at_checked(10) else { continue };
            let numbers: Vec<_> =
                numbers.split_whitespace().map_while(|word| word.replace(',', "").parse().ok()).collect();
            if let [inserted, unchanged, rejected] = numbers[..] {
                rows.insert(kind.trim().to_owned(), [inserted, unchanged, rejected]);
            }
        }
        Self { code: output.status.code(), rows, errors }
    }
}

impl Run {
    /// Checks that it was a success, and what became of the rows.
    #[track_caller]
    fn imported(&self, expected: &[(&str, [u64; 3])]) {
        assert_eq!(self.code, Some(0), "{self:?}");
        let rows: Vec<_> = self.rows.iter().map(|(kind, rows)| (kind.as_str(), *rows)).collect();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(rows, expected, "{self:?}");
    }
}

/// Files for the time of a test.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    /// Writes a file; its path.
    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).expect("the file is written");
        path.to_str().expect("a path in UTF-8").to_owned()
    }
}

fn id(number: u128) -> Uuid {
    // A constant top, so that ids of different kinds in a test can be told apart by their number alone.
    Uuid::from_u128(0x0193_f000_0000_7000_8000_0000_0000_0000 + number)
}

async fn count(database: &Database, table: &str) -> i64 {
    let statement = sqlx::AssertSqlSafe(format!("select count(*) from {table}"));
    sqlx::query_scalar(statement).fetch_one(&database.pool).await.expect("the table can be counted")
}

/// How many base items, users, items and transfers there are.
async fn counts(database: &Database) -> [i64; 4] {
    let mut counts = [0; 4];
    for (count, table) in counts.iter_mut().zip(["base_items", "users", "items", "transfers"]) {
        *count = self::count(database, table).await;
    }
    counts
}

#[tokio::test]
async fn the_examples_are_imported_with_the_command_in_the_readme_and_again() {
    let server = Server::start().await;
    let arguments: Vec<&str> = README_COMMAND.split_whitespace().skip(1).collect();
    for (inserted, unchanged) in [(1, 0), (0, 1)] {
        let output = newcycle(&server.name, &arguments).await.current_dir(ROOT).output().await.unwrap();
        Run::from(output).imported(&[
            ("base items", [5 * inserted, 5 * unchanged, 0]),
            ("users", [12 * inserted, 12 * unchanged, 0]),
            ("items", [20 * inserted, 20 * unchanged, 0]),
            ("transfers", [60 * inserted, 60 * unchanged, 0]),
        ]);
    }
    let (_, years) = server.api.get("/statistics/transfers/year").await;
    assert_eq!(buckets(&years), BTreeMap::from([("2026-01-01T00:00:00Z".to_owned(), 60)]));
    assert_eq!(count(&server.database, "statistics.differences()").await, 0);
    server.stop().await;
}

/// Where real data lie, on machines that have them.
fn sample_data() -> Option<PathBuf> {
    let directory =
        std::env::var_os("NEWCYCLE_SAMPLE_DATA").map_or_else(|| Path::new(ROOT).join("../shared/data"), PathBuf::from);
    Some(directory.join("punk-sales.csv")).filter(|file| file.is_file())
}

/// The sales as files of the ledger: one base item, an item a punk, which is created when it is first sold, and a user
/// a sale, because the data does not say who the buyer was.
fn convert_sales(sales: &Path, files: &Files) -> Vec<String> {
    let (base_item, punk_id, buyer_id, sale_id) =
        (id(0), |punk: u128| id(0x1_0000 + punk), |sale: u128| id(0x2_0000 + sale), |sale: u128| id(0x4_0000 + sale));
    let mut users = "id,created_at\n".to_owned();
    let mut items = "id,base_item_id,created_at\n".to_owned();
    let mut transfers = "id,item_id,owner_id,timestamp\n".to_owned();
    let mut seen = std::collections::HashSet::new();
    let mut begin = None;
    for (sale, row) in csv::Reader::from_path(sales).expect("the file opens").records().enumerate() {
        let row = row.expect("a row");
        let (time, punk) = (row[0].to_owned(), row[1].parse().expect("a number"));
        let sale = u128::try_from(sale).expect("a small number");
        if seen.insert(punk) {
            writeln!(items, "{},{base_item},{time}", punk_id(punk)).expect("text");
        }
        writeln!(users, "{},{time}", buyer_id(sale)).expect("text");
        writeln!(transfers, "{},{},{},{time}", sale_id(sale), punk_id(punk), buyer_id(sale)).expect("text");
        begin.get_or_insert(time);
    }
    let begin = begin.expect("a sale");
    let base_items = format!("id,description,created_at\n{base_item},CryptoPunk,{begin}\n");
    let files = [
        ("--base-items", files.write("base-items.csv", base_items)),
        ("--users", files.write("users.csv", users)),
        ("--items", files.write("items.csv", items)),
        ("--transfers", files.write("transfers.csv", transfers)),
    ];
    files.into_iter().flat_map(|(option, path)| [option.to_owned(), path]).collect()
}

#[tokio::test]
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
async fn real_sales_are_counted_alike_by_rest_sql_and_an_open_stream() {
    let Some(sales) = sample_data() else {
        eprintln!("skipped: the real sales are not on this machine");
        return;
    };
    let years = [2017, 2018, 2019, 2020, 2021].map(|year| format!("{year}-01-01T00:00:00Z"));
    let expected: BTreeMap<String, i64> = years.into_iter().zip([1286, 899, 1068, 2877, 4103]).collect();
    let server = Server::start().await;
    let mut events = server.api.stream("/statistics/stream?metrics=transfers&resolution=year&window=100", None).await;
    let mut view = View::default();
    view.take(&events.next_named("snapshot").await);
    assert_eq!(view.total("transfers"), 0);

    let files = Files::new();
    let arguments = convert_sales(&sales, &files);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    import(&server.name, &arguments).await.imported(&[
        ("base items", [1, 0, 0]),
        ("users", [10_233, 0, 0]),
        ("items", [5094, 0, 0]),
        ("transfers", [10_233, 0, 0]),
    ]);

    let (_, answer) = server.api.get("/statistics/transfers/year").await;
    assert_eq!(buckets(&answer), expected, "through REST");
    let rows: Vec<(String, i64)> = sqlx::query_as(
        r#"select to_char(date_trunc('year', timestamp at time zone 'UTC'), 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), count(*)
        from transfers group by 1"#,
    )
    .fetch_all(&server.database.pool)
    .await
    .unwrap();
    assert_eq!(BTreeMap::from_iter(rows), expected, "through SQL");
    assert_eq!(count(&server.database, "statistics.differences()").await, 0);
    while view.counts["transfers"] != expected {
        view.take(&events.next().await.expect("the stream goes on"));
    }

    import(&server.name, &arguments).await.imported(&[
        ("base items", [0, 1, 0]),
        ("users", [0, 10_233, 0]),
        ("items", [0, 5094, 0]),
        ("transfers", [0, 10_233, 0]),
    ]);
    server.stop().await;
}

#[tokio::test]
async fn a_wrong_row_is_named_by_file_and_line_and_nothing_is_imported_unless_it_may_be_skipped() {
    let name = harness::new_database().await;
    let database = harness::connect(&name).await;
    let files = Files::new();
    let base_items = files.write("base.csv", format!("id,description\n{},\"a bike,\nfor cargo\"\n", id(1)));
    let users = files.write("users.ndjson", format!("{{\"id\":\"{}\"}}\n\n{{\"id\":7}}\nnonsense\n", id(2)));
    let items = files.write("items.csv", format!("base_item_id,id\n{},{}\n", id(1), id(3)));
    let mut transfers =
        format!("id,item_id,owner_id,timestamp\r\n{},{item},{user},\r\n", id(4), item = id(3), user = id(2));
    for row in [
        format!("{},{},{},2026-01-01T00:00:00Z", id(5), id(99), id(2)),
        format!("{},{},{},2026-01-01T00:00:00Z", id(6), id(3), id(98)),
        format!("{},{},{}", id(7), id(3), id(2)),
        format!("seven,{},{},", id(3), id(2)),
        format!("{},{},{},1 January", id(8), id(3), id(2)),
        format!("{},{},{},9999-01-01T00:00:00Z", id(8), id(3), id(2)),
        format!("{},{},{},2026-01-01T00:00:00Z", id(4), id(3), id(2)),
    ] {
        transfers.push_str(&row);
        transfers.push_str("\r\n");
    }
    let mut transfers = transfers.into_bytes();
    transfers.extend_from_slice(b"\xff,,,");
    let transfers = files.write("sales.csv", transfers);
    let arguments = ["--base-items", &base_items, "--users", &users, "--items", &items, "--transfers", &transfers];

    let run = import(&name, &arguments).await;

    assert_eq!(run.code, Some(1), "{run:?}");
    assert_eq!(run.rows, BTreeMap::new());
    let expected = [
        format!("{users}:3: id: invalid type: integer `7`, expected a formatted UUID string"),
        format!("{users}:4: expected ident at column 2"),
        format!("{transfers}:3: item_id: there is no item with this id"),
        format!("{transfers}:4: owner_id: there is no user with this id"),
        format!("{transfers}:5: has 3 fields where the header has 4 fields"),
        format!("{transfers}:6: id: \"seven\" is not an id (a UUID)"),
        format!("{transfers}:7: timestamp: \"1 January\" is not a time as in RFC 3339, such as 2026-11-21T10:01:00Z"),
        format!("{transfers}:8: timestamp: lies more than five minutes in the future"),
        format!("{transfers}:9: id: a transfer with this id exists with other content"),
        format!("{transfers}:10: id: \"\u{fffd}\" is not UTF-8"),
        "newcycle: 10 rows are wrong, so nothing was imported; --skip-rejected imports the others".to_owned(),
    ];
    assert_eq!(run.errors.lines().collect::<Vec<_>>(), expected);
    assert_eq!(counts(&database).await, [0; 4]);

    let run = import(&name, &[&arguments[..], &["--skip-rejected"]].concat()).await;

    run.imported(&[("base items", [1, 0, 0]), ("users", [1, 0, 2]), ("items", [1, 0, 0]), ("transfers", [1, 0, 8])]);
    assert_eq!(run.errors.lines().collect::<Vec<_>>(), expected[..10]);
    assert_eq!(counts(&database).await, [1; 4]);
    let description: String =
        sqlx::query_scalar("select description from base_items").fetch_one(&database.pool).await.unwrap();
    assert_eq!(description, "a bike,\nfor cargo");
    database.close().await;
}

#[tokio::test]
async fn the_first_hundred_wrong_rows_are_described_and_the_rest_are_counted() {
    let name = harness::new_database().await;
    let files = Files::new();
    let wrong = |rows: usize| format!("id\n{}", "x\n".repeat(rows));
    let (first, second) = (files.write("1.csv", wrong(90)), files.write("2.csv", wrong(150)));
    let run = import(&name, &["--users", &first, &second, "--skip-rejected"]).await;
    run.imported(&[("users", [0, 0, 240])]);
    let lines: Vec<&str> = run.errors.lines().collect();
    assert_eq!(lines.len(), 101, "{run:?}");
    assert_eq!(lines[0], format!("{first}:2: id: \"x\" is not an id (a UUID)"));
    assert_eq!(lines[99], format!("{second}:11: id: \"x\" is not an id (a UUID)"));
    assert_eq!(lines[100], "… and 140 more rejected rows");
}

#[tokio::test]
async fn rows_that_repeat_are_found_across_batches() {
    let name = harness::new_database().await;
    let files = Files::new();
    let mut users = "id,created_at\n".to_owned();
    for number in 0..MORE_THAN_A_BATCH {
        writeln!(users, "{},2026-01-01T00:00:00Z", id(number)).unwrap();
    }
    writeln!(users, "{},2026-01-01T00:00:00Z", id(1)).unwrap();
    writeln!(users, "{},2026-01-02T00:00:00Z", id(2)).unwrap();
    let users = files.write("users.csv", users);
    let run = import(&name, &["--users", &users, "--skip-rejected"]).await;
    run.imported(&[("users", [60_000, 1, 1])]);
    let expected = format!("{users}:60003: id: a user with this id exists with other content\n");
    assert_eq!(run.errors, expected);
    let database = harness::connect(&name).await;
    assert_eq!(counts(&database).await, [0, 60_000, 0, 0]);
    assert_eq!(count(&database, "statistics.differences()").await, 0);
    database.close().await;
}

#[tokio::test]
async fn rows_without_ids_get_new_ones_each_time() {
    let name = harness::new_database().await;
    let files = Files::new();
    let base_items = files.write("kinds.csv", "description\nbike\nchair\n");
    for _ in 0..2 {
        import(&name, &["--base-items", &base_items]).await.imported(&[("base items", [2, 0, 0])]);
    }
    let database = harness::connect(&name).await;
    assert_eq!(counts(&database).await, [4, 0, 0, 0]);
    database.close().await;
}

#[tokio::test]
async fn what_cannot_be_loaded_is_refused_before_anything_is_done() {
    let name = harness::new_database().await;
    let files = Files::new();
    let good = files.write("good.csv", "description\nbike\n");
    let unknown = files.write("unknown.csv", "id,price\n");
    let empty = files.write("empty.csv", "");
    let other = files.write("sales.csv.gz", "");
    let missing = files.0.path().join("missing.csv").to_str().unwrap().to_owned();
    let columns = "id (optional), item_id, owner_id, timestamp (optional)";
    for (path, message) in [
        (&unknown, format!("{unknown}:1: there is no column \"price\"; the columns are {columns}")),
        (&empty, format!("{empty}:1: the file is empty; its first row must name the columns: {columns}")),
        (&other, format!("{other}: say with --format whether this is csv or ndjson")),
        (&missing, format!("{missing}: cannot be opened: No such file or directory (os error 2)")),
    ] {
        let mut command = newcycle(&name, &["import", "--base-items", &good, "--transfers", path]).await;
        // Nobody is asked: nothing listens there.
        command.env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/nothing");
        let run = Run::from(command.output().await.unwrap());
        assert_eq!((run.code, run.errors), (Some(1), format!("newcycle: {message}\n")));
    }
    let run = import(&name, &["--users", "-", "--items", "-", "--format", "csv"]).await;
    assert_eq!((run.code, run.errors.as_str()), (Some(1), "newcycle: standard input (-) can be named once only\n"));
    assert_eq!(import(&name, &[]).await.code, Some(2));
}

#[tokio::test]
async fn a_file_that_breaks_off_undoes_everything() {
    let name = harness::new_database().await;
    let files = Files::new();
    let base_items = files.write("kinds.csv", "description\nbike\n");
    let users = files.write("users.csv", format!("id\n{}\n\"{}", id(1), "\n".repeat(2 * 1024 * 1024)));
    let run = import(&name, &["--base-items", &base_items, "--users", &users, "--skip-rejected"]).await;
    let expected = format!(
        "newcycle: nothing was imported: {users}:3: this row has more than 1048576 bytes; is a quotation mark missing?\n"
    );
    assert_eq!((run.code, run.errors), (Some(1), expected));
    let database = harness::connect(&name).await;
    assert_eq!(counts(&database).await, [0; 4]);
    database.close().await;
}

/// An import that has loaded base items and a batch of users, and waits for more of them.
async fn import_in_the_middle(name: &str, database: &Database, base_items: &str) -> Child {
    let arguments = ["import", "--base-items", base_items, "--users", "-", "--format", "ndjson"];
    let mut child = newcycle(name, &arguments)
        .await
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut users = String::new();
    for number in 0..MORE_THAN_A_BATCH {
        writeln!(users, "{{\"id\": \"{}\"}}", id(number)).unwrap();
    }
    child.stdin.as_mut().expect("it is piped").write_all(users.as_bytes()).await.unwrap();
    eventually(|| async {
        if writers(database).await > 0 { Ok(()) } else { Err("no users were written yet".to_owned()) }
    })
    .await;
    assert_eq!(counts(database).await, [0; 4], "before the import has ended, nothing of it is seen");
    child
}

/// How many transactions have written users and not ended.
async fn writers(database: &Database) -> i64 {
    sqlx::query_scalar(
        "select count(*) from pg_locks
        where relation = 'users'::regclass and mode = 'RowExclusiveLock'
            and database = (select oid from pg_database where datname = current_database())",
    )
    .fetch_one(&database.pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn an_import_that_is_killed_leaves_nothing_and_can_be_repeated() {
    let name = harness::new_database().await;
    let database = harness::connect(&name).await;
    let files = Files::new();
    let base_items = files.write("kinds.csv", format!("id,description\n{},bike\n", id(1)));
    let mut child = import_in_the_middle(&name, &database, &base_items).await;

    child.kill().await.unwrap();

    eventually(|| async {
        if writers(&database).await == 0 { Ok(()) } else { Err("the transaction goes on".to_owned()) }
    })
    .await;
    assert_eq!(counts(&database).await, [0; 4]);
    import(&name, &["--base-items", &base_items]).await.imported(&[("base items", [1, 0, 0])]);
    database.close().await;
}

#[tokio::test]
async fn an_import_that_is_interrupted_leaves_nothing_and_says_so() {
    let name = harness::new_database().await;
    let database = harness::connect(&name).await;
    let files = Files::new();
    let base_items = files.write("kinds.csv", "description\nbike\n");
    let mut child = import_in_the_middle(&name, &database, &base_items).await;
    let input = child.stdin.take();

    let pid = Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();

    let run = Run::from(child.wait_with_output().await.unwrap());
    drop(input);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.errors.ends_with("newcycle: interrupted: nothing was imported\n"), "{run:?}");
    assert_eq!(counts(&database).await, [0; 4]);
    database.close().await;
}

#[tokio::test]
async fn rows_come_through_a_pipe_while_a_server_runs() {
    let server = Server::start().await;
    let mut child = newcycle(&server.name, &["import", "--users", "-", "--format", "csv"])
        .await
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut events = server.api.stream("/statistics/stream?metrics=user-creation&resolution=year", None).await;
    let mut view = View::default();
    view.take(&events.next_named("snapshot").await);
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"created_at\n2026-01-01T00:00:00Z\n2026-01-02T00:00:00+01:00\n").await.unwrap();
    drop(input);
    Run::from(child.wait_with_output().await.unwrap()).imported(&[("users", [2, 0, 0])]);
    while view.total("user-creation") != 2 {
        view.take(&events.next().await.expect("the stream goes on"));
    }
    let (_, users) = server.api.get("/users").await;
    let times: Vec<&Value> = users["data"].as_array().unwrap().iter().map(|user| &user["created_at"]).collect();
    assert_eq!(times, ["2026-01-01T23:00:00Z", "2026-01-01T00:00:00Z"]);
    server.stop().await;
}
