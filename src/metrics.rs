//! Figures that nobody counts as things happen: they are looked up when somebody asks for `/metrics`.
//!
//! What is counted as it happens is counted where that is: see [`crate::ledger::writer::Metrics`],
//! [`crate::listener::Metrics`], [`crate::statistics::compactor::Metrics`], [`crate::hub::Metrics`] and `http/metrics/`.

mod backlog;
mod process;

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use sqlx::PgPool;

use crate::database::Database;
use crate::tls::Tls;
use backlog::Backlog;

/// What is looked up. A shared handle.
#[derive(Clone, Debug)]
pub struct Figures {
    backlog: Backlog,
    /// Names that every program has in common, and which begin with no name of ours.
    process: Arc<Registry>,
}

impl Figures {
    /// Of this process, this database, and this certificate. Our own are made known to the registry.
    pub fn register(registry: &mut Registry, database: &Database, tls: Option<&Tls>) -> Self {
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Which version runs", version);
        let pools = Pools([("requests", database.pool.clone()), ("own", database.own_pool.clone())]);
        registry.register_collector(Box::new(pools));
        if let Some(tls) = tls {
            registry.register_collector(Box::new(Certificate(tls.clone())));
        }
        let backlog = Backlog::of(database.own_pool.clone());
        registry.register_collector(Box::new(backlog.clone()));
        let mut process = Registry::default();
        process::register(&mut process);
        Self { backlog, process: Arc::new(process) }
    }

    /// Everything that is known to the registry, and of the process, as OpenMetrics text.
    pub async fn text(&self, registry: &Registry) -> Result<String, fmt::Error> {
        self.backlog.look_up().await;
        let mut text = String::new();
        text::encode_registry(&mut text, registry)?;
        text::encode_registry(&mut text, &self.process)?;
        text::encode_eof(&mut text)?;
        Ok(text)
    }
}

/// Writes a figure that has no labels.
pub fn encode_gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: impl EncodeGaugeValue,
) -> fmt::Result {
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?)
}

/// Connections to Postgres, by what they are for.
#[derive(Debug)]
struct Pools([(&'static str, PgPool); 2]);

impl Collector for Pools {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        type Count = fn(&PgPool) -> u64;
        let figures: [(_, _, Count); 3] = [
            ("database_connections", "Connections to Postgres that are open", |pool| pool.size().into()),
            ("database_idle_connections", "Those of them that nobody uses", |pool| pool.num_idle() as u64),
            ("database_max_connections", "How many there may be", |pool| pool.options().get_max_connections().into()),
        ];
        for (name, help, count) in figures {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (name, pool) in &self.0 {
                ConstGauge::new(count(pool)).encode(family.encode_family(&[("pool", *name)])?)?;
            }
        }
        Ok(())
    }
}

/// The certificate that new connections get.
#[derive(Debug)]
struct Certificate(Tls);

impl Collector for Certificate {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(end) = self.0.valid_until() else { return Ok(()) };
        let help = "Until when the certificate is valid that new connections get";
        encode_gauge(&mut encoder, "tls_certificate_expiry_timestamp", help, Some(&Unit::Seconds), end.timestamp())
    }
}
