//! Logs: one line an event, for people or as JSON.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

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

/// Starts logging, to standard error.
pub fn start(settings: &LogSettings) -> Result<(), MalformedLogLevel> {
    let level = EnvFilter::try_new(&settings.log_level).map_err(MalformedLogLevel)?;
    // A library's own notices at this level say what we say better.
    let quieter = "sqlx::postgres::notice=warn".parse().map_err(MalformedLogLevel)?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(level.add_directive(quieter))
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match settings.log_format {
        LogFormat::Text => logs.with_target(false).init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
    Ok(())
}
