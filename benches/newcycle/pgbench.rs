//! The peer for single rows: Postgres' own load generator, straight to the database.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::cluster::{BASE_ITEMS, Cluster, base_item};
use crate::figures::{Latencies, latencies};
use crate::{Outcome, Run, child};

/// Starting and stopping take a second or two; more than this on top of its time means that it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// What ids its rows have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ids {
    /// The ledger's default: time-ordered, made by a function in SQL.
    Default,
    /// Random, made by a function in C.
    Random,
}

/// How it runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) clients: usize,
    pub(crate) ids: Ids,
    /// `set newcycle.notify = off`
    pub(crate) silent: bool,
}

/// What it measured.
#[derive(Debug)]
pub(crate) struct Rate {
    /// Transactions a second, the time to connect left out.
    pub(crate) per_second: f64,
    /// How many there were.
    pub(crate) transactions: u64,
}

/// Inserts items, each in a transaction of its own, as fast as it can.
pub(crate) async fn saturate(
    run: &Run,
    cluster: &Cluster,
    database: &str,
    settings: Settings,
    time: Duration,
) -> Outcome<Rate> {
    let command = command(run, cluster, database, settings, time)?;
    let output = child::output(command, time + PATIENCE).await?;
    let number = |prefix: &str| {
        let rest = output.lines().find_map(|line| line.strip_prefix(prefix));
        let digits = rest.and_then(|rest| rest.split([' ', '/']).find(|word| !word.is_empty()));
        digits.ok_or_else(|| format!("pgbench said no {prefix:?}: {output}"))
    };
    Ok(Rate {
        per_second: number("tps =")?.parse()?,
        transactions: number("number of transactions actually processed:")?.parse()?,
    })
}

/// Inserts items at a rate; how many, and the time from when each was to begin. The sessions' first transactions, which
/// compile functions and plan statements, are not among the times: they belong to the warm-up.
pub(crate) async fn at_rate(
    run: &Run,
    cluster: &Cluster,
    database: &str,
    settings: Settings,
    rate: u32,
    time: Duration,
) -> Outcome<(u64, Latencies)> {
    let logs = run.directory.join("pgbench-logs");
    let _ = fs::remove_dir_all(&logs);
    fs::create_dir_all(&logs)?;
    let time = run.plan.warm_up + time;
    let mut command = command(run, cluster, database, settings, time)?;
    command.arg("--rate").arg(rate.to_string()).arg("--log").current_dir(&logs);
    let output = child::output(command, time + PATIENCE).await?;
    // When each ended, and how long after the moment at which it was to begin, in microseconds.
    let mut transactions = Vec::new();
    for log in fs::read_dir(&logs)? {
        for line in fs::read_to_string(log?.path())?.lines() {
            // client, transaction, time taken, script, second, microsecond, …
            let numbers = line.split(' ').map(str::parse).collect::<Result<Vec<u64>, _>>();
            let Ok([_, _, taken, _, second, microsecond, ..]) = numbers.as_deref() else {
                return Err(format!("pgbench's log has another form: {line}").into());
            };
            transactions.push((second * 1_000_000 + microsecond, *taken));
        }
    }
    let Some(first) = transactions.iter().map(|(end, _)| *end).min() else {
        return Err(format!("pgbench did nothing: {output}").into());
    };
    let begin = u128::from(first) + run.plan.warm_up.as_micros();
    let mut latencies = latencies();
    for (_, taken) in transactions.iter().filter(|(end, _)| u128::from(*end) >= begin) {
        latencies.saturating_record(taken * 1_000);
    }
    Ok((u64::try_from(transactions.len())?, latencies))
}

/// Whether there is one beside this Postgres.
pub(crate) fn is_there(cluster: &Cluster) -> bool {
    cluster.program("pgbench", "postgres").is_some()
}

fn command(
    run: &Run,
    cluster: &Cluster,
    database: &str,
    settings: Settings,
    time: Duration,
) -> Outcome<tokio::process::Command> {
    let mut command = cluster.program("pgbench", database).ok_or("there is no pgbench beside this Postgres")?;
    let threads = std::thread::available_parallelism()?.get().min(settings.clients);
    command.args(["--no-vacuum", "--protocol=prepared"]);
    command.arg(format!("--client={}", settings.clients)).arg(format!("--jobs={threads}"));
    command.arg(format!("--time={}", time.as_secs_f64().ceil()));
    for script in scripts(run, settings.ids)? {
        command.arg("--file").arg(script);
    }
    if settings.silent {
        command.env("PGOPTIONS", "-c newcycle.notify=off");
    }
    Ok(command)
}

/// A script for each base item; pgbench takes one by chance for every transaction.
fn scripts(run: &Run, ids: Ids) -> Outcome<Vec<PathBuf>> {
    let write = |number| {
        let script = run.directory.join(format!("insert-{ids:?}-{number}.sql"));
        let id = base_item(number);
        let statement = match ids {
            Ids::Default => format!("insert into items (base_item_id) values ('{id}');"),
            Ids::Random => format!("insert into items (id, base_item_id) values (gen_random_uuid(), '{id}');"),
        };
        fs::write(&script, statement)?;
        Ok(script)
    };
    (0..BASE_ITEMS).map(write).collect()
}
