//! `/metrics`, for Prometheus and whatever reads its format.

mod event_streams;
mod requests;

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::guard::{Allowed, FiguresRead};
use super::limits::LimitSettings;
use super::problem::{Kind, Problem};
use crate::hub::{Hub, Status};
use crate::ledger::{Writer, writer};
use crate::metrics::{Figures, encode_gauge};
pub(super) use event_streams::{End, EventStreams, OpenStream, SlowReader};
pub(super) use requests::Requests;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(metrics))
}

/// What the server does, in figures
#[utoipa::path(
    get, path = "/metrics", operation_id = "metrics", tag = "health", security(("key" = ["statistics:read"])),
    responses((status = 200, description = "OpenMetrics text", body = String, content_type = "application/openmetrics-text"))
)]
async fn metrics(_: Allowed<FiguresRead>, State(told): State<Arc<Told>>) -> Result<Response, Problem> {
    let text = told.figures.text(&told.registry).await;
    let text = text.map_err(|error| Problem::new(Kind::Internal, error.to_string()))?;
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, content_type)], text).into_response())
}

/// Everything that is told.
#[derive(Debug)]
pub(super) struct Told {
    registry: Registry,
    figures: Figures,
}

impl Told {
    /// What is counted, and what is looked up.
    pub(super) fn new(registry: Registry, figures: Figures) -> Self {
        Self { registry, figures }
    }
}

/// What is counted for requests and streams.
#[derive(Clone, Debug)]
pub(super) struct Counters {
    pub(super) requests: Requests,
    pub(super) event_streams: EventStreams,
}

/// Makes known what is counted here, and what is looked up when somebody asks.
pub(super) fn register(registry: &mut Registry, hub: Arc<Hub>, writer: Writer, limits: &LimitSettings) -> Counters {
    hub.metrics().register(registry);
    let most = [limits.max_series, limits.max_streams];
    registry.register_collector(Box::new(Gauges { hub, writer, most }));
    let requests = Requests::default();
    requests.register(registry);
    Counters { requests, event_streams: EventStreams::register(registry) }
}

#[derive(Debug)]
struct Gauges {
    hub: Arc<Hub>,
    writer: Writer,
    /// How many series there may be, and how many streams.
    most: [usize; 2],
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let waiting = "Single rows that wait to be written";
        let mut family = encoder.encode_descriptor("writer_waiting_rows", waiting, None, MetricType::Gauge)?;
        for (table, rows) in self.writer.waiting() {
            ConstGauge::new(rows as u64).encode(family.encode_family(&[("table", table)])?)?;
        }
        let help = "How many may wait, of each table; a further one is refused";
        encode_gauge(&mut encoder, "writer_max_waiting_rows", help, None, writer::MOST_WAITING as u64)?;
        let (series, topics, _) = self.hub.sizes();
        let is_live = usize::from(self.hub.status() == Status::Live);
        let [max_series, max_streams] = self.most;
        let figures = [
            ("series", "Series that are counted live", series),
            ("max_series", "How many there may be", max_series),
            ("topics", "Different streams", topics),
            ("max_event_streams", "How many streams of events may be open", max_streams),
            (
                "listener_live",
                "Whether the database is heard: if not, live figures are those of an earlier moment",
                is_live,
            ),
        ];
        for (name, help, value) in figures {
            encode_gauge(&mut encoder, name, help, None, value as u64)?;
        }
        Ok(())
    }
}
