//! The way to the collector: its own thread, its own client, and one line in the log when it is blocked.

use std::env;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use opentelemetry_otlp::{
    ExporterBuildError, OTEL_EXPORTER_OTLP_TIMEOUT_DEFAULT, Protocol, WithExportConfig, WithHttpConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use reqwest::redirect::Policy;

/// A collector may be away for days, and is asked every few seconds: to say so once in a while will do.
const WARNING_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// Why traces cannot be sent as the variables say.
#[derive(Debug, thiserror::Error)]
pub(super) enum CollectorError {
    /// Those of gRPC would add a second stack of HTTP. Collectors take both.
    #[error("OTEL_EXPORTER_OTLP_PROTOCOL is {0:?}: only http/protobuf and http/json are spoken, to port 4318 mostly")]
    Protocol(String),
    /// Milliseconds are expected.
    #[error("OTEL_EXPORTER_OTLP_TIMEOUT is {0:?}, which is no number of milliseconds")]
    Timeout(String),
    /// There is no client.
    #[error("there is no client to send them with")]
    Client(#[source] reqwest::Error),
    /// The library that builds the client in a thread of its own has failed in it.
    #[error("there is no thread to make a client in")]
    Thread,
    /// Something else is wrong, such as the endpoint.
    #[error(transparent)]
    Exporter(#[from] ExporterBuildError),
}

/// Sends spans, and says so when that fails.
#[derive(Debug)]
pub(super) struct Exporter {
    otlp: opentelemetry_otlp::SpanExporter,
    /// Nobody waits for the lock: one thread exports.
    warned_at: Mutex<Option<Instant>>,
}

impl Exporter {
    /// Endpoints, headers and compression are read by the library.
    pub(super) fn from_environment() -> Result<Self, CollectorError> {
        let protocol = match variable("PROTOCOL").as_deref() {
            None | Some("http/protobuf") => Protocol::HttpBinary,
            Some("http/json") => Protocol::HttpJson,
            Some(other) => return Err(CollectorError::Protocol(other.to_owned())),
        };
        let timeout = match variable("TIMEOUT") {
            None => OTEL_EXPORTER_OTLP_TIMEOUT_DEFAULT,
            Some(text) => Duration::from_millis(text.parse().map_err(|_| CollectorError::Timeout(text))?),
        };
        let is_encrypted = variable("ENDPOINT").is_some_and(|endpoint| endpoint.starts_with("https"));
        let otlp = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(client(timeout, is_encrypted)?)
            .with_protocol(protocol)
            .with_timeout(timeout)
            .build()?;
        Ok(Self { otlp, warned_at: Mutex::default() })
    }

    fn is_time_to_warn(&self) -> bool {
        let Ok(mut warned_at) = self.warned_at.lock() else { return false };
        let is_time = warned_at.is_none_or(|at| at.elapsed() >= WARNING_INTERVAL);
        if is_time {
            *warned_at = Some(Instant::now());
        }
        is_time
    }
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exported = self.otlp.export(batch).await;
        if let Err(error) = &exported
            && self.is_time_to_warn()
        {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "traces are lost, as the collector does not take them; this is said once an hour"
            );
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.otlp.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.otlp.set_resource(resource);
    }
}

/// What is said about traces, or else about everything.
fn variable(name: &str) -> Option<String> {
    let names = [format!("OTEL_EXPORTER_OTLP_TRACES_{name}"), format!("OTEL_EXPORTER_OTLP_{name}")];
    names.iter().find_map(|name| env::var(name).ok().filter(|value| !value.is_empty()))
}

/// One that blocks, as the thread that exports has no runtime. It cannot be made where there is one.
fn client(timeout: Duration, is_encrypted: bool) -> Result<reqwest::blocking::Client, CollectorError> {
    let build = move || {
        let client = reqwest::blocking::Client::builder().timeout(timeout).redirect(Policy::none());
        // Without TLS nobody needs to be trusted: a system that has no list of whom to trust will do.
        if is_encrypted { client.build() } else { client.tls_certs_only([]).build() }
    };
    std::thread::spawn(build).join().map_err(|_| CollectorError::Thread)?.map_err(CollectorError::Client)
}
