//! Many rows at once: `POST /transfers` with NDJSON against psql's `\copy`, each into a copy of the same ledger.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use chrono::{SecondsFormat, TimeDelta, Utc};
use uuid::Builder;

use crate::cluster::{Cluster, TEMPLATE, base_item};
use crate::figures::{Spread, Unit, number, show};
use crate::http::Connection;
use crate::report::{Bar, Section};
use crate::schedule::Random;
use crate::server::Server;
use crate::{Outcome, Run, child, tell};

/// What changes hands, and among how many.
const ITEMS: u32 = 20_000;
const USERS: u32 = 1_000;
/// The transfers happened within this much time before now.
const TIME: TimeDelta = TimeDelta::hours(3);
const BAR_RATIO: f64 = 0.9;
/// A load of this size takes seconds.
const PATIENCE: Duration = Duration::from_secs(300);
/// The ledger that both begin with.
const PREPARED: &str = "bulk_prepared";
const DATABASE: &str = "bulk";

/// The same rows, for each of the two.
struct Files {
    text: PathBuf,
    ndjson: PathBuf,
}

pub(super) async fn measure(run: &Run) -> Outcome<Section> {
    Cluster::with(run, &[], async |cluster: &Cluster| {
        let mut section = Section::new("Bulk");
        section.versions.push(("Postgres, pgbench, psql", cluster.version().await?));
        prepare(cluster).await?;
        let files = write_rows(run, cluster).await?;
        let has_psql = cluster.program("psql", "postgres").is_some();
        let [mut copy, mut post] = [Spread::default(), Spread::default()];
        for repetition in 1..=run.plan.repetitions {
            if has_psql {
                copy.push(load(run, cluster, async |_: &Server| psql(cluster, &files).await).await?);
            }
            post.push(load(run, cluster, async |server: &Server| http(server, &files).await).await?);
            let [shown_copy, shown_post] = [&copy, &post].map(|spread| spread.show(Unit::PerSecond).to_string());
            tell(&format!("  {repetition}: \\copy {shown_copy}, POST {shown_post}"));
        }
        describe(run, &mut section, &copy, &post);
        Ok(section)
    })
    .await
}

/// Items of all base items, and users.
async fn prepare(cluster: &Cluster) -> Outcome<()> {
    cluster.copy(TEMPLATE, PREPARED).await?;
    let base_items: Vec<_> = (0..crate::cluster::BASE_ITEMS).map(base_item).collect();
    let statements = [
        format!("insert into users select from generate_series(1, {USERS})"),
        format!(
            "insert into items (base_item_id) select ('{{{}}}'::uuid[])[1 + n % {}] from generate_series(1, {ITEMS}) n",
            base_items.join(","),
            base_items.len()
        ),
        "select statistics.fold()".to_owned(),
        "vacuum (analyze)".to_owned(),
    ];
    for statement in statements {
        cluster.execute(PREPARED, &statement).await?;
    }
    Ok(())
}

/// Transfers of random items to random users, in the order in which they happened.
async fn write_rows(run: &Run, cluster: &Cluster) -> Outcome<Files> {
    let ids = async |table| -> Outcome<Vec<String>> {
        let rows = cluster.rows(PREPARED, &format!("select id::text from {table}")).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    };
    let (items, users) = (ids("items").await?, ids("users").await?);
    let files = Files { text: run.directory.join("transfers.txt"), ndjson: run.directory.join("transfers.ndjson") };
    let (mut text, mut ndjson) =
        (BufWriter::new(File::create(&files.text)?), BufWriter::new(File::create(&files.ndjson)?));
    let mut random = Random::new();
    let begin = Utc::now() - TIME;
    let step = TIME / i32::try_from(run.plan.bulk_rows)?;
    for number in 0..run.plan.bulk_rows {
        let moment = begin + step * i32::try_from(number)?;
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&random.bits().to_le_bytes());
        let id = Builder::from_unix_timestamp_millis(u64::try_from(moment.timestamp_millis())?, &bytes).into_uuid();
        let (item, user) = (random.of(&items), random.of(&users));
        let moment = moment.to_rfc3339_opts(SecondsFormat::Micros, true);
        writeln!(text, "{id}\t{moment}\t{user}\t{item}")?;
        writeln!(ndjson, r#"{{"id":"{id}","timestamp":"{moment}","owner_id":"{user}","item_id":"{item}"}}"#)?;
    }
    text.flush()?;
    ndjson.flush()?;
    Ok(files)
}

/// One load into a copy of the prepared ledger, with a server running; rows a second.
async fn load(run: &Run, cluster: &Cluster, work: impl AsyncFnOnce(&Server) -> Outcome<()>) -> Outcome<f64> {
    cluster.copy(PREPARED, DATABASE).await?;
    let server = Server::start(run, &cluster.url(DATABASE)).await?;
    cluster.settle().await?;
    let begin = Instant::now();
    work(&server).await?;
    let taken = begin.elapsed();
    server.stop().await?;
    let transfers: i64 = cluster.value(DATABASE, "select count(*) from transfers").await?;
    if transfers != i64::from(run.plan.bulk_rows) {
        return Err(format!("NOT EXACT: {transfers} of {} transfers are there", run.plan.bulk_rows).into());
    }
    cluster.check_statistics(DATABASE).await?;
    Ok(f64::from(run.plan.bulk_rows) / taken.as_secs_f64())
}

async fn psql(cluster: &Cluster, files: &Files) -> Outcome<()> {
    let mut command = cluster.program("psql", DATABASE).ok_or("there is no psql beside this Postgres")?;
    let copy = format!(r#"\copy transfers (id, "timestamp", owner_id, item_id) from '{}'"#, files.text.display());
    command.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--command"]).arg(copy);
    child::output(command, PATIENCE).await.map(drop)
}

async fn http(server: &Server, files: &Files) -> Outcome<()> {
    let (address, file) = (server.address, File::open(&files.ndjson)?);
    let send = move || Connection::open(address)?.send_file("/transfers", "application/x-ndjson", file);
    let response = tokio::task::spawn_blocking(send).await??;
    if response.status == 200 {
        Ok(())
    } else {
        Err(format!("the load was refused: {}", String::from_utf8_lossy(&response.body)).into())
    }
}

fn describe(run: &Run, section: &mut Section, copy: &Spread, post: &Spread) {
    let rows = number(f64::from(run.plan.bulk_rows));
    let what = format!("{rows} transfers in one request");
    let bar = format!("≥ {BAR_RATIO} × psql's \\copy");
    let measured = post.show(Unit::PerSecond);
    let ratio = post.median() / copy.median();
    section.bars.push(if copy.is_empty() {
        Bar::not_measured(what, bar, &format!("{measured}; there is no psql beside this Postgres"))
    } else {
        Bar::new(what, bar, format!("{measured} = {}", show(ratio, Unit::Times)), ratio >= BAR_RATIO)
    });
    section.say(&format!(
        "{rows} transfers of {} items among {} users, with time-ordered ids and times within the last {} hours, from a \
         file that is in memory. psql: `\\copy` of tab-separated text, the whole run of psql. newcycle: `POST /transfers` \
         with NDJSON, from connecting to the answer. Both into a copy of the same ledger, with the same indexes, \
         constraints and triggers, while a server listens; all rows in one transaction.",
        number(f64::from(ITEMS)),
        number(f64::from(USERS)),
        TIME.num_hours()
    ));
    let row = |name: &str, spread: &Spread| vec![name.to_owned(), spread.show(Unit::PerSecond).to_string()];
    section.table(&["", "rows"], [row("psql, `\\copy`", copy), row("newcycle, NDJSON over HTTP", post)]);
}
