//! `newcycle ready`

use std::process::ExitCode;

use super::print;

/// Whom to ask.
#[derive(Clone, Debug, clap::Args)]
pub struct ReadySettings {
    /// Address of the server
    #[arg(long, env = "NEWCYCLE_URL", value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: String,
}

pub(super) async fn run(settings: &ReadySettings) -> ExitCode {
    let answer = reqwest::get(format!("{}/readyz", settings.url.trim_end_matches('/'))).await;
    let (ready, text) = match answer {
        Ok(answer) => (answer.status().is_success(), answer.text().await.unwrap_or_default()),
        Err(error) => (false, error.to_string()),
    };
    print(&text);
    if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
