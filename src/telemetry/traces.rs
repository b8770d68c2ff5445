//! Traces by OpenTelemetry: spans of ours, sent by OTLP over HTTP to where the standard variables say.
//!
//! Spans are those of the crate `tracing` with one target, [`SPANS`]. Nothing else gets into a trace: what libraries say
//! about themselves, and what is logged, may hold what only the operator of this server is to see.

use std::ffi::OsString;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tracing::level_filters::LevelFilter;
use tracing::{Instrument, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;
use uuid::Uuid;

use super::export::{CollectorError, Exporter};
use super::queries::{self, Queries};

/// The target of spans: only those that have it are in traces, and none that has it is in logs.
pub const SPANS: &str = "newcycle::spans";

/// A stop waits so long for the collector to take what it has not yet. Less than a service manager's patience by far.
const STOP_TIMEOUT: Duration = Duration::from_millis(1500);

/// Does the work in a span, whose trace is named in what is logged meanwhile.
pub async fn traced<F: Future>(span: Span, work: F) -> F::Output {
    if span.is_disabled() {
        return work.await;
    }
    let trace_id = span.context().span().span_context().trace_id();
    // At this level it is there whenever anything is logged.
    let named = tracing::error_span!(parent: None, "trace", %trace_id);
    work.instrument(span).instrument(named).await
}

/// Where finished spans go.
#[derive(Debug)]
pub(super) struct Traces(SdkTracerProvider);

impl Traces {
    /// As the standard variables say, if they ask for traces. Limits, batches, the queue before them and how much is sampled
    /// are read by the library.
    pub(super) fn from_environment() -> Result<Option<Self>, CollectorError> {
        if !are_wanted(|name| std::env::var_os(name)) {
            return Ok(None);
        }
        let exporter = Exporter::from_environment()?;
        // A queue of 2,048 spans and a thread. What comes while the queue is full is left out.
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource()).build();
        Ok(Some(Self(provider)))
    }

    /// Makes spans out of ours, and out of what is known about queries.
    pub(super) fn layer<S: Subscriber + for<'span> LookupSpan<'span>>(&self) -> impl Layer<S> + use<S> {
        let tracer: SdkTracer = self.0.tracer(env!("CARGO_PKG_NAME"));
        let spans = tracing_opentelemetry::layer()
            .with_tracer(tracer.clone())
            // Who reads a trace looks for time, and not for lines of code.
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false);
        let ours = Targets::new().with_target(SPANS, LevelFilter::INFO);
        spans.with_filter(ours).and_then(Queries::new(tracer).with_filter(queries::targets()))
    }

    /// Sends what is left.
    pub(super) async fn stop(self) {
        // It blocks.
        let stopped = tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(STOP_TIMEOUT)).await;
        if let Ok(Err(error)) = stopped {
            // If that is nothing new, there was a warning about it before.
            tracing::info!(
                error = &error as &dyn std::error::Error,
                "the last traces were not taken in time and are lost"
            );
        }
    }
}

/// Whether the variables ask for traces. One that is empty is as good as none, says the specification.
fn are_wanted(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    let is_disabled = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let goes_elsewhere = variable("OTEL_TRACES_EXPORTER").is_some_and(|exporter| exporter != "otlp");
    let endpoints = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
    !is_disabled && !goes_elsewhere && endpoints.into_iter().any(|name| variable(name).is_some())
}

/// Whose spans they are. What the variables say counts more than what we do.
fn resource() -> Resource {
    let named = std::env::var("OTEL_SERVICE_NAME").ok().filter(|name| !name.is_empty());
    let resource = Resource::builder_empty()
        .with_service_name(env!("CARGO_PKG_NAME"))
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", Uuid::new_v4().to_string()),
        ])
        .with_detectors(&[Box::new(TelemetryResourceDetector), Box::new(EnvResourceDetector::new())]);
    let resource = match named {
        Some(name) => resource.with_service_name(name),
        None => resource,
    };
    resource.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_are_made_when_the_standard_variables_ask_for_them() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        let own_endpoint = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:4318/v1/traces");
        for (variables, expected) in [
            (vec![], false),
            (vec![("OTEL_SERVICE_NAME", "ledger")], false),
            (vec![endpoint], true),
            (vec![own_endpoint], true),
            (vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "")], false),
            (vec![endpoint, ("OTEL_SDK_DISABLED", "True")], false),
            (vec![endpoint, ("OTEL_SDK_DISABLED", "")], true),
            (vec![endpoint, ("OTEL_SDK_DISABLED", "no")], true),
            (vec![endpoint, ("OTEL_TRACES_EXPORTER", "otlp")], true),
            (vec![endpoint, ("OTEL_TRACES_EXPORTER", "none")], false),
        ] {
            let value = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
            assert_eq!(are_wanted(value), expected, "{variables:?}");
        }
    }
}
