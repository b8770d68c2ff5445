//! Exports: rows a second against psql's `\copy … to`, and the memory that they take.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{Cluster, TEMPLATE, base_item};
use crate::figures::{Spread, Unit, number, show};
use crate::http::{self, Connection};
use crate::report::{Bar, Section};
use crate::server::Server;
use crate::{Outcome, Run, child, machine, tell};

/// What changes hands, and among how many.
const ITEMS: u32 = 20_000;
const USERS: u32 = 1_000;
const BAR_RATIO: f64 = 0.8;
/// How much more memory the largest export may take than the smallest, to be called flat.
const BAR_MEMORY: f64 = 1.5;
/// An export of this size takes a minute at most.
const PATIENCE: Duration = Duration::from_secs(600);
const DATABASE: &str = "exports";
/// The formats whose rates are compared with each other.
const FORMS: [(&str, &str); 5] =
    [("csv", "none"), ("csv", "gzip"), ("csv", "zstd"), ("ndjson", "none"), ("parquet", "zstd")];

/// What was measured of a format.
#[derive(Debug, Default)]
struct Form {
    rates: Spread,
    size: i64,
}

pub(super) async fn measure(run: &Run) -> Outcome<Section> {
    Cluster::with(run, &crate::ledger::SETTINGS, async |cluster: &Cluster| {
        let mut section = Section::new("Exports");
        section.versions.push(("Postgres, pgbench, psql", cluster.version().await?));
        let sizes = run.plan.export_rows;
        let most = sizes[sizes.len() - 1];
        prepare(cluster, most).await?;
        let has_psql = cluster.program("psql", "postgres").is_some();
        let mut copy = Spread::default();
        let mut forms: [Form; FORMS.len()] = Default::default();
        // The same rows in turns, in the same server.
        let server = start(run, cluster).await?;
        let some = sizes[1];
        for repetition in 1..=run.plan.repetitions {
            if has_psql {
                copy.push(psql(run, cluster, some).await?);
            }
            for (form, measured) in FORMS.into_iter().zip(&mut forms) {
                let (rate, size) = export(&server, form, some).await?;
                measured.rates.push(rate);
                measured.size = size;
            }
            let shown = forms[0].rates.show(Unit::PerSecond);
            tell(&format!("  {repetition}: \\copy {}, CSV {shown}", copy.show(Unit::PerSecond)));
        }
        server.stop().await?;
        let mut peaks = Vec::new();
        for form in [("csv", "none"), ("csv", "zstd"), ("parquet", "zstd")] {
            for size in sizes {
                // Each in a server of its own, whose highest use of memory is then that of the export.
                let server = start(run, cluster).await?;
                let idle = machine::peak(server.pid()?)?;
                export(&server, form, size).await?;
                let peak = machine::peak(server.pid()?)?;
                tell(&format!("  {form:?} of {size} rows: {} MB, idle {}", peak >> 20, idle >> 20));
                peaks.push((form, size, idle, peak));
                server.stop().await?;
            }
        }
        describe(&mut section, run, &copy, &forms, &peaks);
        Ok(section)
    })
    .await
}

async fn start(run: &Run, cluster: &Cluster) -> Outcome<Server> {
    let store = run.directory.join("exports");
    let store = store.to_str().ok_or("the directory has a name that is no text")?;
    Server::start_with(run, &cluster.url(DATABASE), &[("NEWCYCLE_EXPORT_STORE", store)]).await
}

/// Transfers, a second apart, newest last. What counts them is silent: nothing of it is exported.
async fn prepare(cluster: &Cluster, rows: u64) -> Outcome<()> {
    let begin = Instant::now();
    cluster.copy(TEMPLATE, DATABASE).await?;
    let base_item = base_item(0);
    let statements = [
        "set session_replication_role to replica".to_owned(),
        // Nobody looks for items or owners here.
        "drop index transfers_item, transfers_owner".to_owned(),
        format!("insert into users select from generate_series(1, {USERS})"),
        format!("insert into items (base_item_id) select '{base_item}' from generate_series(1, {ITEMS})"),
        format!(
            "insert into transfers (id, timestamp, owner_id, item_id)
            select (lpad(to_hex(n), 8, '0') || substr(md5(n::text), 9))::uuid, '2020-01-01T00:00:00Z'::timestamptz + n * interval '1 second', u.ids[1 + n % {USERS}],
                i.ids[1 + n % {ITEMS}]
            from generate_series(1, {rows}) n, (select array_agg(id) as ids from users) u,
                (select array_agg(id) as ids from items) i"
        ),
    ];
    // In one session, for the setting.
    cluster.execute(DATABASE, &statements.join(";\n")).await?;
    cluster.execute(DATABASE, "vacuum (analyze) transfers").await?;
    cluster.settle().await?;
    tell(&format!("  {rows} transfers in {} s", number(begin.elapsed().as_secs_f64())));
    Ok(())
}

/// Before which moment so many transfers happened.
fn end(rows: u64) -> String {
    let end = chrono::DateTime::from_timestamp(1_577_836_800 + i64::try_from(rows).unwrap_or(i64::MAX) + 1, 0);
    end.unwrap_or_default().to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

/// Rows a second of psql, into a file.
async fn psql(run: &Run, cluster: &Cluster, rows: u64) -> Outcome<f64> {
    let mut command = cluster.program("psql", DATABASE).ok_or("there is no psql beside this Postgres")?;
    let file = run.directory.join("copied.csv");
    let query = format!("select id, item_id, owner_id, timestamp from transfers where timestamp < '{}'", end(rows));
    let copy = format!(r"\copy ({query}) to '{}' with (format csv, header)", file.display());
    command.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--command"]).arg(copy);
    let begin = Instant::now();
    child::output(command, PATIENCE).await?;
    let taken = begin.elapsed();
    std::fs::remove_file(file)?;
    Ok(rows as f64 / taken.as_secs_f64())
}

/// Rows a second of an export, from the request to the answer that it is complete; and the size of the file.
async fn export(server: &Server, (format, compression): (&str, &str), rows: u64) -> Outcome<(f64, i64)> {
    let address = server.address;
    let order =
        json!({"dataset": "transfers", "format": format, "compression": compression, "to": end(rows)}).to_string();
    let make = move || -> Outcome<(f64, i64)> {
        let mut connection = Connection::open(address)?;
        let begin = Instant::now();
        let request = http::post("/exports", "application/json", &order);
        let response = connection.send(&http::with_header(&request, "prefer", "wait=50"))?;
        let mut export: Value = serde_json::from_slice(&response.body)?;
        let path = format!("/exports/{}", export["id"].as_str().ok_or("no export was started")?);
        while ["created", "pending", "running"].iter().any(|state| export["state"] == *state) {
            if begin.elapsed() > PATIENCE {
                return Err("an export takes too long".into());
            }
            std::thread::sleep(Duration::from_millis(20));
            export = serde_json::from_slice(&connection.send(&http::get(&path))?.body)?;
        }
        let taken = begin.elapsed();
        if export["state"] != "complete" || export["result"]["rows"] != rows {
            return Err(format!("NOT EXACT: {export} of {rows} rows").into());
        }
        let size = export["result"]["size"].as_i64().ok_or("a file without a size")?;
        connection.send(&http::delete(&path))?;
        Ok((rows as f64 / taken.as_secs_f64(), size))
    };
    tokio::task::spawn_blocking(make).await?
}

type Peak = ((&'static str, &'static str), u64, u64, u64);

fn describe(section: &mut Section, run: &Run, copy: &Spread, forms: &[Form], peaks: &[Peak]) {
    let sizes = run.plan.export_rows;
    let some = number(sizes[1] as f64);
    let csv = &forms[0].rates;
    let what = format!("CSV export of {some} transfers");
    let bar = format!("≥ {BAR_RATIO} × psql's \\copy … to");
    let measured = csv.show(Unit::PerSecond);
    section.bars.push(if copy.is_empty() {
        Bar::not_measured(what, bar, &format!("{measured}; there is no psql beside this Postgres"))
    } else {
        let ratio = csv.median() / copy.median();
        Bar::new(what, bar, format!("{measured} = {}", show(ratio, Unit::Times)), ratio >= BAR_RATIO)
    });
    let worst = peaks
        .chunks(sizes.len())
        .map(|of_form| of_form[of_form.len() - 1].3 as f64 / of_form[0].3 as f64)
        .fold(0.0, f64::max);
    section.bars.push(Bar::new(
        format!("memory of an export, {} rows against {}", number(sizes[2] as f64), number(sizes[0] as f64)),
        format!("flat: ≤ {BAR_MEMORY} ×"),
        show(worst, Unit::Times),
        worst <= BAR_MEMORY,
    ));
    section.say(&format!(
        "Transfers (id, item, owner, moment) of {} items among {} users. psql: `\\copy` of a query to a CSV file, the whole run of \
         psql. newcycle: from `POST /exports` to the answer that the export is complete, with the file in a directory of the \
         same disk, synced, its SHA-256 known. In turns, the same rows.",
        number(f64::from(ITEMS)),
        number(f64::from(USERS)),
    ));
    let mut rows =
        vec![vec!["psql, `\\copy` to CSV".to_owned(), copy.show(Unit::PerSecond).to_string(), String::new()]];
    for ((format, compression), form) in FORMS.into_iter().zip(forms) {
        let compression = if compression == "none" { String::new() } else { format!(", {compression}") };
        rows.push(vec![
            format!("newcycle, {format}{compression}"),
            form.rates.show(Unit::PerSecond).to_string(),
            number(form.size as f64 / sizes[1] as f64),
        ]);
    }
    section.table(&["", "rows", "bytes a row"], rows);
    section.say(
        "The highest resident memory (VmHWM) of a server that has just started, and of the same server after one export:",
    );
    let rows = peaks.iter().map(|((format, compression), size, idle, peak)| {
        let megabytes = |bytes: u64| format!("{} MB", number(bytes as f64 / f64::from(1 << 20)));
        vec![format!("{format}, {compression}"), number(*size as f64), megabytes(*idle), megabytes(*peak)]
    });
    section.table(&["", "rows", "idle", "after the export"], rows);
}
