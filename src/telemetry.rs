//! Logs: one line an event, for people or as JSON; and traces, for whoever has something to send them to.

mod export;
mod queries;
mod traces;

use std::io::IsTerminal;

use tracing::Subscriber;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use traces::Traces;
pub use traces::{SPANS, traced};

/// How logs look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines: a JSON object a line.
    Json,
}

/// What is logged, and how.
#[derive(Clone, Debug, clap::Args)]
pub struct LogSettings {
    /// What to log: error, warn, info, debug or trace; or by module, such as info,newcycle::listener=debug
    #[arg(long, env = "LOG_LEVEL", value_name = "LEVEL", default_value = "info", global = true)]
    pub log_level: String,
    /// How to log
    #[arg(long, env = "LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t, global = true)]
    pub log_format: LogFormat,
}

/// A log level that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("LOG_LEVEL cannot be read")]
pub struct MalformedLogLevel(#[source] tracing_subscriber::filter::ParseError);

/// What is to be stopped at the end, so that nothing is lost.
#[derive(Debug, Default)]
#[must_use]
pub struct Telemetry(Option<Traces>);

/// Starts logging, to standard error; and traces, if this command makes any and the environment asks for them.
pub fn start(settings: &LogSettings, makes_traces: bool) -> Result<Telemetry, MalformedLogLevel> {
    let mut level = EnvFilter::try_new(&settings.log_level).map_err(MalformedLogLevel)?;
    // A library's own notices at this level say what we say better. Spans are for traces: logs only name the trace.
    for directive in ["sqlx::postgres::notice=warn".to_owned(), format!("{SPANS}=off")] {
        level = level.add_directive(directive.parse().map_err(MalformedLogLevel)?);
    }
    let traces = if makes_traces { Traces::from_environment() } else { Ok(None) };
    let registry = tracing_subscriber::registry();
    match traces.as_ref().ok().and_then(Option::as_ref).map(Traces::layer) {
        Some(layer) => registry.with(lines(settings.log_format).with_filter(level)).with(layer).init(),
        // What is not logged is of no use to anybody, then: to make a span costs one look at a number. With a filter of the
        // layer's own, or a layer that is `None`, each would have to be asked.
        None => registry.with(level).with(lines(settings.log_format)).init(),
    }
    let traces = traces.unwrap_or_else(|error| {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "there are no traces: what OTEL_ variables ask for cannot be done"
        );
        None
    });
    Ok(Telemetry(traces))
}

impl Telemetry {
    /// Sends what is left, for as long as a stop may take.
    pub async fn stop(self) {
        if let Some(traces) = self.0 {
            traces.stop().await;
        }
    }
}

/// Writes lines.
fn lines<S: Subscriber + for<'span> LookupSpan<'span>>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync> {
    let lines =
        tracing_subscriber::fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.with_target(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    }
}
