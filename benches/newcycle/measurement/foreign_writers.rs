//! What newcycle's triggers cost those who write into its tables without it.

use std::time::Duration;

use crate::cluster::Cluster;
use crate::figures::{Spread, Unit, millis, show};
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

/// Latencies by repetition.
#[derive(Debug, Default)]
struct Figures {
    p50: Spread,
    p99: Spread,
    p999: Spread,
}

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
        let [mut plain, mut triggered] = [Figures::default(), Figures::default()];
        for repetition in 1..=run.plan.repetitions {
            plain.repeat(run, cluster, false).await?;
            triggered.repeat(run, cluster, true).await?;
            let [before, after] = [&plain, &triggered].map(|figures| figures.p99.show(Unit::Milliseconds).to_string());
            tell(&format!("  {repetition}: p99 without triggers {before}, with {after}"));
        }
        let ratio = triggered.p99.median() / plain.p99.median();
        let measured = format!("{} = {}", triggered.p99.show(Unit::Milliseconds), show(ratio, Unit::Times));
        section.bars.push(Bar::new(what, bar, measured, ratio <= BAR_RATIO));
        section.say(&format!(
            "pgbench with {CLIENTS} connections inserts {RATE} items a second, one a transaction, at random moments (an \
             open loop: a latency begins when the transaction was to begin). Once into plain tables (the same columns \
             and indexes, foreign keys), once into newcycle's, whose triggers count and notify while a server listens."
        ));
        section.table(&["", "p50", "p99", "p99.9"], [plain.row("plain tables"), triggered.row("newcycle's tables")]);
        Ok(section)
    })
    .await
}

impl Figures {
    async fn repeat(&mut self, run: &Run, cluster: &Cluster, triggers: bool) -> Outcome<()> {
        cluster.fresh(DATABASE).await?;
        let server = if triggers {
            Some(Server::start(run, &cluster.url(DATABASE)).await?)
        } else {
            cluster.execute(DATABASE, PLAIN).await?;
            None
        };
        cluster.settle().await?;
        let settings = Settings { clients: CLIENTS, ids: Ids::Default, silent: false };
        let insert = async |time: Duration| pgbench::at_rate(run, cluster, DATABASE, settings, RATE, time).await;
        let (warm_up, _) = insert(run.plan.warm_up).await?;
        let (rate, latencies) = insert(run.plan.latency).await?;
        self.p50.push(millis(&latencies, 0.5));
        self.p99.push(millis(&latencies, 0.99));
        self.p999.push(millis(&latencies, 0.999));
        if let Some(server) = server {
            server.stop().await?;
            cluster.check_items(DATABASE, warm_up.transactions + rate.transactions).await?;
        }
        Ok(())
    }

    fn row(&self, name: &str) -> Vec<String> {
        let shown = [&self.p50, &self.p99, &self.p999].map(|spread| spread.show(Unit::Milliseconds).to_string());
        std::iter::once(name.to_owned()).chain(shown).collect()
    }
}
