//! What newcycle's triggers cost those who write into its tables without it.

use crate::cluster::Cluster;
use crate::figures::{Latencies, Percentiles, Unit, show};
use crate::pgbench::{self, Ids, Settings};
use crate::report::{Bar, Section};
use crate::server::Server;
use crate::{Outcome, Run, tell};

use super::single_row::PLAIN;

const CLIENTS: usize = 16;
/// Inserts a second, of all together.
const RATE: u32 = 1_000;
const BAR_RATIO: f64 = 3.0;
const DATABASE: &str = "foreign_writers";

pub(super) async fn measure(run: &Run) -> Outcome<Section> {
    Cluster::with(run, &[], async |cluster: &Cluster| {
        let mut section = Section::new("Foreign writers");
        section.versions.push(("Postgres, pgbench, psql", cluster.version().await?));
        let what = format!("p99 of other programs' inserts, {CLIENTS} connections, {RATE}/s");
        let bar = format!("≤ {BAR_RATIO} × without newcycle's triggers");
        if !pgbench::is_there(cluster) {
            section.bars.push(Bar::not_measured(what, bar, "there is no pgbench beside this Postgres"));
            return Ok(section);
        }
        let [mut plain, mut triggered] = [Percentiles::default(), Percentiles::default()];
        for repetition in 1..=run.plan.repetitions {
            plain.push(&repeat(run, cluster, false).await?);
            triggered.push(&repeat(run, cluster, true).await?);
            let ([_, before, _], [_, after, _]) = (plain.shown(), triggered.shown());
            tell(&format!("  {repetition}: p99 without triggers {before}, with {after}"));
        }
        let ratio = triggered.p99().median() / plain.p99().median();
        let measured = format!("{} = {}", triggered.p99().show(Unit::Milliseconds), show(ratio, Unit::Times));
        section.bars.push(Bar::new(what, bar, measured, ratio <= BAR_RATIO));
        section.say(&format!(
            "pgbench with {CLIENTS} connections inserts {RATE} items a second, one a transaction, at random moments (an \
             open loop: a latency begins when the transaction was to begin). Once into plain tables (the same columns \
             and indexes, foreign keys), once into newcycle's, whose triggers count and notify while a server listens."
        ));
        section.table(&["", "p50", "p99", "p99.9"], [row("plain tables", &plain), row("newcycle's tables", &triggered)]);
        Ok(section)
    })
    .await
}

/// How long inserts take, with newcycle's triggers and a server that listens or without both.
async fn repeat(run: &Run, cluster: &Cluster, triggers: bool) -> Outcome<Latencies> {
    cluster.fresh(DATABASE).await?;
    let server = if triggers {
        Some(Server::start(run, &cluster.url(DATABASE)).await?)
    } else {
        cluster.execute(DATABASE, PLAIN).await?;
        None
    };
    cluster.settle().await?;
    let settings = Settings { clients: CLIENTS, ids: Ids::Default, silent: false };
    let (transactions, latencies) = pgbench::at_rate(run, cluster, DATABASE, settings, RATE, run.plan.latency).await?;
    if let Some(server) = server {
        server.stop().await?;
        cluster.check_items(DATABASE, transactions).await?;
    }
    Ok(latencies)
}

fn row(name: &str, percentiles: &Percentiles) -> Vec<String> {
    std::iter::once(name.to_owned()).chain(percentiles.shown()).collect()
}
