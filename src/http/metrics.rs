//! `/metrics`, for Prometheus and whatever reads its format.

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::guard::{Allowed, FiguresRead};
use super::problem::{Kind, Problem};
use crate::hub::Hub;
use crate::ledger::Writer;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(metrics))
}

/// What the server does, in figures
#[utoipa::path(
    get, path = "/metrics", operation_id = "metrics", tag = "health", security(("key" = ["statistics:read"])),
    responses((status = 200, description = "OpenMetrics text", body = String, content_type = "application/openmetrics-text"))
)]
async fn metrics(_: Allowed<FiguresRead>, State(registry): State<Arc<Registry>>) -> Result<Response, Problem> {
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|error| Problem::new(Kind::Internal, error.to_string()))?;
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, content_type)], text).into_response())
}

/// Makes known what is looked up when somebody asks.
pub(super) fn register(registry: &mut Registry, hub: Arc<Hub>, writer: Writer) {
    registry.register_collector(Box::new(Gauges { hub, writer }));
}

#[derive(Debug)]
struct Gauges {
    hub: Arc<Hub>,
    writer: Writer,
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let waiting = "Single rows that wait to be written";
        let mut family = encoder.encode_descriptor("writer_waiting_rows", waiting, None, MetricType::Gauge)?;
        for (table, rows) in self.writer.waiting() {
            gauge(rows).encode(family.encode_family(&[("table", table)])?)?;
        }
        let (series, topics, streams) = self.hub.sizes();
        let hub = [
            ("series", "Series that are counted live", series),
            ("topics", "Different streams", topics),
            ("streams", "Open streams", streams),
        ];
        for (name, help, value) in hub {
            gauge(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        Ok(())
    }
}

fn gauge(value: usize) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}
