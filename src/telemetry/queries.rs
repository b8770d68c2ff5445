//! Spans of queries, and of the wait for a connection to send them on.
//!
//! sqlx does not make spans, but says afterwards how long something took. Within a span of ours that is a span of its own,
//! so no query needs to be wrapped in one where it is made. Statements are named by their first words; their parameters
//! are not in there at all.

use std::fmt::Debug;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanBuilder, SpanKind, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::SdkTracer;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer;

/// What sqlx says about queries that have ended.
const QUERY: &str = "sqlx::query";
/// What it says about connections that were taken from a pool.
const ACQUIRE: &str = "sqlx::pool::acquire";

/// What the layer wants to hear.
pub(super) fn targets() -> Targets {
    Targets::new().with_target(QUERY, LevelFilter::DEBUG).with_target(ACQUIRE, LevelFilter::TRACE)
}

/// Makes spans of what sqlx says.
#[derive(Debug)]
pub(super) struct Queries(SdkTracer);

impl Queries {
    pub(super) fn new(tracer: SdkTracer) -> Self {
        Self(tracer)
    }
}

impl<S: Subscriber> Layer<S> for Queries {
    fn on_event(&self, event: &Event<'_>, _: layer::Context<'_, S>) {
        let parent = Context::current();
        // What nobody asked for in a request or a job (sweeps, folds) is in no trace.
        if !parent.span().span_context().is_sampled() {
            return;
        }
        let mut said = Said::default();
        event.record(&mut said);
        let name = if event.metadata().target() == ACQUIRE { "wait for a connection".to_owned() } else { said.summary };
        let span = SpanBuilder::from_name(name.clone()).with_start_time(SystemTime::now() - said.elapsed);
        let span = if event.metadata().target() == ACQUIRE {
            span
        } else {
            let attributes = [("db.system.name", "postgresql".to_owned()), ("db.query.summary", name)];
            let attributes = attributes.map(|(name, value)| KeyValue::new(name, value));
            span.with_kind(SpanKind::Client).with_attributes(attributes)
        };
        // It ends as it is dropped.
        drop(self.0.build_with_context(span, &parent));
    }
}

#[derive(Default)]
struct Said {
    summary: String,
    elapsed: Duration,
}

impl Visit for Said {
    fn record_f64(&mut self, field: &Field, value: f64) {
        if let "elapsed_secs" | "acquired_after_secs" = field.name() {
            self.elapsed = Duration::try_from_secs_f64(value).unwrap_or_default();
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "summary" {
            value.clone_into(&mut self.summary);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
}
